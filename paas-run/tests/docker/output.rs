//! What containers print.

use paas_core::{ConfigVars, RunSpec, Runtime};

use crate::support::{Kind, World, spec};

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_doubled_or_torn_while_engines_come_and_go() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let image = world.image(&[], |_| {}).await;
    let command =
        "i=0; while [ $i -lt 20000 ]; do echo line $i is whole; i=$((i+1)); done; echo all said; sleep 600";
    let worker = spec("chatty", "worker", command, &image);
    let mut runtime = world.runtime().await;
    runtime.ensure(&world.ctx(), &worker).await.unwrap();
    for _ in 0..5 {
        drop(runtime);
        runtime = world.runtime().await;
    }
    world.line("chatty", "all said").await;
    let said: Vec<_> =
        world.lines("chatty").await.into_iter().filter(|line| line.starts_with("line ")).collect();
    let wanted: Vec<_> = (0..20_000).map(|i| format!("line {i} is whole")).collect();
    assert!(said == wanted, "{} lines of {}", said.len(), wanted.len());
    runtime.forget(&world.ctx(), &worker.app).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_printed_last_before_an_end_is_in_the_log_also_when_no_engine_was_there() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let image = world.image(&[], |_| {}).await;
    let command = "echo first; sleep 1; i=0; while [ $i -lt 500 ]; do echo last $i; i=$((i+1)); done; echo -n no end; exit 3";
    let run = RunSpec::new(spec("brief", "release", command, &image));
    let ctx = world.ctx();
    {
        let runtime = world.runtime().await;
        tokio::select! {
            ended = runtime.run_once(&ctx, &run) => panic!("it ended before it was to be left alone: {ended:?}"),
            _ = world.line("brief", "first") => {}
        }
    }
    // It ends while nobody looks.
    let id = world.containers().await.remove(0);
    world.until_ended(&id).await;
    let runtime = world.runtime().await;
    let exit = runtime.run_once(&ctx, &run).await.unwrap();
    assert_eq!((exit.status, exit.output.last().map(String::as_str)), (3, Some("no end")));
    let said = world.lines("brief").await;
    let last: Vec<_> = said.iter().filter(|line| line.starts_with("last ")).cloned().collect();
    assert!(last == (0..500).map(|i| format!("last {i}")).collect::<Vec<_>>(), "{} lines", last.len());
    assert_eq!(said.iter().filter(|line| *line == "first").count(), 1);
    let end = said.iter().position(|line| line == "no end").unwrap();
    let told = said.iter().position(|line| line == "Process exited with status 3").unwrap();
    assert!(end < told, "the end is told before the last line");
    runtime.forget(&world.ctx(), &run.process.app).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_many_pieces_is_kept_in_parts_in_order_and_a_commands_secrets_are_taken_out() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let image = world.image(&[], |_| {}).await;
    let env = ConfigVars::new().with("TOKEN", "canary-77aa01ffee").unwrap();
    let command = "printf 'begin '; head -c 50000 /dev/zero | tr '\\0' x; echo \" $TOKEN end\"; echo on stderr >&2; exit 0";
    let run = RunSpec::new(spec("long", "release", command, &image).with_env(env));
    let exit = runtime.run_once(&world.ctx(), &run).await.unwrap();
    assert_eq!(exit.status, 0);
    let said = world.lines("long").await;
    let parts: Vec<_> =
        said.iter().filter(|line| line.contains("xxxx") && !line.contains("printf")).collect();
    let whole: String = parts.iter().map(|part| part.as_str()).collect();
    assert_eq!(whole, format!("begin {} [redacted] end", "x".repeat(50_000)), "{} parts", parts.len());
    assert!(said.iter().any(|line| line == "on stderr"), "{}", said.len());
    runtime.forget(&world.ctx(), &run.process.app).await.unwrap();
}
