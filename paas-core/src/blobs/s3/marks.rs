//! What says whether content is there, and since when nobody used it.

use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};

use super::S3Blobs;
use crate::{Digest, Result};

/// How a piece of content stands. A listing shows it by the mark's size, so that nobody has to read marks one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Somebody uploads it.
    Coming,
    /// It is content.
    Kept,
    /// Somebody removes it. It never comes back.
    Going,
}

impl State {
    fn of(mark_size: u64) -> Self {
        match mark_size {
            0 => Self::Going,
            1..10 => Self::Coming,
            _ => Self::Kept,
        }
    }
}

/// One piece of content.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) digest: Digest,
    /// Unique, and after a dash the content's size in hexadecimal digits.
    pub(super) piece: String,
    pub(super) size: u64,
    pub(super) state: State,
    /// When it was written last, by the object store's clock.
    pub(super) used_at: DateTime<Utc>,
}

impl Mark {
    /// `None` for what isn't named like one: that is somebody else's.
    fn of(found: &ObjectMeta) -> Option<Self> {
        let mut parts = found.location.as_ref().rsplit('/');
        let (piece, hex) = (parts.next()?.to_owned(), parts.next()?);
        let size = u64::from_str_radix(piece.split_once('-')?.1, 16).ok()?;
        let digest = format!("sha256:{hex}").parse().ok()?;
        Some(Self { digest, piece, size, state: State::of(found.size), used_at: found.last_modified })
    }
}

/// What a conditional write names.
pub(super) fn version(of: &ObjectMeta) -> UpdateVersion {
    UpdateVersion { e_tag: of.e_tag.clone(), version: of.version.clone() }
}

impl S3Blobs {
    fn mark(&self, mark: &Mark) -> Path {
        self.place.at(["used", &mark.digest.hex(), &mark.piece])
    }

    pub(super) fn content(&self, mark: &Mark) -> Path {
        self.place.at(["content", &mark.digest.hex(), &mark.piece])
    }

    pub(super) async fn marks(&self, digest: Digest) -> Result<Vec<Mark>> {
        let prefix = self.place.at(["used", &digest.hex()]);
        let found: Vec<ObjectMeta> =
            self.s3.list(Some(&prefix)).try_collect().await.map_err(|e| self.place.failed("look into", e))?;
        Ok(found.iter().filter_map(Mark::of).collect())
    }

    /// All marks after those of this digest, in the order of the digests' bytes.
    pub(super) fn marks_after(&self, after: Option<Digest>) -> BoxStream<'static, Result<Mark>> {
        let prefix = self.place.at(["used"]);
        let found = match after {
            // A piece's name begins with a hexadecimal digit, and `g` comes after all of them.
            Some(after) => {
                self.s3.list_with_offset(Some(&prefix), &self.place.at(["used", &after.hex(), "g"]))
            }
            None => self.s3.list(Some(&prefix)),
        };
        let place = self.place.clone();
        found
            .map_err(move |e| place.failed("list what is kept in", e))
            .try_filter_map(|found| std::future::ready(Ok(Mark::of(&found))))
            .boxed()
    }

    /// Writes a mark where the condition holds; false where it doesn't.
    async fn write(&self, mark: &Mark, body: String, mode: PutMode) -> Result<bool> {
        match self.s3.put_opts(&self.mark(mark), PutPayload::from(body), mode.into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::Precondition { .. } | object_store::Error::AlreadyExists { .. }) => {
                Ok(false)
            }
            Err(e) => Err(self.place.failed(&format!("mark the content {} in", mark.digest), e)),
        }
    }

    /// The mark as it is now, and what it says; `None` where it is gone.
    async fn look(&self, mark: &Mark) -> Result<Option<(UpdateVersion, String)>> {
        let failed = |e| self.place.failed(&format!("look for the content {} in", mark.digest), e);
        match self.s3.get(&self.mark(mark)).await {
            Ok(found) => {
                let version = version(&found.meta);
                let body = found.bytes().await.map_err(failed)?;
                Ok(Some((version, String::from_utf8_lossy(&body).into_owned())))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// A new piece that is about to be uploaded.
    pub(super) async fn announce(&self, digest: Digest, size: u64) -> Result<Mark> {
        let piece = format!("{}-{size:x}", uuid::Uuid::new_v4().simple());
        let mark = Mark { digest, piece, size, state: State::Coming, used_at: DateTime::default() };
        // A refusal is the echo of a request that was tried twice: nobody else knows the name.
        self.write(&mark, "coming".to_owned(), PutMode::Create).await?;
        Ok(mark)
    }

    /// The piece is whole; false where it was given up meanwhile.
    pub(super) async fn arrived(&self, mark: &Mark) -> Result<bool> {
        match self.look(mark).await? {
            Some((version, said)) if State::of(said.len() as u64) == State::Coming => {
                self.keep(mark, version).await
            }
            _ => Ok(false),
        }
    }

    /// It is used now; false where it is gone or going.
    pub(super) async fn renew_mark(&self, mark: &Mark) -> Result<bool> {
        match self.look(mark).await? {
            Some((version, said)) if State::of(said.len() as u64) == State::Kept => {
                self.keep(mark, version).await
            }
            _ => Ok(false),
        }
    }

    async fn keep(&self, mark: &Mark, version: UpdateVersion) -> Result<bool> {
        // Unlike any mark before it, so that a condition tells them apart.
        let body = format!("kept {}", uuid::Uuid::new_v4());
        if self.write(mark, body, PutMode::Update(version)).await? {
            return Ok(true);
        }
        // Our own write, answered at its second try, or somebody else who renewed it just now: both are after our question.
        let now = self.look(mark).await?;
        Ok(now.is_some_and(|(_, said)| State::of(said.len() as u64) == State::Kept))
    }

    /// Removes a piece that nobody used since then; false where somebody did.
    pub(super) async fn give_up(&self, mark: &Mark, before: DateTime<Utc>) -> Result<bool> {
        let Some((version, _)) = self.look(mark).await? else { return Ok(false) };
        // Its time is read after its version: if somebody renews it after this, the version is an old one.
        let marks = self.marks(mark.digest).await?;
        let Some(now) = marks.into_iter().find(|now| now.piece == mark.piece) else { return Ok(false) };
        if now.used_at >= before || !self.write(mark, String::new(), PutMode::Update(version)).await? {
            return Ok(false);
        }
        self.remove(mark).await?;
        Ok(true)
    }

    /// Removes a piece whoever uses it.
    pub(super) async fn end(&self, mark: &Mark) -> Result<()> {
        if mark.state == State::Kept {
            self.write(mark, String::new(), PutMode::Overwrite).await?;
        }
        self.remove(mark).await
    }

    /// Removes a piece that nobody takes any more: at last what says that it was there.
    pub(super) async fn remove(&self, mark: &Mark) -> Result<()> {
        let failed = |e| self.place.failed(&format!("remove the content {} in", mark.digest), e);
        for path in [self.content(mark), self.mark(mark)] {
            match self.s3.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(())
    }
}
