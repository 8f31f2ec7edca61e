//! The page of guarantees names the tests that prove them; here they are looked for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_guarantee_names_tests_and_every_named_test_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/guarantees.md")).expect("docs/guarantees.md");
    let tests = tests_of(root);

    let (promised, _) = page.split_once("\n## Not promised\n").expect("the page says what is not promised");
    let mut wrong = Vec::new();
    for section in promised.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        let (_, proof) = section.split_once("\nProved by:").unwrap_or_default();
        let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            wrong.push(format!("{title}: names no test"));
        }
        for name in named.into_iter().filter(|name| !tests.contains(*name)) {
            wrong.push(format!("{title}: there is no test {name}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The names of all functions under `#[test]` or `#[tokio::test]` in this repo, and of modules that a macro fills with tests.
fn tests_of(root: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in rust_files(root) {
        let text = fs::read_to_string(&file).expect("a source file");
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if let Some(module) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
                names.insert(module.to_owned());
            }
            if !(line.starts_with("#[test]") || line.starts_with("#[tokio::test")) {
                continue;
            }
            let function = lines.find_map(|line| line.split_once("fn ").map(|(_, rest)| rest));
            let name = function.and_then(|rest| rest.split(['(', '<']).next());
            names.extend(name.map(str::to_owned));
        }
    }
    names
}

fn rust_files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}
