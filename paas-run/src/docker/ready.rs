//! Whether a container answers where it was told to.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions};
use futures_util::StreamExt;
use paas_core::Result;
use paas_docker::{Docker, bollard, failed};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Reach;
use super::census::Row;

/// How long a connection may take: on the way to the same machine it takes no time, and a first packet that is lost is
/// sent again only after a second.
const CONNECT: Duration = Duration::from_millis(250);

/// How long a check of the image's own may take if it doesn't say.
pub(super) const CHECK: Duration = Duration::from_secs(30);

/// Docker's own proxy on loopback accepts for everybody, and closes at once if nobody listens behind it.
const PROXY: Duration = Duration::from_millis(50);

/// Where it listens, once it does. A container's address is its own, so whoever answers there is the container.
pub(super) async fn listening(docker: &Docker, row: &Row, reach: Reach) -> Result<Option<SocketAddr>> {
    let Some(address) = row.address else { return Ok(None) };
    if !answers(address, reach).await {
        return Ok(None);
    }
    let asks_itself = row.record.label.health.path.is_none();
    if let (Some(check), Some(container), true) = (&row.record.check, &row.container, asks_itself)
        && !passes(docker, container, check.clone()).await?
    {
        return Ok(None);
    }
    Ok(Some(address))
}

async fn answers(address: SocketAddr, reach: Reach) -> bool {
    let Ok(Ok(mut stream)) = timeout(CONNECT, TcpStream::connect(address)).await else { return false };
    match reach {
        Reach::Container => true,
        Reach::Loopback => {
            let mut byte = [0];
            match timeout(PROXY, stream.read(&mut byte)).await {
                Err(_) => true,
                Ok(Ok(read)) => read > 0,
                Ok(Err(e)) => e.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// Runs the image's own check in the container, as Docker would, but at once and not every thirty seconds.
async fn passes(docker: &Docker, container: &str, check: Vec<String>) -> Result<bool> {
    let doing = "can't run an image's health check";
    let options = CreateExecOptions {
        cmd: Some(check),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = match docker.client().create_exec(container, options).await {
        Ok(exec) => exec.id,
        // It ended right now.
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {
            return Ok(false);
        }
        Err(e) => return Err(failed(doing, e)),
    };
    let started = docker.client().start_exec(&exec, None::<StartExecOptions>).await;
    if let bollard::exec::StartExecResults::Attached { mut output, .. } =
        started.map_err(|e| failed(doing, e))?
    {
        let through = async { while output.next().await.is_some() {} };
        if timeout(CHECK, through).await.is_err() {
            return Ok(false);
        }
    }
    let ended = docker.client().inspect_exec(&exec).await.map_err(|e| failed(doing, e))?;
    Ok(ended.exit_code == Some(0))
}
