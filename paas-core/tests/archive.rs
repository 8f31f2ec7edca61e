//! What an archive may and may not do to the machine that packs or unpacks it.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use paas_core::archive::{Limits, pack, pack_within, unpack, unpack_tar};
use paas_core::{ErrorCode, Result};
use tar::EntryType;
use tempfile::TempDir;

/// One raw entry: no check of ours or of the library's stands between the test and the bytes.
fn entry(kind: EntryType, path: &[u8], link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..path.len()].copy_from_slice(path);
    gnu.linkname[..link.len()].copy_from_slice(link);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str, content: &str) -> Vec<u8> {
    entry(EntryType::Regular, path.as_bytes(), b"", content.as_bytes())
}

fn unpacked(entries: &[Vec<u8>]) -> (TempDir, Result<()>) {
    unpacked_within(entries, Limits::default())
}

fn unpacked_within(entries: &[Vec<u8>], limits: Limits) -> (TempDir, Result<()>) {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("into");
    fs::create_dir(&into).unwrap();
    let result = unpack_tar(entries.concat().as_slice(), &into, limits);
    (dir, result)
}

#[track_caller]
fn refused(entries: &[Vec<u8>]) {
    let (dir, result) = unpacked(entries);
    assert_eq!(result.unwrap_err().code(), ErrorCode::BadSource);
    let outside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(outside, ["into"], "something was written outside");
}

#[test]
fn no_entry_leads_out_of_the_tree() {
    refused(&[file("../x", "")]);
    refused(&[file("a/../../x", "")]);
    refused(&[file("/x", "")]);
    refused(&[entry(EntryType::Directory, b"../d", b"", b"")]);
    refused(&[entry(EntryType::Symlink, b"l", b"/etc/passwd", b"")]);
    refused(&[entry(EntryType::Symlink, b"l", b"..", b"")]);
    refused(&[entry(EntryType::Symlink, b"a/l", b"b/../../..", b"")]);
    refused(&[entry(EntryType::Symlink, b"l", b"", b"")]);
    refused(&[entry(EntryType::Link, b"l", b"/etc/passwd", b"")]);
    refused(&[entry(EntryType::Link, b"l", b"../x", b"")]);
}

#[test]
fn no_entry_is_written_through_a_link() {
    let inward = entry(EntryType::Symlink, b"l", b"d", b"");
    refused(&[file("d/x", ""), inward.clone(), file("l/y", "")]);
    refused(&[file("d/x", ""), inward, entry(EntryType::Symlink, b"l/z", b"x", b"")]);
}

#[test]
fn a_hard_link_never_copies_a_file_of_the_machine_into_the_tree() {
    let out = entry(EntryType::Symlink, b"l", b"/", b"");
    let hard = entry(EntryType::Link, b"stolen", b"l/etc/passwd", b"");
    for entries in [[out.clone(), hard.clone()], [hard, out]] {
        let (dir, result) = unpacked_within(&entries, Limits::default().with_links_out());
        assert_eq!(result.unwrap_err().code(), ErrorCode::BadSource);
        assert!(!dir.path().join("into/stolen").exists());
    }
}

#[test]
fn devices_pipes_and_sparse_files_are_refused() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse] {
        refused(&[entry(kind, b"x", b"", b"")]);
    }
}

#[test]
fn a_bomb_is_refused_before_it_fills_anything() {
    let small = || Limits::new(10_000, 10);
    let mut header = tar::Header::new_gnu();
    header.set_path("big").unwrap();
    header.set_size(1 << 40);
    header.set_mode(0o644);
    header.set_cksum();
    let endless = header.as_bytes().chain(io::repeat(0));
    let dir = tempfile::tempdir().unwrap();
    let error = unpack_tar(endless, dir.path(), small()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::LimitExceeded);
    assert!(!dir.path().join("big").exists());

    let many: Vec<_> = (0..11).map(|i| file(&format!("f{i}"), "")).collect();
    assert_eq!(unpacked_within(&many, small()).1.unwrap_err().code(), ErrorCode::LimitExceeded);

    let mut links = vec![file("f", &"x".repeat(4000))];
    links.extend((0..5).map(|i| entry(EntryType::Link, format!("l{i}").as_bytes(), b"f", b"")));
    assert_eq!(unpacked_within(&links, small()).1.unwrap_err().code(), ErrorCode::LimitExceeded);

    let name = entry(EntryType::GNULongName, b"././@LongLink", b"", &vec![b'a'; 9000]);
    assert_eq!(unpacked_within(&[name], small()).1.unwrap_err().code(), ErrorCode::LimitExceeded);
}

#[test]
fn a_truncated_archive_is_an_error_and_not_a_short_file() {
    let mut bytes = file("f", &"x".repeat(2000));
    bytes.truncate(1000);
    let dir = tempfile::tempdir().unwrap();
    let error = unpack_tar(bytes.as_slice(), dir.path(), Limits::default()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::BadSource);
}

#[test]
fn long_names_are_understood_in_both_dialects() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let gnu = entry(EntryType::GNULongName, b"././@LongLink", b"", format!("{long}\0").as_bytes());
    let (dir, result) = unpacked(&[gnu, file("short", "gnu")]);
    result.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("into").join(&long)).unwrap(), "gnu");

    let record = format!("path={long}\n");
    let record = format!("{} {record}", record.len() + 4);
    let pax = entry(EntryType::XHeader, b"x", b"", record.as_bytes());
    let global = entry(EntryType::XGlobalHeader, b"g", b"", b"16 comment=0123\n");
    let (dir, result) = unpacked(&[global, pax, file("short", "pax")]);
    result.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("into").join(&long)).unwrap(), "pax");

    let escape = entry(EntryType::GNULongName, b"././@LongLink", b"", b"../../x\0");
    refused(&[escape, file("short", "")]);
}

#[test]
fn set_user_id_and_write_bits_of_the_archive_are_not_taken_over() {
    let mut header = tar::Header::new_gnu();
    header.set_path("f").unwrap();
    header.set_size(0);
    header.set_mode(0o6777);
    header.set_cksum();
    let (dir, result) = unpacked(&[header.as_bytes().to_vec()]);
    result.unwrap();
    let mode = fs::metadata(dir.path().join("into/f")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7022, 0);
    assert_eq!(mode & 0o100, 0o100);
}

fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("bin")).unwrap();
    fs::create_dir_all(dir.join("empty")).unwrap();
    fs::write(dir.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(dir.join("bin/run"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(dir.join("b"), "b").unwrap();
    fs::write(dir.join("a"), "a").unwrap();
    symlink("bin/run", dir.join("start")).unwrap();
}

#[test]
fn the_same_tree_gives_the_same_digest_wherever_it_lies_and_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("some/where/two"));
    tree(&one);
    tree(&two);
    fs::set_permissions(two.join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    let all = |_: &Path, _: bool| true;
    let first = pack(&one, &dir.path().join("1"), &all).unwrap();
    let second = pack(&two, &dir.path().join("2"), &all).unwrap();
    assert_eq!(first, second);

    let back = dir.path().join("back");
    fs::create_dir(&back).unwrap();
    unpack(fs::File::open(dir.path().join("1")).unwrap(), &back, Limits::default()).unwrap();
    assert_eq!(fs::read_to_string(back.join("start")).unwrap(), "#!/bin/sh\n");
    assert!(back.join("empty").is_dir());
    assert_eq!(pack(&back, &dir.path().join("3"), &all).unwrap(), first);
}

#[test]
fn what_is_not_kept_is_left_out_with_all_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    tree(&one);
    tree(&two);
    fs::create_dir_all(two.join(".git/objects")).unwrap();
    fs::write(two.join(".git/objects/x"), "x").unwrap();
    let keep = |path: &Path, _: bool| path != Path::new(".git");
    let first = pack(&one, &dir.path().join("1"), &keep).unwrap();
    assert_eq!(pack(&two, &dir.path().join("2"), &keep).unwrap(), first);
}

#[test]
fn a_sparse_file_of_terabytes_is_refused_and_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::File::create(tree.join("hole")).unwrap().set_len(1 << 42).unwrap();
    let packed = pack_within(&tree, &dir.path().join("out"), &|_, _| true, Limits::default());
    assert_eq!(packed.unwrap_err().code(), ErrorCode::LimitExceeded);
}
