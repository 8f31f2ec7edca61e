//! The pre-receive hook: a tiny program that asks the platform, says what it says, and ends as it is told.
//!
//! git starts a script of one line, which becomes a link of the name `pre-receive` to the platform's own binary; that
//! knows its role by the name and the key in its environment. It uses no runtime, since it has one connection to copy
//! from.
//!
//! ```text
//! hook -> platform   KEY \n  OBJECTS \0 ALTERNATES \0  OLD NEW REFERENCE \n ...  (end of writing)
//! platform -> hook   what to print ...  \0 STATUS
//! ```

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::exit;

/// The name by which git starts the hook.
pub(crate) const NAME: &str = "pre-receive";
/// The variable with which the handler tells the hook which push it belongs to.
pub(crate) const KEY: &str = "PAAS_PUSH_KEY";
/// The socket beside the repositories: git starts hooks in their repository's folder.
pub(crate) const SOCKET: &str = "../.socket";
/// Ends what is printed; the next byte is the exit status.
pub(crate) const END: u8 = 0;

/// Becomes the hook if git started this process as one, and never returns then.
pub(crate) fn serve_if_called() {
    let called = env::args_os().next();
    let name = called.as_deref().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new(NAME))
        && let Some(key) = env::var_os(KEY)
    {
        exit(run(&key).unwrap_or_else(|error| {
            // With nobody to read it the exit status must be enough.
            let _ = writeln!(io::stderr(), " !     The platform can't be reached: {error}");
            1
        }));
    }
}

fn run(key: &OsStr) -> io::Result<i32> {
    let mut platform = UnixStream::connect(SOCKET)?;
    let variable = |name| env::var_os(name).unwrap_or_else(OsString::new);
    let mut order = Vec::new();
    order.extend_from_slice(key.as_bytes());
    order.push(b'\n');
    for name in ["GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"] {
        order.extend_from_slice(variable(name).as_bytes());
        order.push(0);
    }
    io::stdin().lock().read_to_end(&mut order)?;
    platform.write_all(&order)?;
    platform.shutdown(Shutdown::Write)?;
    repeat(platform, io::stdout().lock())
}

/// Prints what the platform says, until it says with which status to end.
pub(super) fn repeat(mut platform: impl Read, mut out: impl Write) -> io::Result<i32> {
    let mut buffer = [0; 8192];
    loop {
        let read = platform.read(&mut buffer)?;
        let some = &buffer[..read];
        if let Some(end) = some.iter().position(|byte| *byte == END) {
            out.write_all(&some[..end])?;
            out.flush()?;
            let mut status = [0];
            (&some[end + 1..]).chain(platform).read_exact(&mut status)?;
            return Ok(i32::from(status[0]));
        }
        if read == 0 {
            return Err(io::Error::other("it stopped; push again once it is back"));
        }
        out.write_all(some)?;
        out.flush()?;
    }
}
