//! Trees of files that change hands: copied, given to the user of a hostile program, taken away from it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::Path;

use crate::User;

/// Gives a path, not what it links to, to this user, where we may.
pub fn give(path: &Path, to: Option<User>) -> io::Result<()> {
    to.map_or(Ok(()), |user| lchown(path, Some(user.uid), Some(user.gid)))
}

/// Gives a folder and all in it to this user.
pub fn give_all(dir: &Path, to: Option<User>) -> io::Result<()> {
    if to.is_none() {
        return Ok(());
    }
    give(dir, to)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_all(&entry.path(), to)?;
        } else {
            give(&entry.path(), to)?;
        }
    }
    Ok(())
}

/// A new folder of this user's, which nobody else can read.
pub fn make(dir: &Path, owner: Option<User>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    give(dir, owner)
}

/// Copies a folder to a new place, where it belongs to `owner`. Sockets and devices are left out; the content of
/// files is shared where the file system can.
pub fn copy(from: &Path, to: &Path, owner: Option<User>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(to)?;
    give(to, owner)?;
    copy_into(from, to, owner)
}

/// Copies what is in a folder into an empty one.
pub fn copy_into(from: &Path, to: &Path, owner: Option<User>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&source, &target, owner)?;
            continue;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            let mut content = fs::File::open(&source)?;
            let meta = content.metadata()?;
            let mode = meta.permissions().mode() & 0o777;
            let mut copy = fs::File::options().write(true).create_new(true).mode(mode).open(&target)?;
            io::copy(&mut content, &mut copy)?;
            // Tools that compare times must not find everything new.
            copy.set_modified(meta.modified()?)?;
        } else {
            continue;
        }
        give(&target, owner)?;
    }
    Ok(())
}

/// Removes a tree, also folders that a program of our own user closed to itself, and files that somebody adds
/// meanwhile. A tree that isn't there is no error.
pub fn remove(dir: &Path) -> io::Result<()> {
    let mut opened = false;
    loop {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !opened => {
                open_up(dir)?;
                opened = true;
            }
            other => return other,
        }
    }
}

fn open_up(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_modes_links_and_times_and_a_closed_folder_is_removed_too() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::write(from.join("deep/er/run"), "x").unwrap();
        fs::set_permissions(from.join("deep/er/run"), fs::Permissions::from_mode(0o751)).unwrap();
        std::os::unix::fs::symlink("deep/er/run", from.join("link")).unwrap();
        copy(&from, &to, None).unwrap();
        let meta = |at: &Path| fs::metadata(at.join("deep/er/run")).unwrap();
        assert_eq!(meta(&to).permissions().mode() & 0o777, 0o751);
        assert_eq!(meta(&to).modified().unwrap(), meta(&from).modified().unwrap());
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("deep/er/run"));
        std::os::unix::fs::symlink("/", to.join("deep/outside")).unwrap();
        for closed in ["deep/er", "deep"] {
            fs::set_permissions(to.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove(&to).unwrap();
        remove(&to).unwrap();
        assert!(!to.exists());
    }
}
