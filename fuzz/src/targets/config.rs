//! Config vars: names and values as a user sets them, and what a redactor that knows them lets through.

use paas_core::{ConfigKey, ConfigValue, ConfigVars, Redactor};

use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "config",
    run,
    words: &[
        "\n",
        "=",
        "\0",
        "\r\n",
        "postgres://app:",
        "@db/app",
        "password",
        "[redacted]",
        "abcdefgh",
        "PATH",
        "PORT",
    ],
};

/// The input: `NAME=VALUE` lines, where a NUL ends what is set and begins a text to be shown. `\` and `n` in a value are a
/// line end.
fn run(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let (set, shown) = text.split_once('\0').unwrap_or((&text, ""));
    let mut vars = ConfigVars::new();
    let mut said = String::new();
    for line in set.lines() {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let value = ConfigValue::new(value.replace("\\n", "\n")).expect("it has no NUL");
        assert_eq!(format!("{value:?}"), "[redacted]");
        match name.parse::<ConfigKey>() {
            Ok(key) => drop(vars.set(key, value)),
            Err(error) => {
                said = error.to_string().chars().filter(char::is_ascii_lowercase).take(12).collect();
            }
        }
    }
    assert!(ConfigValue::new(format!("{shown}\0")).is_err(), "a NUL is taken for a value");
    let size: usize = vars.iter().map(|(key, value)| key.as_str().len() + value.expose().len()).sum();
    assert_eq!(vars.check_size().is_ok(), size <= ConfigVars::MAX_BYTES);
    let redactor = Redactor::knowing(&vars);
    for (key, value) in vars.iter() {
        for secret in super::secrets(value.expose()) {
            for text in [shown, &format!("{shown}{secret}{shown}"), &format!("{key}={secret}")] {
                assert!(!redactor.redact(text).contains(secret), "{key} gets through");
            }
        }
        // Names are shown; a value that is another one's name is, too.
        let is_name = vars.keys().any(|key| key.as_str().contains(value.expose()));
        let short = value.expose().len() < 12;
        let debug = format!("{vars:?} {redactor:?}");
        assert!(short || is_name || !debug.contains(&format!("{:?}", value.expose())));
    }
    format!("{} vars, {} shown: {said}", super::few(vars.len()), redactor.redact(shown) != shown)
}
