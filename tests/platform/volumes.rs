//! Data that an app keeps beside its releases: one instance at a time holds it, and users notice nothing.

use std::collections::BTreeMap;

use paas::docker::bollard::models::ContainerSummaryStateEnum as Shown;
use paas::docker::bollard::query_parameters::ListContainersOptions;
use paas::docker::testkit::BaseImage;
use paas::{ErrorCode, Scale};

use crate::docker::Case;
use crate::harness::{Client, Repo, World, until};

const APP_JSON: &str = r#"{"formation": {"web": {"volumes": {"data": "/data"}}}}"#;

/// A web app that notes its start on its volume, twice if it finds another one there, and answers with this word and the
/// number of notes.
fn counter<'a>(repo: &'a Repo, word: &str) -> &'a Repo {
    let start = "mkdir /data/held || echo clash >> /data/starts\n\
        trap 'kill $server; wait $server; rmdir /data/held; exit 0' TERM\n\
        echo start >> /data/starts; echo \"$(cat word) $(wc -l < /data/starts)\" > index.html\n\
        httpd -f -p $PORT & server=$!; wait $server\n";
    let dockerfile = "FROM paas-test/busybox:1\nWORKDIR /www\nCOPY . .\nCMD [\"sh\", \"start.sh\"]\n";
    repo.write("Dockerfile", dockerfile)
        .write("start.sh", start)
        .write("word", word)
        .write("app.json", APP_JSON)
}

/// How many containers of the app are alive, asked of the daemon.
fn alive(case: &Case, app: &str) -> usize {
    let filters = case.docker.ours(&[("paas.app", app)]);
    let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
    let found = case.runtime.block_on(case.docker.client().list_containers(Some(options))).unwrap();
    found
        .iter()
        .filter(|found| !matches!(found.state, Some(Shown::CREATED | Shown::EXITED | Shown::DEAD)))
        .count()
}

#[test]
fn data_on_a_volume_outlives_releases_and_the_platform_and_no_request_fails_while_its_holder_changes() {
    let Some(mut case) = Case::with(&[BaseImage::Busybox], |world: World| world) else { return };
    let repo = case.world.repo("diary");
    counter(&repo, "one").commit();
    case.world.push(&repo, "diary").assert_accepted();
    assert_eq!(case.world.get("diary").body.trim(), "one 1");

    let users = case.world.probe("diary");
    for (word, starts) in [("two", 2), ("three", 3)] {
        counter(&repo, word).commit();
        let push = case.world.push(&repo, "diary");
        push.assert_accepted();
        for shown in
            ["web has a volume (data at /data)", "stopped before the new one starts; requests are held"]
        {
            assert!(push.said.contains(shown), "{shown:?}: {}", push.said);
        }
        assert!(!push.said.contains("did not start"), "{}", push.said);
        assert_eq!(case.world.get("diary").body.trim(), format!("{word} {starts}"));
    }
    users.stop().assert_served_by(&["one", "two", "three"]);

    let client = Client::open(&case.world.data);
    let diary = "diary".parse().unwrap();
    let two = BTreeMap::from([("web".parse().unwrap(), Scale::of(2))]);
    let refused = client.attempt(client.engine.scale(&diary, two, &Client::me())).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidParams, "{refused}");
    drop(client);

    case.world.kill();
    case.world.start();
    assert_eq!(case.world.get("diary").body.trim(), "three 3", "its holder was adopted");

    // Killed in the middle of a change: the old one or the new one goes on, never both.
    counter(&repo, "four").commit();
    let pushing = case.world.start_push(&repo, "diary");
    until("the old one ends", || (alive(&case, "diary") == 0).then_some(()));
    case.world.kill();
    pushing.end();
    case.world.start();
    let answer = until("an answer of the new release", || {
        let answer = case.world.get("diary");
        (answer.word() == "four").then_some(answer)
    });
    assert_eq!(answer.body.trim(), "four 4");
    case.until_alone("diary", 1);

    let client = Client::open(&case.world.data);
    let destroyed = client.wait(client.engine.destroy_app(&diary, &Client::me()));
    client.wait(destroyed.succeeded());
    until("nothing of the app is left", || case.of("diary").is_empty().then_some(()));
    case.world.stop();
}
