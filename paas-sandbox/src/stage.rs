//! The last stage before a confined program: this process puts up the walls around itself, then becomes the
//! program.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, exit};

use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, close, geteuid, setgroups, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};

use crate::files::Rules;
use crate::{Abilities, Profile, root};

/// The first argument of a process that is to become a confined program; the second is the order's path.
pub(crate) const EXEC: &str = "__paas-exec";
/// The first argument of a process that is to try what can be walled off.
pub(crate) const PROBE: &str = "__paas-probe";
/// The exit status of a process that could not put up its walls, or not become the program.
pub(crate) const FAILED: i32 = 125;

/// What to become. It holds secrets, so it travels through a file in memory and never as arguments.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) profile: Profile,
    /// What must work, because it was tried on this machine before.
    pub(crate) abilities: Abilities,
    /// Files into which to write `0` to join the control group.
    pub(crate) doors: Vec<PathBuf>,
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) dir: PathBuf,
}

/// Why it did not become the program: written over the order, where the other side looks for it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Failed {
    /// Whether the program itself is the cause, not a wall.
    pub(crate) program: bool,
    pub(crate) reason: String,
}

/// Becomes the program that the order names.
pub(crate) fn main(order: Option<&OsStr>) -> ! {
    let read = order
        .ok_or_else(|| io::Error::other("no order was given"))
        .and_then(|path| close_inherited_files().map(|()| path))
        .and_then(|path| fs::File::options().read(true).write(true).open(path));
    match read {
        Err(e) => complain(&format!("the order can't be read: {e}")),
        Ok(mut file) => {
            let failed = carry_out(&file);
            let answer = serde_json::to_vec(&failed).map_err(io::Error::from);
            let told = answer.and_then(|answer| {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(&answer)
            });
            if told.is_err() {
                complain(&failed.reason);
            }
        }
    }
    exit(FAILED)
}

/// The last resort: whoever reads the program's output sees it.
fn complain(reason: &str) {
    // With nobody to read it the exit status must be enough.
    let _ = writeln!(io::stderr(), "paas: the program was not started: {reason}");
}

/// Returns only when it failed.
fn carry_out(file: &fs::File) -> Failed {
    let order: Order = match serde_json::from_reader(io::BufReader::new(file)) {
        Ok(order) => order,
        Err(e) => return Failed { program: false, reason: format!("the order is broken: {e}") },
    };
    if let Err(e) = confine(&order) {
        return Failed { program: false, reason: e.to_string() };
    }
    if let Err(e) = std::env::set_current_dir(&order.dir) {
        return Failed { program: true, reason: format!("no folder {}: {e}", order.dir.display()) };
    }
    // `exec` empties the signal mask and takes SIGPIPE back to its default.
    let error = Command::new(&order.program).args(&order.args).env_clear().envs(&order.env).exec();
    Failed { program: true, reason: error.to_string() }
}

fn confine(order: &Order) -> io::Result<()> {
    let Order { profile, abilities, .. } = order;
    let during = |what: &'static str| move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
    setsid().map_err(io::Error::from).map_err(during("a session of its own"))?;
    for door in &order.doors {
        fs::write(door, "0").map_err(during("joining the control group"))?;
    }
    umask(Mode::from_bits_truncate(0o022));
    if abilities.namespaces {
        root::enter(profile.network).map_err(during("namespaces"))?;
        root::build(profile).map_err(during("a file tree of its own"))?;
    }
    let rules = if abilities.landlock {
        Some(
            Rules::open(profile, abilities.namespaces)
                .map_err(io::Error::other)
                .map_err(during("landlock"))?,
        )
    } else {
        None
    };
    limit(profile).map_err(during("limits"))?;
    if let Some(user) = profile.user.filter(|_| abilities.users) {
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        let change = || {
            setgroups(&[])?;
            setresgid(gid, gid, gid)?;
            setresuid(uid, uid, uid)
        };
        change().map_err(io::Error::from).map_err(during("changing the user"))?;
    }
    set_no_new_privs().map_err(io::Error::from).map_err(during("no new privileges"))?;
    if let Some(rules) = rules {
        let enforced = rules.enforce().map_err(io::Error::other).map_err(during("landlock"))?;
        if !enforced {
            return Err(io::Error::other("landlock is not enforced any more"));
        }
    }
    Ok(())
}

fn limit(profile: &Profile) -> io::Result<()> {
    let mut limits = vec![(Resource::RLIMIT_CORE, 0)];
    if profile.limits.open_files > 0 {
        limits.push((Resource::RLIMIT_NOFILE, profile.limits.open_files));
    }
    if profile.limits.file_size > 0 {
        limits.push((Resource::RLIMIT_FSIZE, profile.limits.file_size));
    }
    for (resource, wanted) in limits {
        let (_, hard) = getrlimit(resource)?;
        // Going beyond the limit it was given itself needs a privilege that even root may lack.
        setrlimit(resource, wanted, wanted).or_else(|_| {
            let most = wanted.min(hard);
            setrlimit(resource, most, most)
        })?;
    }
    Ok(())
}

/// Closes what a careless library of the host left open across `exec`: everything but standard input, output and
/// errors. Only for a process that has just begun and opened nothing itself.
///
/// # Errors
/// When `/proc` can't be read.
pub fn close_inherited_files() -> io::Result<()> {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The folder that was just read is among them, and closed already.
        let _ = close(fd);
    }
    Ok(())
}

/// Tries what can be walled off, on this process, and prints it.
pub(crate) fn probe() -> ! {
    const SOMEBODY: u32 = 20_000;
    umask(Mode::from_bits_truncate(0o022));
    let namespaces = root::enter(true).and_then(|()| root::build(&Profile::new())).is_ok();
    let (uid, gid) = (Uid::from_raw(SOMEBODY), Gid::from_raw(SOMEBODY));
    let users = geteuid().is_root()
        && setgroups(&[]).is_ok()
        && setresgid(gid, gid, gid).is_ok()
        && setresuid(uid, uid, uid).is_ok();
    let landlock = set_no_new_privs().is_ok()
        && Rules::open(&Profile::new(), namespaces).and_then(Rules::enforce).unwrap_or(false);
    let able = Abilities { users, namespaces, landlock, ..Abilities::default() };
    let told =
        serde_json::to_vec(&able).map_err(io::Error::from).and_then(|text| io::stdout().write_all(&text));
    exit(i32::from(told.is_err()))
}
