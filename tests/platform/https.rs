//! Apps over HTTPS, as curl sees them.

use std::process::Command;

use crate::harness::{World, has};

/// What curl says, if it trusts the platform.
fn curl(world: &World, app: &str) -> Result<String, String> {
    let (ready, host) = (world.ready(), format!("{app}.localhost"));
    let port = ready.https().port();
    let asked = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "30", "--cacert"])
        .arg(&ready.ca)
        .args(["--resolve", &format!("{host}:{port}:127.0.0.1"), &format!("https://{host}:{port}/")])
        .output()
        .expect("curl starts");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if asked.status.success() { Ok(said(&asked.stdout)) } else { Err(said(&asked.stderr)) }
}

#[test]
fn an_app_that_was_pushed_answers_over_https_and_goes_on_to_when_the_platform_is_replaced_or_started_anew() {
    if !has("curl") {
        return;
    }
    let mut world = World::new();
    let repo = world.repo("secure");
    repo.app("first").commit();
    world.push(&repo, "secure").assert_accepted();
    let first = curl(&world, "secure").unwrap();
    assert!(first.contains("first"), "{first}");
    let refused = curl(&world, "nobody").unwrap_err();
    assert!(refused.contains("alert"), "{refused}");

    let new = world.start_replacing();
    let mut old = world.replaced_by(new);
    assert_eq!(curl(&world, "secure").as_ref(), Ok(&first));
    let ended = old.end();
    assert!(ended.success(), "{ended}: {}", old.said());
    world.stop();
    world.start();
    let again = curl(&world, "secure").unwrap();
    assert!(again.starts_with("first"), "{again}");
    world.stop();
}
