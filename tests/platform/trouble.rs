//! What a machine does to a platform: its clock jumps, its disk stops taking writes, open files and processes run out,
//! its database server is killed. When the trouble is over, all goes on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio_postgres::SimpleQueryMessage;

use crate::harness::{Client, Dice, Process, World, rounds, until};

/// Where Debian keeps the library that fakes a program's clock.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Whether this machine can make this trouble; where it should, in CI, that it can't is a failure.
fn possible(what: &str, can: bool) -> bool {
    assert!(can || std::env::var_os("CI").is_none(), "this machine can't do it: {what}");
    if !can {
        eprintln!("SKIPPED, this machine can't do it: {what}");
    }
    can
}

#[test]
fn a_clock_that_jumps_by_hours_both_ways_disturbs_nobody() {
    if !possible("fake a clock", Path::new(FAKETIME).exists()) {
        return;
    }
    let mut dice = Dice::new();
    let mut world = World::not_started();
    let clock = world.scratch().join("clock");
    let set = |hours: i64| fs::write(&clock, format!("{hours:+}h\n")).unwrap();
    set(0);
    world = world.with_env("LD_PRELOAD", FAKETIME);
    world = world.with_env("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap());
    // It is asked each time; and only what tells the hour jumps, as on a machine whose clock is set.
    world = world.with_env("FAKETIME_NO_CACHE", "1").with_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    world.start_first();
    let repo = world.repo("timeless");
    repo.app("r0").commit();
    world.push(&repo, "timeless").assert_accepted();
    let users = world.probe("timeless");

    let mut words = vec!["r0".to_owned()];
    for round in 1..=rounds(5) {
        let word = format!("r{round}");
        repo.app(&word).commit();
        let push = world.start_push(&repo, "timeless");
        let moments = [0, 1].map(|_| dice.moment(Duration::from_millis(500)));
        for (moment, hours) in moments.into_iter().zip([dice.below(48), dice.below(48)]) {
            std::thread::sleep(moment);
            set(i64::from(hours) - 24);
        }
        push.end().assert_accepted();
        assert_eq!(world.serving("timeless").0, word);
        words.push(word);
    }
    let (_, live) = world.records().live("timeless").unwrap();
    assert_eq!(live, u64::from(rounds(5)) + 1, "each push made one release");
    users.stop().assert_served_by(&words.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_platform_that_may_open_no_more_files_goes_on_when_it_may_again() {
    let world = World::new();
    let repo = world.repo("frugal");
    repo.app("one").commit();
    world.push(&repo, "frugal").assert_accepted();
    let before = world.serving("frugal");

    let open = || fs::read_dir(format!("/proc/{}/fd", world.pid())).unwrap().count();
    let limit = |files: usize| {
        let pid = world.pid().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}:")]).status();
        assert!(limited.unwrap().success());
    };
    let usual = {
        let limits = fs::read_to_string(format!("/proc/{}/limits", world.pid())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(3).unwrap().parse::<usize>().unwrap()
    };
    repo.app("two").commit();
    // From none at all to enough for a part of the way.
    for more in [0, 3, 10, 20] {
        limit(open() + more);
        let push = world.start_push(&repo, "frugal");
        std::thread::sleep(Duration::from_millis(700));
        limit(usual);
        let push = push.end();
        if push.accepted {
            assert_eq!(world.serving("frugal").0, "two", "{}", push.said);
            repo.app("two").commit();
        } else {
            let serves = world.serving("frugal");
            assert!(
                serves == before || serves.0 == "two",
                "{serves:?} with {more} more files: {}",
                push.said
            );
        }
    }
    repo.app("three").commit();
    world.push(&repo, "frugal").assert_accepted();
    assert_eq!(world.serving("frugal").0, "three");
    until("the end of all workflows", || (world.records().open_workflows() == 0).then_some(()));
}

/// A control group that bounds how many processes its members may have.
struct Processes(PathBuf);

impl Processes {
    fn of(pid: u32) -> Option<Self> {
        let group = PathBuf::from(format!("/sys/fs/cgroup/pids/paas-trouble-{pid}"));
        fs::create_dir(&group).ok()?;
        let group = Self(group);
        fs::write(group.0.join("cgroup.procs"), pid.to_string()).ok()?;
        Some(group)
    }

    fn current(&self) -> u64 {
        fs::read_to_string(self.0.join("pids.current")).unwrap().trim().parse().unwrap()
    }

    fn limit(&self, to: &str) {
        fs::write(self.0.join("pids.max"), to).unwrap();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let all = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in all.lines() {
            // It may have ended.
            let _ = fs::write("/sys/fs/cgroup/pids/cgroup.procs", pid);
        }
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}

#[test]
fn a_platform_that_may_start_no_more_processes_refuses_pushes_until_it_may_again() {
    let world = World::new();
    let repo = world.repo("crowded");
    let good = repo.app("one").commit();
    world.push(&repo, "crowded").assert_accepted();
    let users = world.probe("crowded");
    let group = Processes::of(world.pid());
    if !possible("bound the number of processes", group.is_some()) {
        return;
    }
    let group = group.unwrap();

    repo.app("two").commit();
    for more in [0, 1, 3] {
        group.limit(&(group.current() + more).to_string());
        let push = world.push(&repo, "crowded");
        group.limit("max");
        if !push.accepted {
            assert_eq!(world.serving("crowded").0, "one", "{more} more processes: {}", push.said);
            assert_eq!(world.branch("crowded", "main").as_ref(), Some(&good), "{}", push.said);
        }
    }
    repo.app("three").commit();
    world.push(&repo, "crowded").assert_accepted();
    assert_eq!(world.serving("crowded").0, "three");
    users.stop().assert_served_by(&["one", "two", "three"]);
}

/// A disk of its own that can be made to refuse all writes, as a kernel does with one that fails.
struct FailingDisk(TempDir);

impl FailingDisk {
    fn new() -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("paas-failing-").tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(256 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status();
        let disk = Self(dir);
        fs::create_dir(disk.at()).unwrap();
        (made.is_ok_and(|made| made.success()) && disk.mount()).then_some(disk)
    }

    fn at(&self) -> PathBuf {
        self.0.path().join("disk")
    }

    fn mount(&self) -> bool {
        let (image, at) = (self.0.path().join("image"), self.at());
        Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(at)
            .status()
            .is_ok_and(|done| done.success())
    }

    /// What can't be written any more can't be mended while it is mounted.
    fn fail(&self) {
        assert!(
            Command::new("mount").args(["-o", "remount,abort"]).arg(self.at()).status().unwrap().success()
        );
    }

    fn mend(&self) -> bool {
        let checked = Command::new("e2fsck").args(["-f", "-y"]).arg(self.0.path().join("image")).output();
        // 1: it had errors, and has none any more.
        checked.is_ok_and(|checked| matches!(checked.status.code(), Some(0 | 1)))
    }

    fn unmount(&self) -> bool {
        let done = Command::new("umount").arg(self.at()).output();
        done.is_ok_and(|done| done.status.success())
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        if !self.unmount() {
            // Lazily: whatever still looks at it is being killed. Or it was not mounted.
            let _ = Command::new("umount").arg("--lazy").arg(self.at()).output();
        }
    }
}

#[test]
fn a_disk_that_takes_no_more_writes_stops_pushes_and_nothing_else() {
    let disk = FailingDisk::new();
    if !possible("mount a disk of its own", disk.is_some()) {
        return;
    }
    let disk = disk.unwrap();
    // Dropped first: its processes use the disk.
    let mut world = World::not_started().with_data(disk.at().join("data"));
    world.start_first();
    let repo = world.repo("solid");
    let good = repo.app("one").commit();
    world.push(&repo, "solid").assert_accepted();
    let before = world.serving("solid");
    let users = world.probe("solid");

    disk.fail();
    repo.app("two").commit();
    let push = world.push(&repo, "solid");
    push.assert_refused(&["takes no writes (read-only file system)"]);
    assert_eq!(world.serving("solid"), before);
    users.stop().assert_served_by(&["one"]);

    // Somebody mends it.
    world.kill();
    until("the end of all processes", || {
        world.processes().iter().for_each(Process::kill);
        world.processes().is_empty().then_some(())
    });
    until("the disk is unmounted", || disk.unmount().then_some(()));
    assert!(disk.mend() && disk.mount());
    // With a restart of the machine, as such a disk asks for: what was not synced may be empty.
    fs::write(world.data.join("run/boot.json"), "\"another boot\"").unwrap();
    world.start();
    until("the app is up again", || (world.get("solid").status == 200).then_some(()));
    assert_eq!(world.serving("solid").0, "one");
    assert_eq!(world.branch("solid", "main"), Some(good));
    world.push(&repo, "solid").assert_accepted();
    assert_eq!(world.serving("solid").0, "two");
}

#[test]
fn a_database_server_that_is_killed_comes_back_with_its_data_and_what_was_ordered_meanwhile_is_done() {
    let world = World::new();
    let app: paas::AppName = "bookkeeper".parse().unwrap();
    let repo = world.repo(app.as_str());
    repo.app("one").write("app.json", r#"{ "addons": ["postgres"] }"#).commit();
    world.push(&repo, app.as_str()).assert_accepted();
    let client = Client::open(&world.data);
    let url = || {
        let config = client.wait(client.engine.config(&app));
        config.get("DATABASE_URL").unwrap().expose().to_owned()
    };
    let ask = |sql: &str| {
        let (url, sql) = (url(), sql.to_owned());
        client.attempt(async move {
            let (postgres, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            let rows = postgres.simple_query(&sql).await?;
            Ok::<_, tokio_postgres::Error>(rows.into_iter().find_map(|row| match row {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            }))
        })
    };
    ask("CREATE TABLE books (name text); INSERT INTO books VALUES ('kept')").unwrap();
    let users = world.probe(app.as_str());

    for round in 1..=rounds(2) {
        let server = world
            .processes()
            .into_iter()
            .find(|p| p.args.contains("postgres -D") || p.args.contains("postgres --"));
        let server = server.unwrap_or_else(|| {
            let all: Vec<_> = world.processes().into_iter().map(|p| p.args).collect();
            panic!("no server: {all:#?}")
        });
        let order = |name: &str| {
            let order = paas::AddonOrder::new("postgres".parse().unwrap()).named(name.parse().unwrap());
            client.wait(client.engine.add_addon(&app, order, &Client::me()))
        };
        let addon = client.wait(client.engine.addons(&app)).remove(0).id;
        server.kill();
        let (_, made) = order(&format!("ROUND{round}"));
        let rotated = client.wait(client.engine.rotate_addon(addon, &Client::me()));
        client.wait(made.succeeded());
        client.wait(rotated.succeeded());
        until("the database answers", || {
            ask("INSERT INTO books SELECT name FROM books WHERE name = 'kept' LIMIT 1").ok()
        });
    }
    users.stop().assert_served_by(&["one"]);
    let books = ask("SELECT count(*) FROM books").unwrap();
    assert_eq!(books, Some((1 + rounds(2)).to_string()), "rows were lost");
}
