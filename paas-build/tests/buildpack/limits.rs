//! Builds that take too much, and builds that are stopped.

use std::fs;
use std::time::Duration;

use paas_core::{Builder, CancelReason, ErrorCode, LogQuery, Logs};
use paas_sandbox::{Helper, Limits};

use crate::world::{World, text};

#[tokio::test]
async fn a_build_that_takes_too_long_is_stopped_with_all_it_started() {
    let world = World::with(|config| config.with_timeout(Duration::from_secs(3))).await;
    let pack = world.compiling("slow", "(setsid sleep 987654 &) ; echo started; sleep 987654");
    let error = world.app(&[]).packs(&[&pack]).build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout);
    assert_eq!(error.output(), ["-----> slow app detected", "started"]);
    assert!(!runs("987654"));
}

#[tokio::test]
async fn a_build_that_needs_too_much_memory_is_killed_and_told_so() {
    let helper = Helper::at(env!("CARGO_BIN_EXE_paas-build-helper"));
    if !helper.abilities().unwrap().memory {
        assert!(std::env::var_os("CI").is_none(), "no memory controller");
        eprintln!("SKIPPED, it needs control groups that limit memory");
        return;
    }
    let world = World::with(|config| config.with_limits(Limits::new().memory(64 << 20))).await;
    let greedy = world.compiling("greedy", "set -o pipefail; head -c 1G /dev/zero | tail -c 512M | wc -c");
    let error = world.app(&[("a", "")]).packs(&[&greedy]).build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::BuildFailed);
    assert!(error.message().ends_with("more memory than the 64 MB that a build may use"), "{error}");
    let modest = world.compiling("modest", "true");
    let built = world.app(&[("Procfile", "web: a")]).packs(&[&modest]).build().await;
    built.expect("one that needs less is built");
}

#[tokio::test]
async fn a_slug_beyond_the_limit_is_refused() {
    let world = World::with(|config| config.with_slug_bytes(10_000)).await;
    let random = world.compiling("random", "head -c 20000 /dev/urandom >$1/x");
    let sparse = world.compiling("sparse", "truncate -s 1T $1/x");
    for pack in [random, sparse] {
        let error = world.app(&[]).packs(&[&pack]).build().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::LimitExceeded, "{error}");
    }
}

#[tokio::test]
async fn a_cancelled_build_leaves_neither_a_process_nor_a_changed_cache() {
    let world = World::new().await;
    let pack = world.compiling(
        "stuck",
        "(setsid sleep 876543 &); ls $2 >$1/had; touch $2/dirty; echo ready; [ -f $1/quick ] || sleep 876543",
    );
    let app = world.app(&[]).packs(&[&pack]);
    let context = world.context();
    let mut lines = world.logs.read(&"sample".parse().unwrap(), LogQuery::all().follow()).await.unwrap();
    let request = app.request();
    let watching = async {
        use futures_util::StreamExt;
        while lines.next().await.unwrap().text != "ready" {}
        context.cancel.cancel(CancelReason::User);
    };
    let (built, ()) = tokio::join!(world.builder.build(&context, &request), watching);
    assert_eq!(built.unwrap_err().code(), ErrorCode::Cancelled);
    assert!(!runs("876543"));
    app.write("quick", "");
    let artifact = app.build().await.unwrap();
    assert_eq!(text(world.unpacked(&artifact).path(), "had"), "");
}

/// Whether a process has this among its arguments.
fn runs(argument: &str) -> bool {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    processes.into_iter().any(|line| line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes()))
}
