//! An object store of a test's own: [s3s-fs](https://crates.io/crates/s3s-fs), a server that speaks S3 and keeps
//! its objects as files, behind a gate that makes its conditional writes atomic and can fail requests.
//!
//! s3s-fs looks at an object and then writes it; Amazon's S3 and the others do both in one go. So the gate lets one write
//! through at a time.

mod gate;
mod server;

pub use gate::S3Fault;
pub use server::S3Server;
