//! A full disk stops a push and nothing else.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::World;

/// A small file system of its own, unmounted when this is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, said aloud, where this may not be done.
    fn mount(size: &str) -> Option<Self> {
        let at = tempfile::Builder::new().prefix("paas-disk-").tempdir().unwrap();
        let size = format!("size={size},mode=711");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at.path()).output();
        if done.as_ref().is_ok_and(|done| done.status.success()) {
            return Some(Self(at));
        }
        eprintln!("SKIPPED, it needs to mount a file system, as root: {done:?}");
        None
    }

    /// Takes all the space but this many bytes.
    fn fill(&self, but: usize) -> PathBuf {
        let path = self.0.path().join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
        let full = file.metadata().unwrap().len();
        file.set_len(full.saturating_sub(but as u64)).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whatever still looks at it is being killed.
        let done = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.path().display());
        }
    }
}

/// What can't be compressed.
fn noise(bytes: usize) -> Vec<u8> {
    let words = std::iter::repeat_with(|| *uuid::Uuid::new_v4().as_bytes());
    words.flatten().take(bytes).collect()
}

#[test]
fn a_push_that_does_not_fit_is_refused_and_the_old_release_keeps_serving() {
    let Some(disk) = SmallDisk::mount("60m") else { return };
    // Dropped first: its processes use the disk.
    let mut world = World::not_started().with_data(disk.0.path().join("data"));
    world.start_first();
    let app = "too-large";
    let repo = world.repo(app);
    let good = repo.app("one").commit();
    world.push(&repo, app).assert_accepted();
    let (_, before) = world.serving(app);
    let users = world.probe(app);

    // Room for the push or for what is made of it, and for neither.
    let bad = repo.app("two").write("noise", noise(3 << 20)).commit();
    for left in [5 << 20, 1 << 20, 0] {
        let filler = disk.fill(left);
        let push = world.push(&repo, app);
        push.assert_refused(&[]);
        let said = push.said.to_lowercase();
        let clear = ["no space left", "disk is full", "disk full", "unable to write"];
        assert!(clear.iter().any(|words| said.contains(words)), "with {left} bytes left:\n{}", push.said);
        assert_eq!(world.serving(app), ("one".into(), before), "with {left} bytes left");
        fs::remove_file(filler).unwrap();
        assert_eq!(world.branch(app, "main").as_ref(), Some(&good), "with {left} bytes left");
    }

    world.push(&repo, app).assert_accepted();
    assert_eq!(world.serving(app).0, "two");
    assert_eq!(world.branch(app, "main"), Some(bad));
    users.stop().assert_served_by(&["one", "two"]);
}
