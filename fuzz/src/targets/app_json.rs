//! app.json: what is read survives the store, and an app.json that says the same is read as the same.

use paas_core::Manifest;
use serde_json::{Map, Value, json};

use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "app_json",
    run,
    words: &[
        "\"addons\":",
        "\"buildpacks\":",
        "\"env\":",
        "\"formation\":",
        "\"healthchecks\":",
        "\"plan\":",
        "\"as\":",
        "\"options\":",
        "\"url\":",
        "\"value\":",
        "\"generator\":\"secret\"",
        "\"required\":true",
        "\"quantity\":",
        "\"size\":",
        "\"single\":",
        "\"overlap\":",
        "\"path\":\"/\"",
        "\"timeout\":",
        "\"settle\":",
        "\"500ms\"",
        "\"2m\"",
        "null",
        "true",
        "1e-9",
        "\\u0000",
        "{",
        "[",
        "}",
        "]",
        ",",
    ],
};

fn run(input: &[u8]) -> String {
    let manifest = match paas_build::app_json::parse(input) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(error.message().len() < 1000, "an error of {} bytes", error.message().len());
            return super::refused(&error);
        }
    };
    let stored = serde_json::to_string(&manifest).expect("a manifest can be stored");
    assert_eq!(serde_json::from_str::<Manifest>(&stored).expect("and read"), manifest);
    let again = paas_build::app_json::parse(told(&manifest).to_string().as_bytes());
    assert_eq!(again.expect("what was read can be said"), manifest);
    format!(
        "{} {} {} {} {}",
        !manifest.addons.is_empty(),
        !manifest.buildpacks.is_empty(),
        !manifest.formation.is_empty(),
        !manifest.env.is_empty(),
        !manifest.health.is_empty()
    )
}

/// The app.json that asks for this.
fn told(manifest: &Manifest) -> Value {
    let addons = manifest.addons.iter().map(|wish| {
        let plan = wish.plan.as_ref().map_or_else(String::new, |plan| format!(":{plan}"));
        let name = wish.attachment.as_ref().map(ToString::to_string);
        json!({ "plan": format!("{}{plan}", wish.service), "as": name, "options": wish.options })
    });
    let formation = manifest.formation.iter().map(|(process, wish)| {
        (process.to_string(), json!({ "quantity": wish.quantity, "size": wish.size, "single": wish.single }))
    });
    let env = manifest.env.iter().map(|(key, wish)| {
        let generator = wish.generate.then_some("secret");
        let said = json!({
            "value": wish.value, "generator": generator, "required": wish.required, "description": wish.description,
        });
        (key.to_string(), said)
    });
    let milliseconds = |time: std::time::Duration| format!("{}ms", time.as_millis());
    let health = manifest.health.iter().map(|(process, check)| {
        let (timeout, settle) = (milliseconds(check.timeout), milliseconds(check.settle));
        (process.to_string(), json!({ "path": check.path, "timeout": timeout, "settle": settle }))
    });
    json!({
        "addons": addons.collect::<Vec<_>>(),
        "buildpacks": manifest.buildpacks,
        "formation": formation.collect::<Map<_, _>>(),
        "env": env.collect::<Map<_, _>>(),
        "healthchecks": health.collect::<Map<_, _>>(),
    })
}
