//! The conformance suite of `source`.
