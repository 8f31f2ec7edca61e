//! The helper binary: the current one started again, or one that is named.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Abilities, Error, Result, stage};

static INITIALISED: OnceLock<()> = OnceLock::new();

/// Serves as the helper if this process was started as one, and never returns then. Otherwise it remembers that
/// it was asked, so that [`Helper::current`] works.
///
/// From then on this process and what it starts leave no core dumps, which would hold every secret that they know. Whoever
/// wants them all the same raises the limit (`RLIMIT_CORE`) after this call.
///
/// Call it as the first line of `main`, before any thread is started.
pub fn init() {
    let mut args = env::args_os().skip(1);
    match args.next().as_deref().and_then(|first| first.to_str()) {
        Some(stage::EXEC) => stage::main(args.next().as_deref()),
        Some(stage::PROBE) => stage::probe(),
        _ => {
            leave_no_dump();
            INITIALISED.get_or_init(|| ())
        }
    };
}

/// Keeps what this process knows out of core dumps. One byte and not none: the kernel takes none as no limit for those
/// that it pipes into a program, and one as their end (core(5), "Piping core dumps to a program").
fn leave_no_dump() {
    let limit = Rlimit { current: Some(1), ..getrlimit(Resource::Core) };
    // It fails where the limit is none at all, which is as good wherever dumps are files.
    let _ = setrlimit(Resource::Core, limit);
}

/// The binary that puts up the walls around itself and then becomes the confined program.
#[derive(Debug, Clone)]
pub struct Helper {
    path: Arc<Path>,
    abilities: Arc<OnceLock<Abilities>>,
}

impl Helper {
    /// The current binary.
    ///
    /// # Errors
    /// [`Error::NotInitialised`] if [`init`] never ran: the current binary would start its own `main` instead.
    pub fn current() -> Result<Self> {
        // The link and not what it points to: it works also after the file was replaced by an upgrade.
        INITIALISED.get().map(|()| Self::at("/proc/self/exe")).ok_or(Error::NotInitialised)
    }

    /// Another binary whose `main` begins with [`init`], for hosts that don't own `main` and for tests.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into().into(), abilities: Arc::default() }
    }

    /// The same helper, told what was found out about this machine by another process already.
    #[must_use]
    pub fn knowing(self, abilities: Abilities) -> Self {
        Self { abilities: Arc::new(OnceLock::from(abilities)), ..self }
    }

    /// Where the binary is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What can be walled off on this machine: tried once, in a helper process, then remembered.
    ///
    /// # Errors
    /// When the helper can't be started.
    pub fn abilities(&self) -> Result<Abilities> {
        if let Some(known) = self.abilities.get() {
            return Ok(known.clone());
        }
        let tried = Abilities::detect(self)?;
        Ok(self.abilities.get_or_init(|| tried).clone())
    }
}
