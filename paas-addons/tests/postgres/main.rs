//! The `postgres` add-on on real servers.

mod conformance;
mod half_made;
mod isolation;
mod managed;
mod rotate;
mod secrets;
mod support;
