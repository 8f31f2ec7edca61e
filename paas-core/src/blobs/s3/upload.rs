//! Bringing a file into the object store without holding it in memory.

use object_store::{ObjectStore, ObjectStoreExt, PutMultipartOptions, PutPayload};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::S3Blobs;
use super::marks::Mark;
use crate::digest::Hasher;
use crate::{Digest, Error, ErrorCode, Result};

/// What is sent at once. S3 takes at most 10,000 parts, each but the last of 5 MiB and more: so 80 GiB of content.
const PART: u64 = 8 << 20;

pub(super) async fn open(digest: Digest, file: &std::path::Path) -> Result<(File, u64)> {
    let failed = |e| Error::from_io(format!("can't keep the content {digest}"), e);
    let file = File::open(file).await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    Ok((file, size))
}

impl S3Blobs {
    /// Uploads a piece, and checks on the way that it is what it should be; nothing can be read before all of it is there.
    pub(super) async fn upload(&self, mark: &Mark, mut file: File) -> Result<()> {
        let (digest, mut hasher) = (mark.digest, Hasher::new());
        let path = self.content(mark);
        let doing = format!("keep the content {digest} in");
        let failed = |e| self.place.failed(&doing, e);
        if mark.size <= PART {
            let part = part(digest, &mut file, &mut hasher).await?;
            check(digest, hasher)?;
            return self.s3.put(&path, part).await.map(drop).map_err(failed);
        }
        let mut upload =
            self.s3.put_multipart_opts(&path, PutMultipartOptions::default()).await.map_err(failed)?;
        let sent = async {
            loop {
                let part = part(digest, &mut file, &mut hasher).await?;
                if part.content_length() == 0 {
                    break;
                }
                upload.put_part(part).await.map_err(failed)?;
            }
            check(digest, hasher)
        };
        match sent.await {
            Ok(()) => upload.complete().await.map(drop).map_err(failed),
            Err(e) => {
                if let Err(left) = upload.abort().await.map_err(failed) {
                    tracing::warn!(error = %left, "an upload that failed can't be aborted; a lifecycle rule of the bucket can do it");
                }
                Err(e)
            }
        }
    }
}

async fn part(digest: Digest, file: &mut File, hasher: &mut Hasher) -> Result<PutPayload> {
    let mut part = Vec::new();
    let read = file.take(PART).read_to_end(&mut part).await;
    read.map_err(|e| Error::from_io(format!("can't keep the content {digest}"), e))?;
    hasher.update(&part);
    Ok(part.into())
}

fn check(digest: Digest, hasher: Hasher) -> Result<()> {
    let actual = hasher.finish();
    if actual == digest {
        return Ok(());
    }
    Err(Error::new(ErrorCode::Corrupt, format!("the content of {digest} has digest {actual}")))
}
