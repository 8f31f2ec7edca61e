//! What a confined program can't do, seen from inside, with real processes.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use paas_sandbox::{Confined, Error, Helper, Limits, Profile, User, procfs};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

fn helper() -> Helper {
    Helper::at(env!("CARGO_BIN_EXE_paas-sandbox-helper"))
}

/// Says aloud what the machine can't do, and fails where it must.
fn able(what: &str, able: bool) -> bool {
    assert!(able || std::env::var_os("CI").is_none(), "CI must be able to test: {what}");
    if !able {
        eprintln!("SKIPPED: this machine has no {what}");
    }
    able
}

fn somebody(helper: &Helper, id: u32) -> Option<User> {
    helper.abilities().unwrap().users.then(|| User::new(id))
}

fn bash(helper: &Helper, profile: Profile, script: &str) -> Confined {
    Confined::new(helper, profile, "bash").args(["-c", script]).env("PATH", "/usr/bin:/bin")
}

async fn says(command: &Confined) -> String {
    let output = command.output().await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A folder that this user owns.
fn folder_of(user: Option<User>, at: &Path) {
    fs::create_dir_all(at).unwrap();
    if let Some(user) = user {
        chown(at, Some(user.uid), Some(user.gid)).unwrap();
    }
}

#[tokio::test]
async fn the_environment_is_what_was_given_and_nothing_else() {
    let helper = helper();
    let command = Confined::new(&helper, Profile::new(), "/usr/bin/env").env("ONLY", "this");
    assert_eq!(says(&command).await, "ONLY=this\n");
}

#[tokio::test]
async fn secrets_are_in_nobodys_arguments() {
    let helper = helper();
    let command = bash(&helper, Profile::new(), "cat /proc/self/cmdline; tr '\\0' '\\n' < /proc/$$/cmdline")
        .env("SECRET", "canary-5f1d");
    let mut child = command.spawn().unwrap();
    let seen = fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap();
    assert!(!seen.contains("canary-5f1d"), "{seen}");
    child.wait().await.unwrap();
    assert!(!says(&command).await.contains("canary-5f1d"));
}

#[tokio::test]
async fn it_runs_as_its_own_user_and_can_never_become_another() {
    let helper = helper();
    let user = somebody(&helper, 20_011);
    if !able("root", user.is_some()) {
        return;
    }
    let script = "id -u; id -g; id -un; grep -E 'NoNewPrivs|CapEff|Groups' /proc/self/status";
    let said = says(&bash(&helper, Profile::new().user(user), script)).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(&lines[..3], ["20011", "20011", "app"], "{said}");
    assert!(said.contains("NoNewPrivs:\t1") && said.contains("CapEff:\t0000000000000000"), "{said}");
    assert!(lines.iter().any(|line| line.trim_end() == "Groups:"), "{said}");
}

#[tokio::test]
async fn what_is_not_named_can_not_be_read() {
    let (helper, secrets) = (helper(), TempDir::new().unwrap());
    if !able("isolation", helper.abilities().unwrap().isolated()) {
        return;
    }
    // Open to the world, so that only the walls keep it.
    fs::set_permissions(secrets.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let key = secrets.path().join("key");
    fs::write(&key, "canary-77aa").unwrap();
    let script =
        format!("cat {0}; cat /proc/{1}/root{0}; ls /root /home /srv", key.display(), std::process::id());
    let said = says(&bash(&helper, Profile::new().user(somebody(&helper, 20_012)), &script)).await;
    assert!(!said.contains("canary-77aa"), "{said}");
    let said =
        says(&bash(&helper, Profile::new().read_only(secrets.path()), &format!("cat {}", key.display())))
            .await;
    assert!(said.contains("canary-77aa"), "{said}");
}

#[tokio::test]
async fn a_folder_is_seen_in_another_place_and_only_there() {
    let (helper, dir) = (helper(), TempDir::new().unwrap());
    if !able("mount namespaces", helper.abilities().unwrap().namespaces) {
        return;
    }
    let user = somebody(&helper, 20_013);
    let (app, tools) = (dir.path().join("app"), dir.path().join("closed/tools"));
    folder_of(user, &app);
    fs::create_dir_all(&tools).unwrap();
    fs::write(tools.join("tool"), "#!/bin/sh\necho tool ran\n").unwrap();
    fs::set_permissions(tools.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let profile = Profile::new().user(user).bind(&app, "/app").read_only(&tools);
    let private = Path::new("/tmp").join(format!("paas-walls-{}", std::process::id()));
    let script = format!(
        "pwd; echo made > made && cat /app/made; {0}/tool; touch {0}/no 2>/dev/null || echo read-only; \
         ls -d {1} 2>/dev/null || echo unseen; echo x > {2} && ls /tmp",
        tools.display(),
        app.display(),
        private.display(),
    );
    let said = says(&bash(&helper, profile, &script).current_dir("/app")).await;
    assert_eq!(
        said.lines().take(5).collect::<Vec<_>>(),
        ["/app", "made", "tool ran", "read-only", "unseen"],
        "{said}"
    );
    assert_eq!(fs::read_to_string(app.join("made")).unwrap(), "made\n");
    assert!(!private.exists());
}

#[tokio::test]
async fn the_system_can_not_be_changed_and_hidden_places_are_empty() {
    let (helper, dir) = (helper(), TempDir::new().unwrap());
    if !able("mount namespaces", helper.abilities().unwrap().namespaces) {
        return;
    }
    fs::create_dir(dir.path().join("inner")).unwrap();
    fs::write(dir.path().join("inner/secret"), "canary-3c").unwrap();
    // As our own user, so that no owner's right stands in the way.
    let profile = Profile::new().read_write(dir.path()).hide(dir.path().join("inner"));
    let script = format!(
        "for p in /usr/x /etc/x /x /var/x; do touch $p 2>/dev/null && echo wrote $p; done; \
         cat {0}/inner/secret; touch {0}/fine && echo fine",
        dir.path().display()
    );
    let said = says(&bash(&helper, profile, &script)).await;
    assert!(!said.contains("wrote") && !said.contains("canary-3c") && said.contains("fine"), "{said}");
}

#[tokio::test]
async fn without_network_not_even_loopback_answers() {
    let helper = helper();
    if !able("namespaces", helper.abilities().unwrap().namespaces) {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo open || echo shut");
    assert_eq!(says(&bash(&helper, Profile::new(), &script)).await, "open\n");
    assert_eq!(says(&bash(&helper, Profile::new().network(false), &script)).await, "shut\n");
}

#[tokio::test]
async fn limits_hold_for_everything_it_starts_together() {
    let helper = helper();
    let able_to = helper.abilities().unwrap();
    if !able("memory and pids controllers", able_to.limited()) {
        return;
    }
    let limits = Limits::new().tasks(10).memory(64 << 20);
    let profile = Profile::new().limits(limits);
    let many = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 60 & done; echo started";
    let command = Confined::new(&helper, profile.clone(), "/bin/sh").args(["-c", many]);
    let said = says(&command.env("PATH", "/usr/bin:/bin")).await;
    assert!(said.contains("fork"), "{said}");
    let hog = "head -c 200000000 /dev/zero | tail -c 100000000 | wc -c";
    let said = says(&bash(&helper, profile, hog)).await;
    assert!(!said.contains("100000000"), "{said}");
}

/// Prints the number of a daemon that left its parent, its session and its group, then goes on.
const DAEMON: &str = "setsid bash -c 'trap \"\" TERM; echo $BASHPID; while :; do sleep 1; done' & \
                      sleep 0.1; disown -a; ";

async fn first_line(child: &mut paas_sandbox::Child) -> u32 {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap().parse().unwrap()
}

async fn ends(pid: u32) {
    let ended = async {
        while procfs::Stat::of(pid).is_some_and(|stat| !stat.ended()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the process is still there");
}

#[tokio::test]
async fn dropping_it_ends_daemons_too() {
    let helper = helper();
    if !able("control groups", helper.abilities().unwrap().groups) {
        return;
    }
    let command =
        bash(&helper, Profile::new(), &format!("{DAEMON} sleep 600")).grace(Duration::from_millis(50));
    let mut child = command.spawn().unwrap();
    let (program, daemon) = (child.id(), first_line(&mut child).await);
    assert!(procfs::Stat::of(daemon).is_some());
    drop(child);
    ends(program).await;
    ends(daemon).await;
}

#[tokio::test]
async fn its_end_is_the_end_of_all_it_started() {
    let helper = helper();
    if !able("control groups", helper.abilities().unwrap().groups) {
        return;
    }
    let mut child = bash(&helper, Profile::new(), &format!("{DAEMON} sleep 0.1; exit 7")).spawn().unwrap();
    let daemon = first_line(&mut child).await;
    assert_eq!(child.wait().await.unwrap().code(), Some(7));
    assert!(procfs::Stat::of(daemon).is_none_or(|stat| stat.ended()), "{daemon} is still there");
}

#[tokio::test]
async fn term_is_tried_before_kill() {
    let helper = helper();
    let mut polite =
        bash(&helper, Profile::new(), "trap 'exit 3' TERM; echo 1; while :; do sleep 0.05; done")
            .spawn_with(Stdio::null(), Stdio::piped(), Stdio::null())
            .unwrap();
    first_line(&mut polite).await;
    assert_eq!(polite.stop(Duration::from_secs(20)).await.unwrap().code(), Some(3));
    let mut deaf = bash(&helper, Profile::new(), "trap '' TERM; echo 1; while :; do sleep 0.05; done")
        .spawn_with(Stdio::null(), Stdio::piped(), Stdio::null())
        .unwrap();
    first_line(&mut deaf).await;
    let status = deaf.stop(Duration::from_millis(50)).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error_and_its_own_status_125_is_not() {
    let helper = helper();
    let mut child = Confined::new(&helper, Profile::new(), "/no/such/program").spawn().unwrap();
    let error = child.wait().await.unwrap_err();
    assert!(matches!(&error, Error::Program { program, .. } if program == "/no/such/program"), "{error}");
    let status = bash(&helper, Profile::new(), "exit 125").output().await.unwrap().status;
    assert_eq!(status.code(), Some(125));
}

#[tokio::test]
async fn a_host_that_never_called_init_is_told_so() {
    assert!(matches!(Helper::current(), Err(Error::NotInitialised)));
}
