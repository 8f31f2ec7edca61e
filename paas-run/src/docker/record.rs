//! What is kept of each launch: on the container itself, and beside it what Docker doesn't keep for us.
//!
//! ```text
//! label paas.record of the container   what was launched, from its creation to its removal
//! <data>/launches/<id>.json            a note: that it was well, that it was told to end, how far its output was read,
//!                                      how it ended; of a one-off command also what it was, for some weeks after its end
//! ```

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use paas_core::{Error, Result, blocking};
use serde::{Deserialize, Serialize};

use crate::keep::{read_file, write_file};
use crate::supervisor::{End, Label, LaunchId, Up};

/// What is kept of a launch with its container. It holds no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) label: Label,
    /// Where it was told to listen, inside its container.
    pub(super) port: Option<u16>,
    /// During which boot of the machine.
    pub(super) boot: String,
    pub(super) started_at: DateTime<Utc>,
    /// The names of its config vars, whose values are secrets.
    pub(super) secrets: Vec<String>,
    /// The image's own check of whether it is well, as a command.
    pub(super) check: Option<Vec<String>>,
}

impl Record {
    /// Whether it was started with somebody sitting at it.
    pub(super) fn is_attached(&self) -> bool {
        self.label.once.as_ref().is_some_and(|once| once.attached)
    }
}

/// What is kept of a launch beside its container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Note {
    /// Of a one-off command: written before Docker hears of it, so that it never runs twice.
    pub(super) once: Option<Record>,
    /// Of a one-off command: Docker may have been told to start it.
    pub(super) begun: bool,
    /// It was well.
    pub(super) up: Option<Up>,
    /// It was told to end.
    pub(super) stopping: bool,
    /// Its output is in the app's log up to here at least.
    pub(super) read_to: Option<DateTime<Utc>>,
    /// Somebody sat at it and left it to itself, at this time of the daemon's.
    pub(super) detached: Option<DateTime<Utc>>,
    /// How it ended; the app's log says so.
    pub(super) end: Option<End>,
}

/// The notes of all launches. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Notes(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    root: PathBuf,
    /// One writes at a time, and whoever only reads doesn't wait for the disk.
    writing: Mutex<()>,
    all: Mutex<HashMap<LaunchId, Note>>,
}

impl Notes {
    /// Reads what earlier engines noted; what is older than this of commands that have ended is forgotten.
    pub(super) fn open(root: PathBuf, oldest: DateTime<Utc>) -> Result<Self> {
        let failed = |e| Error::from_io(format!("can't keep launches in {}", root.display()), e);
        fs::create_dir_all(&root).map_err(failed)?;
        let mut all = HashMap::new();
        for entry in fs::read_dir(&root).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let id = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")?.parse().ok());
            let Some(id) = id else { continue };
            let note = read_file::<Note>(&path)?.unwrap_or_default();
            let old = note.end.is_some() && note.once.as_ref().is_some_and(|once| once.started_at < oldest);
            if old {
                fs::remove_file(&path).map_err(failed)?;
            } else {
                all.insert(id, note);
            }
        }
        Ok(Self(Arc::new(Kept { root, writing: Mutex::default(), all: Mutex::new(all) })))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<LaunchId, Note>> {
        // Written before it is changed here, so a panic elsewhere leaves the table whole.
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: LaunchId) -> PathBuf {
        self.0.root.join(format!("{id}.json"))
    }

    pub(super) fn get(&self, id: LaunchId) -> Option<Note> {
        self.all().get(&id).cloned()
    }

    /// The one-off commands.
    pub(super) fn commands(&self) -> Vec<(LaunchId, Record)> {
        let all = self.all();
        all.iter().filter_map(|(id, note)| Some((*id, note.once.clone()?))).collect()
    }

    /// The launches of which there is a note.
    pub(super) fn ids(&self) -> Vec<LaunchId> {
        self.all().keys().copied().collect()
    }

    /// Changes a note; `durable`: safe on disk before this returns.
    pub(super) async fn change(
        &self,
        id: LaunchId,
        durable: bool,
        change: impl FnOnce(&mut Note) + Send + 'static,
    ) -> Result<()> {
        let notes = self.clone();
        blocking(move || {
            let _turn = notes.turn();
            let mut note = notes.get(id).unwrap_or_default();
            change(&mut note);
            write_file(&notes.path(id), &note, durable)?;
            notes.all().insert(id, note);
            Ok(())
        })
        .await
    }

    pub(super) async fn remove(&self, id: LaunchId) -> Result<()> {
        let notes = self.clone();
        blocking(move || {
            let _turn = notes.turn();
            match fs::remove_file(notes.path(id)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::from_io(format!("can't remove the note of {id}"), e));
                }
                _ => {}
            }
            notes.all().remove(&id);
            Ok(())
        })
        .await
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
