//! `.dockerignore` as Docker reads it: patterns from the context's root, `!` takes back, the last that fits decides.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

/// The rules of one context.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    fits: GlobMatcher,
    takes_back: bool,
}

impl Ignored {
    /// Reads a file's text. Returns also the lines that are no patterns.
    pub(super) fn parse(text: &str) -> (Self, Vec<String>) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (mut rules, mut wrong) = (Vec::new(), Vec::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let line = line.trim();
            let (takes_back, pattern) =
                line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            let pattern = clean(pattern);
            if pattern.is_empty() {
                continue;
            }
            match GlobBuilder::new(&pattern).literal_separator(true).backslash_escape(true).build() {
                Ok(glob) => rules.push(Rule { fits: glob.compile_matcher(), takes_back }),
                Err(_) => wrong.push(line.to_owned()),
            }
        }
        (Self { rules }, wrong)
    }

    /// Whether it stays out. What lies in a folder that a pattern names is named by it too.
    pub(super) fn leaves_out(&self, path: &Path) -> bool {
        let named = |rule: &&Rule| {
            path.ancestors().any(|part| !part.as_os_str().is_empty() && rule.fits.is_match(part))
        };
        self.rules.iter().rev().find(named).is_some_and(|rule| !rule.takes_back)
    }

    /// Whether nothing below a folder that stays out can be taken back.
    pub(super) fn is_final(&self) -> bool {
        !self.rules.iter().any(|rule| rule.takes_back)
    }
}

/// As Go's `filepath.Clean` does, and without the slash that stands for the root.
fn clean(pattern: &str) -> String {
    let mut parts = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.iter().collect::<PathBuf>().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The paths that stay in.
    fn kept<'a>(text: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let (ignored, wrong) = Ignored::parse(text);
        assert_eq!(wrong, [""; 0]);
        paths.iter().copied().filter(|path| !ignored.leaves_out(Path::new(path))).collect()
    }

    #[test]
    fn patterns_begin_at_the_root_and_take_what_is_below() {
        let paths = [
            "node_modules/a/b.js",
            "lib/node_modules/c.js",
            "temp",
            "a/temp1",
            "a/b/temp1",
            "x.md",
            "docs/y.md",
        ];
        assert_eq!(kept("node_modules\n# a comment\n\n", &paths), &paths[1..]);
        assert_eq!(kept("/node_modules/\n", &paths), &paths[1..]);
        assert_eq!(
            kept("*/temp*", &paths),
            ["node_modules/a/b.js", "lib/node_modules/c.js", "temp", "a/b/temp1", "x.md", "docs/y.md"]
        );
        assert_eq!(kept("**/*.md", &paths).len(), 5);
        assert_eq!(kept("**/node_modules", &paths).len(), 5);
        assert_eq!(kept("temp?", &paths), paths);
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let paths = ["README.md", "a.md", "secret/key", "secret/public"];
        assert_eq!(kept("*.md\n!README.md", &paths), ["README.md", "secret/key", "secret/public"]);
        assert_eq!(kept("!README.md\n*.md", &paths), ["secret/key", "secret/public"]);
        assert_eq!(kept("secret\n! secret/public", &paths), ["README.md", "a.md", "secret/public"]);
        assert_eq!(kept("*\n!a.md", &paths), ["a.md"]);
    }

    #[test]
    fn a_line_that_is_no_pattern_is_told() {
        let (ignored, wrong) = Ignored::parse("[a\nb");
        assert_eq!(wrong, ["[a"]);
        assert!(ignored.leaves_out(Path::new("b")));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, path in "[a-z./]{0,20}") {
            // Both outcomes are right.
            let _ = Ignored::parse(&text).0.leaves_out(Path::new(&path));
        }
    }
}
