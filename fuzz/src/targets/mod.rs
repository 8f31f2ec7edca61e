//! What is fuzzed: a file each.

mod app_json;
mod archive;
mod build_output;
mod build_result;
mod config;
mod git_push;
mod git_request;
mod logs;
mod names;
mod procfile;
mod proxy_answer;
mod proxy_request;

use std::io::Write;

use tokio::runtime::{Builder, Runtime};

use crate::Target;

/// All of them, in the order of their names.
pub const TARGETS: &[Target] = &[
    app_json::TARGET,
    archive::TARGET,
    build_output::TARGET,
    build_result::TARGET,
    config::TARGET,
    git_push::TARGET,
    git_request::TARGET,
    names::TARGET,
    procfile::TARGET,
    proxy_answer::TARGET,
    proxy_request::TARGET,
];

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

/// Runs what is asynchronous, on one thread.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// The input with what stands between `{gz:` and `}` as gzip, and with `{length}` as the length of what follows the first
/// empty line: a mutation would leave neither right.
fn with_gzip(input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = input;
    while let Some(start) = rest.windows(4).position(|part| part == b"{gz:") {
        let Some(length) = rest[start + 4..].iter().position(|byte| *byte == b'}') else { break };
        bytes.extend_from_slice(&rest[..start]);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let packed = encoder.write_all(&rest[start + 4..start + 4 + length]).and_then(|()| encoder.finish());
        bytes.extend(packed.expect("memory can be written"));
        rest = &rest[start + 4 + length + 1..];
    }
    bytes.extend_from_slice(rest);
    let body = bytes.windows(4).position(|part| part == b"\r\n\r\n").map_or(0, |end| bytes.len() - end - 4);
    if let Some(at) = bytes.windows(8).position(|part| part == b"{length}") {
        bytes.splice(at..at + 8, body.to_string().into_bytes());
    }
    bytes
}

/// So many, in words: figures don't make a kind of answer.
fn few(count: usize) -> &'static str {
    match count {
        0 => "no",
        1 => "one",
        2..=4 => "few",
        _ => "many",
    }
}
