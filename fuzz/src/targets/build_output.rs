//! What a build prints: no secret gets to anybody's eyes, however the output is cut into pieces and lines.

use std::sync::Arc;

use paas_core::{LogLine, Redactor};
use tokio::io::BufReader;

use super::logs::Kept;
use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "build_output",
    run,
    words: &[
        "s3cret-value",
        "hunter2hunter2",
        "s3cret",
        "-value",
        "\r",
        "\n",
        "\0",
        "\u{1b}[1m",
        "\u{1}",
        "xxxxxxxxxxxxxxxx",
        "\u{e9}",
    ],
};

/// The input: a line of secrets with spaces between them, then output. The first byte says how large the pieces and the
/// parts of long lines are.
fn run(input: &[u8]) -> String {
    let (first, rest) = input.split_first().unwrap_or((&1, b""));
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (secrets, output) = rest.split_at(end);
    let secrets = String::from_utf8_lossy(secrets).into_owned();
    let mut redactor = Redactor::new();
    secrets.split(' ').for_each(|secret| redactor.learn_value(secret));

    let kept = Arc::new(Kept::default());
    let log = kept.writer(redactor);
    let size = usize::from(*first) + 1;
    let output = BufReader::with_capacity(size, output);
    let shown =
        super::block_on(paas_build::fuzzing::lines(output, size * 4, &log)).expect("memory can be read");
    let lines = kept.lines();
    for line in &lines {
        assert!(line.len() <= LogLine::MAX_BYTES, "a line of {} bytes", line.len());
    }
    for line in shown.iter().chain(&lines) {
        assert!(
            !line.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\u{1b}')),
            "{line:?} moves a cursor"
        );
    }
    let redacted = lines.iter().any(|line| line.contains("[redacted]"));
    for secret in secrets.split(' ').flat_map(super::secrets) {
        let seen = lines.iter().chain(&shown).any(|line| line.contains(secret));
        assert!(!seen, "{secret:?} is seen");
        // Nor by whoever puts the parts of a long line together again; what stands where a secret was tells nothing.
        let joined = lines.concat();
        assert!(!joined.contains(secret) || shown.len() > 1 || redacted, "{secret:?} is seen in two parts");
    }
    format!("{} lines, {} shown, {redacted}", super::few(lines.len()), super::few(shown.len()))
}
