//! `kill -9` of the platform at random points of a deploy: nothing is lost, doubled, orphaned or restarted.
//!
//! `PAAS_ROUNDS` says how often, `PAAS_SEED` replays what a run printed.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Dice, Identity, Process, Repo, World, get, rounds, until};

const APP: &str = "survivor";

/// A web process that was seen alive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Web {
    word: String,
    identity: Identity,
}

fn app(repo: &Repo, word: &str) -> String {
    repo.app(word);
    repo.write("Procfile", "web: exec perl server.pl\nworker: exec sleep 100000\nrelease: echo migrated\n");
    repo.write("app.json", r#"{ "healthchecks": { "worker": { "settle": "150ms" } } }"#);
    repo.commit()
}

/// Web processes that answer by themselves, without the platform.
fn answering(world: &World) -> Vec<Web> {
    let webs = world.programs().into_iter().filter(|process| process.instance() == Some("web.1"));
    let ask = |process: Process| {
        let port = process.variable("PORT")?.parse().ok()?;
        let answer = get(SocketAddr::from(([127, 0, 0, 1], port)), "survivor.localhost").ok()?;
        assert_eq!(answer.number("pid"), process.identity.pid, "another process answers on its port");
        Some(Web { word: answer.word().to_owned(), identity: process.identity })
    };
    webs.filter_map(ask).collect()
}

#[test]
fn a_platform_that_is_killed_in_a_deploy_loses_doubles_and_restarts_nothing() {
    let rounds = rounds(15);
    let mut dice = Dice::new();
    let mut world = World::new();
    let repo = world.repo(APP);
    app(&repo, "first");
    world.push(&repo, APP).assert_accepted();
    // How long a deploy takes here, from one that is not the first.
    let mut live = app(&repo, "r0");
    let start = Instant::now();
    world.push(&repo, APP).assert_accepted();
    let usual = start.elapsed();
    let users = world.probe(APP);
    let (mut undone, mut finished, mut acknowledged, mut down) = (0, 0, 0, Duration::ZERO);

    let mut pushed = live.clone();
    let mut word = "r0".to_owned();
    let mut live_word = word.clone();
    for round in 1..=rounds {
        // What a kill undid is pushed again as it is.
        if pushed == live {
            word = format!("r{round}");
            pushed = app(&repo, &word);
        }
        let before = Web { word: live_word.clone(), identity: world.serving(APP).1 };
        let delay = dice.moment(usual);
        let push = world.start_push(&repo, APP);
        std::thread::sleep(delay);
        users.look_away();
        let start = Instant::now();
        world.kill();
        let push = push.end();
        let what = format!("round {round}, killed after {delay:?}, the pusher read:\n{}", push.said);

        // The app needs nobody.
        let survivors = answering(&world);
        assert!(!survivors.is_empty(), "nobody answers while the platform is down; {what}");

        world.start();
        users.look();
        down += start.elapsed();
        let records = world.records();
        until(&format!("the end of all workflows; {what}"), || (records.open_workflows() == 0).then_some(()));
        let (now, version) = records.live(APP).unwrap();
        let releases = records.releases(APP);
        let pending: Vec<_> =
            releases.iter().filter(|r| r.state == paas::ReleaseState::Pending).map(|r| r.version).collect();
        assert!(pending.is_empty(), "{pending:?} never ended; {what}");
        assert!(now == live || now == pushed, "{now} is live; {what}");
        assert!(!push.accepted || now == pushed, "an acknowledged release was lost; {what}");
        let newest =
            releases.iter().filter(|r| r.state == paas::ReleaseState::Succeeded).map(|r| r.version).max();
        assert_eq!(newest.map(|v| u64::from(v.number())), Some(version), "{what}");

        // One process of each type, and nothing else, with the identity that it had.
        until(&format!("one web and one worker; {what}"), || {
            let mut names: Vec<_> =
                world.programs().iter().map(|p| p.instance().unwrap_or_default().to_owned()).collect();
            names.sort();
            (names == ["web.1", "worker.1"]).then_some(())
        });
        let (serves, identity) = world.serving(APP);
        live_word = if now == pushed { word.clone() } else { live_word };
        assert_eq!(serves, live_word, "{what}");
        let expected = survivors.iter().find(|web| web.word == serves).map(|web| web.identity);
        if serves == before.word {
            assert_eq!(identity, before.identity, "the live app was restarted; {what}");
        } else if let Some(expected) = expected {
            assert_eq!(identity, expected, "the new app was restarted; {what}");
        }
        let branch = world.branch(APP, "main");
        match (now == pushed, push.accepted) {
            (false, _) => undone += 1,
            (true, false) => finished += 1,
            (true, true) => acknowledged += 1,
        }
        if now == pushed {
            if branch.as_ref() != Some(&pushed) {
                assert!(!push.accepted, "git said that the branch moved; {what}");
                let again = world.push(&repo, APP);
                again.assert_accepted();
                assert!(again.said.contains("live already"), "{}", again.said);
                assert_eq!(world.serving(APP).1, identity, "the app was restarted; {what}");
            }
            assert_eq!(world.branch(APP, "main").as_ref(), Some(&pushed), "{what}");
        } else {
            assert_eq!(branch.as_ref(), Some(&live), "the branch moved to what was undone; {what}");
        }
        live = now;
    }

    app(&repo, "last");
    world.push(&repo, APP).assert_accepted();
    assert_eq!(world.serving(APP).0, "last");
    let releases = world.records().releases(APP).len();
    let report = users.stop();
    eprintln!(
        "{rounds} kills: {undone} undone, {finished} finished although the pusher was cut off, {acknowledged} acknowledged \
         before; {releases} releases; {} requests while the platform was up, {} failed; a deploy takes {usual:?}, a kill \
         with the next start {:?}",
        report.requests,
        report.failed.len(),
        down / rounds.max(1),
    );
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    world.stop();
    until("the end of all processes", || world.processes().is_empty().then_some(()));
}

/// git goes on when the platform dies, up to its hook, and takes a hook that isn't there for one that agrees.
#[test]
fn a_push_whose_hook_finds_no_platform_moves_nothing() {
    let mut world = World::not_started();
    let programs = world.scratch().join("programs");
    let at = |name: &str| programs.join(name);
    late_git(&programs);
    world = world.with_programs(&programs);
    world.start_first();
    let repo = world.repo(APP);
    std::fs::write(at("go"), "").unwrap();
    let good = repo.app("one").commit();
    world.push(&repo, APP).assert_accepted();

    for file in ["go", "received", "ended"] {
        std::fs::remove_file(at(file)).unwrap();
    }
    repo.app("two").commit();
    let push = world.start_push(&repo, APP);
    until("the whole push", || at("received").exists().then_some(()));
    world.kill();
    std::fs::write(at("go"), "").unwrap();
    until("git's end", || at("ended").exists().then_some(()));
    push.end().assert_refused(&[]);
    world.start();
    assert_eq!(world.branch(APP, "main"), Some(good), "the branch moved without a deploy");
    assert_eq!(world.serving(APP).0, "one");
    world.push(&repo, APP).assert_accepted();
    assert_eq!(world.serving(APP).0, "two");
}

/// A git that takes all of a push and then waits for the word to go on.
fn late_git(dir: &Path) {
    let script = r#"#!/bin/bash
here=${0%/*}
PATH=${PATH#"$here":}
case " $* " in
  *" --http-backend-info-refs "*) ;;
  *" receive-pack "*)
    cat > "$here/push"
    touch "$here/received"
    until [ -e "$here/go" ]; do sleep 0.02; done
    # Whoever listened may be gone.
    git "$@" < "$here/push" 2> /dev/null
    status=$?
    touch "$here/ended"
    exit "$status" ;;
esac
exec git "$@"
"#;
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("git"), script).unwrap();
    std::fs::set_permissions(dir.join("git"), std::fs::Permissions::from_mode(0o755)).unwrap();
}
