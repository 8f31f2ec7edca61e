//! What an app says of its build, in `app.json`:
//!
//! ```json
//! { "docker": { "dockerfile": "deploy/Dockerfile", "target": "web", "args": { "NODE_ENV": "production" },
//!               "config_args": ["ASSET_HOST"] } }
//! ```
//!
//! It stands there, and not in a config var, since it belongs to the code: another commit may lie elsewhere, and a
//! rollback must not change it. `app.json` is what this platform reads anyway; Heroku's `heroku.yml` is a second file for
//! the same.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use paas_core::{ConfigKey, Error, ErrorCode, Result};
use serde::Deserialize;

use crate::file::read_small;

/// A larger `app.json` is a mistake, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// What the app says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wish {
    /// The path of the `Dockerfile` within the code.
    pub(super) dockerfile: Option<String>,
    /// The stage to build.
    pub(super) target: Option<String>,
    /// Build args, which are no secrets: they stand in the code, and in the image's history.
    pub(super) args: BTreeMap<String, String>,
    /// Config vars that the build gets as args. Their values stand in the image's history.
    pub(super) config_args: Vec<ConfigKey>,
}

impl Wish {
    /// Reads it from the app in this folder; nothing without an `app.json`, or without `docker` in it.
    ///
    /// # Errors
    /// `invalid_params` that says what is wrong with it.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            docker: Option<Wish>,
        }
        let Some(content) = read_small(dir, "app.json", MAX_BYTES)? else { return Ok(Self::default()) };
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&content);
        let file: File = serde_json::from_slice(content).map_err(|e| wrong(&e.to_string()))?;
        let wish = file.docker.unwrap_or_default();
        let inside = |path: &String| {
            let parts = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            parts && !path.is_empty() && !path.contains('\0')
        };
        if let Some(path) = wish.dockerfile.as_ref().filter(|path| !inside(path)) {
            let text = format!(
                "docker.dockerfile must be a path within the code, such as deploy/Dockerfile, not {path:?}"
            );
            return Err(wrong(&text));
        }
        Ok(wish)
    }
}

fn wrong(why: &str) -> Error {
    Error::new(ErrorCode::InvalidParams, format!("app.json: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Wish> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("app.json"), text).unwrap();
        Wish::read(dir.path())
    }

    #[test]
    fn an_app_names_path_target_and_args() {
        let text = r#"{"name": "x", "docker": {"dockerfile": "a/Dockerfile", "target": "web", "args": {"A": "1"},
            "config_args": ["B"]}}"#;
        let wish = read(text).unwrap();
        assert_eq!((wish.dockerfile.as_deref(), wish.target.as_deref()), (Some("a/Dockerfile"), Some("web")));
        assert_eq!((wish.args["A"].as_str(), wish.config_args[0].as_str()), ("1", "B"));
        assert_eq!(read(r#"{"name": "x"}"#).unwrap(), Wish::default());
    }

    #[test]
    fn a_path_out_of_the_code_and_a_mistyped_name_are_refused_with_the_way_to_write_it() {
        for path in ["../Dockerfile", "/etc/passwd", "", "a/../../b", "./x"] {
            let error = read(&serde_json::json!({"docker": {"dockerfile": path}}).to_string()).unwrap_err();
            assert!(error.message().contains("deploy/Dockerfile"), "{path}: {error}");
        }
        let error = read(r#"{"docker": {"dockerFile": "x"}}"#).unwrap_err();
        assert!(
            error.message().contains("dockerFile") && error.message().contains("`dockerfile`"),
            "{error}"
        );
    }
}
