//! The conformance suite of `blobs`.
