//! The buildpacks that come with the platform: part of the binary, unpacked once.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use paas_core::Digest;

use super::tree;

/// One bundled buildpack.
#[derive(Debug)]
pub(super) struct Bundled {
    /// By which apps name it; `heroku/<name>` means it too.
    pub(super) name: &'static str,
    /// By which files it recognises an app, for people.
    pub(super) looks_for: &'static str,
    files: &'static [(&'static str, &'static str)],
}

macro_rules! bundled {
    ($($name:literal $looks_for:literal [$($file:literal)*])*) => {
        /// In the order in which they are tried; Heroku's, where it has them.
        pub(super) const BUNDLED: &[Bundled] = &[$(Bundled {
            name: $name,
            looks_for: $looks_for,
            files: &[
                ("lib/common.sh", include_str!("../../buildpacks/lib/common.sh")),
                $(($file, include_str!(concat!("../../buildpacks/", $name, "/", $file))),)*
            ],
        },)*];
    };
}

bundled! {
    "ruby" "Gemfile (Ruby)" ["bin/detect" "bin/compile" "bin/release"]
    "nodejs" "package.json (Node.js)" ["bin/detect" "bin/compile" "bin/release" "lib/managers.sh" "lib/plan.js"]
    "python" "requirements.txt, pyproject.toml, Pipfile or setup.py (Python)" [
        "bin/detect" "bin/compile" "bin/release" "lib/install.sh" "lib/interpreter.sh" "lib/requirements.py"
    ]
    "go" "go.mod (Go)" ["bin/detect" "bin/compile" "bin/release"]
    "rust" "Cargo.toml (Rust)" ["bin/detect" "bin/compile" "bin/release" "lib/sources.sh" "lib/toolchain.sh"]
    "static" "index.html (static site)" ["bin/detect" "bin/compile" "bin/release" "lib/server.pl"]
    "procfile" "Procfile" ["bin/detect" "bin/compile" "bin/release"]
}

/// The digest of all of them: another version of the platform may build otherwise.
pub(super) fn digest() -> Digest {
    let files = BUNDLED.iter().flat_map(|pack| pack.files.iter().map(|file| (pack.name, file)));
    Digest::of_parts(files.flat_map(|(pack, (name, content))| [pack, *name, *content]))
}

/// The one of this name.
pub(super) fn find(name: &str) -> Option<&'static Bundled> {
    let name = name.strip_prefix("heroku/").unwrap_or(name);
    BUNDLED.iter().find(|pack| pack.name == name)
}

/// Unpacks them into a folder of `root`, unless they are there, and says where.
pub(super) fn unpack(root: &Path) -> io::Result<PathBuf> {
    let home = root.join(format!("bundled-{}", &digest().hex()[..16]));
    if home.exists() {
        return Ok(home);
    }
    let aside = root.join(format!(".{}", uuid::Uuid::new_v4()));
    for pack in BUNDLED {
        for (name, content) in pack.files {
            let path = aside.join(pack.name).join(name);
            fs::create_dir_all(path.parent().unwrap_or(&aside))?;
            let mode = if name.starts_with("bin/") { 0o755 } else { 0o644 };
            let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(path)?;
            io::Write::write_all(&mut file, content.as_bytes())?;
        }
    }
    match fs::rename(&aside, &home) {
        // Another engine was faster.
        Err(_) if home.exists() => tree::remove(&aside)?,
        renamed => renamed?,
    }
    Ok(home)
}
