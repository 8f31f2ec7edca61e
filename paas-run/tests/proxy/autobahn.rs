//! Autobahn's cases of WebSocket, against a server of others' making and through the proxy.

use std::collections::BTreeMap;

use paas_core::Router as _;

use crate::python::{Python, said};
use crate::support::{World, hello};

/// How the cases end that a glob names, by their ids: passed or not, and why.
async fn run(
    python: &Python,
    port: u16,
    cases: &str,
    excluded: Option<&str>,
) -> BTreeMap<String, (bool, String)> {
    let mut command = python.script("websocket_cases.py");
    command.arg(format!("localhost:{port}")).arg(cases).args(excluded);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let lines = said(&output.expect("Python starts"));
    let case = |line| serde_json::from_str(line).map(|(id, passed, found)| (id, (passed, found)));
    lines.lines().map(|line| case(line).expect("a case")).collect()
}

/// Those that don't pass. They have a second for each answer, which a busy machine may not give them at once.
async fn failing(python: &Python, port: u16, excluded: Option<&str>) -> (usize, BTreeMap<String, String>) {
    let all = run(python, port, "*", excluded).await;
    let (count, mut left) = (all.len(), all);
    for _ in 0..3 {
        left.retain(|_, (passed, _)| !*passed);
        if !left.is_empty() {
            let ids: Vec<_> = left.into_keys().collect();
            left = run(python, port, &ids.join(","), None).await;
        }
    }
    left.retain(|_, (passed, _)| !*passed);
    (count, left.into_iter().map(|(id, (_, found))| (id, found)).collect())
}

/// How many cases there are, and which of them fail with and without the proxy.
async fn compare(excluded: Option<&str>) -> Option<(usize, Vec<String>)> {
    let python = Python::with_packages()?;
    let origin = python.serve("echo_websocket.py");
    let world = World::serving(&[origin.address], |_| {}).await;
    let mut routes = world.proxy.observe(&hello()).await.expect("observed").expect("there are routes");
    (routes.generation, routes.domains) = (2, vec!["localhost".parse().expect("a host")]);
    world.proxy.apply(&world.context(), &routes).await.expect("routes are applied");
    let (alone, through) = tokio::join!(
        failing(&python, origin.address.port(), excluded),
        failing(&python, world.address.port(), excluded)
    );
    let ids = |failing: &BTreeMap<String, String>| failing.keys().cloned().collect::<Vec<_>>();
    assert_eq!((alone.0, ids(&alone.1)), (through.0, ids(&through.1)), "{alone:#?}\n{through:#?}");
    Some((alone.0, ids(&alone.1)))
}

#[tokio::test]
async fn websockets_pass_the_same_cases_of_autobahn_through_the_router_as_without_it() {
    // All but large messages and thousands of compressed ones.
    let Some((cases, failing)) = compare(Some("9.*,12.*,13.*")).await else { return };
    // The server answers a close between two fragments with an error of its own.
    assert_eq!((cases, failing), (247, vec!["7.1.5".to_owned()]));
}

/// `cargo nextest run -p paas-run --all-features --test proxy --run-ignored only every_case`
#[tokio::test]
#[ignore = "it takes half an hour"]
async fn every_case_of_autobahn_ends_alike_through_the_router_and_without_it() {
    let Some((cases, failing)) = compare(None).await else { return };
    // The server takes no message of so many fragments.
    assert_eq!(
        (cases, failing),
        (517, ["7.1.5", "9.3.1", "9.3.2", "9.4.1", "9.4.2"].map(str::to_owned).to_vec())
    );
}
