//! Content in an object store that speaks S3: that of Amazon, `MinIO`, Ceph, R2 and others.
//!
//! ```text
//! PREFIX/store                        whose content this is
//! PREFIX/used/HEX/PIECE               a mark: `coming`, `kept` or `going`; when it was written is when it was used last
//! PREFIX/content/HEX/PIECE            the content of that mark
//! ```
//!
//! S3 can't look at one object and remove another in one go, so whether content is there is what its **mark** says, and a mark
//! changes only by conditional writes (`If-None-Match`, `If-Match`), of which of two at once one fails:
//!
//! ```text
//! put      (nothing) -> coming, upload, coming -> kept         a piece is written once, under a name of its own
//! renew    kept -> kept                                        the object store's clock says when
//! collect  kept -> going, remove the content, remove the mark  nobody ever takes a going one back
//! ```
//!
//! So a renewal and a collection of the same content can't both succeed, a late removal hits a piece that nobody uses, and an
//! upload that died is a piece that is `coming` for ever: opening the place sweeps what is so for a day. Two who put the
//! same content at once leave two pieces; both are content, and both are collected.
//!
//! What it asks of the server: conditional writes, which [`S3Blobs::open`] tries out, and reads that see every write that
//! was answered. Uploads that were cut off may leave parts that S3 bills and shows nobody: give the bucket a lifecycle
//! rule that aborts incomplete multipart uploads.

mod connector;
mod error;
mod marks;
mod options;
mod upload;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
pub use options::S3Options;
use tokio_util::io::StreamReader;

use self::error::Place;
use self::marks::{Mark, State};
use super::verified::Verified;
use super::{BlobEntry, BlobReader, Blobs, belongs_to_another, not_kept};
use crate::{Digest, Error, ErrorCode, Result, Retry};

/// How long an upload may take before it counts as dead.
const LONGEST_PUT: chrono::Duration = chrono::Duration::hours(24);

/// Content in a bucket, below a prefix of its own. When content was used last is what the object store's clock says.
#[derive(Clone)]
pub struct S3Blobs {
    s3: Arc<AmazonS3>,
    place: Arc<Place>,
}

impl fmt::Debug for S3Blobs {
    /// Without the client, which holds the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Blobs").field("place", &self.place).finish_non_exhaustive()
    }
}

impl S3Blobs {
    /// Content in this place, which is looked at first: whether the bucket is there and the credentials are good for it,
    /// and whether the server keeps conditional writes, without which content would get lost. Then what dead uploads
    /// left behind is swept.
    ///
    /// # Errors
    /// `invalid_params`, `not_found` for the bucket, `unauthorized`, `forbidden`, `unavailable` where nobody answers in
    /// time, `unsupported` where the server ignores conditions.
    pub async fn open(options: S3Options) -> Result<Self> {
        let now = options.clock.now();
        let (s3, place) = options.connect()?;
        let blobs = Self { s3: Arc::new(s3), place: Arc::new(place) };
        // Reading comes first: it tells whether the bucket is there.
        blobs.sweep(now - LONGEST_PUT).await?;
        blobs.keeps_conditions().await?;
        Ok(blobs)
    }

    /// A server that ignores a condition answers as if all were well, so this is tried once.
    async fn keeps_conditions(&self) -> Result<()> {
        let path = self.place.at(["probe", &uuid::Uuid::new_v4().simple().to_string()]);
        let failed = |e| self.place.failed("open", e);
        let put = async |mode: PutMode, body: &'static str| match self
            .s3
            .put_opts(&path, PutPayload::from_static(body.as_bytes()), mode.into())
            .await
        {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(false)
            }
            Err(e) => Err(failed(e)),
        };
        // The first may be refused as the echo of a request that was tried twice.
        put(PutMode::Create, "one").await?;
        let mut keeps = !put(PutMode::Create, "two").await?;
        if keeps {
            let now = marks::version(&self.s3.head(&path).await.map_err(failed)?);
            put(PutMode::Update(now.clone()), "three").await?;
            keeps = !put(PutMode::Update(now), "four").await?;
        }
        match self.s3.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(failed(e)),
        }
        if keeps {
            return Ok(());
        }
        let what = format!(
            "the object store of {} doesn't keep conditional writes (If-None-Match: * and If-Match), without which content \
             would get lost: use one that does",
            self.place
        );
        Err(Error::new(ErrorCode::Unsupported, what))
    }

    /// Removes what died on its way in or out.
    async fn sweep(&self, long_ago: DateTime<Utc>) -> Result<()> {
        let mut marks = self.marks_after(None);
        while let Some(mark) = marks.try_next().await? {
            match mark.state {
                State::Going => self.remove(&mark).await?,
                State::Coming if mark.used_at < long_ago => {
                    self.give_up(&mark, long_ago).await?;
                }
                State::Coming | State::Kept => {}
            }
        }
        Ok(())
    }

    /// Whether it is there, said by whoever uses it from now on.
    async fn renewed(&self, digest: Digest) -> Result<bool> {
        for mark in self.marks(digest).await? {
            if mark.state == State::Kept && self.renew_mark(&mark).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[async_trait]
impl Blobs for S3Blobs {
    async fn claim(&self, store: &str) -> Result<()> {
        let label = self.place.at(["store"]);
        let body = PutPayload::from(store.to_owned());
        match self.s3.put_opts(&label, body, PutMode::Create.into()).await {
            Ok(_) => return Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(e) => return Err(self.place.failed("label", e)),
        }
        let failed = |e| self.place.failed("read the label of", e);
        let owner = self.s3.get(&label).await.map_err(failed)?.bytes().await.map_err(failed)?;
        if owner == store.as_bytes() {
            return Ok(());
        }
        Err(belongs_to_another(&self.place, String::from_utf8_lossy(&owner).trim(), store))
    }

    async fn put(&self, digest: Digest, file: &Path) -> Result<()> {
        if self.renewed(digest).await? {
            return Ok(());
        }
        let (file, size) = upload::open(digest, file).await?;
        let mark = self.announce(digest, size).await?;
        if let Err(e) = self.upload(&mark, file).await {
            // It is ours alone, and the sweep finds what stays.
            if let Err(left) = self.end(&mark).await {
                tracing::warn!(error = %left, "what a failed upload left can't be removed now; it is swept later");
            }
            return Err(e);
        }
        if self.arrived(&mark).await? {
            return Ok(());
        }
        let what =
            format!("the upload of the content {digest} took so long that it was given up by another engine");
        Err(Error::new(ErrorCode::Unavailable, what).with_retry(Retry::Backoff))
    }

    async fn get(&self, digest: Digest) -> Result<BlobReader> {
        for mark in self.marks(digest).await?.into_iter().filter(|mark| mark.state == State::Kept) {
            match self.s3.get(&self.content(&mark)).await {
                Ok(found) => {
                    let stream = found.into_stream().map_err(std::io::Error::other);
                    return Ok(Box::new(Verified::new(StreamReader::new(stream), digest)));
                }
                // It was collected just now.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(self.place.failed(&format!("read the content {digest} in"), e)),
            }
        }
        Err(not_kept(digest))
    }

    async fn has(&self, digest: Digest) -> Result<bool> {
        Ok(self.marks(digest).await?.iter().any(|mark| mark.state == State::Kept))
    }

    async fn renew(&self, digest: Digest) -> Result<bool> {
        self.renewed(digest).await
    }

    async fn list(&self, after: Option<Digest>, limit: usize) -> Result<Vec<BlobEntry>> {
        let mut found: Vec<BlobEntry> = Vec::new();
        let mut marks = self.marks_after(after);
        while let Some(Mark { digest, size, used_at, state, .. }) = marks.try_next().await? {
            let full = found.len() == limit;
            match found.last_mut() {
                _ if state != State::Kept => {}
                Some(last) if last.digest == digest => last.used_at = last.used_at.max(used_at),
                _ if full => break,
                _ => found.push(BlobEntry::new(digest, size, used_at)),
            }
        }
        Ok(found)
    }

    async fn collect(&self, digest: Digest, before: DateTime<Utc>) -> Result<bool> {
        let (mut gone, mut stays) = (false, false);
        for mark in self.marks(digest).await? {
            match mark.state {
                State::Going => self.remove(&mark).await?,
                State::Coming => {}
                State::Kept if self.give_up(&mark, before).await? => gone = true,
                State::Kept => stays = true,
            }
        }
        Ok(gone && !stays)
    }

    async fn delete(&self, digest: Digest) -> Result<()> {
        for mark in self.marks(digest).await? {
            self.end(&mark).await?;
        }
        Ok(())
    }
}
