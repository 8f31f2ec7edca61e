//! `cargo xtask fuzz`: the targets of `fuzz/`, by the runner that CI has or by libFuzzer.

use std::path::Path;

use crate::run::{cargo, program};

/// For each target in CI.
pub(crate) const SECONDS: &str = "10";
/// For one by hand, where `PAAS_FUZZ_SECONDS` doesn't say more.
const MINUTE: &str = "60";

/// Fuzzes one target, or all that match nothing less than everything.
pub(crate) fn fuzz(root: &Path, target: Option<&str>) -> bool {
    let seconds = seconds(if target.is_some() { MINUTE } else { SECONDS });
    let mut arguments = vec!["test", "--package", "paas-fuzz", "--test", "targets", "--"];
    arguments.extend(target.map(|_| "--exact"));
    arguments.extend(target);
    arguments.push("--nocapture");
    cargo(root, &arguments).env("PAAS_FUZZ_SECONDS", seconds).run()
}

/// Fuzzes a target below libFuzzer, which needs nightly, cargo-fuzz and a C++ compiler, and finds more: it sees which
/// branches an input takes. What it finds goes to the target's corpus: keep what is worth it.
pub(crate) fn libfuzzer(root: &Path, target: &str) -> bool {
    let time = format!("-max_total_time={}", seconds(MINUTE));
    let corpus = format!("fuzz/corpus/{target}");
    let run =
        ["+nightly", "fuzz", "run", "--fuzz-dir", "fuzz/libfuzzer", "paas-libfuzzer", &corpus, "--", &time];
    // By its plain name: the toolchain's own cargo doesn't know `+nightly`.
    program(root, "cargo", &run).env("PAAS_FUZZ_TARGET", target).run()
}

/// What `PAAS_FUZZ_SECONDS` says.
pub(crate) fn seconds(otherwise: &str) -> String {
    std::env::var("PAAS_FUZZ_SECONDS").unwrap_or_else(|_| otherwise.to_owned())
}
