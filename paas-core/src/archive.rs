//! Trees of files as reproducible archives: the same tree gives the same digest, and unpacking never
//! writes outside its folder.
//!
//! The format is `tar` in `zstd`: entries sorted by name, owner 0, modification time 0 or what the tree's
//! owner asked for, modes reduced to 0755 and 0644.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use crate::digest::Hasher;
use crate::{Digest, Error, ErrorCode, Result};

/// What an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of all files together, unpacked.
    pub bytes: u64,
    /// Files, folders and links together.
    pub entries: u64,
    /// Whether symbolic links may lead out of the tree: right for slugs, whose links to the machine's own
    /// interpreters are followed only inside a sandbox; wrong for sources.
    pub links_out: bool,
}

impl Default for Limits {
    /// 1 GiB, as Heroku allows of a checkout, in 200,000 entries.
    fn default() -> Self {
        Self { bytes: 1 << 30, entries: 200_000, links_out: false }
    }
}

impl Limits {
    /// So many bytes in so many entries.
    pub fn new(bytes: u64, entries: u64) -> Self {
        Self { bytes, entries, links_out: false }
    }

    /// Links may lead out of the tree.
    #[must_use]
    pub fn with_links_out(mut self) -> Self {
        self.links_out = true;
        self
    }
}

/// A finished archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packed {
    /// The archive's digest.
    pub digest: Digest,
    /// The archive's size in bytes.
    pub size: u64,
}

/// Packs the folder `dir` into the new file `to`. Entries for which `keep` says no, given the path within
/// the folder and whether it is a folder, are left out with all below them. Sockets and devices are left out.
///
/// # Errors
/// When something can't be read or written.
pub fn pack(dir: &Path, to: &Path, keep: &dyn Fn(&Path, bool) -> bool) -> Result<Packed> {
    let failed = |e| Error::from_io(format!("can't pack {}", dir.display()), e);
    let file = fs::File::create_new(to).map_err(failed)?;
    let hashing = HashingWriter { file, hasher: Hasher::new(), size: 0 };
    let mut encoder = zstd::Encoder::new(hashing, 3).map_err(failed)?;
    // The frame's header would otherwise depend on how it is written.
    encoder.include_contentsize(false).map_err(failed)?;
    let mut tar = tar::Builder::new(encoder);
    tar.mode(tar::HeaderMode::Deterministic);
    add_folder(&mut tar, dir, Path::new(""), keep).map_err(failed)?;
    let written = tar.into_inner().and_then(zstd::Encoder::finish).map_err(failed)?;
    Ok(Packed { digest: written.hasher.finish(), size: written.size })
}

struct HashingWriter {
    file: fs::File,
    hasher: Hasher,
    size: u64,
}

impl Write for HashingWriter {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let written = self.file.write(content)?;
        self.hasher.update(&content[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn add_folder<W: Write>(
    tar: &mut tar::Builder<W>,
    root: &Path,
    within: &Path,
    keep: &dyn Fn(&Path, bool) -> bool,
) -> io::Result<()> {
    let mut entries = fs::read_dir(root.join(within))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = within.join(entry.file_name());
        let meta = fs::symlink_metadata(root.join(&path))?;
        if !keep(&path, meta.is_dir()) {
            continue;
        }
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        if meta.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            tar.append_data(&mut header, &path, io::empty())?;
            add_folder(tar, root, &path, keep)?;
        } else if meta.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, &path, fs::read_link(root.join(&path))?)?;
        } else if meta.is_file() {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
            header.set_size(meta.len());
            let file = fs::File::open(root.join(&path))?;
            // A file that grows meanwhile would break the archive.
            tar.append_data(&mut header, &path, file.take(meta.len()))?;
        }
    }
    Ok(())
}

/// Unpacks an archive that [`pack`] made into the folder `into`.
///
/// # Errors
/// As [`unpack_tar`], and `corrupt` when it isn't such an archive.
pub fn unpack(archive: impl Read, into: &Path, limits: Limits) -> Result<()> {
    let decoder = zstd::Decoder::new(archive)
        .map_err(|e| Error::new(ErrorCode::Corrupt, "this is not a tar.zst archive").with_source(e))?;
    unpack_tar(decoder, into, limits)
}

/// Unpacks any `tar` stream, however hostile, into the empty folder `into`.
///
/// Links are made last, so that no entry is ever written through one. Owners, times and special mode bits
/// of the archive are not taken over.
///
/// # Errors
/// `bad_source` for absolute paths, `..`, devices, links that lead out of the folder, or an entry in a place
/// where another one stands; `limit_exceeded`; `disk_full`.
pub fn unpack_tar(stream: impl Read, into: &Path, limits: Limits) -> Result<()> {
    let budget = Rc::new(Cell::new(0));
    let mut archive = tar::Archive::new(Metered { stream, budget: budget.clone() });
    let mut used = Used { limits, bytes: 0, entries: 0 };
    let mut links: Vec<(PathBuf, PathBuf, bool)> = Vec::new();
    let mut all = archive.entries().map_err(broken)?;
    loop {
        // What is left of the last entry may be skipped, and long names be read, but no more.
        budget.set(budget.get() + LONG_NAMES);
        let Some(entry) = all.next() else { break };
        let mut entry = entry.map_err(broken)?;
        let path = inside(&entry.path().map_err(broken)?)?;
        check_length(&path)?;
        used.add(1, entry.size())?;
        budget.set(entry.size() + BLOCK);
        let kind = entry.header().entry_type();
        if path.as_os_str().is_empty() {
            continue;
        }
        let target = into.join(&path);
        if kind.is_dir() {
            fs::create_dir_all(&target).map_err(broken)?;
        } else if kind.is_file() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(broken)?;
            }
            let mode = if entry.header().mode().unwrap_or(0o644) & 0o111 == 0 { 0o644 } else { 0o755 };
            write_file(&mut entry, &target, mode).map_err(broken)?;
        } else if kind.is_symlink() || kind.is_hard_link() {
            let to = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
            check_length(&to)?;
            links.push((path, to, kind.is_hard_link()));
        } else if !(kind.is_pax_global_extensions() || kind.is_pax_local_extensions()) {
            return Err(refused(&path, "is neither a file, a folder nor a link"));
        }
    }
    for (path, to, hard) in &links {
        if *hard { copy(into, path, to, &mut used)? } else { link(into, path, to, limits.links_out)? }
    }
    Ok(())
}

/// Long names and other extended headers of one entry may have so many bytes together.
const LONG_NAMES: u64 = 1 << 20;
/// Entries are padded to these.
const BLOCK: u64 = 512;

/// Lets no more through than the headers so far have announced: without it, a name or a link of many gigabytes,
/// which compress to nothing, would be read into memory.
struct Metered<R> {
    stream: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.budget.get()).unwrap_or(usize::MAX);
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a name in it is too long"));
        }
        let most = buffer.len().min(left);
        let read = self.stream.read(&mut buffer[..most])?;
        self.budget.set(self.budget.get() - read as u64);
        Ok(read)
    }
}

/// How much of the limits was used up.
struct Used {
    limits: Limits,
    bytes: u64,
    entries: u64,
}

impl Used {
    fn add(&mut self, entries: u64, bytes: u64) -> Result<()> {
        let Limits { bytes: most, entries: most_entries, .. } = self.limits;
        self.entries += entries;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.entries > most_entries || self.bytes > most {
            let message = format!("the archive is too large: at most {most} bytes in {most_entries} entries");
            return Err(Error::new(ErrorCode::LimitExceeded, message));
        }
        Ok(())
    }
}

fn broken(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::from_io("can't unpack", error),
        io::ErrorKind::FileTooLarge => {
            Error::new(ErrorCode::LimitExceeded, "the archive is too large").with_source(error)
        }
        _ => Error::new(ErrorCode::BadSource, "the archive can't be read").with_source(error),
    }
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(ErrorCode::BadSource, format!("the archive's entry {} {why}", path.display()))
}

/// The path without `.` components, if it stays inside.
fn inside(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(refused(path, "leads out of the tree")),
        }
    }
    Ok(clean)
}

/// No system opens a longer path, and many long ones would fill the memory.
fn check_length(path: &Path) -> Result<()> {
    if path.as_os_str().len() <= 4096 {
        Ok(())
    } else {
        Err(refused(Path::new("…"), "has too long a name"))
    }
}

fn write_file(content: &mut impl Read, target: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    // A later entry of the same name replaces the earlier one, as tar does.
    if target.symlink_metadata().is_ok_and(|m| m.is_file()) {
        fs::remove_file(target)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(target)?;
    io::copy(content, &mut file)?;
    Ok(())
}

const LEADS_OUT: &str = "is a link that leads out of the tree";

/// Makes a symbolic link.
fn link(into: &Path, path: &Path, to: &Path, out: bool) -> Result<()> {
    if !out && leads_out(path, to) {
        return Err(refused(path, LEADS_OUT));
    }
    make_parents(into, path)?;
    std::os::unix::fs::symlink(to, into.join(path)).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => refused(path, "is a link where another entry stands"),
        _ => broken(e),
    })
}

/// Copies what a hard link names: two names of one file would change together.
fn copy(into: &Path, path: &Path, to: &Path, used: &mut Used) -> Result<()> {
    let from = inside(to).map_err(|_| refused(path, LEADS_OUT))?;
    make_parents(into, path)?;
    let source = into.join(&from);
    if is_through_link(into, &from) || !source.symlink_metadata().map_err(broken)?.is_file() {
        return Err(refused(path, LEADS_OUT));
    }
    // The same file a thousand times is a bomb, too.
    used.add(0, source.metadata().map_err(broken)?.len())?;
    let mode = source.metadata().map_err(broken)?.permissions().mode() & 0o777;
    let mut content = fs::File::open(source).map_err(broken)?;
    write_file(&mut content, &into.join(path), mode).map_err(broken)
}

fn make_parents(into: &Path, path: &Path) -> Result<()> {
    if is_through_link(into, path) {
        return Err(refused(path, LEADS_OUT));
    }
    into.join(path).parent().map_or(Ok(()), fs::create_dir_all).map_err(broken)
}

/// Whether a folder on the way to `path` is a link, which could carry us elsewhere.
fn is_through_link(into: &Path, path: &Path) -> bool {
    let mut walked = into.to_owned();
    path.parent().into_iter().flat_map(Path::components).any(|component| {
        walked.push(component);
        walked.symlink_metadata().is_ok_and(|m| m.is_symlink())
    })
}

/// Whether a symbolic link at `path` to `to` may lead out of the tree. `..` is allowed only in front: after a
/// name it could climb out of wherever another link of that name leads.
fn leads_out(path: &Path, to: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    let mut named = false;
    for component in to.components() {
        match component {
            Component::Normal(_) => named = true,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 && !named => depth -= 1,
            _ => return true,
        }
    }
    to.as_os_str().is_empty()
}

#[cfg(test)]
mod tests;
