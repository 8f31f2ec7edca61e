//! Config vars, whose values are secrets: shown nowhere, wiped when dropped.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use crate::{ConfigKey, Error, ErrorCode, Result};

/// The value of a config var. Debug prints `[redacted]`; there is no Display and no serde, so it
/// leaves the process only where [`ConfigValue::expose`] is written.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigValue(Zeroizing<String>);

impl ConfigValue {
    /// A value. It may be empty and may have several lines, but no NUL, which no environment can hold.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidParams`] for a NUL.
    pub fn new(value: impl Into<String>) -> Result<Self> {
        let value = Zeroizing::new(value.into());
        if value.contains('\0') {
            return Err(Error::new(ErrorCode::InvalidParams, "a config var can't hold a NUL character"));
        }
        Ok(Self(value))
    }

    /// The value in the clear: for the app's own environment and for sealing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Config vars by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConfigVars(BTreeMap<ConfigKey, ConfigValue>);

impl ConfigVars {
    /// All keys and values of an app together may have this many bytes (Heroku's limit).
    pub const MAX_BYTES: usize = 64 * 1024;

    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one.
    pub fn set(&mut self, key: ConfigKey, value: ConfigValue) -> Option<ConfigValue> {
        self.0.insert(key, value)
    }

    /// With one more, for literals.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidParams`] when key or value is not valid.
    pub fn with(mut self, key: &str, value: &str) -> Result<Self> {
        self.0.insert(key.parse()?, ConfigValue::new(value)?);
        Ok(self)
    }

    /// Removes one.
    pub fn remove(&mut self, key: &ConfigKey) -> Option<ConfigValue> {
        self.0.remove(key)
    }

    /// One value.
    pub fn get(&self, key: &str) -> Option<&ConfigValue> {
        self.0.iter().find(|(k, _)| k.as_str() == key).map(|(_, v)| v)
    }

    /// The names.
    pub fn keys(&self) -> impl Iterator<Item = &ConfigKey> {
        self.0.keys()
    }

    /// Names and values in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&ConfigKey, &ConfigValue)> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds all of `other`, whose values win.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Checks the size of all together.
    ///
    /// # Errors
    /// [`ErrorCode::LimitExceeded`] beyond [`Self::MAX_BYTES`].
    pub fn check_size(&self) -> Result<()> {
        let bytes: usize = self.0.iter().map(|(k, v)| k.as_str().len() + v.expose().len()).sum();
        if bytes > Self::MAX_BYTES {
            return Err(Error::new(
                ErrorCode::LimitExceeded,
                format!("config vars have {bytes} bytes; at most {} are allowed", Self::MAX_BYTES),
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for ConfigVars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(k, v)| (k.as_str(), v))).finish()
    }
}

impl FromIterator<(ConfigKey, ConfigValue)> for ConfigVars {
    fn from_iter<I: IntoIterator<Item = (ConfigKey, ConfigValue)>>(vars: I) -> Self {
        Self(vars.into_iter().collect())
    }
}

/// Takes known secrets out of text before anybody sees it.
#[derive(Clone, Default)]
pub struct Redactor(Vec<Zeroizing<String>>);

impl Redactor {
    /// Values shorter than this stay: replacing every `1` or `true` would make text unreadable.
    pub const SHORTEST: usize = 8;

    /// Knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Knows these values.
    pub fn knowing(vars: &ConfigVars) -> Self {
        let mut redactor = Self::new();
        redactor.learn(vars);
        redactor
    }

    /// Learns more values. Of a value with several lines each long line is known, since output comes by lines.
    pub fn learn(&mut self, vars: &ConfigVars) {
        for (_, value) in vars.iter() {
            self.learn_value(value.expose());
        }
    }

    /// Learns one value, and the password in it where it is a URL with one: clients print it by itself.
    pub fn learn_value(&mut self, value: &str) {
        for part in value.lines().map(str::trim).chain(password(value)) {
            if part.len() >= Self::SHORTEST && !self.0.iter().any(|known| known.as_str() == part) {
                self.0.push(Zeroizing::new(part.to_owned()));
            }
        }
        // The longest first, so that a value inside another doesn't leave the rest of it standing.
        self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
    }

    /// Where a line whose end is still to come can be cut without cutting a known value in two: what is behind that
    /// waits for more. As long as the line, or less; 0 while all of it may be one value's beginning.
    pub fn cut(&self, line: &[u8]) -> usize {
        let begun = |known: &Zeroizing<String>| {
            let known = known.as_bytes();
            (1..known.len().min(line.len() + 1)).rev().find(|length| line.ends_with(&known[..*length]))
        };
        let mut at = line.len() - self.0.iter().filter_map(begun).max().unwrap_or_default();
        let crossing = |known: &Zeroizing<String>, at: usize| {
            let first = (at + 1).saturating_sub(known.len());
            let mut places = line[first..].windows(known.len()).take(at - first);
            places.position(|place| place == known.as_bytes()).map(|place| first + place)
        };
        while let Some(start) = self.0.iter().filter_map(|known| crossing(known, at)).min() {
            at = start;
        }
        at
    }

    /// The text with every known value replaced by `[redacted]`.
    pub fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, known| {
            if text.contains(known.as_str()) { text.replace(known.as_str(), "[redacted]") } else { text }
        })
    }
}

/// The password of `scheme://user:password@host`.
fn password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (login, _) = rest.split(['/', '?', '#']).next()?.rsplit_once('@')?;
    login.split_once(':').map(|(_, password)| password)
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} values)", self.0.len())
    }
}

#[cfg(test)]
mod tests;
