//! Reads files of a tree that somebody else filled.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use paas_core::{Error, ErrorCode, Result};
use rustix::fs::{Mode, OFlags};

/// The content of the regular file `name` directly in `dir`, if there is one.
///
/// A link is not followed, since it may lead to a file of the platform's whose lines would then stand in an
/// error message; a pipe can't make us wait.
///
/// # Errors
/// `limit_exceeded` beyond `limit` bytes, `bad_source` for what isn't a file.
pub(crate) fn read_small(dir: &Path, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let path = dir.join(name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return Err(not_a_file(name)),
        Err(e) => return Err(Error::from_io(format!("can't read {name}"), e.into())),
    };
    let failed = |e: io::Error| Error::from_io(format!("can't read {name}"), e);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(not_a_file(name));
    }
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > limit {
        return Err(Error::new(
            ErrorCode::LimitExceeded,
            format!("{name} is too large: at most {limit} bytes are read"),
        ));
    }
    Ok(Some(content))
}

fn not_a_file(name: &str) -> Error {
    Error::new(
        ErrorCode::BadSource,
        format!("{name} must be a plain file in the app's root, not a link or a folder"),
    )
}
