//! The Procfile: one line per process type, `web: node server.js`.

use std::collections::BTreeMap;
use std::path::Path;

use paas_core::{Error, ErrorCode, ProcessType, Result};

use crate::file::read_small;

/// A larger Procfile is a mistake, in bytes.
const MAX_BYTES: u64 = 256 * 1024;

/// The process types that the app in this folder names; empty without a Procfile.
///
/// # Errors
/// As [`parse`]; `bad_source` when `Procfile` is not a plain file.
pub fn read(dir: &Path) -> Result<BTreeMap<ProcessType, String>> {
    read_small(dir, "Procfile", MAX_BYTES)?.map_or_else(|| Ok(BTreeMap::new()), |content| parse(&content))
}

/// Parses a Procfile as Heroku does: `type: command` lines; blank lines and lines that begin with `#` say nothing;
/// line ends may be CRLF; the command stays as written, for a shell.
///
/// ```
/// let table = paas_build::procfile::parse(b"# how we run\nweb: node server.js --port $PORT\r\n")?;
/// assert_eq!(table[&"web".parse()?], "node server.js --port $PORT");
/// let error = paas_build::procfile::parse(b"web node server.js").unwrap_err();
/// assert!(error.to_string().contains("line 1"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// `invalid_params` with the line's number for text that isn't UTF-8, a line without a colon, a name that is no process
/// type, an empty command, and a type that stands there twice (one of the two would silently never run).
pub fn parse(content: &[u8]) -> Result<BTreeMap<ProcessType, String>> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut table = BTreeMap::new();
    let mut lines: BTreeMap<ProcessType, usize> = BTreeMap::new();
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let line = std::str::from_utf8(line).map_err(|_| wrong(number, "it is not UTF-8 text"))?.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, command) = line
            .split_once(':')
            .ok_or_else(|| wrong(number, "it has no colon; write it as `web: command`"))?;
        let process = ProcessType::new(name.trim_end()).map_err(|e| wrong(number, &e.to_string()))?;
        let command = command.trim();
        if command.is_empty() {
            return Err(wrong(
                number,
                &format!("{process} has no command; write it as `{process}: command`"),
            ));
        }
        if command.contains('\0') {
            return Err(wrong(number, "a command can't hold a NUL character"));
        }
        if let Some(first) = lines.insert(process.clone(), number) {
            return Err(wrong(
                number,
                &format!("{process} stands on line {first} already; keep one of them"),
            ));
        }
        table.insert(process, command.to_owned());
    }
    Ok(table)
}

fn wrong(line: usize, why: &str) -> Error {
    Error::new(ErrorCode::InvalidParams, format!("Procfile line {line}: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(table: &BTreeMap<ProcessType, String>, process: &str) -> Option<String> {
        table.get(&process.parse::<ProcessType>().unwrap()).cloned()
    }

    #[test]
    fn comments_blank_lines_and_windows_line_ends_are_no_processes() {
        let table =
            parse(b"\xef\xbb\xbf# run\r\n\r\nweb:  node a.js \r\n  # more\nworker:node b.js").unwrap();
        assert_eq!(table.len(), 2);
        assert_eq!(command(&table, "web").as_deref(), Some("node a.js"));
        assert_eq!(command(&table, "worker").as_deref(), Some("node b.js"));
    }

    #[test]
    fn a_command_keeps_its_shell_text() {
        let table = parse(b"web: FOO=1 a; b && gunicorn x:app -b 0.0.0.0:$PORT # note").unwrap();
        assert_eq!(
            command(&table, "web").as_deref(),
            Some("FOO=1 a; b && gunicorn x:app -b 0.0.0.0:$PORT # note")
        );
    }

    #[test]
    fn an_error_names_the_line_and_says_what_to_write() {
        let told = |text: &[u8]| parse(text).unwrap_err().to_string();
        assert!(told(b"web: a\nworker b").contains("line 2: it has no colon"));
        assert!(told(b"9x: a").contains("line 1"));
        assert!(told(b"\nweb:").contains("line 2: web has no command"));
        assert!(told(b"web: a\n\nweb: b").contains("line 3: web stands on line 1"));
        assert!(told(b"web: \xff").contains("line 1: it is not UTF-8"));
    }

    #[test]
    fn a_procfile_that_is_a_link_is_refused_without_being_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("Procfile")).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadSource);
        assert!(!error.to_string().contains("root:"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(content: Vec<u8>) {
            // Both outcomes are right.
            let _ = parse(&content);
        }

        #[test]
        fn what_is_written_is_what_is_read(
            entries in prop::collection::btree_map("[a-z][a-z0-9_-]{0,20}", "[!-~]([ -~]{0,40}[!-~])?", 0..6),
        ) {
            let lines: Vec<_> = entries.iter().map(|(name, run)| format!("{name}: {run}")).collect();
            let text = lines.join("\n");
            let table = parse(text.as_bytes()).unwrap();
            let read: BTreeMap<String, String> =
                table.into_iter().map(|(name, run)| (name.to_string(), run)).collect();
            prop_assert_eq!(read, entries);
        }
    }
}
