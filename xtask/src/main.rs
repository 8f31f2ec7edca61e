//! The repo's commands: `cargo xtask`.

mod features;
mod leftovers;
mod run;
mod test;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [--yes]    set up what the tests need, then check and test everything
cargo xtask bench           run the benchmarks of benches/ and print what they measured
cargo xtask fuzz TARGET     fuzz one of fuzz/fuzz_targets for a minute; needs nightly and cargo-fuzz

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
        ["fuzz", target] => {
            let fuzz = ["+nightly", "fuzz", "run", target, "--", "-max_total_time=60"];
            // By its plain name: the toolchain's own cargo doesn't know `+nightly`.
            run::program(&root(), "cargo", &fuzz).run()
        }
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
