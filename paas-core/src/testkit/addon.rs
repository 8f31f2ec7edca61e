//! The conformance suite of `addon`.
