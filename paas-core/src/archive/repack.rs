//! A `tar` stream of somebody else's as an archive of ours, without a folder in between.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tar::EntryType;

use super::{
    Limits, Packed, Used, broken, finish, header, inside, link_leads_out, plain_mode, refused, tar_to,
};
use crate::{Error, Result};

/// Content up to this size waits in memory for its place in the order, in bytes.
const IN_MEMORY: usize = 32 << 20;

/// Writes the tree of a `tar` stream to the new file `to`, as [`pack`](super::pack) would write the folder that
/// [`unpack_tar`](super::unpack_tar) makes of it: the digest is the same. Hard links are refused.
///
/// # Errors
/// As [`unpack_tar`](super::unpack_tar), and when `to` can't be written.
pub fn repack(stream: impl Read, to: &Path, limits: Limits) -> Result<Packed> {
    let mut spool = Spool { file: to.with_extension("spool"), held: Held::Memory(Vec::new()), len: 0 };
    let tree = read(stream, &mut spool, limits)?;
    write(&tree, &mut spool, to).map_err(|e| Error::from_io("can't archive the tree", e))
}

/// Paths in order: a folder before what is in it, names by their bytes.
type Tree = BTreeMap<PathBuf, Entry>;

enum Entry {
    Folder,
    File { mode: u32, at: u64, size: u64 },
    Link(PathBuf),
}

fn read(stream: impl Read, spool: &mut Spool, limits: Limits) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut used = Used::new(limits);
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = inside(&entry.path().map_err(broken)?)?;
        used.entry(entry.size())?;
        let kind = entry.header().entry_type();
        if path.as_os_str().is_empty() || kind.is_pax_global_extensions() {
            continue;
        }
        let found = if kind.is_dir() {
            Entry::Folder
        } else if kind.is_file() {
            let mode = plain_mode(entry.header().mode().unwrap_or(0o644));
            let size = entry.size();
            Entry::File { mode, at: spool.take(&mut entry, size).map_err(broken)?, size }
        } else if kind.is_symlink() {
            let to = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
            if !limits.links_out && link_leads_out(&path, &to) {
                return Err(refused(&path, "is a link that leads out of the tree"));
            }
            Entry::Link(to)
        } else {
            return Err(refused(&path, "is neither a file, a folder nor a symbolic link"));
        };
        insert(&mut tree, path, found)?;
    }
    Ok(tree)
}

/// Adds an entry and the folders that lead to it. Nothing is ever below a file or a link.
fn insert(tree: &mut Tree, path: PathBuf, found: Entry) -> Result<()> {
    for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
        match tree.get(parent) {
            Some(Entry::Folder) => break,
            Some(_) => return Err(refused(&path, "is below something that is no folder")),
            None => drop(tree.insert(parent.to_owned(), Entry::Folder)),
        }
    }
    match tree.entry(path) {
        Place::Vacant(place) => drop(place.insert(found)),
        Place::Occupied(mut place) => match (place.get(), &found) {
            (Entry::Folder, Entry::Folder) => {}
            // A later entry of the same name replaces the earlier one, as tar does.
            (Entry::File { .. }, Entry::File { .. }) => drop(place.insert(found)),
            _ => return Err(refused(place.key(), "is there twice")),
        },
    }
    Ok(())
}

fn write(tree: &Tree, spool: &mut Spool, to: &Path) -> io::Result<Packed> {
    let mut tar = tar_to(to)?;
    for (path, entry) in tree {
        match entry {
            Entry::Folder => {
                tar.append_data(&mut header(EntryType::Directory, 0o755, 0), path, io::empty())?;
            }
            Entry::Link(to) => {
                tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, to)?;
            }
            Entry::File { mode, at, size } => {
                tar.append_data(
                    &mut header(EntryType::Regular, *mode, *size),
                    path,
                    spool.content(*at, *size)?,
                )?;
            }
        }
    }
    finish(tar)
}

/// Content in the order in which it came: in memory, or in a file without a name once it is a lot.
struct Spool {
    file: PathBuf,
    held: Held,
    len: u64,
}

enum Held {
    Memory(Vec<u8>),
    File(fs::File),
}

impl Spool {
    /// Keeps content and says where.
    fn take(&mut self, content: &mut impl Read, size: u64) -> io::Result<u64> {
        let at = self.len;
        if let Held::Memory(kept) = &self.held
            && size.saturating_add(at) > IN_MEMORY as u64
        {
            let mut file = fs::File::options().read(true).write(true).create_new(true).open(&self.file)?;
            fs::remove_file(&self.file)?;
            file.write_all(kept)?;
            self.held = Held::File(file);
        }
        let taken = match &mut self.held {
            Held::Memory(kept) => io::copy(content, kept)?,
            Held::File(file) => io::copy(content, file)?,
        };
        if taken < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.len += taken;
        Ok(at)
    }

    fn content(&mut self, at: u64, size: u64) -> io::Result<Box<dyn Read + '_>> {
        match &mut self.held {
            Held::Memory(kept) => {
                let place = |n: u64| usize::try_from(n).map_err(io::Error::other);
                let part = kept.get(place(at)?..place(at + size)?);
                Ok(Box::new(part.ok_or(io::ErrorKind::UnexpectedEof)?))
            }
            Held::File(file) => {
                file.seek(SeekFrom::Start(at))?;
                Ok(Box::new(file.take(size)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;
    use crate::archive::{pack, unpack_tar};

    fn tar_of(entries: &[(&str, EntryType, u32, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, kind, mode, content) in entries {
            let mut header = header(*kind, *mode, 0);
            header.set_mtime(1_700_000_000);
            if kind.is_symlink() {
                tar.append_link(&mut header, path, std::str::from_utf8(content).unwrap()).unwrap();
            } else {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, *content).unwrap();
            }
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn the_digest_is_that_of_the_unpacked_folder() {
        let long = format!("deep/{}/file", "x".repeat(120));
        let big = vec![7; IN_MEMORY + 1];
        // git's order: `foo.txt` before `foo/`.
        let tar = tar_of(&[
            ("a", EntryType::Regular, 0o664, b"one"),
            ("foo.txt", EntryType::Regular, 0o775, b"two"),
            ("foo/", EntryType::Directory, 0o775, b""),
            ("foo/bar", EntryType::Symlink, 0o777, b"../a"),
            ("no/folder/entry", EntryType::Regular, 0o644, b""),
            ("zz", EntryType::Regular, 0o644, &big),
            (&long, EntryType::Regular, 0o644, b"four"),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        unpack_tar(&*tar, &tree, Limits::default()).unwrap();
        let packed = pack(&tree, &dir.path().join("packed"), &|_, _| true).unwrap();
        let repacked = repack(&*tar, &dir.path().join("repacked"), Limits::default()).unwrap();
        assert_eq!(repacked, packed);
    }

    #[test]
    fn what_leads_out_of_the_tree_or_contradicts_itself_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (n, entries) in [
            vec![("link", EntryType::Symlink, 0o777, &b"/etc/passwd"[..])],
            vec![("link", EntryType::Symlink, 0o777, &b"../x"[..])],
            vec![
                ("dir", EntryType::Symlink, 0o777, &b"a"[..]),
                ("dir/x", EntryType::Regular, 0o644, &b"a"[..]),
            ],
            vec![("x", EntryType::Regular, 0o644, &b""[..]), ("x", EntryType::Directory, 0o755, &b""[..])],
            vec![("device", EntryType::Char, 0o644, &b""[..])],
        ]
        .into_iter()
        .enumerate()
        {
            let to = dir.path().join(n.to_string());
            let error = repack(&*tar_of(&entries), &to, Limits::default()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::BadSource, "{entries:?}");
        }
    }

    #[test]
    fn a_tree_beyond_the_limits_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tar = tar_of(&[("a", EntryType::Regular, 0o644, &[0; 2000])]);
        let error = repack(&*tar, &dir.path().join("a"), Limits::new(1000, 10)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::LimitExceeded);
    }
}
