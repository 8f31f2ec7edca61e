//! `app.json`: what an app asks of the platform, in Heroku's file.
//!
//! ```json
//! {
//!   "addons": ["heroku-postgresql:essential-0", { "plan": "postgres", "as": "REPLICA", "options": { "version": "16" } }],
//!   "buildpacks": [{ "url": "nodejs" }, "https://github.com/heroku/heroku-buildpack-nginx"],
//!   "env": {
//!     "SECRET_KEY": { "generator": "secret" },
//!     "LANG": "C.UTF-8",
//!     "STRIPE_KEY": { "description": "from the dashboard", "required": true }
//!   },
//!   "formation": {
//!     "web": { "quantity": 2, "size": "standard", "volumes": { "uploads": { "path": "/app/uploads", "shared": true } } },
//!     "clock": { "single": true, "volumes": { "data": "/data" } }
//!   },
//!   "healthchecks": { "web": { "path": "/healthz", "timeout": 30 }, "worker": { "settle": "500ms" } }
//! }
//! ```
//!
//! Fields that aren't known are left alone: the file has many more on Heroku. Durations are seconds or texts such as `30s`
//! and `500ms`. Unlike Heroku's review apps, a var is `required` only where the file says so. Vars are set at the app's
//! first deploy, after its build, where nobody has set them and no add-on gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use paas_core::{
    AddonWish, ConfigKey, EnvWish, Error, ErrorCode, FormationWish, HealthCheck, Manifest, Mount,
    ProcessType, Result, VolumeName,
};
use serde_json::{Map, Value};

use crate::file::read_small;

/// A larger `app.json` is a mistake, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// What the app in this folder asks for; nothing without an `app.json`.
///
/// # Errors
/// As [`parse`]; `bad_source` when `app.json` is not a plain file.
pub fn read(dir: &Path) -> Result<Manifest> {
    read_small(dir, "app.json", MAX_BYTES)?.map_or_else(|| Ok(Manifest::default()), |content| parse(&content))
}

/// Parses an `app.json`.
///
/// ```
/// let manifest = paas_build::app_json::parse(br#"{"addons": ["heroku-postgresql:mini"]}"#)?;
/// assert_eq!(manifest.addons[0].service.as_str(), "heroku-postgresql");
/// let error = paas_build::app_json::parse(br#"{"formation": {"web": {"quantity": "two"}}}"#).unwrap_err();
/// assert_eq!(error.message(), "app.json: formation.web.quantity must be a whole number such as 1, but is a text");
/// # Ok::<(), paas_core::Error>(())
/// ```
///
/// # Errors
/// `invalid_params` with the line for text that is no JSON, or with the field's path and what it must be.
pub fn parse(content: &[u8]) -> Result<Manifest> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let value: Value = serde_json::from_slice(content).map_err(|e| {
        // The reason alone: serde's own text repeats the position.
        let why = e.to_string();
        let why = why.split(" at line ").next().unwrap_or_default().to_owned();
        wrong(&format!("line {}, column {}: {why}", e.line(), e.column()))
    })?;
    let root = Field { path: String::new(), value: &value };
    let mut manifest = Manifest::default();
    for addon in root.list("addons")? {
        manifest.addons.push(addon_wish(&addon)?);
    }
    for pack in root.list("buildpacks")? {
        manifest.buildpacks.push(buildpack(&pack)?);
    }
    for (name, field) in root.members("formation")? {
        manifest.formation.insert(field.named(&name)?, formation(&field)?);
    }
    for (name, field) in root.members("env")? {
        manifest.env.insert(field.named(&name)?, env(&field)?);
    }
    for (name, field) in root.members("healthchecks")? {
        if matches!(name.as_str(), "path" | "timeout" | "settle") {
            return Err(field.must("stand under a process type, as in \"web\": {\"path\": \"/\"}"));
        }
        let process: ProcessType = field.named(&name)?;
        manifest.health.insert(process, health(&field)?);
    }
    check_volumes(&manifest)?;
    Ok(manifest)
}

/// An add-on as buildpacks and people name it: a service with an optional plan, such as `heroku-postgresql:essential-0`.
///
/// # Errors
/// `invalid_params` when it is no service's or plan's name.
pub fn addon(name: &str) -> Result<AddonWish> {
    let (service, plan) = name.split_once(':').map_or((name, None), |(service, plan)| (service, Some(plan)));
    let mut wish = AddonWish::new(service.parse()?);
    wish.plan = plan.map(|plan| plan.to_ascii_lowercase().parse()).transpose()?;
    Ok(wish)
}

/// An add-on's name, or an object that names it in `plan`.
fn addon_wish(field: &Field<'_>) -> Result<AddonWish> {
    let named = match field.value {
        Value::Object(_) => {
            field.at("plan")?.ok_or_else(|| field.must("name the add-on in \"plan\", as in \"postgres\""))?
        }
        _ => field.clone(),
    };
    let text = named.text("a name such as \"postgres\" or \"postgres:shared\"")?;
    let mut wish = addon(text).map_err(|e| wrong(&format!("{}: {}", named.path, e.message())))?;
    if matches!(field.value, Value::Object(_)) {
        if let Some(name) = field.at("as")? {
            let text = name.text("a name such as \"DATABASE\"")?;
            wish.attachment = Some(name.named::<ConfigKey>(&text.to_ascii_uppercase())?);
        }
        for (key, option) in field.members("options")? {
            wish.options.insert(key, option.scalar()?);
        }
    }
    Ok(wish)
}

fn buildpack(field: &Field<'_>) -> Result<String> {
    let named = match field.value {
        Value::Object(_) => field.at("url")?.ok_or_else(|| field.must("name the buildpack in \"url\""))?,
        _ => field.clone(),
    };
    let text = named.text("a buildpack's name or URL")?.trim();
    if text.is_empty() {
        Err(named.must("be a buildpack's name or URL, but is empty"))
    } else {
        Ok(text.to_owned())
    }
}

fn formation(field: &Field<'_>) -> Result<FormationWish> {
    let mut wish = FormationWish::default();
    if let Some(quantity) = field.at("quantity")? {
        let number = quantity.value.as_u64().and_then(|n| u32::try_from(n).ok());
        wish.quantity = Some(number.ok_or_else(|| quantity.mismatch("a whole number such as 1"))?);
    }
    if let Some(size) = field.at("size")? {
        wish.size = Some(size.text("a size's name")?.to_owned());
    }
    let single = field.at("single")?.map(|f| f.flag()).transpose()?;
    let overlap = field.at("overlap")?.map(|f| f.flag()).transpose()?;
    if let (Some(single), Some(overlap)) = (single, overlap)
        && single == overlap
    {
        return Err(field.must("not say both: \"single\" means that releases don't overlap"));
    }
    wish.single = single.unwrap_or_else(|| overlap.is_some_and(|overlap| !overlap));
    for (name, volume) in field.members("volumes")? {
        wish.volumes.push(mount(&name, &volume)?);
    }
    let paths: BTreeSet<_> = wish.volumes.iter().map(|mount| &mount.path).collect();
    if paths.len() < wish.volumes.len() {
        return Err(field.must("see each of its volumes at a path of its own"));
    }
    if let (Some(held), Some(2..)) = (wish.held(), wish.quantity) {
        let volume = &held.volume;
        return Err(field.must(&format!(
            "not have more than one instance: one alone holds the volume {volume}, which is not \"shared\""
        )));
    }
    Ok(wish)
}

/// A volume's path, or an object that names it in `path`.
fn mount(name: &str, field: &Field<'_>) -> Result<Mount> {
    let named = match field.value {
        Value::Object(_) => field
            .at("path")?
            .ok_or_else(|| field.must("say where it is seen in \"path\", as in \"/data\""))?,
        _ => field.clone(),
    };
    let path = named.named(named.text("a path such as \"/data\"")?)?;
    let mount = Mount::new(field.named(name)?, path);
    let shared = match field.value {
        Value::Object(_) => field.at("shared")?.map(|shared| shared.flag()).transpose()?,
        _ => None,
    };
    Ok(if shared.unwrap_or(false) { mount.shared() } else { mount })
}

/// The release phase runs beside the old release, and what one instance holds alone no second type may have.
fn check_volumes(manifest: &Manifest) -> Result<()> {
    let mut seen: BTreeMap<&VolumeName, (&ProcessType, bool)> = BTreeMap::new();
    for (process, wish) in &manifest.formation {
        for Mount { volume, shared, .. } in &wish.volumes {
            if process.is_release() {
                let why = "the release phase runs beside the old release and has no volumes";
                return Err(wrong(&format!("formation.release.volumes.{volume}: {why}")));
            }
            if let Some((other, also)) = seen.insert(volume, (process, *shared))
                && other != process
                && !(*shared && also)
            {
                return Err(wrong(&format!(
                    "formation.{process}.volumes.{volume}: {other} has it too, so it must be \"shared\": true for both"
                )));
            }
        }
    }
    Ok(())
}

fn env(field: &Field<'_>) -> Result<EnvWish> {
    let mut wish = EnvWish::default();
    if !matches!(field.value, Value::Object(_)) {
        wish.value = Some(field.scalar()?);
        return Ok(wish);
    }
    wish.value = field.at("value")?.map(|f| f.scalar()).transpose()?;
    if wish.value.as_deref().is_some_and(|value| value.contains('\0')) {
        return Err(field.must("not hold a NUL character"));
    }
    wish.required = field.at("required")?.map(|f| f.flag()).transpose()?.unwrap_or(false);
    wish.description = field.at("description")?.map(|f| f.text("a text").map(str::to_owned)).transpose()?;
    if let Some(generator) = field.at("generator")? {
        if generator.value != "secret" {
            return Err(generator.must("be \"secret\", the only generator there is"));
        }
        wish.generate = true;
    }
    Ok(wish)
}

fn health(field: &Field<'_>) -> Result<HealthCheck> {
    let mut check = HealthCheck::default();
    if let Some(path) = field.at("path")? {
        let text = path.text("a path such as \"/healthz\"")?;
        if !text.starts_with('/') || text.bytes().any(|b| b.is_ascii_control() || b == b' ') {
            return Err(path.must("be a path that begins with /, without spaces, such as \"/healthz\""));
        }
        check.path = Some(text.to_owned());
    }
    if let Some(timeout) = field.at("timeout")? {
        check.timeout = timeout.duration()?;
    }
    if let Some(settle) = field.at("settle")? {
        check.settle = settle.duration()?;
    }
    Ok(check)
}

/// A value and where it stands, such as `formation.web`.
#[derive(Clone)]
struct Field<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    fn object(&self) -> Result<&'a Map<String, Value>> {
        self.value.as_object().ok_or_else(|| self.mismatch("an object, {…}"))
    }

    /// The member of this name; `null` counts as absent.
    fn at(&self, name: &str) -> Result<Option<Self>> {
        let value = self.object()?.get(name).filter(|value| !value.is_null());
        Ok(value.map(|value| self.child(name, value)))
    }

    /// The members of the object of this name, none when it is absent.
    fn members(&self, name: &str) -> Result<Vec<(String, Self)>> {
        let Some(field) = self.at(name)? else { return Ok(Vec::new()) };
        let members = field.object()?.iter();
        Ok(members.map(|(name, value)| (name.clone(), field.child(name, value))).collect())
    }

    /// The items of the list of this name, none when it is absent.
    fn list(&self, name: &str) -> Result<Vec<Self>> {
        let Some(field) = self.at(name)? else { return Ok(Vec::new()) };
        let items = field.value.as_array().ok_or_else(|| field.mismatch("a list, […]"))?;
        let item = |(i, value)| Self { path: format!("{}[{i}]", field.path), value };
        Ok(items.iter().enumerate().map(item).collect())
    }

    fn child(&self, name: &str, value: &'a Value) -> Self {
        let name: String = name.chars().take(80).collect();
        let path = if self.path.is_empty() { name } else { format!("{}.{name}", self.path) };
        Self { path, value }
    }

    fn text(&self, wanted: &str) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.mismatch(wanted))
    }

    fn flag(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.mismatch("true or false"))
    }

    /// A text, or a number or flag as text: people write `"PORT_COUNT": 3`.
    fn scalar(&self) -> Result<String> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(_) | Value::Bool(_) => Ok(self.value.to_string()),
            _ => Err(self.mismatch("a text")),
        }
    }

    fn duration(&self) -> Result<Duration> {
        const WANTED: &str = "seconds or a text such as \"30s\" or \"500ms\"";
        let seconds = match self.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => {
                let text = text.trim();
                let number = |digits: &str| digits.trim().parse::<f64>().ok();
                if let Some(digits) = text.strip_suffix("ms") {
                    number(digits).map(|n| n / 1000.0)
                } else if let Some(digits) = text.strip_suffix('m') {
                    number(digits).map(|n| n * 60.0)
                } else {
                    number(text.strip_suffix('s').unwrap_or(text))
                }
            }
            _ => None,
        };
        let seconds = seconds.ok_or_else(|| self.mismatch(WANTED))?;
        // An hour is longer than any deploy waits.
        if !(0.0..=3600.0).contains(&seconds) {
            return Err(self.must("be between 0 seconds and an hour"));
        }
        // Whole milliseconds, as they are kept.
        let exact = Duration::from_secs_f64(seconds);
        Ok(Duration::new(exact.as_secs(), exact.subsec_millis() * 1_000_000))
    }

    /// A name, by its own rules.
    fn named<N: std::str::FromStr<Err = paas_core::NameError>>(&self, text: &str) -> Result<N> {
        text.parse().map_err(|e| wrong(&format!("{}: {e}", self.path)))
    }

    fn mismatch(&self, wanted: &str) -> Error {
        let found = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.must(&format!("be {wanted}, but is {found}"))
    }

    fn must(&self, what: &str) -> Error {
        let path = if self.path.is_empty() { "the file" } else { &self.path };
        wrong(&format!("{path} must {what}"))
    }
}

fn wrong(why: &str) -> Error {
    Error::new(ErrorCode::InvalidParams, format!("app.json: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn every_form_that_herokus_file_knows_is_read() {
        let manifest = parse(
            br#"{
                "name": "x", "scripts": {"postdeploy": "y"}, "stack": "heroku-24",
                "addons": ["heroku-postgresql:essential-0", {"plan": "postgres", "as": "replica", "options": {"version": 16}}],
                "buildpacks": [{"url": "heroku/nodejs"}, "python"],
                "env": {"A": "1", "B": {"generator": "secret"}, "C": {"required": true, "description": "see the docs"}, "D": 3},
                "formation": {"web": {"quantity": 2, "size": "standard-1x"}, "clock": {"single": true}, "old": {"overlap": false}},
                "healthchecks": {"web": {"path": "/up", "timeout": 30}, "worker": {"settle": "500ms"}}
            }"#,
        )
        .unwrap();
        assert_eq!(manifest.addons[0].plan.as_ref().unwrap().as_str(), "essential-0");
        assert_eq!(manifest.addons[1].attachment.as_ref().unwrap().as_str(), "REPLICA");
        assert_eq!(manifest.addons[1].options["version"], "16");
        assert_eq!(manifest.buildpacks, ["heroku/nodejs", "python"]);
        let env = |key: &str| manifest.env[&key.parse::<ConfigKey>().unwrap()].clone();
        assert_eq!(env("A").value.as_deref(), Some("1"));
        assert!(env("B").generate);
        assert!(env("C").required && !env("A").required);
        assert_eq!(env("D").value.as_deref(), Some("3"));
        let process = |name: &str| name.parse::<ProcessType>().unwrap();
        assert_eq!(manifest.formation[&process("web")].quantity, Some(2));
        assert!(manifest.formation[&process("clock")].single);
        assert!(manifest.formation[&process("old")].single);
        assert_eq!(manifest.health[&process("web")].path.as_deref(), Some("/up"));
        assert_eq!(manifest.health[&process("web")].timeout, Duration::from_secs(30));
        assert_eq!(manifest.health[&process("worker")].settle, Duration::from_millis(500));
    }

    #[test]
    fn a_duration_is_kept_as_it_is_read() {
        let manifest =
            parse(br#"{"healthchecks": {"web": {"timeout": 1.23456, "settle": "0.4ms"}}}"#).unwrap();
        let kept = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&kept).unwrap(), manifest);
        let web = &manifest.health[&"web".parse().unwrap()];
        assert_eq!((web.timeout, web.settle), (Duration::from_millis(1234), Duration::ZERO));
    }

    #[test]
    fn an_error_names_the_field_and_what_it_must_be() {
        assert!(told("{\n \"env\": }").contains("line 2, column"));
        assert_eq!(told("[]"), "app.json: the file must be an object, {…}, but is a list");
        assert!(told(r#"{"addons": [{"as": "X"}]}"#).contains("addons[0] must name the add-on in \"plan\""));
        assert!(told(r#"{"addons": ["No Such"]}"#).contains("addons[0]: add-on service"));
        assert!(told(r#"{"env": {"9A": "x"}}"#).contains("env.9A: config var"));
        assert!(told(r#"{"env": {"A": {"generator": "uuid"}}}"#).contains("must be \"secret\""));
        assert!(told(r#"{"healthchecks": {"path": "/"}}"#).contains("must stand under a process type"));
        assert!(told(r#"{"healthchecks": {"web": {"path": "up"}}}"#).contains("begins with /"));
        assert!(told(r#"{"healthchecks": {"web": {"timeout": 1e9}}}"#).contains("an hour"));
        assert!(
            told(r#"{"formation": {"web": {"single": true, "overlap": true}}}"#).contains("not say both")
        );
        assert!(told(r#"{"formation": {"web": {"quantity": -1}}}"#).contains("whole number"));
    }

    #[test]
    fn a_volume_is_held_by_one_instance_unless_the_app_says_that_it_is_shared() {
        let manifest = parse(
            br#"{"formation": {
                "web": {"quantity": 2, "volumes": {"uploads": {"path": "/app/uploads", "shared": true}}},
                "worker": {"volumes": {"uploads": {"path": "/uploads", "shared": true}, "data": "/data"}}
            }}"#,
        )
        .unwrap();
        let wish = |name: &str| &manifest.formation[&name.parse::<ProcessType>().unwrap()];
        assert!(!wish("web").is_single() && wish("worker").is_single());
        assert_eq!(wish("web").volumes[0].path.as_str(), "/app/uploads");
        assert_eq!(wish("worker").held().unwrap().volume.as_str(), "data");
        for (formation, because) in [
            (r#""web": {"volumes": {"data": "data"}}"#, "formation.web.volumes.data: mount path"),
            (r#""web": {"volumes": {"data": "/proc/x"}}"#, "below no /proc"),
            (r#""web": {"volumes": {"../x": "/data"}}"#, "formation.web.volumes.../x: volume"),
            (r#""web": {"volumes": {"data": {"shared": true}}}"#, "must say where it is seen in \"path\""),
            (
                r#""web": {"quantity": 2, "volumes": {"data": "/data"}}"#,
                "must not have more than one instance",
            ),
            (r#""web": {"volumes": {"a": "/data", "b": "/data"}}"#, "at a path of its own"),
            (r#""release": {"volumes": {"data": "/data"}}"#, "the release phase runs beside the old release"),
            (r#""a": {"volumes": {"x": "/x"}}, "b": {"volumes": {"x": "/x"}}"#, "a has it too"),
        ] {
            let said = told(&format!(r#"{{"formation": {{{formation}}}}}"#));
            assert!(said.contains(because), "{said}");
        }
    }

    #[test]
    fn an_app_without_the_file_asks_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Manifest::default());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(content: Vec<u8>) {
            // Both outcomes are right.
            let _ = parse(&content);
        }

        #[test]
        fn no_shape_panics(
            field in "addons|buildpacks|formation|env|healthchecks",
            key in "web|A|plan|url|path|[ -~]{0,5}",
            inner in "quantity|single|overlap|timeout|settle|path|generator|value|as|options|[a-z]{0,3}",
            value in r#"null|true|-1|1e999|1.5|"x"|"-5s"|"é"|\[\]|\{\}|\{"a":\{\}\}|\[null\]"#,
        ) {
            let key = serde_json::to_string(&key).unwrap();
            for text in [
                format!(r#"{{"{field}": {value}}}"#),
                format!(r#"{{"{field}": {{{key}: {value}}}}}"#),
                format!(r#"{{"{field}": {{{key}: {{"{inner}": {value}}}}}}}"#),
                format!(r#"{{"{field}": [{value}, {{"{inner}": {value}, {key}: {value}}}]}}"#),
            ] {
                let _ = parse(text.as_bytes());
            }
        }
    }
}
