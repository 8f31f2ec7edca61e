//! What the platform keeps of each dedicated server, beside what the daemon keeps: a file for each.
//!
//! ```text
//! <folder>/           the platform's, mode 0700
//!   key               what passwords are derived from
//!   <add-on>.json     which plan, version and image; whether it was ever whole; to whom it is bound
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use paas_core::{AddonId, AppName, ConfigKey, Error, ErrorCode, PlanName, Result};
use serde::{Deserialize, Serialize};

use crate::postgres::managed::folder;

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// For which app it was made: its network is there from the beginning.
    pub(super) app: AppName,
    pub(super) plan: PlanName,
    /// The major version that made the data: only that one reads it.
    pub(super) version: u16,
    /// The id of the image that it runs on, until an upgrade.
    pub(super) image: String,
    /// The port on loopback, where it is published there.
    pub(super) port: Option<u16>,
    /// It was whole once: from then on its data is somebody's.
    pub(super) ready: bool,
    /// Who uses it, and under which names.
    pub(super) bindings: BTreeSet<(AppName, ConfigKey)>,
    /// When its certificate is to be replaced; `None` while it speaks no TLS.
    pub(super) certified: Option<NaiveDate>,
}

impl Record {
    /// The apps on whose networks it is.
    pub(super) fn apps(&self) -> BTreeSet<&AppName> {
        self.bindings.iter().map(|(app, _)| app).chain([&self.app]).collect()
    }
}

/// All of them.
#[derive(Debug, Clone)]
pub(super) struct Records(PathBuf);

impl Records {
    pub(super) fn open(folder: PathBuf) -> Result<Self> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|e| Error::from_io(format!("can't make the folder {}", folder.display()), e))?;
        Ok(Self(folder))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    pub(super) fn key(&self) -> PathBuf {
        self.0.join("key")
    }

    fn path(&self, addon: AddonId) -> PathBuf {
        self.0.join(format!("{addon}.json"))
    }

    pub(super) fn read(&self, addon: AddonId) -> Result<Option<Record>> {
        let path = self.path(addon);
        match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from_io(format!("can't read {}", path.display()), e)),
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| {
                let what = format!("{} is damaged: restore it from a backup", path.display());
                Error::new(ErrorCode::Corrupt, what).with_source(e)
            }),
        }
    }

    pub(super) fn write(&self, addon: AddonId, record: &Record) -> Result<()> {
        let (path, text) = (self.path(addon), serde_json::to_vec_pretty(record));
        let text =
            text.map_err(|e| Error::new(ErrorCode::Internal, "can't write a record").with_source(e))?;
        folder::write(&path, &text, None)
            .map_err(|e| Error::from_io(format!("can't write {}", path.display()), e))
    }

    pub(super) fn remove(&self, addon: AddonId) -> Result<()> {
        let path = self.path(addon);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Error::from_io(format!("can't remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// The servers that were whole once.
    pub(super) fn ready(&self) -> Result<Vec<AddonId>> {
        let failed = |e| Error::from_io(format!("can't read the folder {}", self.0.display()), e);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let addon = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<AddonId>().ok());
            if let Some(addon) = addon
                && self.read(addon)?.is_some_and(|record| record.ready)
            {
                found.push(addon);
            }
        }
        Ok(found)
    }
}
