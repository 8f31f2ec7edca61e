//! Commands with somebody at their terminal.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::{PATIENCE, RuntimeWorld, Subject};
use crate::{CancelReason, Console, Context, ErrorCode, LogQuery, LogSource, RunSpec, Window};

pub(super) async fn conformance(world: &dyn RuntimeWorld) {
    a_terminal_is_one_and_changes_its_size(world).await;
    an_interrupt_reaches_the_command(world).await;
    pipes_are_no_terminal_and_end(world).await;
    one_that_is_left_to_itself_goes_on_and_is_in_the_log(world).await;
    one_that_nobody_sits_at_any_more_ends(world).await;
    one_whose_engine_is_killed_ends(world).await;
}

pub(super) async fn is_refused(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-no-attach", &[]).await;
    let spec = subject.command("echo never");
    let window = Some(Window::new(80, 24));
    let error = subject.runtime().attach(&subject.ctx(), &spec, window).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
    subject.forget().await;
}

impl Subject<'_> {
    fn command(&self, command: &str) -> RunSpec {
        RunSpec::new(self.spec("run", command).with_grace(Duration::from_secs(6)))
    }

    async fn attach(&self, ctx: &Context, spec: &RunSpec) -> Console {
        self.runtime().attach(ctx, spec, Some(Window::new(80, 24))).await.unwrap()
    }

    /// What the platform says of the command.
    async fn told(&self, wanted: &str) {
        let told = async {
            loop {
                let lines = self.world.logs().read(&self.app.0, LogQuery::all()).await.unwrap();
                let lines: Vec<_> = lines.collect().await;
                let platform = |line: &crate::LogLine| line.source == LogSource::Platform;
                if lines.iter().any(|line| platform(line) && line.text.contains(wanted)) {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("nobody says {wanted:?}"));
    }

    async fn status(&self, ctx: &Context, spec: &RunSpec) -> i32 {
        timeout(PATIENCE, self.runtime().run_once(ctx, spec)).await.expect("it ends").unwrap().status
    }
}

/// Reads until this was printed.
async fn shown(console: &mut Console, wanted: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            if console.output.read_buf(&mut seen).await.unwrap() == 0 {
                break;
            }
        }
    };
    let in_time = timeout(PATIENCE, reading).await.is_ok();
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(in_time && seen.contains(wanted), "{wanted:?} was not shown, but {seen:?}");
    seen
}

async fn a_terminal_is_one_and_changes_its_size(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-terminal", &[]).await;
    let spec = subject.command(
        "test -t 0 && test -t 1 && test -t 2 && echo a terminal; read x; stty size; read x; stty size; exit 7",
    );
    let ctx = subject.ctx();
    let mut console = subject.attach(&ctx, &spec).await;
    shown(&mut console, "a terminal").await;
    console.input.write_all(b"\n").await.unwrap();
    shown(&mut console, "24 80").await;
    console.control.resize(Window::new(132, 40)).await.unwrap();
    console.input.write_all(b"\n").await.unwrap();
    shown(&mut console, "40 132").await;
    assert_eq!(subject.status(&ctx, &spec).await, 7);
    let again = subject.runtime().attach(&ctx, &spec, None).await.unwrap_err();
    assert_eq!(again.code(), ErrorCode::Exists, "{again}");
    assert_eq!(subject.status(&ctx, &spec).await, 7);
    console.control.resize(Window::new(80, 24)).await.unwrap();
    drop(console);
    subject.told("Process exited with status 7").await;
    assert_eq!(subject.lines().await, Vec::<String>::new(), "what somebody saw is in the log");
    subject.forget().await;
}

async fn an_interrupt_reaches_the_command(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-interrupt", &[]).await;
    let spec = subject.command("trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done");
    let ctx = subject.ctx();
    let mut console = subject.attach(&ctx, &spec).await;
    shown(&mut console, "ready").await;
    console.input.write_all(b"\x03").await.unwrap();
    shown(&mut console, "caught").await;
    assert_eq!(subject.status(&ctx, &spec).await, 9);
    subject.forget().await;
}

async fn pipes_are_no_terminal_and_end(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-pipes", &[]).await;
    let spec = subject.command("test -t 0 || echo no terminal; echo aside >&2; cat; exit 4");
    let ctx = subject.ctx();
    let mut console = subject.runtime().attach(&ctx, &spec, None).await.unwrap();
    let typed = "0123456789abcdef".repeat(8192);
    let mut seen = String::new();
    let reading = console.output.read_to_string(&mut seen);
    let writing = async {
        console.input.write_all(typed.as_bytes()).await.unwrap();
        console.input.shutdown().await.unwrap();
    };
    let (read, ()) = timeout(PATIENCE, async { tokio::join!(reading, writing) }).await.expect("it ends");
    read.unwrap();
    assert!(seen.contains("no terminal\n") && seen.contains("aside\n"), "{}", &seen[..50.min(seen.len())]);
    assert!(seen.contains(&typed), "{} of {} bytes came back", seen.len(), typed.len());
    assert_eq!(subject.status(&ctx, &spec).await, 4);
    subject.forget().await;
}

async fn one_that_is_left_to_itself_goes_on_and_is_in_the_log(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-detach", &[]).await;
    let spec = subject.command("echo seen only; read x; while :; do echo said alone; sleep 0.1; done");
    let ctx = subject.ctx();
    let mut console = subject.attach(&ctx, &spec).await;
    shown(&mut console, "seen only").await;
    console.control.detach().await.unwrap();
    console.input.write_all(b"\n").await.unwrap();
    drop(console);
    subject.line("said alone").await;
    let lines = subject.lines().await;
    assert!(!lines.iter().any(|line| line.contains("seen only")), "{lines:#?}");
    let run = subject.runtime().run_once(&ctx, &spec);
    let (ended, ()) = tokio::join!(run, async { ctx.cancel.cancel(CancelReason::User) });
    assert_eq!(ended.unwrap_err().code(), ErrorCode::Cancelled, "it went on");
    subject.forget().await;
}

async fn one_that_nobody_sits_at_any_more_ends(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-gone", &[]).await;
    for (trap, status) in [("", 129), ("trap 'exit 5' HUP; ", 5), ("trap '' HUP; trap 'exit 6' TERM; ", 6)] {
        let spec = subject.command(&format!("{trap}echo ready; while :; do sleep 0.1; done"));
        let ctx = subject.ctx();
        let mut console = subject.attach(&ctx, &spec).await;
        shown(&mut console, "ready").await;
        drop(console);
        assert_eq!(subject.status(&ctx, &spec).await, status, "{trap}");
    }
    subject.told("Error R16 (Detached)").await;
    subject.forget().await;
}

async fn one_whose_engine_is_killed_ends(world: &dyn RuntimeWorld) {
    let mut subject = Subject::new(world, "conf-left", &[]).await;
    let spec = subject.command("echo ready; while :; do sleep 0.1; done");
    let ctx = subject.ctx();
    let mut console = subject.attach(&ctx, &spec).await;
    shown(&mut console, "ready").await;
    subject.crash().await;
    assert_eq!(subject.status(&ctx, &spec).await, 129);
    drop(console);
    subject.forget().await;
}
