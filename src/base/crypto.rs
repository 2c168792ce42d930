//! What TLS computes with: ring, or AWS-LC in a build with the cargo feature `aws-lc`.

#[cfg(feature = "aws-lc")]
pub use rustls::crypto::aws_lc_rs::*;
#[cfg(not(feature = "aws-lc"))]
pub use rustls::crypto::ring::*;
