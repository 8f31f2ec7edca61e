//! Features: each builds alone, and the default ones stay lean.

use std::path::Path;

use crate::run::cargo;

/// Crates that must not come with the default features, by the beginning of their names: other people's daemons and
/// orchestrators, and TLS that needs a C toolchain or the system's library.
const HEAVY: &[&str] =
    &["bollard", "docker", "kube", "k8s-openapi", "openssl", "native-tls", "aws-", "reqwest", "sqlx"];

/// Checks the facade with no feature and with each one alone.
pub(crate) fn each_builds_alone(root: &Path) -> bool {
    let Ok(manifest) = std::fs::read_to_string(root.join("Cargo.toml")) else { return false };
    let check = ["check", "--quiet", "--package", "paas", "--lib", "--no-default-features"];
    let mut wrong = Vec::new();
    for feature in [""].into_iter().chain(names(&manifest)) {
        println!("no default features, {}", if feature.is_empty() { "and no other" } else { feature });
        if !cargo(root, &[&check[..], &["--features", feature]].concat()).run() {
            wrong.push(feature);
        }
    }
    wrong.is_empty()
}

/// The facade's features, but `default`.
fn names(manifest: &str) -> impl Iterator<Item = &str> {
    let section = manifest.split("\n[features]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    section.lines().filter_map(|line| Some(line.split_once('=')?.0.trim())).filter(|name| *name != "default")
}

/// Looks for heavy crates among what the default features bring.
pub(crate) fn default_is_lean(root: &Path) -> bool {
    let tree =
        ["tree", "--package", "paas", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    let Some(tree) = cargo(root, &tree).output() else { return false };
    let mut crates: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    crates.sort_unstable();
    crates.dedup();
    let heavy: Vec<&&str> =
        crates.iter().filter(|name| HEAVY.iter().any(|heavy| name.starts_with(heavy))).collect();
    println!("default features: {} crates", crates.len());
    if !heavy.is_empty() {
        println!("these must not be among them: {heavy:?}");
    }
    heavy.is_empty()
}

#[cfg(test)]
mod tests {
    #[test]
    fn feature_names_are_read_from_the_manifest() {
        let manifest = "[package]\nname = \"x\"\n\n[features]\ndefault = [\"a\"]\na = []\nb-c = [\"dep:d\"]\n\n[dependencies]\ne = \"1\"\n";
        assert_eq!(super::names(manifest).collect::<Vec<_>>(), ["a", "b-c"]);
    }
}
