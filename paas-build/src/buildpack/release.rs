//! What `bin/release` prints: a little YAML, written by many hands over many years.

use std::collections::BTreeMap;

use serde_norway::Value;

/// What a buildpack proposes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Release {
    /// Services with an optional plan, such as `heroku-postgresql`.
    pub(super) addons: Vec<String>,
    /// Values of config vars where the app has none.
    pub(super) config_vars: BTreeMap<String, String>,
    /// Commands of process types that the Procfile doesn't name.
    pub(super) default_process_types: BTreeMap<String, String>,
}

impl Release {
    /// Reads it. No document, an empty one and keys of Ruby's kind (`:addons:`) are all right; what has another
    /// shape than it should is left out.
    ///
    /// # Errors
    /// The parser's words, when it is no YAML.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let document: Value = serde_norway::from_slice(text).map_err(|e| e.to_string())?;
        let mut release = Self::default();
        for (key, value) in entries(&document) {
            match key.as_str() {
                "addons" => {
                    let names = value.as_sequence().into_iter().flatten();
                    release.addons = names.filter_map(scalar).collect();
                }
                "config_vars" => release.config_vars = scalars(value),
                "default_process_types" => release.default_process_types = scalars(value),
                _ => {}
            }
        }
        Ok(release)
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (String, &Value)> {
    let entries = value.as_mapping().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((scalar(key)?.trim_start_matches(':').to_owned(), value)))
}

fn scalars(value: &Value) -> BTreeMap<String, String> {
    entries(value).filter_map(|(key, value)| Some((key, scalar(value)?))).collect()
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_way_to_say_nothing_is_understood() {
        for nothing in ["", "---", "---\n", "--- {}", "{}", "addons: []", "---\naddons:\n", "[]", "x"] {
            assert_eq!(Release::parse(nothing.as_bytes()), Ok(Release::default()), "{nothing:?}");
        }
    }

    #[test]
    fn commands_stay_unexpanded_and_ruby_keys_are_keys() {
        let release = Release::parse(
            b"---\n:addons:\n- heroku-postgresql\ndefault_process_types:\n  web: npm start -p $PORT\n  console: 1\nconfig_vars:\n  A: true\nother: [1]\n",
        )
        .unwrap();
        assert_eq!(release.addons, ["heroku-postgresql"]);
        assert_eq!(release.default_process_types["web"], "npm start -p $PORT");
        assert_eq!(release.default_process_types["console"], "1");
        assert_eq!(release.config_vars["A"], "true");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(content: Vec<u8>) {
            // Both outcomes are right.
            let _ = Release::parse(&content);
        }
    }
}
