//! Trees of files as reproducible archives: the same tree gives the same digest, and unpacking never
//! writes outside its folder.
//!
//! The format is `tar` in `zstd`: entries sorted by name, owner 0, modification time 0 or what the tree's
//! owner asked for, modes reduced to 0755 and 0644.

mod repack;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use tar::EntryType;

use crate::digest::Hasher;
use crate::{Digest, Error, ErrorCode, Result};

pub use repack::repack;

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
    pack_within(dir, to, keep, Limits::new(u64::MAX, u64::MAX))
}

/// As [`pack`], for a folder that somebody else filled: a sparse file of many terabytes costs nothing to make
/// and years to pack.
///
/// # Errors
/// `limit_exceeded` as soon as the folder turns out to be larger than `limits`; then `to` is of no use.
pub fn pack_within(
    dir: &Path,
    to: &Path,
    keep: &dyn Fn(&Path, bool) -> bool,
    limits: Limits,
) -> Result<Packed> {
    let failed = |e| Error::from_io(format!("can't pack {}", dir.display()), e);
    let tar = tar_to(to).map_err(failed)?;
    let mut packing = Packing { tar, root: dir, keep, used: Used::new(limits) };
    packing.folder(Path::new(""))?;
    finish(packing.tar).map_err(failed)
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

struct Packing<'a, W: Write> {
    tar: tar::Builder<W>,
    root: &'a Path,
    keep: &'a dyn Fn(&Path, bool) -> bool,
    used: Used,
}

impl<W: Write> Packing<'_, W> {
    fn folder(&mut self, within: &Path) -> Result<()> {
        let failed =
            |e| Error::from_io(format!("can't pack the folder {}", self.root.join(within).display()), e);
        let entries = fs::read_dir(self.root.join(within)).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = within.join(entry.file_name());
            let failed = |e| Error::from_io(format!("can't pack {}", path.display()), e);
            let meta = entry.metadata().map_err(failed)?;
            if !(self.keep)(&path, meta.is_dir()) {
                continue;
            }
            self.used.entry(if meta.is_file() { meta.len() } else { 0 })?;
            self.add(&path, &meta).map_err(failed)?;
            if meta.is_dir() {
                self.folder(&path)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, meta: &fs::Metadata) -> io::Result<()> {
        if meta.is_dir() {
            self.tar.append_data(&mut header(EntryType::Directory, 0o755, 0), path, io::empty())
        } else if meta.is_symlink() {
            let to = fs::read_link(self.root.join(path))?;
            self.tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, to)
        } else if meta.is_file() {
            let mode = plain_mode(meta.permissions().mode());
            // A file that grows meanwhile would break the archive.
            let file = fs::File::open(self.root.join(path))?.take(meta.len());
            self.tar.append_data(&mut header(EntryType::Regular, mode, meta.len()), path, file)
        } else {
            Ok(())
        }
    }
}

fn plain_mode(mode: u32) -> u32 {
    if mode & 0o111 == 0 { 0o644 } else { 0o755 }
}

fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

fn tar_to(to: &Path) -> io::Result<tar::Builder<zstd::Encoder<'static, HashingWriter>>> {
    let file = fs::File::create_new(to)?;
    let mut encoder = zstd::Encoder::new(HashingWriter { file, hasher: Hasher::new(), size: 0 }, 3)?;
    // The frame's header would otherwise depend on how it is written.
    encoder.include_contentsize(false)?;
    let mut tar = tar::Builder::new(encoder);
    tar.mode(tar::HeaderMode::Deterministic);
    Ok(tar)
}

fn finish(tar: tar::Builder<zstd::Encoder<'static, HashingWriter>>) -> io::Result<Packed> {
    let written = tar.into_inner().and_then(zstd::Encoder::finish)?;
    Ok(Packed { digest: written.hasher.finish(), size: written.size })
}

/// Counts against [`Limits`].
struct Used {
    limits: Limits,
    bytes: u64,
    entries: u64,
}

impl Used {
    fn new(limits: Limits) -> Self {
        Self { limits, bytes: 0, entries: 0 }
    }

    /// One more entry with this much content.
    fn entry(&mut self, bytes: u64) -> Result<()> {
        self.entries += 1;
        self.bytes(bytes)
    }

    fn bytes(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.entries > self.limits.entries || self.bytes > self.limits.bytes {
            let Limits { bytes, entries, .. } = self.limits;
            return Err(Error::new(
                ErrorCode::LimitExceeded,
                format!(
                    "the tree is too large: at most {} MB in {entries} files and folders",
                    bytes / 1_000_000
                ),
            ));
        }
        Ok(())
    }
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
    let mut archive = tar::Archive::new(stream);
    let mut used = Used::new(limits);
    let (mut hard_links, mut symlinks) = (Vec::new(), Vec::new());
    let mut long = LongNames::default();
    let mut names = 0;
    let mut made = PathBuf::new();
    // Raw, since the library would read a long name of any length into memory.
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        if long.take_in(&mut entry)? {
            // Names without entries have no end otherwise.
            names += 1;
            if names > limits.entries.saturating_mul(4) {
                return Err(Error::new(ErrorCode::LimitExceeded, "the archive has too many long names"));
            }
            continue;
        }
        let long = std::mem::take(&mut long);
        if long.size.is_some_and(|size| size != entry.size()) {
            return Err(Error::new(
                ErrorCode::BadSource,
                "the archive contradicts itself about an entry's size",
            ));
        }
        let path = match long.path {
            Some(path) => inside(Path::new(OsStr::from_bytes(&path)))?,
            None => inside(&entry.path().map_err(broken)?)?,
        };
        used.entry(entry.size())?;
        if path.as_os_str().is_empty() {
            continue;
        }
        let target = into.join(&path);
        if kind.is_dir() {
            fs::create_dir_all(&target).map_err(broken)?;
        } else if kind.is_file() || kind.is_contiguous() {
            let parent = target.parent().unwrap_or(into);
            if parent != made {
                fs::create_dir_all(parent).map_err(broken)?;
                parent.clone_into(&mut made);
            }
            let mode = plain_mode(entry.header().mode().unwrap_or(0o644));
            write_file(&mut entry, &target, mode).map_err(broken)?;
        } else if kind.is_symlink() || kind.is_hard_link() {
            let to = match long.link {
                Some(link) => PathBuf::from(OsString::from_vec(link)),
                None => entry.link_name().map_err(broken)?.unwrap_or_default().into_owned(),
            };
            if kind.is_hard_link() { &mut hard_links } else { &mut symlinks }.push((path, to));
        } else {
            return Err(refused(&path, "is neither a file, a folder nor a link"));
        }
    }
    // While there are no symbolic links yet, no path leads anywhere else than it says.
    for (path, to) in &hard_links {
        let from = into.join(inside(to)?);
        let Some(size) = from.symlink_metadata().ok().filter(fs::Metadata::is_file).map(|m| m.len()) else {
            return Err(refused(path, "is a link to a file that isn't in the archive"));
        };
        used.bytes(size)?;
        copy_file(&from, &into.join(path)).map_err(broken)?;
    }
    for (path, to) in &symlinks {
        let out = !limits.links_out && link_leads_out(path, to);
        if out || !symlink(into, path, to).map_err(broken)? {
            return Err(refused(path, "is a link that leads out of the tree"));
        }
    }
    Ok(())
}

fn broken(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::from_io("can't unpack", error),
        _ => Error::new(ErrorCode::BadSource, "the archive can't be read").with_source(error),
    }
}

/// What the entries in front of an entry say about it, since the header's own fields are short.
#[derive(Default)]
struct LongNames {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl LongNames {
    /// No path is longer on Linux.
    const PATH_MAX: u64 = 4096;
    /// Records of one entry: a path, a link and some times.
    const RECORDS_MAX: u64 = 64 * 1024;

    /// Whether this entry only says something about the next one.
    fn take_in(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(true);
        }
        let limit = match kind {
            EntryType::GNULongName | EntryType::GNULongLink => Self::PATH_MAX + 1,
            EntryType::XHeader => Self::RECORDS_MAX,
            _ => return Ok(false),
        };
        if entry.size() > limit {
            return Err(Error::new(ErrorCode::LimitExceeded, "the archive has a name that is too long"));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(broken)?;
        if kind == EntryType::XHeader {
            for record in tar::PaxExtensions::new(&content) {
                let record = record.map_err(broken)?;
                match record.key_bytes() {
                    b"path" => self.path = Some(record.value_bytes().to_vec()),
                    b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                    b"size" => self.size = record.value().ok().and_then(|size| size.parse().ok()),
                    _ => {}
                }
            }
            return Ok(true);
        }
        let name = content.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        *(if kind == EntryType::GNULongName { &mut self.path } else { &mut self.link }) = Some(name);
        Ok(true)
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

fn write_file(content: &mut tar::Entry<'_, impl Read>, target: &Path, mode: u32) -> io::Result<()> {
    let size = content.size();
    if io::copy(content, &mut create(target, mode)?)? < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// A copy: two names of one file would change together.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    let mut from = fs::File::open(from)?;
    let mode = from.metadata()?.permissions().mode() & 0o777;
    io::copy(&mut from, &mut create(to, mode)?).map(drop)
}

/// A new file; a later entry of the same name replaces the earlier one, as tar does.
fn create(target: &Path, mode: u32) -> io::Result<fs::File> {
    let open = || fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(target);
    match open() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && target.symlink_metadata()?.is_file() => {
            fs::remove_file(target)?;
            open()
        }
        opened => opened,
    }
}

/// Makes a symbolic link, unless one of its parents is a link by now and would carry us elsewhere.
fn symlink(into: &Path, path: &Path, to: &Path) -> io::Result<bool> {
    let mut parent = into.to_owned();
    for component in path.parent().into_iter().flat_map(Path::components) {
        parent.push(component);
        if parent.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
            return Ok(false);
        }
    }
    fs::create_dir_all(&parent)?;
    std::os::unix::fs::symlink(to, into.join(path)).map(|()| true)
}

/// Whether a symbolic link at `path`, within a tree, to `to` may lead out of the tree. `..` is allowed only in
/// front: after a name it could climb out of wherever another link of that name leads.
pub fn link_leads_out(path: &Path, to: &Path) -> bool {
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
