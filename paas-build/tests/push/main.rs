//! Real pushes of the real git to an engine over fakes.
#![cfg(feature = "git")]
#![allow(clippy::unwrap_used, clippy::cloned_ref_to_slice_refs, missing_docs, reason = "tests")]

mod access;
mod cut_off;
mod outcome;
mod refs;
mod together;
mod world;
