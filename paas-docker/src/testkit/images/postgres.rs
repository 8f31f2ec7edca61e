//! This machine's own PostgreSQL behind a start script with the official image's contract.

use std::io;
use std::path::{Path, PathBuf};

use super::Layer;
use super::stack::{copy, libraries};

/// Where distributions of Debian's kind keep their versions.
const VERSIONS: &str = "/usr/lib/postgresql";
const PROGRAMS: &[&str] = &["initdb", "pg_ctl", "postgres", "psql", "pg_isready"];
/// Compiles queries with a compiler as large as all else.
const LEFT_OUT: &[&str] = &["bitcode", "llvmjit.so", "llvmjit_types.bc", "pgxs"];

/// The newest major version that is installed.
pub(super) fn version() -> Option<u16> {
    let entries = std::fs::read_dir(VERSIONS).ok()?.flatten();
    let installed = entries.filter(|entry| entry.path().join("bin/initdb").is_file());
    installed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max()
}

pub(super) fn layer() -> io::Result<Vec<u8>> {
    let missing = || io::Error::other("`cargo xtask test` installs it (Debian's postgresql)");
    let version = version().ok_or_else(missing)?;
    let mut layer = Layer::new()?;
    for folder in ["bin", "sbin", "lib", "lib64"] {
        layer.link(folder, &format!("usr/{folder}"))?;
    }
    super::busybox::programs(&mut layer, "usr/bin")?;
    let home = Path::new(VERSIONS).join(version.to_string());
    let mut loading: Vec<PathBuf> = PROGRAMS.iter().map(|name| home.join("bin").join(name)).collect();
    for program in &loading {
        let path = program.to_string_lossy();
        layer.file(path.trim_start_matches('/'), &std::fs::read(program)?, 0o755)?;
    }
    // Busybox's own is an older one.
    let setpriv = Path::new("/usr/bin/setpriv");
    layer.file("usr/local/bin/setpriv", &std::fs::read(setpriv)?, 0o755)?;
    loading.push(setpriv.to_owned());
    copy(&mut layer, &home.join("lib"), LEFT_OUT, &mut loading)?;
    let share = Path::new("/usr/share/postgresql").join(version.to_string());
    for folder in [&share, Path::new("/usr/lib/locale/C.utf8")] {
        copy(&mut layer, folder, &["man"], &mut Vec::new())?;
    }
    for library in libraries(&loading)? {
        layer.file(&format!("usr/{library}"), &std::fs::read(Path::new("/usr").join(&library))?, 0o755)?;
    }
    for name in PROGRAMS {
        layer.link(&format!("usr/bin/{name}"), &home.join("bin").join(name).to_string_lossy())?;
    }
    layer.file("usr/local/bin/docker-entrypoint.sh", include_bytes!("postgres.sh"), 0o755)?;
    for folder in ["var/lib", "var/lib/postgresql", "var/run", "var/run/postgresql"] {
        layer.folder(folder, if folder.ends_with("postgresql") { 0o1777 } else { 0o755 })?;
    }
    layer.done()
}

/// What is said of the image, as the official one says it.
pub(super) fn changes() -> Vec<String> {
    [
        "ENV PGDATA=/var/lib/postgresql/data",
        "VOLUME /var/lib/postgresql/data",
        "ENTRYPOINT [\"docker-entrypoint.sh\"]",
        "CMD [\"postgres\"]",
        "EXPOSE 5432",
    ]
    .map(str::to_owned)
    .to_vec()
}
