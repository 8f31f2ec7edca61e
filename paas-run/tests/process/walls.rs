//! What an app must not reach, and where its secrets must not lie.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use paas_core::{ConfigVars, RunSpec, Runtime};

use crate::support::{IDLE, alive, ctx, empty, open, pid_of, spec, up};
use crate::world::{World, slug};

#[tokio::test]
async fn neither_the_engines_data_nor_a_neighbours_files_can_be_read() {
    let world = World::new();
    // Open to the world, so that only the walls keep them.
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let key = world.dir.path().join("master.key");
    fs::write(&key, "canary-key").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let runtime = open(&world).await;
    let secret = slug(&*world.blobs, world.dir.path(), &[("secret", "canary-neighbour")]).await;
    let env = ConfigVars::new().with("TOKEN", "canary-environment").unwrap();
    let victim =
        spec("victim", "worker", &format!("echo canary-tmp > /tmp/x; {IDLE}"), &secret).with_env(env);
    runtime.ensure(&ctx(&world), &victim).await.unwrap();
    let neighbour = up(&runtime, "victim", 1).await;
    let (program, shim) = (pid_of(&neighbour[0], "pid"), pid_of(&neighbour[0], "shim"));
    let root = world.dir.path().display();
    let command = format!(
        "cat {root}/master.key; grep -r canary {root} /tmp /var/tmp /app 2>/dev/null; \
         for p in {program} {shim} $PPID; do cat /proc/$p/environ /proc/$p/root{root}/master.key \
         /proc/$p/cwd/secret; ls /proc/$p/fd; kill -9 $p; done; echo looked everywhere"
    );
    let attacker = spec("attacker", "release", &command, &empty(&world).await);
    let exit = runtime.run_once(&ctx(&world), &RunSpec::new(attacker)).await.unwrap();
    assert!(exit.output.iter().any(|line| line == "looked everywhere"), "{exit:#?}");
    let found: Vec<_> = exit.output.iter().filter(|line| line.contains("canary")).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(alive(program) && alive(shim), "a neighbour was killed");
    runtime.forget(&ctx(&world), &victim.app).await.unwrap();
}

#[tokio::test]
async fn secrets_are_on_no_disk_and_in_no_arguments() {
    let world = World::new();
    let runtime = open(&world).await;
    let env = ConfigVars::new().with("TOKEN", "canary-4b1e77").unwrap();
    let spec = spec("discreet", "worker", IDLE, &empty(&world).await).with_env(env);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    let seen = up(&runtime, "discreet", 1).await;
    let grep = Command::new("grep").args(["-rl", "canary-4b1e77"]).arg(world.dir.path()).output().unwrap();
    assert!(grep.stdout.is_empty(), "{}", String::from_utf8_lossy(&grep.stdout));
    for which in ["pid", "shim"] {
        let arguments = fs::read(format!("/proc/{}/cmdline", pid_of(&seen[0], which))).unwrap();
        assert!(!String::from_utf8_lossy(&arguments).contains("canary"));
    }
    assert!(!format!("{runtime:?}").contains("canary"));
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
}
