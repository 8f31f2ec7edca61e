//! Running the build's shell: its output line by line as it comes, its end, and an end to it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use paas_core::{ConfigVars, Context, Error, ErrorCode, LogWriter, Redactor, Result};
use paas_sandbox::Confined;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

/// Lines of output that an error carries.
const TAIL: usize = 20;
/// A longer line is shown in parts, in bytes.
const LINE: usize = 32 * 1024;
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How it ended, and what it said last.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) tail: Vec<String>,
    /// It reached its limit of memory.
    pub(super) out_of_memory: bool,
}

/// Runs the command to its end. When it is cancelled or takes too long, it and everything it started is gone before
/// this returns.
pub(super) async fn run(
    ctx: &Context,
    log: &LogWriter,
    command: &Confined,
    config: &ConfigVars,
    timeout: Duration,
) -> Result<Ended> {
    let failed = |e: paas_sandbox::Error| {
        Error::new(ErrorCode::Internal, "the build's sandbox can't be made").with_source(e)
    };
    let mut child = command.spawn_with(stdin(config)?, Stdio::piped(), Stdio::null()).map_err(failed)?;
    let mut tail = VecDeque::new();
    let output = child.stdout.take();
    let ended = {
        let reading = async {
            match output {
                Some(output) => copy(BufReader::new(output), log, &mut tail).await,
                None => Ok(()),
            }
        };
        // Waiting ends what outlives the shell, and so the output too.
        let running = async { tokio::join!(child.wait(), reading) };
        ctx.cancel.guard(tokio::time::timeout(timeout, running)).await
    };
    let tail = Vec::from(tail);
    match ended {
        Ok(Ok((status, read))) => {
            read.map_err(|e| Error::from_io("can't read the build's output", e))?;
            Ok(Ended { status: status.map_err(failed)?, tail, out_of_memory: child.out_of_memory() })
        }
        Ok(Err(_)) => {
            child.stop(GRACE).await.map_err(failed)?;
            Err(late(timeout, tail))
        }
        Err(cancelled) => {
            child.stop(GRACE).await.map_err(failed)?;
            Err(cancelled)
        }
    }
}

/// Copies what the build says to its log, line by line, and keeps the last lines.
pub(super) async fn copy(
    output: impl AsyncBufRead + Unpin,
    log: &LogWriter,
    tail: &mut VecDeque<String>,
) -> io::Result<()> {
    let mut lines = Lines::new(output, log.redactor(), LINE);
    while let Some(line) = lines.next().await? {
        log.line(&line);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(log.shown(&line));
    }
    Ok(())
}

/// What is said of a build that took too long.
pub(super) fn late(timeout: Duration, tail: Vec<String>) -> Error {
    let minutes = timeout.as_secs_f64() / 60.0;
    let message = format!("the build took longer than {minutes:.0} minutes and was stopped");
    Error::new(ErrorCode::Timeout, message).with_output(tail)
}

/// Config vars as the shell reads them: `NAME NUL VALUE NUL`.
pub(super) fn vars(config: &ConfigVars) -> Vec<u8> {
    let parts = config.iter().flat_map(|(key, value)| [key.as_str(), value.expose()]);
    parts.flat_map(|part| part.bytes().chain([0])).collect()
}

/// Config vars for the shell to read: in a file that exists only in memory.
fn stdin(config: &ConfigVars) -> Result<File> {
    let failed = |e| Error::from_io("can't hand config vars to the build", e);
    let memory = rustix::fs::memfd_create("paas-config", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(memory.map_err(|e| failed(e.into()))?);
    file.write_all(&vars(config)).and_then(|()| file.rewind()).map_err(failed)?;
    Ok(file)
}

/// Output line by line as it comes.
#[derive(Debug)]
pub(super) struct Lines<'a, R> {
    output: R,
    secrets: &'a Redactor,
    /// A longer line is given in parts, in bytes.
    longest: usize,
    /// The beginning of the next line, where the last was cut before it.
    held: Vec<u8>,
}

impl<'a, R: AsyncBufRead + Unpin> Lines<'a, R> {
    pub(super) fn new(output: R, secrets: &'a Redactor, longest: usize) -> Self {
        Self { output, secrets, longest, held: Vec::new() }
    }

    /// The next line, or as much of it as is shown at once, with secrets still in it but never cut in two. Of a line that
    /// was drawn over again and again, such as a progress bar, the last state is left.
    pub(super) async fn next(&mut self) -> io::Result<Option<String>> {
        let mut line = std::mem::take(&mut self.held);
        let mut any = !line.is_empty();
        loop {
            let chunk = self.output.fill_buf().await?;
            if chunk.is_empty() {
                break;
            }
            any = true;
            let room = self.longest.saturating_sub(line.len()).max(1);
            let end = chunk.iter().take(room).position(|byte| *byte == b'\n');
            let taken = end.unwrap_or_else(|| chunk.len().min(room));
            line.extend_from_slice(&chunk[..taken]);
            self.output.consume(taken + usize::from(end.is_some()));
            if end.is_some() {
                break;
            }
            if line.len() >= self.longest {
                let cut = self.secrets.cut(&line);
                if cut > 0 {
                    self.held = line.split_off(cut);
                    break;
                }
            }
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\r');
        Ok(any.then(|| text.rsplit('\r').next().unwrap_or(text).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_where_they_end_and_where_they_are_too_long() {
        let long = "x".repeat(LINE + 5);
        let text = format!("a\r\n\n10%\r20%\r100%\n{long}\nend");
        let secrets = Redactor::new();
        let mut output = Lines::new(BufReader::with_capacity(100, text.as_bytes()), &secrets, LINE);
        let mut lines = Vec::new();
        while let Some(line) = output.next().await.unwrap() {
            lines.push(line);
        }
        assert_eq!(lines[..3], ["a", "", "100%"]);
        assert_eq!(lines[3].len(), LINE);
        assert_eq!(lines[4..], ["xxxxx", "end"]);
    }

    #[tokio::test]
    async fn no_secret_is_cut_in_two() {
        let mut secrets = Redactor::new();
        secrets.learn_value("hunter2hunter3");
        let text = format!("{}hunter2hunter3 and {}", "x".repeat(LINE - 7), "more");
        let mut output = Lines::new(BufReader::new(text.as_bytes()), &secrets, LINE);
        let first = output.next().await.unwrap().unwrap();
        assert_eq!(first.len(), LINE - 7);
        let second = output.next().await.unwrap().unwrap();
        assert_eq!(secrets.redact(&second), "[redacted] and more");
        assert_eq!(output.next().await.unwrap(), None);
    }
}
