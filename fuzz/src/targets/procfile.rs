//! The Procfile: what is read can be written down and read again.

use std::fmt::Write;

use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "procfile",
    run,
    words: &["web: ", "worker: ", "release: ", "\n", "\r\n", "#", "\u{feff}", ":", "$PORT", "\0"],
};

fn run(input: &[u8]) -> String {
    match paas_build::procfile::parse(input) {
        Ok(table) => {
            let mut text = String::new();
            for (process, command) in &table {
                // Writing to a String can't fail.
                let _ = writeln!(text, "{process}: {command}");
                assert!(!command.contains(['\n', '\0']), "{process} has more than a line");
            }
            assert_eq!(paas_build::procfile::parse(text.as_bytes()).ok(), Some(table));
            format!("{} lines", super::few(text.lines().count()))
        }
        Err(error) => super::refused(&error),
    }
}
