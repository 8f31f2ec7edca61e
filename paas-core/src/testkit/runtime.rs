//! The conformance suite of `runtime`.
