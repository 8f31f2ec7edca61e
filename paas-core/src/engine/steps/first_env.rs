//! The config vars that `app.json` asks for: an app's first build sees them, and its first release keeps them.

use base64::Engine as _;

use crate::{App, ConfigKey, ConfigValue, ConfigVars, EnvWish, Error, ErrorCode, Manifest, Result};

/// The config vars of `app.json` that the app doesn't have yet: those made up before, else the values that stand
/// there, else new secrets.
pub(super) fn wished(app: &App, manifest: &Manifest, made: &ConfigVars) -> Result<ConfigVars> {
    let mut vars = ConfigVars::new();
    for (key, wish) in unset(app, manifest) {
        let value = match (made.get(key.as_str()), &wish.value) {
            (Some(made), _) => made.clone(),
            (None, _) if wish.generate => secret()?,
            (None, Some(value)) => ConfigValue::new(value.clone())?,
            (None, None) => continue,
        };
        vars.set(key.clone(), value);
    }
    Ok(vars)
}

/// Refuses an app that lacks what its `app.json` requires, where `given` doesn't know of it either.
pub(super) fn require(app: &App, manifest: &Manifest, given: impl Fn(&ConfigKey) -> bool) -> Result<()> {
    let required =
        unset(app, manifest).filter(|(_, wish)| wish.required && !wish.generate && wish.value.is_none());
    let missing = required.map(|(key, _)| key).filter(|key| !given(key));
    let missing: Vec<_> = missing.map(ConfigKey::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!(
        "app.json requires config vars that are not set: {}; set them and deploy again",
        missing.join(", ")
    );
    Err(Error::new(ErrorCode::InvalidParams, what))
}

fn unset<'a>(app: &'a App, manifest: &'a Manifest) -> impl Iterator<Item = (&'a ConfigKey, &'a EnvWish)> {
    manifest.env.iter().filter(|(key, _)| !app.head.config.contains_key(*key) && !key.is_reserved())
}

/// 256 random bits.
fn secret() -> Result<ConfigValue> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(ErrorCode::Internal, "the system gives no random numbers").with_source(e))?;
    ConfigValue::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}
