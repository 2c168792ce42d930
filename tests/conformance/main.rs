//! What fabrics promise, held to each of them; and the verbs fabric's own over a device.

mod fabric;
mod verbs;
