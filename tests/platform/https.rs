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

/// How many of an app's requests went well, as Prometheus hears it.
fn counted(world: &World, app: &str) -> Option<u64> {
    let page = world.ready().metrics.as_ref().expect("it has a page of metrics");
    let asked = Command::new("curl").args(["--silent", "--fail", "--noproxy", "*", page]).output().unwrap();
    let text = String::from_utf8(asked.stdout).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let of = format!("paas_router_requests_total{{app=\"{app}\",class=\"2xx\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&of)).map(|count| count.parse().unwrap())
}

#[test]
fn an_app_that_was_pushed_answers_over_https_and_is_counted_and_goes_on_to_when_the_platform_is_replaced_or_started_anew()
 {
    if !has("curl") {
        return;
    }
    let mut world = World::not_started();
    let free = "127.0.0.1:0";
    let ports = ["--http", free, "--https", free, "--git", free, "--metrics", free];
    world.start_with(&[&["--no-demo"][..], &ports].concat());
    let repo = world.repo("secure");
    repo.app("first").commit();
    world.push(&repo, "secure").assert_accepted();
    let first = curl(&world, "secure").unwrap();
    assert!(first.contains("first"), "{first}");
    let refused = curl(&world, "nobody").unwrap_err();
    assert!(refused.contains("alert"), "{refused}");
    assert_eq!(counted(&world, "secure"), Some(1));

    let new = world.start_replacing();
    let mut old = world.replaced_by(new);
    old.until_says("Replaced");
    assert_eq!(curl(&world, "secure").as_ref(), Ok(&first));
    assert_eq!(counted(&world, "secure"), Some(1), "the new process tells, of what it did");
    let ended = old.end();
    assert!(ended.success(), "{ended}: {}", old.said());
    world.stop();
    world.start();
    let again = curl(&world, "secure").unwrap();
    assert!(again.starts_with("first"), "{again}");
    assert_eq!(world.ready().metrics, None, "nobody asked for it");
    world.stop();
}
