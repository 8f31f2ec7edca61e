//! What buildpacks leave: the YAML of `bin/release`, the names they give, the app's own files, and what is made of them.

use std::fs;
use std::sync::Arc;

use paas_core::{Artifact, ArtifactKind, Clock, Digest, Redactor};

use paas_build::fuzzing::Left;
use tempfile::TempDir;

use super::logs::Kept;
use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "build_result",
    run,
    words: &[
        "---\n",
        "addons:\n",
        "- heroku-postgresql:mini\n",
        "config_vars:\n",
        "default_process_types:\n",
        "  web: x\n",
        ":addons:",
        "&a ",
        "*a",
        "<<: *a",
        "!!binary ",
        "!!float .nan",
        "? ",
        "|\n",
        ">-\n",
        "{",
        "[",
        "\0",
        "0\tNode.js\n",
    ],
};

thread_local! {
    static LEFT: (TempDir, Left) = {
        let folder = super::folder();
        let left = Left::new(folder.path()).expect("folders");
        (folder, left)
    };
}

/// The input: release, NUL, detected, NUL, Procfile, NUL, app.json.
fn run(input: &[u8]) -> String {
    let mut parts = input.splitn(4, |byte| *byte == 0);
    let mut next = || parts.next();
    let (release, detected) = (next().unwrap_or_default(), next().unwrap_or_default());
    let contents = [("Procfile", next()), ("app.json", next())];
    let kept = Arc::new(Kept::default());
    let mut artifact = Artifact::new(
        ArtifactKind::Slug,
        Digest::of(b""),
        0,
        "buildpack".parse().expect("a name"),
        super::logs::NoTime.now(),
    );
    let made = LEFT.with(|(folder, left)| {
        for (name, content) in contents {
            fs::write(
                folder.path().join(name),
                content.unwrap_or(if name == "app.json" { b"{}" } else { b"" }),
            )
            .expect("a file");
        }
        paas_build::fuzzing::compose(
            left,
            folder.path(),
            (release, detected),
            &kept.writer(Redactor::new()),
            &mut artifact,
        )
    });
    for line in kept.lines() {
        assert!(
            !line.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\u{1b}')),
            "{line:?} moves a cursor"
        );
    }
    if let Err(error) = made {
        return super::refused(&error);
    }
    assert!(!artifact.description.contains(char::is_control), "{:?} moves a cursor", artifact.description);
    for (process, entry) in artifact.processes.iter() {
        assert!(
            !entry.command.contains('\0') && !entry.command.trim().is_empty(),
            "{process} can't be started"
        );
    }
    for (key, wish) in &artifact.manifest.env {
        assert!(!wish.value.as_deref().is_some_and(|value| value.contains('\0')), "{key} can't be set");
    }
    let stored = serde_json::to_string(&artifact).expect("an artifact can be stored");
    assert_eq!(serde_json::from_str::<Artifact>(&stored).expect("and read"), artifact);
    let said = kept.lines().iter().filter(|line| line.starts_with(" !")).count();
    format!(
        "{} processes, {} vars, {} add-ons, {said} left out",
        super::few(artifact.processes.iter().count()),
        super::few(artifact.manifest.env.len()),
        super::few(artifact.addons.len())
    )
}
