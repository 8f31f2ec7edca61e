//! A platform's folder, copied while it works, and brought back.
//!
//! The order makes the copy whole: content that is referred to is first kept from being collected, then the store is
//! copied, then the content. Whatever the copy of the store refers to was there before it, or was put before it was
//! referred to, and stays for longer than the copying takes. The copy of the store gets its name at the end, so a
//! folder that has one is a whole backup.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use paas_core::store::StoreBackup;
use paas_core::{Blobs, DirBlobs, Engine, Error, ErrorCode, Result, blocking};

use super::Local;

const STORE: &str = "paas.db";
const KEYS: &str = "master.key";
const BLOBS: &str = "blobs";

pub(super) async fn backup(local: &Local, engine: &Engine, to: &Path) -> Result<StoreBackup> {
    let failed = |e| Error::from_io(format!("can't back up to {}", to.display()), e);
    match fs::DirBuilder::new().mode(0o700).create(to) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let what = format!(
                "{} is there already: a backup overwrites nothing, give it another name",
                to.display()
            );
            return Err(Error::new(ErrorCode::Exists, what));
        }
        made => made.map_err(failed)?,
    }
    engine.renew_referenced().await?;
    let aside = to.join("store.part");
    let mut made = local.store.backup(&aside).await?;
    copy_keys(&local.folder.join(KEYS), &to.join(KEYS)).map_err(failed)?;
    copy_content(local.blobs.as_ref(), &to.join(BLOBS)).await?;
    made.path = to.join(STORE);
    fs::rename(&aside, &made.path).and_then(|()| fs::File::open(to)?.sync_all()).map_err(failed)?;
    Ok(made)
}

pub(super) async fn restore(from: &Path, folder: &Path) -> Result<()> {
    let failed = |e| Error::from_io(format!("can't restore to {}", folder.display()), e);
    for part in [STORE, KEYS, BLOBS] {
        if !from.join(part).try_exists().map_err(failed)? {
            let what = format!("{} is no backup, or not a whole one: it has no {part}", from.display());
            return Err(Error::new(ErrorCode::NotFound, what));
        }
    }
    // Apps have users of their own, who pass through it.
    fs::DirBuilder::new().recursive(true).mode(0o711).create(folder).map_err(failed)?;
    if fs::read_dir(folder).map_err(failed)?.next().is_some() {
        let what = format!("{} isn't empty: restore into a new folder", folder.display());
        return Err(Error::new(ErrorCode::Exists, what));
    }
    copy_keys(&from.join(KEYS), &folder.join(KEYS)).map_err(failed)?;
    // Put anew, it counts as used now: nothing is collected before somebody can see whether it is the right backup.
    copy_content(&DirBlobs::open(from.join(BLOBS))?, &folder.join(BLOBS)).await?;
    copy_keys(&from.join(STORE), &folder.join(STORE)).map_err(failed)?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// A file for its owner only, safe on disk.
fn copy_keys(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut copy = fs::File::options().write(true).create_new(true).mode(0o600).open(to)?;
    std::io::copy(&mut fs::File::open(from)?, &mut copy)?;
    copy.sync_all()
}

/// All that is kept, which is checked on its way in.
async fn copy_content(from: &DirBlobs, to: &Path) -> Result<()> {
    const PAGE: usize = 500;
    let copy = DirBlobs::open(to)?;
    let incoming = to.join(".incoming");
    let mut after = None;
    loop {
        let page = from.list(after, PAGE).await?;
        for entry in &page {
            let (source, incoming) = (from.local_path(entry.digest), incoming.clone());
            let copied = blocking(move || {
                let failed = |e| Error::from_io("can't copy content", e);
                match fs::copy(source.unwrap_or_default(), &incoming) {
                    Ok(_) => Ok(true),
                    // Nothing referred to it, and it was collected just now.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
                    Err(e) => Err(failed(e)),
                }
            });
            if copied.await? {
                copy.put(entry.digest, &to.join(".incoming")).await?;
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.digest),
            _ => return Ok(()),
        }
    }
}
