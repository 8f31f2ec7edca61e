//! Runs commands, shows what they print, and counts the tests they report.

use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

/// One command to run in the workspace's folder.
#[derive(Debug)]
pub(crate) struct Run(Command);

/// How many tests a runner reported.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// `cargo` with these arguments.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Run {
    // Cargo names itself to what it runs; without it we are not run by cargo.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root);
    Run(command)
}

/// Any program.
pub(crate) fn program(root: &Path, name: &str, arguments: &[&str]) -> Run {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(root);
    Run(command)
}

impl Run {
    pub(crate) fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.env(key, value);
        self
    }

    /// Runs it with our own input and output; true where it ended well.
    pub(crate) fn run(mut self) -> bool {
        self.0.status().is_ok_and(|status| status.success())
    }

    /// Whether it ends well, without showing anything.
    pub(crate) fn succeeds(mut self) -> bool {
        self.0.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.0.status().is_ok_and(|status| status.success())
    }

    /// What it prints, where it ended well.
    pub(crate) fn output(mut self) -> Option<String> {
        let output = self.0.stdin(Stdio::null()).stderr(Stdio::inherit()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it, passes each line on as it comes, and counts the tests that the lines beginning with `closing` report.
    pub(crate) fn run_counting(mut self, closing: &str) -> (bool, Counts) {
        if std::io::stdout().is_terminal() {
            // A pipe would take the colours away.
            self.0.env("CARGO_TERM_COLOR", "always");
        }
        let child = self.0.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut child) = child else { return (false, Counts::default()) };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let counts = Mutex::new(Counts::default());
        thread::scope(|scope| {
            scope.spawn(|| pass_on(stdout, closing, &counts, |line| println!("{line}")));
            scope.spawn(|| pass_on(stderr, closing, &counts, |line| eprintln!("{line}")));
        });
        let well = child.wait().is_ok_and(|status| status.success());
        (well, counts.into_inner().unwrap_or_default())
    }
}

/// How nextest's closing line begins.
pub(crate) const NEXTEST: &str = "Summary [";
/// How the closing line of each of cargo's test programs begins. Nextest shows these too, for tests that failed.
pub(crate) const CARGO: &str = "test result:";

fn pass_on(from: Option<impl Read>, closing: &str, counts: &Mutex<Counts>, show: impl Fn(&str)) {
    let Some(from) = from else { return };
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        show(&line);
        if let (Some(found), Ok(mut counts)) = (count(&plain(&line), closing), counts.lock()) {
            counts.add(found);
        }
    }
}

/// The tests that a runner's closing line reports: nextest's `Summary [ 1.2s] 9 tests run: 8 passed, 1 failed,
/// 2 skipped`, or cargo's `test result: ok. 8 passed; 1 failed; 2 ignored; …`.
fn count(line: &str, closing: &str) -> Option<Counts> {
    let line = line.trim_start().strip_prefix(closing)?;
    let figures = line.split_once("run:").map_or(line, |(_, figures)| figures);
    let mut counts = Counts::default();
    for part in figures.split([',', ';', '.']) {
        // `8 passed (2 slow)`: what stands in brackets is about the same tests.
        let mut words = part.split_whitespace();
        let (Some(figure), Some(what)) = (words.next(), words.next()) else { continue };
        let Ok(figure) = figure.parse::<u64>() else { continue };
        match what {
            "passed" => counts.passed += figure,
            "failed" | "timed" | "exec" => counts.failed += figure,
            "ignored" | "skipped" => counts.skipped += figure,
            _ => {}
        }
    }
    Some(counts)
}

/// The line without colours.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // `ESC [ … m`
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::{CARGO, NEXTEST, count, plain};

    #[test]
    fn closing_lines_of_both_runners_are_counted() {
        let nextest = "\u{1b}[32;1m     Summary\u{1b}[0m [   1.2s] 12 tests run: 9 passed (1 slow), 2 failed, 1 timed out, 3 skipped";
        let counts = count(&plain(nextest), NEXTEST).expect("a summary");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (9, 3, 3));
        let cargo = "test result: FAILED. 8 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.50s";
        let counts = count(cargo, CARGO).expect("a result");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (8, 1, 2));
        assert!(count(cargo, NEXTEST).is_none(), "what nextest shows of a failed test is no count");
    }
}
