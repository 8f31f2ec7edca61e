//! The repo's commands: `cargo xtask`.

mod docker;
mod features;
mod fuzz;
mod leftovers;
mod run;
mod test;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [--yes]    set up what the tests need, then check and test everything
cargo xtask bench           run the benchmarks of benches/ and print what they measured
cargo xtask fuzz [TARGET]   fuzz one of fuzz/src/targets for a minute, or each of them for ten seconds
    --libfuzzer             below libFuzzer, which sees branches; needs nightly, cargo-fuzz and a C++ compiler

test says what it would install and asks first; --yes, CI=true or an output that is no terminal: it doesn't ask.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let passed = match words.as_slice() {
        ["test"] => test::test(&root(), false),
        ["test", "--yes" | "-y"] => test::test(&root(), true),
        ["bench"] => {
            run::cargo(&root(), &["bench", "--package", "paas", "--all-features", "--benches"]).run()
        }
        ["fuzz"] => fuzz::fuzz(&root(), None),
        ["fuzz", target, "--libfuzzer"] => fuzz::libfuzzer(&root(), target),
        ["fuzz", target] => fuzz::fuzz(&root(), Some(target)),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            true
        }
        _ => {
            eprintln!("{USAGE}");
            false
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The workspace's folder.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
