use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use super::{Blobs, DirBlobs};
use crate::{Digest, ErrorCode};

#[cfg(feature = "testkit")]
#[tokio::test]
async fn a_folder_of_content_keeps_the_contract() {
    let (scratch, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = std::sync::atomic::AtomicU32::new(0);
    let make = async || {
        let n = made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        DirBlobs::open(root.path().join(n.to_string())).unwrap()
    };
    crate::testkit::blobs::conformance(make, scratch.path()).await;
}

#[tokio::test]
async fn nobody_else_can_look_into_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    DirBlobs::open(dir.path().join("a/blobs")).unwrap();
    let mode = fs::metadata(dir.path().join("a/blobs")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_never_content_and_is_swept_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let digest = Digest::of("content");
    let place = dir.path().join(&digest.hex()[..2]);
    fs::create_dir(&place).unwrap();
    let (old, young) = (place.join(".old"), place.join(".young"));
    for half in [&old, &young] {
        fs::write(half, "cont").unwrap();
    }
    #[allow(clippy::disallowed_methods, reason = "files have the machine's time")]
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
    fs::File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();

    let blobs = DirBlobs::open(dir.path()).unwrap();
    assert!(!old.exists(), "nobody writes it any more");
    assert!(young.exists(), "another process may be at it");
    assert!(!blobs.has(digest).await.unwrap());
    assert_eq!(blobs.get(digest).await.err().unwrap().code(), ErrorCode::NotFound);
    let file = dir.path().join("file");
    fs::write(&file, "content").unwrap();
    blobs.put(digest, &file).await.unwrap();
    assert!(blobs.has(digest).await.unwrap());
}

#[tokio::test]
async fn a_file_on_the_same_disk_is_moved_and_one_on_another_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = DirBlobs::open(dir.path().join("blobs")).unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "content").unwrap();
    let inode = fs::metadata(&file).unwrap().ino();
    let digest = Digest::of("content");
    blobs.put(digest, &file).await.unwrap();
    assert!(!file.exists());
    assert_eq!(fs::metadata(blobs.local_path(digest).unwrap()).unwrap().ino(), inode);

    // In memory, which is another disk than any.
    let Ok(mut elsewhere) = tempfile::NamedTempFile::new_in("/dev/shm") else { return };
    elsewhere.write_all(b"elsewhere").unwrap();
    blobs.put(Digest::of("elsewhere"), elsewhere.path()).await.unwrap();
    assert!(blobs.has(Digest::of("elsewhere")).await.unwrap());
}

#[tokio::test]
async fn a_refused_put_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = DirBlobs::open(dir.path().join("blobs")).unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "wrong").unwrap();
    let digest = Digest::of("right");
    assert_eq!(blobs.put(digest, &file).await.unwrap_err().code(), ErrorCode::Corrupt);
    let missing = blobs.put(digest, &dir.path().join("none")).await.unwrap_err();
    assert!(missing.to_string().contains(&digest.to_string()), "{missing}");
    let left = fs::read_dir(dir.path().join("blobs").join(&digest.hex()[..2])).unwrap();
    assert_eq!(left.count(), 0);
}
