//! A file tree of its own: a new, empty root into which only what the profile names is mounted.
//!
//! Nothing has to be hidden, because nothing is there that wasn't put there; and a folder inside a closed home
//! (mode 0700) is reached, because the home above it is ours.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Uid, chdir, getegid, geteuid, pivot_root};
use rustix::fs::{Mode, OFlags};

use crate::{Overlay, Profile};

/// Where the old root hangs while the new one is filled.
const OLD: &str = "/.old";
const NONE: Option<&str> = None;

/// Moves this process into a mount namespace of its own, and a network namespace where no network is wanted. Who is
/// not root needs a user namespace for that, in which it stays who it is.
pub(crate) fn enter(network: bool) -> io::Result<()> {
    let mut flags = CloneFlags::CLONE_NEWNS;
    if !network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    let (uid, gid) = (geteuid(), getegid());
    if uid != Uid::from_raw(0) {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags)?;
    if flags.contains(CloneFlags::CLONE_NEWUSER) {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    // What is mounted from here on stays here.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    Ok(())
}

/// Builds the new root and makes it this process's root.
pub(crate) fn build(profile: &Profile) -> io::Result<()> {
    // Any folder will do to hang it up; after the pivot that folder is uncovered again in the old tree.
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755"))?;
    fs::create_dir(format!("/tmp{OLD}"))?;
    pivot_root("/tmp", &*format!("/tmp{OLD}"))?;
    chdir("/")?;

    for path in Profile::SYSTEM {
        system(Path::new(path))?;
    }
    devices()?;
    proc()?;
    temporary(profile)?;
    for path in &profile.read_only {
        place(path, path, false)?;
    }
    for path in &profile.read_write {
        place(path, path, true)?;
    }
    for bind in &profile.binds {
        place(&bind.from, &bind.to, bind.writable)?;
    }
    for overlay in &profile.overlays {
        copy_on_write(overlay, profile)?;
    }
    names(profile)?;
    for path in &profile.hidden {
        hide(path)?;
    }
    umount2(OLD, MntFlags::MNT_DETACH)?;
    fs::remove_dir(OLD)?;
    let root = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
    mount(NONE, "/", NONE, root, NONE)?;
    Ok(())
}

/// The path in the old tree.
fn old(path: &Path) -> PathBuf {
    Path::new(OLD).join(path.strip_prefix("/").unwrap_or(path))
}

/// A folder of the system, or the same link where it is one, if the machine has it.
fn system(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(old(path)) {
        Err(_) => Ok(()),
        Ok(meta) if meta.is_symlink() => symlink(fs::read_link(old(path))?, path),
        Ok(_) => place(path, path, false),
    }
}

/// Shows `from` of the old tree as `to`.
fn place(from: &Path, to: &Path, writable: bool) -> io::Result<()> {
    let said =
        |e: io::Error| io::Error::new(e.kind(), format!("{} as {}: {e}", from.display(), to.display()));
    let folder = fs::metadata(old(from)).map_err(said)?.is_dir();
    mount_point(to, folder).map_err(said)?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&old(from)), to, NONE, bind, NONE).map_err(|e| said(e.into()))?;
    if !writable {
        read_only(to).map_err(said)?;
    }
    Ok(())
}

/// Mounts an overlay. The kernel's options have no good way to quote a path, so it is shown the open folders.
fn copy_on_write(overlay: &Overlay, profile: &Profile) -> io::Result<()> {
    let open = |path: &Path| rustix::fs::open(old(path), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let (lower, changes) = (open(&overlay.from)?, open(&overlay.changes)?);
    let shown = |folder: &OwnedFd| format!("/proc/self/fd/{}", folder.as_raw_fd());
    for name in ["upper", "work"] {
        let folder = old(&overlay.changes).join(name);
        fs::create_dir_all(&folder)?;
        if let Some(user) = profile.user {
            lchown(&folder, Some(user.uid), Some(user.gid))?;
        }
    }
    mount_point(&overlay.to, true)?;
    let (lower, changes) = (shown(&lower), shown(&changes));
    let mut options = format!("lowerdir={lower},upperdir={changes}/upper,workdir={changes}/work");
    if !geteuid().is_root() {
        options.push_str(",userxattr");
    }
    mount(
        Some("overlay"),
        &overlay.to,
        Some("overlay"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(&*options),
    )?;
    Ok(())
}

/// Makes a mount read-only. Flags that it has already must be named again, or the kernel refuses.
fn read_only(path: &Path) -> io::Result<()> {
    let has = statvfs(path)?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    for (found, flag) in [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if has.contains(found) {
            flags |= flag;
        }
    }
    mount(NONE, path, NONE, flags, NONE)?;
    Ok(())
}

/// Makes an empty folder or file to mount on, and the folders above it. A link on the way is refused: it could
/// lead the mount to another place.
fn mount_point(path: &Path, folder: bool) -> io::Result<()> {
    let mut walked = PathBuf::from("/");
    let names: Vec<_> = path.strip_prefix("/").unwrap_or(path).components().collect();
    for (index, name) in names.iter().enumerate() {
        walked.push(name);
        let last = index + 1 == names.len();
        match fs::symlink_metadata(&walked) {
            Ok(meta) if meta.is_symlink() => {
                return Err(io::Error::other(format!("{} is a link", walked.display())));
            }
            Ok(_) => {}
            Err(_) if last && !folder => drop(fs::File::create(&walked)?),
            Err(_) => fs::create_dir(&walked)?,
        }
    }
    Ok(())
}

/// The devices that every program may use, and none of the machine's.
fn devices() -> io::Result<()> {
    fs::create_dir("/dev")?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let path = Path::new("/dev").join(name);
        if old(&path).exists() {
            place(&path, &path, true)?;
        }
    }
    for (to, name) in [("fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")] {
        symlink(format!("/proc/self/{to}"), Path::new("/dev").join(name))?;
    }
    fs::create_dir("/dev/shm")?;
    mount(
        Some("tmpfs"),
        "/dev/shm",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=1777"),
    )?;
    Ok(())
}

/// A `/proc` that shows no processes of other users; the machine's own where that isn't allowed.
fn proc() -> io::Result<()> {
    fs::create_dir("/proc")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if mount(Some("proc"), "/proc", Some("proc"), flags, Some("hidepid=2")).is_err() {
        place(Path::new("/proc"), Path::new("/proc"), true)?;
    }
    Ok(())
}

fn temporary(profile: &Profile) -> io::Result<()> {
    fs::create_dir_all("/var/tmp")?;
    if let Some(folder) = &profile.tmp {
        place(folder, Path::new("/tmp"), true)?;
    } else {
        fs::create_dir("/tmp")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), "/tmp", Some("tmpfs"), flags, Some("mode=1777"))?;
    }
    mount(Some("/tmp"), "/var/tmp", NONE, MsFlags::MS_BIND, NONE)?;
    Ok(())
}

/// Gives the user a name, since programs look up who they are: `app`, at home in `/app`.
fn names(profile: &Profile) -> io::Result<()> {
    let Some(user) = profile.user else { return Ok(()) };
    let rows = [
        ("/etc/passwd", format!("app:x:{}:{}:app:/app:/bin/bash\n", user.uid, user.gid)),
        ("/etc/group", format!("app:x:{}:\n", user.gid)),
    ];
    for (path, row) in rows {
        let path = Path::new(path);
        let Ok(mut text) = fs::read_to_string(old(path)) else { continue };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let ours = Path::new("/").join(format!(".{}", path.file_name().unwrap_or_default().display()));
        fs::write(&ours, text + &row)?;
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o644))?;
        mount(Some(&ours), path, NONE, MsFlags::MS_BIND, NONE)?;
    }
    Ok(())
}

fn hide(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=0"))?;
        }
        Ok(meta) if meta.is_file() => mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE)?,
        _ => {}
    }
    Ok(())
}
