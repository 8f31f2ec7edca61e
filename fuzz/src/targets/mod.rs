//! What is fuzzed: a file each.

mod app_json;
mod archive;
mod config;
mod names;
mod procfile;

use crate::Target;

/// All of them, in the order of their names.
pub const TARGETS: &[Target] =
    &[app_json::TARGET, archive::TARGET, config::TARGET, names::TARGET, procfile::TARGET];

/// The kind of an error: its code and words.
fn refused(error: &paas_core::Error) -> String {
    let words: String = error.message().chars().take(30).collect();
    format!("{}: {words}", error.code())
}

/// The parts of a value that must never be seen: what a redactor learns of it. A value inside of what replaces it can't be
/// taken out, and isn't looked for.
fn secrets(value: &str) -> impl Iterator<Item = &str> {
    let long =
        |line: &&str| line.len() >= paas_core::Redactor::SHORTEST && !"[redacted][redacted]".contains(*line);
    value.lines().map(str::trim).filter(long)
}

/// A folder for one input, in memory where that can be had.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}
