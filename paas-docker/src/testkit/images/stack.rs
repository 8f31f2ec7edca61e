//! This machine's own shell, tools and languages with the libraries that they load.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Layer;

/// What apps and start scripts use, and what a person looks around with.
const PROGRAMS: &[&str] = &[
    "awk",
    "basename",
    "bash",
    "cat",
    "chmod",
    "cp",
    "curl",
    "cut",
    "date",
    "dirname",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "grep",
    "gzip",
    "head",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "node",
    "nproc",
    "printf",
    "ps",
    "pwd",
    "python3",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "tail",
    "tar",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "tty",
    "uname",
    "wc",
    "whoami",
    "xargs",
];
/// Of Python's library: what only its own developers need.
const LEFT_OUT: &[&str] = &["test", "idlelib", "ensurepip", "__pycache__", "dist-packages", "lib2to3"];

pub(super) fn layer() -> io::Result<Vec<u8>> {
    let mut layer = Layer::new()?;
    for folder in ["bin", "sbin", "lib", "lib64"] {
        layer.link(folder, &format!("usr/{folder}"))?;
    }
    let mut loading: Vec<PathBuf> = Vec::new();
    for program in PROGRAMS {
        let from = Path::new("/usr/bin").join(program);
        // A small machine needn't have all of them.
        if from.exists() {
            layer.file(&format!("usr/bin/{program}"), &std::fs::read(&from)?, 0o755)?;
            loading.push(from);
        }
    }
    for entry in std::fs::read_dir("/usr/lib")?.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("python3.") {
            copy(&mut layer, &entry.path(), LEFT_OUT, &mut loading)?;
        }
    }
    // Debian's Node.js keeps parts of itself there.
    copy(&mut layer, Path::new("/usr/share/nodejs"), LEFT_OUT, &mut Vec::new())?;
    for library in libraries(&loading)? {
        layer.file(&format!("usr/{library}"), &std::fs::read(Path::new("/usr").join(&library))?, 0o755)?;
    }
    for certificates in ["/etc/ssl/certs/ca-certificates.crt"].iter().filter(|path| Path::new(path).exists())
    {
        layer.file(certificates.trim_start_matches('/'), &std::fs::read(certificates)?, 0o644)?;
    }
    layer.done()
}

/// Copies a folder, and notes the libraries in it, which load others.
pub(super) fn copy(
    layer: &mut Layer,
    from: &Path,
    left_out: &[&str],
    loading: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let Ok(entries) = std::fs::read_dir(from) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (Some(within), false) = (path.to_str(), left_out.contains(&&*name)) else { continue };
        // Links are followed: what they lead to may not be in the image.
        let Ok(meta) = path.metadata() else { continue };
        if meta.is_dir() && !name.starts_with("config-") {
            copy(layer, &path, left_out, loading)?;
        } else if meta.is_file() {
            layer.file(within.trim_start_matches('/'), &std::fs::read(&path)?, 0o644)?;
            if name.ends_with(".so") {
                loading.push(path);
            }
        }
    }
    Ok(())
}

/// What these programs and libraries load, by the words of `ldd`: `libm.so.6 => /lib/…/libm.so.6 (0x…)`. Within `/usr`,
/// where `/lib` leads too.
pub(super) fn libraries(loading: &[PathBuf]) -> io::Result<BTreeSet<String>> {
    let said = Command::new("ldd").args(loading).output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let paths = said.lines().filter_map(|line| {
        let line = line.trim();
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        path.strip_suffix(')')?.split_once(" (").map(|(path, _)| path.to_owned())
    });
    let within = |path: String| Some(path.strip_prefix('/')?.trim_start_matches("usr/").to_owned());
    Ok(paths.filter_map(within).collect())
}
