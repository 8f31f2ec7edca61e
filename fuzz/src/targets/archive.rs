//! Archives: nothing gets out of its folder, nothing in it leads out, and the limits are kept.

use std::fs;
use std::path::Path;

use paas_core::archive::{Limits, link_leads_out, pack, unpack, unpack_tar};

use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "archive",
    run,
    words: &[
        "../",
        "/etc/passwd",
        "./",
        "a/b",
        "ustar\0",
        "ustar  \0",
        "0000644\0",
        "00000000010\0",
        "15 path=../x\n",
        "12 size=99\n",
        "L",
        "K",
        "x",
        "g",
        "1",
        "2",
        "5",
        "7",
    ],
};

const LIMITS: (u64, u64) = (64 << 10, 20);

fn run(input: &[u8]) -> String {
    let input = with_checksums(input);
    let outer = super::folder();
    let into = outer.path().join("into");
    fs::create_dir(&into).expect("a folder");
    let unpacked = unpack_tar(input.as_slice(), &into, Limits::new(LIMITS.0, LIMITS.1));

    let beside = fs::read_dir(outer.path()).expect("it can be read").count();
    assert_eq!(beside, 1, "something got out of the folder");
    let mut found = Found::default();
    found.walk(&into, Path::new(""));
    assert!(found.bytes <= LIMITS.0, "{} bytes were unpacked", found.bytes);
    assert!(found.entries <= LIMITS.1, "{} entries were unpacked", found.entries);
    match unpacked {
        Ok(()) => {
            // What came in goes out, and in again, as the same.
            let archive = outer.path().join("archive");
            let packed = pack(&into, &archive, &|_, _| true).expect("it can be packed");
            let (again, repacked) = (outer.path().join("again"), outer.path().join("repacked"));
            fs::create_dir(&again).expect("a folder");
            let content = fs::File::open(&archive).expect("the archive");
            unpack(content, &again, Limits::default()).expect("our own archive can be unpacked");
            let digest = pack(&again, &repacked, &|_, _| true).expect("it can be packed").digest;
            assert_eq!(digest, packed.digest, "a packed tree is another one");
            format!(
                "{} files {} folders {} links",
                super::few(found.files),
                super::few(found.folders),
                super::few(found.links)
            )
        }
        Err(error) => super::refused(&error),
    }
}

#[derive(Default)]
struct Found {
    bytes: u64,
    /// Folders that only lie on the way to something count as that.
    entries: u64,
    files: usize,
    folders: usize,
    links: usize,
}

impl Found {
    fn walk(&mut self, root: &Path, within: &Path) {
        for entry in fs::read_dir(root.join(within)).expect("it can be read") {
            let entry = entry.expect("an entry");
            let path = within.join(entry.file_name());
            let kind = entry.file_type().expect("its kind");
            if kind.is_dir() {
                self.folders += 1;
                self.walk(root, &path);
                continue;
            }
            self.entries += 1;
            if kind.is_symlink() {
                self.links += 1;
                let to = fs::read_link(root.join(&path)).expect("where it leads");
                assert!(!link_leads_out(&path, &to), "{} leads to {}", path.display(), to.display());
            } else {
                self.files += 1;
                self.bytes += entry.metadata().expect("its size").len();
            }
        }
    }
}

/// The input with right checksums: without them almost nothing would get past an entry's first look.
fn with_checksums(input: &[u8]) -> Vec<u8> {
    let mut archive = input.to_vec();
    let mut at = 0;
    while let Some(header) = archive.get_mut(at..at + 512) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = tar::Header::from_byte_slice(header).entry_size().unwrap_or_default();
        let blocks = usize::try_from(size).unwrap_or(usize::MAX).div_ceil(512).saturating_add(1);
        at = at.saturating_add(blocks.saturating_mul(512));
    }
    archive
}
