//! `cargo xtask test`: every check there is, one after the other, and a summary.

use std::path::Path;
#[expect(clippy::disallowed_types, reason = "a command for people that says how long each part took")]
use std::time::Instant;

use crate::docker::Daemon;
use crate::leftovers::Scratch;
use crate::run::{CARGO, Counts, NEXTEST, cargo};
use crate::{features, fuzz, tools};

/// How one part went.
struct Part {
    name: &'static str,
    outcome: Outcome,
    seconds: u64,
}

enum Outcome {
    Passed(String),
    Failed(String),
    Skipped(&'static str),
}

/// Sets up the machine and runs everything; true where everything passed. The last line counts the tests.
pub(crate) fn test(root: &Path, yes: bool) -> bool {
    tools::set_up(root, yes);
    let mut parts = Parts(Vec::new());

    // The same features and targets throughout, so that nothing is compiled twice.
    let all = ["--workspace", "--all-features"];
    parts.check("fmt", || cargo(root, &["fmt", "--all", "--check"]).run());
    parts.check("clippy", || {
        cargo(root, &[&["clippy"], &all[..], &["--all-targets", "--", "--deny", "warnings"]].concat()).run()
    });
    parts.check("doc", || {
        cargo(root, &[&["doc", "--no-deps"], &all[..]].concat()).env("RUSTDOCFLAGS", "--deny warnings").run()
    });
    if cargo(root, &["deny", "--version"]).succeeds() {
        // Not the advisories: they need more of the network than the registry, and change from day to day.
        let check = ["deny", "--all-features", "check", "bans", "licenses", "sources"];
        parts.check("deny", || cargo(root, &check).run());
    } else {
        parts.skip("deny", "cargo-deny is not installed (`cargo install cargo-deny --locked`)");
    }
    parts.check("lean defaults", || features::default_is_lean(root));
    parts.check("features alone", || features::each_builds_alone(root));

    let counts = tests(root, &all, &mut parts);
    parts.print();
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    parts.passed()
}

fn tests(root: &Path, all: &[&str], parts: &mut Parts) -> Counts {
    let mut total = Counts::default();
    let scratch = match Scratch::new() {
        Ok(scratch) => scratch,
        Err(e) => {
            parts.check("tests", || {
                println!("can't make a temporary folder: {e}");
                false
            });
            return total;
        }
    };
    // Whoever has named one wants that.
    let docker = if std::env::var_os("PAAS_TEST_DOCKER").is_some() {
        None
    } else {
        Daemon::start(root, scratch.dir())
    };
    let mut count = |name, closing, arguments: &[&str], fuzz_seconds: &str| {
        parts.count(name, &mut total, || {
            let mut run = cargo(root, &[arguments, all].concat()).env("TMPDIR", scratch.dir());
            if name == "fuzz" && std::env::var_os("PAAS_SEED").is_none() {
                // A change is judged by the same inputs as the one before it; `cargo xtask fuzz` looks for new ones.
                run = run.env("PAAS_SEED", "1");
            }
            if let Some(docker) = &docker {
                run = run.env("PAAS_TEST_DOCKER", docker.host());
            }
            run.env("PAAS_FUZZ_SECONDS", fuzz_seconds).run_counting(closing)
        });
    };
    // Fuzzing is a part of its own: what is started by the other tests should have the cores for itself.
    let (none, some) = ("0", fuzz::seconds(fuzz::SECONDS));
    if cargo(root, &["nextest", "--version"]).succeeds() {
        count("tests", NEXTEST, &["nextest", "run", "--no-fail-fast"], none);
        count("doctests", CARGO, &["test", "--doc", "--no-fail-fast"], none);
        count("fuzz", NEXTEST, &["nextest", "run", "--no-fail-fast", "--test", "targets"], &some);
    } else {
        // Compiling nextest would take longer than the tests.
        count("tests and doctests", CARGO, &["test", "--no-fail-fast"], none);
        count("fuzz", CARGO, &["test", "--no-fail-fast", "--test", "targets"], &some);
    }
    drop(docker);
    parts.check("nothing left behind", || {
        let left = scratch.clear(root);
        for process in &left {
            println!("a test left a process behind, ended now: {process}");
        }
        left.is_empty()
    });
    total
}

struct Parts(Vec<Part>);

impl Parts {
    fn check(&mut self, name: &'static str, work: impl FnOnce() -> bool) {
        self.timed(name, || {
            if work() { Outcome::Passed(String::new()) } else { Outcome::Failed(String::new()) }
        });
    }

    fn count(&mut self, name: &'static str, total: &mut Counts, work: impl FnOnce() -> (bool, Counts)) {
        self.timed(name, || {
            let (well, counts) = work();
            total.add(counts);
            match (well, counts.failed) {
                (true, 0) => Outcome::Passed(format!("{} tests", counts.passed)),
                (_, 0) => Outcome::Failed("the runner itself failed".to_owned()),
                (_, failed) => Outcome::Failed(format!("{failed} of {} tests", counts.passed + failed)),
            }
        });
    }

    fn skip(&mut self, name: &'static str, why: &'static str) {
        println!("\n-----> {name}: skipped, {why}");
        self.0.push(Part { name, outcome: Outcome::Skipped(why), seconds: 0 });
    }

    #[expect(clippy::disallowed_types, reason = "as above")]
    fn timed(&mut self, name: &'static str, work: impl FnOnce() -> Outcome) {
        println!("\n-----> {name}");
        let started = Instant::now();
        let outcome = work();
        self.0.push(Part { name, outcome, seconds: started.elapsed().as_secs() });
    }

    fn print(&self) {
        println!("\n-----> summary");
        for Part { name, outcome, seconds } in &self.0 {
            match outcome {
                Outcome::Passed(detail) => println!("       ok       {name:<20} {seconds:>4} s  {detail}"),
                Outcome::Failed(detail) => println!(" !     FAILED   {name:<20} {seconds:>4} s  {detail}"),
                Outcome::Skipped(why) => println!("       skipped  {name:<20}         {why}"),
            }
        }
    }

    fn passed(&self) -> bool {
        self.0.iter().all(|part| !matches!(part.outcome, Outcome::Failed(_)))
    }
}
