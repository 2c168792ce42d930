//! RDMA, over `native/`: reliable-connected queue pairs, connected by RDMA CM.
