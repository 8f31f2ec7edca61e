//! The buildpacks that come with the platform: part of the binary, unpacked once.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use paas_core::Digest;
use paas_sandbox::tree;

/// One bundled buildpack.
#[derive(Debug)]
pub(super) struct Bundled {
    /// By which apps name it; `heroku/<name>` means it too.
    pub(super) name: &'static str,
    /// What it calls an app, as its `bin/detect` does.
    language: &'static str,
    /// The files of which one is enough to recognise an app, as for its `bin/detect`: looking for them here saves
    /// a sandbox for each push.
    marks: &'static [&'static str],
    files: &'static [(&'static str, &'static str)],
}

macro_rules! bundled {
    ($($name:literal $language:literal if [$($mark:literal)*] is [$($file:literal)*])*) => {
        /// In the order in which they are tried; Heroku's, where it has them.
        pub(super) const BUNDLED: &[Bundled] = &[$(Bundled {
            name: $name,
            language: $language,
            marks: &[$($mark,)*],
            files: &[
                ("lib/common.sh", include_str!("../../buildpacks/lib/common.sh")),
                $(($file, include_str!(concat!("../../buildpacks/", $name, "/", $file))),)*
            ],
        },)*];
    };
}

bundled! {
    "ruby" "Ruby" if ["Gemfile"] is ["bin/detect" "bin/compile" "bin/release"]
    "nodejs" "Node.js" if ["package.json"] is [
        "bin/detect" "bin/compile" "bin/release" "lib/managers.sh" "lib/plan.js"
    ]
    "python" "Python" if [
        "requirements.txt" "pyproject.toml" "uv.lock" "manage.py" "Pipfile" "poetry.lock" "setup.py"
    ] is ["bin/detect" "bin/compile" "bin/release" "lib/install.sh" "lib/interpreter.sh" "lib/requirements.py"]
    "go" "Go" if ["go.mod"] is ["bin/detect" "bin/compile" "bin/release"]
    "rust" "Rust" if ["Cargo.toml"] is [
        "bin/detect" "bin/compile" "bin/release" "lib/sources.sh" "lib/toolchain.sh"
    ]
    "static" "Static site" if ["static.json" "index.html" "public_html/index.html" "public/index.html"] is [
        "bin/detect" "bin/compile" "bin/release" "lib/server.pl"
    ]
    "procfile" "Procfile" if ["Procfile"] is ["bin/detect" "bin/compile" "bin/release"]
}

/// The first that recognises the app in this folder, and what it calls it.
pub(super) fn detect(dir: &Path) -> Option<(&'static str, &'static str)> {
    let recognises = |pack: &&Bundled| pack.marks.iter().any(|mark| dir.join(mark).is_file());
    BUNDLED.iter().find(recognises).map(|pack| (pack.name, pack.language))
}

/// What was looked for, for people.
pub(super) fn looks_for() -> Vec<String> {
    let all = BUNDLED.iter();
    all.map(|pack| format!("{} ({})", pack.marks.join(" or "), pack.language)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_for_here_is_what_each_script_looks_for() {
        let root = tempfile::tempdir().unwrap();
        let home = unpack(root.path()).unwrap();
        let marks = BUNDLED.iter().flat_map(|pack| pack.marks).chain(&["README.md"]);
        for mark in marks {
            let app = tempfile::tempdir().unwrap();
            let file = app.path().join(mark);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            for pack in BUNDLED {
                let script = home.join(pack.name).join("bin/detect");
                let output = std::process::Command::new(script).arg(app.path()).output().unwrap();
                assert_eq!(output.status.success(), pack.marks.contains(mark), "{} {mark}", pack.name);
                let said = String::from_utf8(output.stdout).unwrap();
                assert!(!output.status.success() || said.trim() == pack.language, "{said}");
            }
        }
    }

    #[test]
    fn every_file_of_a_bundled_pack_is_part_of_it() {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("buildpacks");
        for pack in BUNDLED {
            for folder in ["bin", "lib"] {
                for entry in fs::read_dir(home.join(pack.name).join(folder)).unwrap() {
                    let name = format!("{folder}/{}", entry.unwrap().file_name().into_string().unwrap());
                    assert!(pack.files.iter().any(|(file, _)| *file == name), "{} lacks {name}", pack.name);
                }
            }
        }
    }
}
