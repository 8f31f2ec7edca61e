use std::sync::Arc;

use paas_core::{AppName, MemoryLogs, Redactor, testkit};

use super::super::wire::put;
use super::*;

struct Case {
    logs: Arc<MemoryLogs>,
    app: AppName,
    steps: Steps,
}

impl Case {
    fn new() -> Self {
        let (logs, app) = (Arc::new(MemoryLogs::new()), "steps".parse().unwrap());
        let mut redactor = Redactor::new();
        redactor.learn_value("hunter2hunter3");
        let log = testkit::context(&logs, &app, "build").log.redacting(redactor);
        Self { logs, app, steps: Steps::new(log) }
    }

    async fn shown(&self) -> Vec<String> {
        testkit::texts(&*self.logs, &self.app).await
    }

    /// One line of the daemon's with this part of its progress.
    fn tell(&mut self, field: u8, part: &[u8]) {
        let mut status = Vec::new();
        put(&mut status, field, part);
        let line = serde_json::json!({"id": "moby.buildkit.trace", "aux": STANDARD.encode(status)});
        self.steps.take(line.to_string().as_bytes());
    }

    fn step(&mut self, name: &str, cached: bool, error: &str) {
        let mut vertex = Vec::new();
        put(&mut vertex, 1, name.as_bytes());
        put(&mut vertex, 3, name.as_bytes());
        vertex.extend_from_slice(&[4 << 3, u8::from(cached)]);
        put(&mut vertex, 5, b"");
        if !error.is_empty() {
            put(&mut vertex, 7, error.as_bytes());
        }
        self.tell(1, &vertex);
    }

    fn print(&mut self, step: &str, text: &str) {
        let mut log = Vec::new();
        put(&mut log, 1, step.as_bytes());
        put(&mut log, 4, text.as_bytes());
        self.tell(3, &log);
    }
}

#[tokio::test]
async fn each_step_is_headed_and_its_lines_stand_below() {
    let mut case = Case::new();
    case.step("[internal] load build definition from Dockerfile", false, "");
    case.step("[1/2] FROM busybox", true, "");
    case.step("[2/2] RUN make", false, "");
    case.print("[2/2] RUN make", "one\ntw");
    case.print("[2/2] RUN make", "o\n10%\r100%\n");
    case.step("exporting to image", false, "");
    case.steps.take(br#"{"id":"moby.image.id","aux":{"ID":"sha256:abc"}}"#);
    assert_eq!(
        case.shown().await,
        [
            "-----> [1/2] FROM busybox (cached)",
            "-----> [2/2] RUN make",
            "       one",
            "       two",
            "       100%"
        ]
    );
    assert_eq!(case.steps.done().unwrap(), "sha256:abc");
}

#[tokio::test]
async fn a_step_that_turns_out_to_be_cached_is_headed_once_and_a_silent_one_after_a_moment() {
    let mut case = Case::new();
    case.step("[1/2] RUN a", false, "");
    case.step("[1/2] RUN a", true, "");
    case.step("[2/2] RUN b", false, "");
    assert_eq!(case.shown().await, ["-----> [1/2] RUN a (cached)"]);
    case.steps.idle();
    case.step("[2/2] RUN b", false, "");
    assert_eq!(case.shown().await, ["-----> [1/2] RUN a (cached)", "-----> [2/2] RUN b"]);
}

#[tokio::test]
async fn lines_of_steps_that_run_side_by_side_say_whose_they_are() {
    let mut case = Case::new();
    case.step("[a 1/1] RUN a", false, "");
    case.step("[b 1/1] RUN b", false, "");
    case.print("[a 1/1] RUN a", "1\n");
    case.print("[b 1/1] RUN b", "2\n");
    case.print("[a 1/1] RUN a", "3\n");
    let (one, two) = ("-----> [a 1/1] RUN a", "-----> [b 1/1] RUN b");
    let again = format!("{one}, going on");
    assert_eq!(case.shown().await, [one, "       1", two, "       2", &again, "       3"]);
}

#[tokio::test]
async fn a_secret_that_comes_in_two_parts_is_not_shown() {
    let mut case = Case::new();
    case.step("[a 1/1] RUN a", false, "");
    case.print("[a 1/1] RUN a", &format!("{}hunter2", "x".repeat(LINE - 7)));
    case.print("[a 1/1] RUN a", "hunter3\n");
    let shown = case.shown().await.join("");
    assert!(!shown.contains("hunter"), "{}", &shown[shown.len() - 60..]);
}

#[test]
fn a_failed_step_is_named_with_its_exit_code_and_its_last_lines() {
    let mut case = Case::new();
    case.step("[2/2] RUN make", false, "");
    case.print("[2/2] RUN make", "make: no rule");
    case.step("[2/2] RUN make", false, "executor failed running [/bin/sh -c make]: exit code: 2");
    case.steps.take(br#"{"errorDetail":{"message":"x"},"error":"failed to solve"}"#);
    let error = case.steps.done().unwrap_err();
    assert_eq!((error.code(), error.message()), (ErrorCode::BuildFailed, "[2/2] RUN make ended with 2"));
    assert_eq!(error.output(), ["make: no rule"]);
}

#[test]
fn why_there_is_no_image_decides_whether_it_is_tried_again() {
    for (why, code) in [
        ("failed to solve: dockerfile parse error line 2: unknown instruction: RUM", ErrorCode::BuildFailed),
        ("failed to copy: write /var/lib/docker/x: no space left on device", ErrorCode::DiskFull),
        ("failed to do request: Head \"https://x/v2/\": dial tcp: i/o timeout", ErrorCode::Unavailable),
    ] {
        let mut case = Case::new();
        case.steps.take(serde_json::json!({"error": why}).to_string().as_bytes());
        assert_eq!(case.steps.done().unwrap_err().code(), code, "{why}");
    }
    assert_eq!(Case::new().steps.done().unwrap_err().retry(), Retry::Backoff);
}

#[tokio::test]
async fn the_classic_builders_steps_look_the_same() {
    let mut case = Case::new();
    for text in
        ["Step 1/2 : FROM x\n", " ---> 0123\n", "Step 2/2 : RUN y\n", " ---> Using cache\n", "hello\n"]
    {
        case.steps.take(serde_json::json!({"stream": text}).to_string().as_bytes());
    }
    case.steps.take(br#"{"aux":{"ID":"sha256:abc"}}"#);
    assert_eq!(
        case.shown().await,
        ["-----> [1/2] FROM x", "-----> [2/2] RUN y", "       (cached)", "       hello"]
    );
    assert_eq!(case.steps.done().unwrap(), "sha256:abc");
}
