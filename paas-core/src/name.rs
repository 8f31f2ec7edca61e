//! Validated names. A value of one of these types is known to be safe as a path component, a host
//! label, an environment variable or a database identifier, because parsing is the only way to get one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a name: the rule it breaks and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid at character {position}: {rule}")]
#[non_exhaustive]
pub struct NameError {
    /// What was parsed, such as `app name`.
    pub what: &'static str,
    /// The text as given, cut to 80 characters.
    pub text: String,
    /// The first offending character, counted from 1.
    pub position: usize,
    /// The rule that was broken, in words.
    pub rule: &'static str,
}

impl NameError {
    pub(crate) fn new(what: &'static str, text: &str, position: usize, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), position, rule }
    }
}

/// Checks every character by `allowed(index, char)` and the length in characters.
fn check(
    what: &'static str,
    text: &str,
    max: usize,
    rule: &'static str,
    allowed: impl Fn(usize, char) -> bool,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::new(what, text, 1, rule));
    }
    for (index, c) in text.chars().enumerate() {
        if index >= max || !allowed(index, c) {
            return Err(NameError::new(what, text, index + 1, rule));
        }
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// A [`NameError`] that says the rule and the position.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                text.as_ref().parse()
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                $check($what, text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

fn app_name(what: &'static str, text: &str) -> Result<String, NameError> {
    const RULE: &str =
        "1 to 30 of a-z, 0-9 and dashes, beginning with a letter and ending with a letter or digit";
    check(what, text, 30, RULE, |i, c| {
        c.is_ascii_lowercase() || (i > 0 && (c.is_ascii_digit() || c == '-'))
    })?;
    if text.ends_with('-') {
        return Err(NameError::new(what, text, text.len(), RULE));
    }
    Ok(text.to_owned())
}

fn word(what: &'static str, text: &str) -> Result<String, NameError> {
    const RULE: &str = "1 to 63 of a-z, A-Z, 0-9, dashes and underscores, beginning with a letter";
    check(what, text, 63, RULE, |i, c| {
        c.is_ascii_alphabetic() || (i > 0 && (c.is_ascii_digit() || c == '-' || c == '_'))
    })?;
    Ok(text.to_owned())
}

fn slug_word(what: &'static str, text: &str) -> Result<String, NameError> {
    const RULE: &str = "1 to 63 of a-z, 0-9, dashes and underscores, beginning with a letter";
    check(what, text, 63, RULE, |i, c| {
        c.is_ascii_lowercase() || (i > 0 && (c.is_ascii_digit() || c == '-' || c == '_'))
    })?;
    Ok(text.to_owned())
}

fn mount_path(what: &'static str, text: &str) -> Result<String, NameError> {
    const RULE: &str = "an absolute path of at most 200 letters, digits, dots, dashes and underscores between slashes, \
                        below no /proc, /sys or /dev, and neither / nor /app itself";
    check(what, text, 200, RULE, |i, c| {
        if i == 0 { c == '/' } else { c.is_ascii_alphanumeric() || "/._-".contains(c) }
    })?;
    let end = text.chars().count();
    let parts: Vec<&str> = text.split('/').skip(1).collect();
    let reserved = matches!(parts[..], ["app"]) || matches!(parts[0], "proc" | "sys" | "dev");
    if reserved || parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return Err(NameError::new(what, text, end, RULE));
    }
    Ok(text.to_owned())
}

fn config_key(what: &'static str, text: &str) -> Result<String, NameError> {
    const RULE: &str =
        "1 to 255 of a-z, A-Z, 0-9 and underscores, not beginning with a digit or two underscores";
    check(what, text, 255, RULE, |i, c| {
        c.is_ascii_alphabetic() || c == '_' || (i > 0 && c.is_ascii_digit())
    })?;
    if text.starts_with("__") {
        return Err(NameError::new(what, text, 1, RULE));
    }
    Ok(text.to_owned())
}

fn domain_name(what: &'static str, text: &str) -> Result<String, NameError> {
    const RULE: &str =
        "a host name of at most 253 characters in labels of a-z, 0-9 and dashes; the first label may be *";
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('.').unwrap_or(&lower);
    if lower.is_empty() || lower.len() > 253 {
        return Err(NameError::new(what, text, 1.max(lower.len().min(254)), RULE));
    }
    let mut position = 1;
    for (index, label) in lower.split('.').enumerate() {
        let wildcard = index == 0 && label == "*" && lower.len() > 1;
        let bad = label.chars().position(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        if !wildcard {
            if let Some(offset) = bad {
                return Err(NameError::new(what, text, position + offset, RULE));
            }
            if label.is_empty() || label.len() > 63 || label.starts_with('-') || label.ends_with('-') {
                return Err(NameError::new(what, text, position, RULE));
            }
        }
        position += label.chars().count() + 1;
    }
    Ok(lower.to_owned())
}

fn principal_name(what: &'static str, text: &str) -> Result<String, NameError> {
    const RULE: &str = "1 to 128 printable ASCII characters without spaces";
    check(what, text, 128, RULE, |_, c| c.is_ascii_graphic())?;
    Ok(text.to_owned())
}

name!(
    /// The name of an app: a DNS label, unique on the platform, at most 30 characters as on Heroku.
    ///
    /// ```
    /// use paas_core::AppName;
    /// assert_eq!("hello".parse::<AppName>()?.as_str(), "hello");
    /// let error = "Hello".parse::<AppName>().unwrap_err();
    /// assert_eq!(error.position, 1);
    /// # Ok::<(), paas_core::NameError>(())
    /// ```
    AppName, "app name", app_name
);
name!(
    /// A process type: a line's first word in a Procfile, such as `web` or `worker`.
    ProcessType, "process type", word
);
name!(
    /// The name of a config var.
    ConfigKey, "config var", config_key
);
name!(
    /// A host name that an app answers to, in lower case; `*.example.com` is a wildcard.
    DomainName, "domain", domain_name
);
name!(
    /// The name of a workflow step, such as `build`.
    StepName, "step name", slug_word
);
name!(
    /// The name of a workflow kind, such as `deploy`.
    KindName, "workflow kind", slug_word
);
name!(
    /// The name of an add-on service, such as `postgres`.
    AddonService, "add-on service", slug_word
);
name!(
    /// The name of an add-on's plan, such as `shared`.
    PlanName, "plan", slug_word
);
name!(
    /// The name of a source, builder or other provider, such as `git` or `buildpack`.
    ProviderName, "provider name", slug_word
);
name!(
    /// The name of a node, such as `rack-2`: a machine whose processes live and die with it.
    NodeName, "node name", slug_word
);
name!(
    /// The name of an app's volume, such as `data`.
    VolumeName, "volume", slug_word
);
name!(
    /// Where a process sees a volume, such as `/data`.
    ///
    /// ```
    /// use paas_core::MountPath;
    /// assert_eq!("/app/uploads".parse::<MountPath>()?.as_str(), "/app/uploads");
    /// for wrong in ["data", "/", "/app", "/data/", "/a/../etc", "/proc/1", "/a b"] {
    ///     assert!(wrong.parse::<MountPath>().is_err(), "{wrong}");
    /// }
    /// # Ok::<(), paas_core::NameError>(())
    /// ```
    MountPath, "mount path", mount_path
);
name!(
    /// Who acts, such as `ada@example.com` or `token:ci`.
    PrincipalName, "principal", principal_name
);

impl ProcessType {
    /// The type that gets HTTP traffic.
    pub fn web() -> Self {
        Self("web".into())
    }

    /// The type that runs once before a release starts.
    pub fn release() -> Self {
        Self("release".into())
    }

    /// Whether this type gets HTTP traffic.
    pub fn is_web(&self) -> bool {
        self.0 == "web"
    }

    /// Whether this type is the release phase.
    pub fn is_release(&self) -> bool {
        self.0 == "release"
    }
}

impl ConfigKey {
    /// Whether the platform sets this key itself for every process, so that nobody else may.
    pub fn is_reserved(&self) -> bool {
        matches!(self.as_str(), "PORT" | "DYNO" | "HOME") || self.as_str().starts_with("PAAS_")
    }
}

#[cfg(test)]
mod tests;
