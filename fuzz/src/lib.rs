//! Hostile input for everything that reads what strangers wrote.
//!
//! ```text
//! fuzz/corpus/TARGET/*  ->  replay  ->  mutate, keep what answers in a new way  ->  a failure: minimised, written down
//!                             |                        |
//!                             +------- Target::run ----+      the same function below libFuzzer (fuzz/libfuzzer)
//! ```
//!
//! A target is a plain function over bytes: it checks what must hold and panics where it doesn't. What it returns
//! describes the kind of answer that the input got. Stable Rust counts no branches; a kind of answer that was not seen
//! before is the next best sign that an input got somewhere new.
//!
//! `tests/targets.rs` runs each target: over its corpus alone, and for `PAAS_FUZZ_SECONDS` where that is set.

mod mutate;
mod runner;
mod targets;

pub use runner::{Budget, Report, corpus, run};
pub use targets::TARGETS;

/// One thing to be fuzzed.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Target {
    /// Its name, and that of its folder below `corpus/`.
    pub name: &'static str,
    /// Tries one input and says what kind of answer it got.
    ///
    /// # Panics
    /// Where something doesn't hold that must.
    pub run: fn(&[u8]) -> String,
    /// What its format is made of: put into inputs here and there.
    pub words: &'static [&'static str],
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
