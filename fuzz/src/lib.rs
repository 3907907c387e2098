//! What the targets share. Here and in the targets a panic is a finding.
//!
//! - [`sealing`]: right checksums over any bytes
//! - [`reading`]: every record of a partition
//! - [`damage`]: a good partition's files, any of them changed
//! - [`model`]: operations on a partition, and what must be there after them

pub mod damage;
pub mod model;
pub mod reading;
pub mod sealing;
