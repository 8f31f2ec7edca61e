//! Every error code has a page for the person who met it.

use std::collections::BTreeSet;
use std::path::Path;

use paas_core::ErrorCode;

#[test]
fn every_error_code_has_a_page_and_every_page_a_code() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors");
    let entries = std::fs::read_dir(&dir).expect("docs/errors is there");
    let files =
        entries.map(|entry| entry.expect("a readable folder").file_name().into_string().expect("UTF-8"));
    let pages: BTreeSet<String> = files.filter(|file| file != "README.md").collect();
    let codes: BTreeSet<String> = ErrorCode::ALL.iter().map(|code| format!("{code}.md")).collect();

    assert_eq!(pages, codes, "docs/errors/<code>.md, one for each code of paas-core/src/error.rs");
}

#[test]
fn every_page_says_what_it_means_what_people_see_and_what_to_do() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors");
    for code in ErrorCode::ALL {
        let page = std::fs::read_to_string(dir.join(format!("{code}.md"))).expect("a page");
        assert!(page.starts_with(&format!("# `{code}`\n")), "{code}: its title is its code");
        for heading in ["## What people see\n", "## What to do\n"] {
            assert!(page.contains(heading), "{code}: {} is missing", heading.trim());
        }
    }
}
