//! The conformance suite of `store`.
