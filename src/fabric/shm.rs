//! One host: the primary's slabs are memfds, handed over a unix socket and mapped read-only; a READ is a copy, and the primary does nothing.
