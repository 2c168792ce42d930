//! Listeners, workers, connections.
