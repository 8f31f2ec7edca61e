//! The conformance suite of `router`.
