//! Whether an instance is well: a web process answers on a socket of its own, another one stays up.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use paas_core::{Clock, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::launcher::{Label, Launcher, Process};

/// How long one HTTP answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is well; web listens here.
    Up(Option<SocketAddr>),
    /// It was not well in time, for this reason.
    Late(String),
}

/// Looks until the instance is well or its time is over.
pub(super) async fn check(
    launcher: &dyn Launcher,
    clock: &dyn Clock,
    label: &Label,
    process: &Process,
) -> Result<Verdict> {
    let health = &label.health;
    let age = age(clock, process.started_at);
    let Some(port) = process.port.filter(|_| label.name.process.is_web()) else {
        sleep(health.settle.saturating_sub(age)).await;
        return Ok(Verdict::Up(None));
    };
    let begun = Instant::now();
    // One that was adopted late is looked at before it is judged.
    let left = health.timeout.saturating_sub(age).max(ANSWER.min(health.timeout));
    let mut said = None;
    let well = async {
        loop {
            let looked = Instant::now();
            let found = launcher.listening(process.id, port).await?;
            let cost = looked.elapsed();
            if let Some(address) = found {
                match &health.path {
                    None => return Ok(address),
                    Some(path) => match get(address, path).await {
                        Ok(()) => return Ok(address),
                        Err(answer) => said = Some(answer),
                    },
                }
            }
            // On a machine with many sockets a look is dear: never spend more than a fifth of the time on it.
            sleep(pause(begun.elapsed()).max(cost * 4)).await;
        }
    };
    match timeout(left, well).await {
        Ok(address) => address.map(|address| Verdict::Up(Some(address))),
        Err(_) => Ok(Verdict::Late(late(health.path.as_deref(), said.as_deref(), health.timeout))),
    }
}

fn age(clock: &dyn Clock, since: DateTime<Utc>) -> Duration {
    (clock.now() - since).to_std().unwrap_or_default()
}

/// Every millisecond of a boot is a millisecond until the app is live: look often at first.
fn pause(waited: Duration) -> Duration {
    Duration::from_millis(match waited.as_millis() {
        0..2_000 => 2,
        2_000..10_000 => 10,
        _ => 100,
    })
}

/// Heroku's words where it has them.
fn late(path: Option<&str>, said: Option<&str>, limit: Duration) -> String {
    let limit = match limit.as_millis() {
        ms if ms % 1000 == 0 => format!("{} seconds", ms / 1000),
        ms => format!("{ms} milliseconds"),
    };
    match (path, said) {
        (Some(path), Some(said)) => {
            format!("health check failed: GET {path} {said}, for {limit} since launch")
        }
        _ => format!(
            "Error R10 (Boot timeout) -> Web process failed to bind to $PORT within {limit} of launch"
        ),
    }
}

/// One GET, answered by 2xx or 3xx; otherwise what it did instead, in words.
async fn get(address: SocketAddr, path: &str) -> std::result::Result<(), String> {
    if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("is not a path".into());
    }
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: paas-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        // `HTTP/1.1 200` is all that is needed.
        let mut start = [0; 12];
        stream.read_exact(&mut start).await?;
        Ok::<_, std::io::Error>(start)
    };
    let start = match timeout(ANSWER, answer).await {
        Err(_) => return Err(format!("gave no answer in {} seconds", ANSWER.as_secs())),
        Ok(Err(e)) => return Err(format!("got no answer ({e})")),
        Ok(Ok(start)) => start,
    };
    let status = std::str::from_utf8(&start).ok().filter(|text| text.starts_with("HTTP/1."));
    match status.and_then(|text| text[9..].parse::<u16>().ok()) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("answered {status}")),
        None => Err("gave an answer that is not HTTP".into()),
    }
}
