//! The conformance suite of `builder`.
