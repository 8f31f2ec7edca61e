//! The conformance suite of [`Blobs`].

use std::path::Path;

use tokio::io::AsyncReadExt;

use crate::{Blobs, Digest, ErrorCode};

/// Runs the whole suite. `make` gives a new, empty store of content; `scratch` is a folder on its disk or on any
/// other, in which the suite makes the files that it puts.
///
/// # Panics
/// Where the implementation is wrong; the message says what should hold.
pub async fn conformance<B, F>(make: F, scratch: &Path)
where
    B: Blobs,
    F: AsyncFn() -> B,
{
    what_is_put_is_read_back(&make().await, scratch).await;
    what_was_never_put_is_not_found(&make().await).await;
    content_with_another_digest_is_refused(&make().await, scratch).await;
    what_is_kept_does_not_change_with_its_file(&make().await, scratch).await;
    the_same_content_again_is_no_error(&make().await, scratch).await;
    what_was_deleted_is_gone(&make().await, scratch).await;
    what_was_not_used_for_long_can_be_collected(&make().await, scratch).await;
    many_may_put_the_same_content_at_once(&make().await, scratch).await;
    a_reader_ends_well_though_the_content_is_deleted_meanwhile(&make().await, scratch).await;
}

async fn put(blobs: &dyn Blobs, content: &[u8], scratch: &Path) -> Digest {
    let digest = Digest::of(content);
    blobs.put(digest, &file(content, scratch)).await.expect("content with its digest is kept");
    digest
}

fn file(content: &[u8], scratch: &Path) -> std::path::PathBuf {
    let path = scratch.join(uuid::Uuid::new_v4().to_string());
    std::fs::write(&path, content).expect("the scratch folder can be written");
    path
}

async fn read(blobs: &dyn Blobs, digest: Digest) -> Vec<u8> {
    let mut content = Vec::new();
    let mut reader = blobs.get(digest).await.expect("it is there");
    reader.read_to_end(&mut content).await.expect("it can be read");
    content
}

async fn what_is_put_is_read_back(blobs: &dyn Blobs, scratch: &Path) {
    for content in [&b""[..], b"hello", &vec![7; 3 << 20]] {
        let digest = put(blobs, content, scratch).await;
        assert!(blobs.has(digest).await.expect("it can be told"), "what was put is there");
        assert!(read(blobs, digest).await == content, "what was put is read back");
        if let Some(path) = blobs.local_path(digest) {
            assert!(std::fs::read(path).expect("the file is there") == content, "also as a local file");
        }
    }
}

async fn what_was_never_put_is_not_found(blobs: &dyn Blobs) {
    let digest = Digest::of("never");
    assert!(!blobs.has(digest).await.expect("it can be told"), "what was never put isn't there");
    let error = blobs.get(digest).await.err().expect("what was never put can't be read");
    assert_eq!(error.code(), ErrorCode::NotFound);
    blobs.delete(digest).await.expect("forgetting what isn't there is no error");
}

async fn content_with_another_digest_is_refused(blobs: &dyn Blobs, scratch: &Path) {
    let digest = Digest::of("right");
    let error = blobs.put(digest, &file(b"wrong", scratch)).await.expect_err("the digest is another's");
    assert_eq!(error.code(), ErrorCode::Corrupt);
    assert!(!blobs.has(digest).await.expect("it can be told"), "what was refused isn't there");
    put(blobs, b"right", scratch).await;
    assert!(read(blobs, digest).await == b"right", "the right content can be put after the wrong one");
}

async fn what_is_kept_does_not_change_with_its_file(blobs: &dyn Blobs, scratch: &Path) {
    let overwrite = |path: &Path| std::fs::write(path, "changed").expect("the scratch folder can be written");
    let (named_twice, linked) = (file(b"named twice", scratch), file(b"linked", scratch));
    let (name, link) = (named_twice.with_extension("name"), linked.with_extension("link"));
    std::fs::hard_link(&named_twice, &name).expect("a file can have two names");
    std::os::unix::fs::symlink(&linked, &link).expect("a file can be linked to");
    for (given, written, content) in [(&named_twice, &name, "named twice"), (&link, &linked, "linked")] {
        let digest = Digest::of(content);
        blobs.put(digest, given).await.expect("content with its digest is kept");
        overwrite(written);
        overwrite(given);
        assert!(read(blobs, digest).await == content.as_bytes(), "what is kept stays as it was");
    }
}

async fn the_same_content_again_is_no_error(blobs: &dyn Blobs, scratch: &Path) {
    let digest = put(blobs, b"same", scratch).await;
    put(blobs, b"same", scratch).await;
    assert!(read(blobs, digest).await == b"same", "it is there once");
}

async fn what_was_deleted_is_gone(blobs: &dyn Blobs, scratch: &Path) {
    let (gone, other) = (put(blobs, b"gone", scratch).await, put(blobs, b"other", scratch).await);
    blobs.delete(gone).await.expect("it can be deleted");
    blobs.delete(gone).await.expect("twice, too");
    assert!(!blobs.has(gone).await.expect("it can be told"), "what was deleted is gone");
    assert!(read(blobs, other).await == b"other", "and only that");
    put(blobs, b"gone", scratch).await;
    assert!(read(blobs, gone).await == b"gone", "it can be put again");
}

async fn what_was_not_used_for_long_can_be_collected(blobs: &dyn Blobs, scratch: &Path) {
    let (one, two) = (put(blobs, b"one", scratch).await, put(blobs, b"two", scratch).await);
    let all = blobs.list(None, 10).await.expect("what is there can be listed");
    if all.is_empty() {
        // It can't tell, and so nothing is ever collected.
        assert!(
            !blobs.collect(one, chrono::DateTime::<chrono::Utc>::MAX_UTC).await.expect("it can be asked")
        );
        assert!(blobs.has(one).await.expect("it can be told"));
        return;
    }
    let mut expected = [(one, 3), (two, 3)];
    expected.sort_by_key(|(digest, _)| *digest);
    let listed: Vec<_> = all.iter().map(|entry| (entry.digest, entry.size)).collect();
    assert_eq!(listed, expected, "all content is listed in the order of its digests");
    let mut paged = blobs.list(None, 1).await.expect("a page");
    paged.extend(blobs.list(Some(paged[0].digest), 1).await.expect("the next page"));
    assert_eq!(paged, all, "pages are the whole list");
    let last = blobs.list(Some(all[1].digest), 1).await.expect("the page after the last");
    assert!(last.is_empty(), "nothing comes after the last");

    let used = all.iter().find(|entry| entry.digest == one).expect("it is listed").used_at;
    assert!(!blobs.collect(one, used).await.expect("it can be asked"), "what was used since then stays");
    let later = used + chrono::Duration::nanoseconds(1);
    assert!(
        blobs.collect(one, later).await.expect("it can be collected"),
        "what was not used since then goes"
    );
    assert!(!blobs.has(one).await.expect("it can be told"), "what was collected is gone");
    assert!(!blobs.collect(one, later).await.expect("twice, too"), "what is gone is not collected again");
    assert!(blobs.has(two).await.expect("it can be told"), "and only that is gone");
    assert!(!blobs.renew(one).await.expect("it can be asked"), "what is gone can't be renewed");
    assert!(blobs.renew(two).await.expect("it can be asked"), "what is there can");
    let renewed = blobs.list(None, 10).await.expect("a list")[0].used_at;
    let before = all.iter().find(|entry| entry.digest == two).expect("it is listed").used_at;
    assert!(renewed >= before, "renewing never makes it older");
    put(blobs, b"two", scratch).await;
    assert!(blobs.list(None, 10).await.expect("a list")[0].used_at >= renewed, "nor does putting it again");
}

async fn many_may_put_the_same_content_at_once(blobs: &dyn Blobs, scratch: &Path) {
    let content = vec![9; 1 << 20];
    futures_util::future::join_all((0..16).map(|_| put(blobs, &content, scratch))).await;
    assert!(read(blobs, Digest::of(&content)).await == content, "the content is whole");
}

async fn a_reader_ends_well_though_the_content_is_deleted_meanwhile(blobs: &dyn Blobs, scratch: &Path) {
    let content = vec![5; 1 << 20];
    let digest = put(blobs, &content, scratch).await;
    let mut reader = blobs.get(digest).await.expect("it is there");
    let mut read = vec![0; 10];
    reader.read_exact(&mut read).await.expect("it can be read");
    blobs.delete(digest).await.expect("it can be deleted");
    // A store may as well break off with an error: only a short or wrong read is a fault.
    if reader.read_to_end(&mut read).await.is_ok() {
        assert!(read == content, "the reader gets all of it");
    }
}
