//! Running the build's shell: its output line by line as it comes, its end, and an end to it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Seek, Write};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use paas_core::{ConfigVars, Context, Error, ErrorCode, LogWriter, Result};
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
            let Some(output) = output else { return Ok(()) };
            let mut output = BufReader::new(output);
            while let Some(line) = next_line(&mut output).await? {
                log.line(&line);
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(log.redactor().redact(&line));
            }
            Ok::<_, std::io::Error>(())
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
            let minutes = timeout.as_secs_f64() / 60.0;
            let message = format!("the build took longer than {minutes:.0} minutes and was stopped");
            Err(Error::new(ErrorCode::Timeout, message).with_output(tail))
        }
        Err(cancelled) => {
            child.stop(GRACE).await.map_err(failed)?;
            Err(cancelled)
        }
    }
}

/// Config vars for the shell to read: in a file that exists only in memory, `NAME NUL VALUE NUL`.
fn stdin(config: &ConfigVars) -> Result<File> {
    let failed = |e| Error::from_io("can't hand config vars to the build", e);
    let memory = rustix::fs::memfd_create("paas-config", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(memory.map_err(|e| failed(e.into()))?);
    for (key, value) in config.iter() {
        for part in [key.as_str(), value.expose()] {
            file.write_all(part.as_bytes()).and_then(|()| file.write_all(&[0])).map_err(failed)?;
        }
    }
    file.rewind().map_err(failed)?;
    Ok(file)
}

/// The next line, or as much of it as is shown at once. Of a line that was drawn over again and again, such as a progress
/// bar, the last state is left.
async fn next_line(output: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut any = false;
    loop {
        let chunk = output.fill_buf().await?;
        if chunk.is_empty() {
            break;
        }
        any = true;
        let room = LINE - line.len();
        let end = chunk.iter().take(room).position(|byte| *byte == b'\n');
        let taken = end.unwrap_or_else(|| chunk.len().min(room));
        line.extend_from_slice(&chunk[..taken]);
        output.consume(taken + usize::from(end.is_some()));
        if end.is_some() || line.len() == LINE {
            break;
        }
    }
    let text = String::from_utf8_lossy(&line);
    let text = text.trim_end_matches('\r');
    Ok(any.then(|| text.rsplit('\r').next().unwrap_or(text).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_where_they_end_and_where_they_are_too_long() {
        let long = "x".repeat(LINE + 5);
        let text = format!("a\r\n\n10%\r20%\r100%\n{long}\nend");
        let mut output = BufReader::with_capacity(100, text.as_bytes());
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut output).await.unwrap() {
            lines.push(line);
        }
        assert_eq!(lines[..3], ["a", "", "100%"]);
        assert_eq!(lines[3].len(), LINE);
        assert_eq!(lines[4..], ["xxxxx", "end"]);
    }
}
