//! The conformance suite of [`Logs`]: what any place that keeps logs must do.
//!
//! Call [`conformance`] from a test of yours with an empty store of logs, and [`conformance_of_the_bound`] with one
//! that keeps little. Both panic with a sentence that says what does not hold.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use crate::{AppName, Clock as _, LogLine, LogQuery, LogSource, Logs, SystemClock, WorkflowId};

/// How long a line may take to reach a reader: far more than it takes, so that a busy machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Checks everything but the size bound. At most 2,000 short lines of one app are written.
///
/// # Panics
/// With what does not hold.
pub async fn conformance(logs: Arc<dyn Logs>) {
    an_app_that_never_spoke_has_no_lines(&*logs).await;
    what_was_written_is_read_in_order(&*logs).await;
    apps_do_not_see_each_other(&*logs).await;
    a_query_filters_and_takes_the_last(&*logs).await;
    a_line_keeps_all_that_it_says(&*logs).await;
    a_follower_gets_what_is_there_and_what_comes(&*logs).await;
    all_followers_see_one_order_of_many_writers(&logs).await;
    a_forgotten_log_is_empty_and_can_begin_anew(&*logs).await;
}

/// Checks what a reader that is too slow is told. The logs given must keep fewer than `lines` lines of 100 characters.
///
/// # Panics
/// With what does not hold.
pub async fn conformance_of_the_bound(logs: Arc<dyn Logs>, lines: usize) {
    let app = app("bounded");
    append(&*logs, &app, "first");
    let mut slow = read(&*logs, &app, LogQuery::all().follow()).await;
    assert_eq!(next(&mut slow).await.text, "first", "a follower begins with what is there");
    let filler = "x".repeat(92);
    for number in 0..lines {
        append(&*logs, &app, &format!("{number:07} {filler}"));
    }
    append(&*logs, &app, "last");

    let mut numbers: Vec<usize> = Vec::new();
    let mut missed = 0;
    loop {
        let line = next(&mut slow).await;
        match line.text.split(' ').next().unwrap_or_default().parse() {
            Ok(number) if line.source == LogSource::App => numbers.push(number),
            _ if line.text == "last" => break,
            _ => missed += told(&line),
        }
    }
    assert!(numbers.is_sorted(), "a slow reader sees lines in order");
    assert_eq!(
        numbers.len() + missed,
        lines,
        "lines that a slow reader gets and lines it is told it missed are all"
    );

    let kept = texts(&*logs, &app, LogQuery::all()).await;
    assert!(kept.len() < lines, "the log keeps within its bound, but has {} lines", kept.len());
    assert_eq!(kept.last().map(String::as_str), Some("last"), "the newest lines are the ones that are kept");
}

/// How many lines the reader missed: the first number in the platform's line.
fn told(line: &LogLine) -> usize {
    assert_eq!(line.source, LogSource::Platform, "who missed lines is told by the platform, not by {line}");
    let digits = |word: &str| word.parse().ok();
    line.text
        .split_whitespace()
        .find_map(digits)
        .unwrap_or_else(|| panic!("{line} says how many were missed"))
}

async fn an_app_that_never_spoke_has_no_lines(logs: &dyn Logs) {
    let lines = texts(logs, &app("silent"), LogQuery::all()).await;
    assert!(lines.is_empty(), "an app that never spoke has no lines, but there are {lines:?}");
}

async fn what_was_written_is_read_in_order(logs: &dyn Logs) {
    let app = app("ordered");
    let written: Vec<String> = (0..500).map(|number| format!("line {number}")).collect();
    for text in &written {
        append(logs, &app, text);
    }
    assert_eq!(texts(logs, &app, LogQuery::all()).await, written, "lines are read as they were written");
}

async fn apps_do_not_see_each_other(logs: &dyn Logs) {
    let (one, other) = (app("near"), app("near-2"));
    append(logs, &one, "of one");
    append(logs, &other, "of the other");
    assert_eq!(texts(logs, &one, LogQuery::all()).await, ["of one"], "an app has its own lines only");
    logs.forget(&one).await.expect("a log can be forgotten");
    assert_eq!(
        texts(logs, &other, LogQuery::all()).await,
        ["of the other"],
        "forgetting one app spares another"
    );
}

async fn a_query_filters_and_takes_the_last(logs: &dyn Logs) {
    let app = app("filtered");
    let workflow = WorkflowId::new();
    let at = SystemClock::new().now();
    for number in 0..10 {
        logs.append(&app, LogLine::new(at, LogSource::App, "web.1", format!("web.1 {number}")));
        logs.append(&app, LogLine::new(at, LogSource::App, "web.2", format!("web.2 {number}")));
        logs.append(&app, LogLine::new(at, LogSource::Platform, "router", format!("router {number}")));
    }
    logs.append(&app, LogLine::new(at, LogSource::App, "build", "compiled").during(workflow));

    assert_eq!(texts(logs, &app, LogQuery::all().process("web.2").last(2)).await, ["web.2 8", "web.2 9"]);
    assert_eq!(
        texts(logs, &app, LogQuery::all().process("web")).await.len(),
        20,
        "a type means all its processes"
    );
    let mut of_platform = LogQuery::all().last(1);
    of_platform.source = Some(LogSource::Platform);
    assert_eq!(texts(logs, &app, of_platform).await, ["router 9"]);
    assert_eq!(texts(logs, &app, LogQuery::all().workflow(workflow)).await, ["compiled"]);
    assert_eq!(
        texts(logs, &app, LogQuery::all().last(1_000)).await.len(),
        31,
        "there are no more than there are"
    );
    assert!(texts(logs, &app, LogQuery::all().last(0)).await.is_empty(), "the last 0 lines are none");

    let mut new = read(logs, &app, LogQuery::all().last(0).follow()).await;
    append(logs, &app, "new");
    assert_eq!(next(&mut new).await.text, "new", "who follows from the last 0 lines gets new ones only");
}

async fn a_line_keeps_all_that_it_says(logs: &dyn Logs) {
    let app = app("exact");
    let at = SystemClock::new().now();
    let text = "tab\there, \u{1b}[31mred\u{1b}[0m, \"quoted\" \\ {json} Grüße 🚀";
    let line = LogLine::new(at, LogSource::Platform, "release", text).during(WorkflowId::new());
    logs.append(&app, line.clone());
    let mut lines = read(logs, &app, LogQuery::all()).await;
    assert_eq!(next(&mut lines).await, line, "a line comes back as it was given");
}

async fn a_follower_gets_what_is_there_and_what_comes(logs: &dyn Logs) {
    let app = app("followed");
    append(logs, &app, "before");
    let mut lines = read(logs, &app, LogQuery::all().follow()).await;
    assert_eq!(next(&mut lines).await.text, "before");
    for number in 0..100 {
        append(logs, &app, &format!("during {number}"));
        assert_eq!(next(&mut lines).await.text, format!("during {number}"), "a new line reaches who follows");
    }
}

async fn all_followers_see_one_order_of_many_writers(logs: &Arc<dyn Logs>) {
    const WRITERS: usize = 4;
    const EACH: usize = 250;
    let app = app("crowded");
    let mut followers = Vec::new();
    for _ in 0..2 {
        followers.push(read(&**logs, &app, LogQuery::all().follow()).await);
    }
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (logs, app) = (Arc::clone(logs), app.clone());
            tokio::task::spawn_blocking(move || {
                for number in 0..EACH {
                    append(&*logs, &app, &format!("{writer} {number}"));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("appending doesn't panic");
    }
    let mut orders = Vec::new();
    for follower in &mut followers {
        let mut order = Vec::new();
        for _ in 0..WRITERS * EACH {
            order.push(next(follower).await.text);
        }
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1], "every reader sees one order");
    assert_eq!(orders[0], texts(&**logs, &app, LogQuery::all()).await, "and it is the order that is kept");
    for writer in 0..WRITERS {
        let own: Vec<_> = orders[0].iter().filter(|text| text.starts_with(&format!("{writer} "))).collect();
        let expected: Vec<_> = (0..EACH).map(|number| format!("{writer} {number}")).collect();
        assert!(own.into_iter().eq(&expected), "the lines of one writer keep their order");
    }
}

async fn a_forgotten_log_is_empty_and_can_begin_anew(logs: &dyn Logs) {
    let app = app("forgotten");
    append(logs, &app, "old");
    logs.forget(&app).await.expect("a log can be forgotten");
    logs.forget(&app).await.expect("forgetting what isn't there is no error");
    assert!(texts(logs, &app, LogQuery::all()).await.is_empty(), "a forgotten log is empty");
    append(logs, &app, "new");
    assert_eq!(texts(logs, &app, LogQuery::all()).await, ["new"], "it begins anew");
    logs.forget(&app).await.expect("a log can be forgotten again");
}

fn app(name: &str) -> AppName {
    name.parse().expect("the suite's names are valid")
}

fn append(logs: &dyn Logs, app: &AppName, text: &str) {
    logs.append(app, LogLine::new(SystemClock::new().now(), LogSource::App, "web.1", text));
}

async fn read(logs: &dyn Logs, app: &AppName, query: LogQuery) -> BoxStream<'static, LogLine> {
    logs.read(app, query).await.expect("logs can be read")
}

async fn next(lines: &mut BoxStream<'static, LogLine>) -> LogLine {
    let line = tokio::time::timeout(PATIENCE, lines.next()).await;
    line.expect("a line comes within 30 s").expect("who follows is never at the end")
}

async fn texts(logs: &dyn Logs, app: &AppName, query: LogQuery) -> Vec<String> {
    let lines = read(logs, app, query).await.map(|line| line.text).collect();
    tokio::time::timeout(PATIENCE, lines).await.expect("reading what is there ends within 30 s")
}
