//! Logs in files: written by several processes, rotated, read along.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures_util::StreamExt as _;
use paas_core::testkit::logs::{conformance, conformance_of_the_bound};
use paas_core::{AppName, Clock as _, LogLine, LogQuery, LogSource, Logs, SystemClock};
use paas_run::logs::{FileLogs, LogBounds, LogFile};

fn line(process: &str, text: impl Into<String>) -> LogLine {
    LogLine::new(SystemClock::new().now(), LogSource::App, process, text)
}

fn app() -> AppName {
    "hello".parse().expect("a valid name")
}

async fn texts(logs: &FileLogs) -> Vec<String> {
    let lines = logs.read(&app(), LogQuery::all()).await.expect("readable");
    lines.map(|line| line.text).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn file_logs_conform() {
    let folder = tempfile::tempdir().unwrap();
    conformance(Arc::new(FileLogs::open(folder.path(), LogBounds::default()).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_logs_conform_in_segments_of_a_few_lines() {
    let folder = tempfile::tempdir().unwrap();
    conformance(Arc::new(FileLogs::open(folder.path(), LogBounds::new(1_000, 1_000)).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_too_slow_is_told_how_much_it_missed() {
    let folder = tempfile::tempdir().unwrap();
    let logs = FileLogs::open(folder.path(), LogBounds::new(3, 20_000)).unwrap();
    conformance_of_the_bound(Arc::new(logs), 5_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_there_after_a_restart_and_the_log_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    for start in 0..3 {
        let logs = FileLogs::open(folder.path(), LogBounds::default()).unwrap();
        logs.append(&app(), line("web.1", format!("start {start}")));
    }
    let logs = FileLogs::open(folder.path(), LogBounds::default()).unwrap();
    assert_eq!(texts(&logs).await, ["start 0", "start 1", "start 2"]);
}

const WRITER: &str = "PAAS_TEST_LOG_WRITER";
const EACH: usize = 3_000;

/// Not a test of its own: this is what the processes of the next test run.
#[test]
fn writer_process() {
    let Some(job) = std::env::var_os(WRITER) else { return };
    let job = job.into_string().unwrap();
    let (writer, folder) = job.split_once(' ').unwrap();
    let log = LogFile::open(Path::new(folder), LogBounds::new(500, 10_000)).unwrap();
    for number in 0..EACH {
        log.append(&line(writer, format!("{writer} {number}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_write_one_log_and_rotation_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let logs = FileLogs::open(folder.path(), LogBounds::new(500, 10_000)).unwrap();
    let mut follower = logs.read(&app(), LogQuery::all().follow()).await.unwrap();
    let mut writers: Vec<_> = (0..3)
        .map(|writer| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "writer_process"])
                .env(WRITER, format!("{writer} {}", logs.folder(&app()).display()))
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for number in 0..EACH {
        logs.append(&app(), line("engine", format!("engine {number}")));
    }
    let mut followed = Vec::new();
    while followed.len() < 4 * EACH {
        followed.push(follower.next().await.unwrap().text);
    }
    for writer in &mut writers {
        assert!(writer.wait().unwrap().success());
    }
    assert_eq!(followed, texts(&logs).await, "who followed and who came later see one order");
    for writer in ["0", "1", "2", "engine"] {
        let own = followed.iter().filter_map(|text| text.strip_prefix(writer)?.strip_prefix(' '));
        let numbers: Vec<usize> = own.map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "every line of {writer}, once, in order");
    }
    assert!(fs::read_dir(logs.folder(&app())).unwrap().count() > 20, "it did rotate");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_keeps_within_its_bound_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let logs = FileLogs::open(folder.path(), LogBounds::new(3, 10_000)).unwrap();
    let log = LogFile::open(&logs.folder(&app()), logs.bounds()).unwrap();
    for number in 0..2_000 {
        log.append(&line("web.1", format!("line {number}")));
    }
    let sizes: Vec<u64> = fs::read_dir(logs.folder(&app()))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert!(sizes.len() <= 3 && sizes.iter().all(|size| *size < 11_000), "{sizes:?}");
    assert_eq!(texts(&logs).await.last().map(String::as_str), Some("line 1999"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_cut_short_by_a_kill_takes_no_other_line_with_it() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let logs = FileLogs::open(folder.path(), LogBounds::default()).unwrap();
    let path = logs.folder(&app());
    let log = LogFile::open(&path, logs.bounds()).unwrap();
    log.append(&line("web.1", "before"));
    let segment = fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
    let mut torn = fs::OpenOptions::new().append(true).open(segment).unwrap();
    torn.write_all(b"\x1e{\"at\":\"2026-01-0").unwrap();
    log.append(&line("web.1", "after"));
    assert_eq!(texts(&logs).await, ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_is_split_and_control_characters_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let logs = FileLogs::open(folder.path(), LogBounds::default()).unwrap();
    let text = "ü".repeat(LogLine::MAX_BYTES);
    logs.append(&app(), line("web.1", text.clone()));
    logs.append(&app(), line("web.1", "a\nb\u{1e}\r\tc"));
    let lines = texts(&logs).await;
    assert_eq!(lines[..2].concat(), text);
    assert_eq!(lines[2..], ["ab\tc"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_log_was_forgotten_begins_a_new_one_that_a_follower_sees() {
    let folder = tempfile::tempdir().unwrap();
    let logs = FileLogs::open(folder.path(), LogBounds::default()).unwrap();
    let log = LogFile::open(&logs.folder(&app()), logs.bounds()).unwrap();
    log.append(&line("web.1", "old"));
    let mut follower = logs.read(&app(), LogQuery::all().follow()).await.unwrap();
    assert_eq!(follower.next().await.unwrap().text, "old");
    logs.forget(&app()).await.unwrap();
    log.append(&line("web.1", "new"));
    assert_eq!(follower.next().await.unwrap().text, "new");
    assert_eq!(texts(&logs).await, ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_cannot_be_written_are_counted_and_told_later() {
    let folder = tempfile::tempdir().unwrap();
    let logs = FileLogs::open(folder.path(), LogBounds::default()).unwrap();
    let path = logs.folder(&app());
    let log = LogFile::open(&path, logs.bounds()).unwrap();
    log.append(&line("web.1", "before"));
    // A file where the folder was: nothing can be written, whoever runs this test.
    fs::rename(&path, folder.path().join("away")).unwrap();
    fs::remove_dir_all(folder.path().join("away")).unwrap();
    fs::write(&path, "in the way").unwrap();
    for number in 0..7 {
        log.append(&line("web.1", format!("lost {number}")));
    }
    fs::remove_file(&path).unwrap();
    log.append(&line("web.1", "after"));
    let lines = texts(&logs).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("7 lines"), "{lines:?}");
    assert_eq!(lines[1], "after");
}
