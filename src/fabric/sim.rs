//! A fabric within one process, deterministic by seed: delay, reorder, tear, drop, cut. Only for tests.
