//! What reads the words of buildpacks.

use std::fs;
use std::path::Path;

use paas_core::{Artifact, LogWriter, Redactor, Result};
use tokio::io::AsyncBufRead;

use super::compose;
use super::run::Lines;
use super::work::Work;

/// The folders of a build that never ran.
#[derive(Debug)]
pub struct Left(Work);

impl Left {
    /// Folders below `root`.
    ///
    /// # Errors
    /// When they can't be made.
    pub fn new(root: &Path) -> Result<Self> {
        Work::new(root, None).map(Self)
    }
}

/// Fills the artifact with what packs that printed `release` and left `detected` make of the app in `dir`.
///
/// # Errors
/// As the build fails.
pub fn compose(
    Left(work): &Left,
    dir: &Path,
    (release, detected): (&[u8], &[u8]),
    log: &LogWriter,
    artifact: &mut Artifact,
) -> Result<()> {
    let write = |name: &str, content| {
        let path = work.root().join("result").join(name);
        fs::write(path, content).map_err(|e| paas_core::Error::from_io("can't write a result", e))
    };
    write("release", release)?;
    write("detected", detected)?;
    let built = compose::read(work, dir, log)?;
    built.fill(artifact);
    built.announce(log, release.len() as u64);
    Ok(())
}

/// Writes a build's output, with lines of `longest` bytes at most, to the log, and returns the lines that an error would carry.
///
/// # Errors
/// When the output can't be read.
pub async fn lines(
    output: impl AsyncBufRead + Unpin,
    longest: usize,
    log: &LogWriter,
) -> std::io::Result<Vec<String>> {
    let secrets: &Redactor = log.redactor();
    let mut lines = Lines::new(output, secrets, longest);
    let mut shown = Vec::new();
    while let Some(line) = lines.next().await? {
        log.line(&line);
        shown.push(log.shown(&line));
    }
    Ok(shown)
}
