//! No archive panics the unpacker or gets anything out of its folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use paas_core::archive::{Limits, unpack_tar};

fuzz_target!(|archive: &[u8]| {
    let outer = tempfile::tempdir().expect("a temporary folder");
    let into = outer.path().join("into");
    std::fs::create_dir(&into).expect("a folder");
    let _ = unpack_tar(archive, &into, Limits::new(1 << 20, 100));

    let beside: Vec<_> = std::fs::read_dir(outer.path()).expect("readable").collect();
    assert_eq!(beside.len(), 1, "something got out of the folder");
});
