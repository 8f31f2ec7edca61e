//! What tests left behind: their temporary folder, and processes that still use it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::run::program;

/// A temporary folder for one run of the tests. Every test works below it, so a process that still names it or
/// stands in it when all tests have ended was started by one of them.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = std::env::temp_dir().join(format!("paas-tests-{}", std::process::id()));
        // Users of their own, which tests drop to, must get through.
        fs::DirBuilder::new().mode(0o755).create(&dir)?;
        Ok(Self(dir))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    /// Ends what is still there, removes the folder, and tells which processes it were.
    pub(crate) fn clear(self, root: &Path) -> Vec<String> {
        let left = self.processes();
        for (pid, _) in &left {
            // One that ended meanwhile is what we want.
            let _ = program(root, "kill", &["-KILL", pid]).succeeds();
        }
        if let Err(e) = fs::remove_dir_all(&self.0) {
            println!("can't remove {}: {e}", self.0.display());
        }
        left.into_iter().map(|(pid, command)| format!("{pid} {}", command.trim_end())).collect()
    }

    fn processes(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let inside = ["cwd", "root", "exe"]
                .iter()
                .any(|link| fs::read_link(entry.path().join(link)).is_ok_and(|to| to.starts_with(&self.0)));
            let dir = self.0.as_os_str().as_bytes();
            if inside || command.windows(dir.len()).any(|part| part == dir) {
                let words = command.split(|byte| *byte == 0).map(OsStr::from_bytes);
                let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
                found.push((pid, words.join(" ")));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::Scratch;

    #[test]
    fn a_process_that_still_works_in_the_folder_is_named_and_ended() {
        let scratch = Scratch::new().expect("a folder");
        let dir = scratch.dir().to_owned();
        let mut cat = Command::new("cat");
        let mut left =
            cat.current_dir(&dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        // Its command line can be read once it runs, which is a moment after its start.
        left.stdin.as_mut().expect("its input").write_all(b"up").expect("a write");
        left.stdout.as_mut().expect("its output").read_exact(&mut [0; 2]).expect("an echo");

        let named = scratch.clear(&super::super::root());

        assert_eq!(named, [format!("{} cat", left.id())]);
        assert!(!left.wait().expect("its end").success());
        assert!(!dir.exists());
    }
}
