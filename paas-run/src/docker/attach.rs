//! A container with somebody sitting at it: `heroku run`.
//!
//! ```text
//! Console.input  ──┐                            ┌── standard input
//!                  ├──one connection to daemon──┤
//! Console.output ──┘  (framed without terminal) └── standard output and error
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error as Client;
use bollard::query_parameters::{KillContainerOptions, ResizeContainerTTYOptions};
use paas_core::{Console, Control, Error, ErrorCode, Redactor, Result, Window};
use paas_docker::{bollard, failed, nothing, unframed};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::census::{State, time};
use super::container::Held;
use super::launcher::DockerLauncher;
use super::record::Record;
use super::start::Made;
use crate::supervisor::{Kill, Launch, LaunchId};

const DOING: &str = "can't sit down at a container";

/// How often whoever stays is told that nobody sits there any more, as on Heroku.
const HANGUPS: u32 = 3;

impl DockerLauncher {
    /// Starts it with its input and output in the caller's hands.
    pub(super) async fn start_attached(&self, launch: &Launch, window: Option<Window>) -> Result<Console> {
        let held = if window.is_some() { Held::Terminal } else { Held::Pipes };
        let made = self.make(launch, Some(held)).await?;
        // Before it starts, so that nothing it prints is missed.
        let path = format!("/containers/{}/attach?stream=1&stdin=1&stdout=1&stderr=1", made.container);
        let headers = [("connection", "Upgrade"), ("upgrade", "tcp")];
        let sat_down =
            async { self.docker.ask(DOING, &path, &headers, nothing()).await?.upgraded(DOING).await };
        let (io, connection) = match sat_down.await {
            Ok(sat_down) => sat_down,
            Err(e) => {
                self.give_up(launch.id, Some(made.container)).await?;
                return Err(e);
            }
        };
        self.begin(launch, &made.container).await?;
        let Made { record, container, .. } = &made;
        let control = Attached {
            launcher: self.clone(),
            id: launch.id,
            container: container.clone(),
            record: record.clone(),
            redactor: Redactor::knowing(&launch.spec.env),
            left: AtomicBool::new(false),
            tasks: Handle::current(),
            _connection: connection,
        };
        if let Some(window) = window {
            control.resize(window).await?;
        }
        let (output, input) = tokio::io::split(io);
        Ok(match held {
            Held::Terminal => Console::new(input, output, control),
            Held::Pipes => Console::new(input, unframed(output), control),
        })
    }

    /// Ends one at which nobody sits any more, because the engine was killed that it was reached by.
    pub(super) fn hang_up_if_left(&self, id: LaunchId, container: &str, record: &Record) {
        let detached = self.notes.get(id).is_some_and(|note| note.detached.is_some());
        if record.is_attached() && !detached {
            self.hang_up(id, container.to_owned(), record.clone());
        }
    }

    /// Tells it that nobody sits there any more, and ends it if it stays.
    fn hang_up(&self, id: LaunchId, container: String, record: Record) {
        let launcher = self.clone();
        self.spawn(Some(async move {
            let pause = record.label.grace() / 6;
            for _ in 0..HANGUPS {
                let options = KillContainerOptions { signal: "SIGHUP".into() };
                match launcher.docker.client().kill_container(&container, Some(options)).await {
                    Ok(()) | Err(Client::DockerResponseServerError { .. }) => {}
                    Err(e) => tracing::warn!(error = %failed("can't hang up", e), "it is tried again"),
                }
                if launcher.has_ended_within(id, pause).await {
                    return;
                }
            }
            launcher.say(
                &record.label,
                "Error R16 (Detached) -> An attached process is not responding to SIGHUP after its external \
                 connection was closed.",
            );
            if let Err(e) = launcher.begin_end(id, Kill::Term).await {
                // Its time ends it, or the next start of the engine.
                tracing::warn!(error = %e, launch.id = %id, "a command that nobody sits at can't be ended");
            }
        }));
    }

    async fn has_ended_within(&self, id: LaunchId, pause: Duration) -> bool {
        // An error says that nothing is kept of it: it has ended.
        timeout(pause, self.census.ended(id)).await.is_ok()
    }
}

/// Who sits at a container.
#[derive(Debug)]
struct Attached {
    launcher: DockerLauncher,
    id: LaunchId,
    container: String,
    record: Record,
    redactor: Redactor,
    /// Left to itself.
    left: AtomicBool,
    /// Where what is begun at the drop runs, wherever that happens.
    tasks: Handle,
    _connection: AbortOnDropHandle<()>,
}

impl Attached {
    fn has_ended(&self) -> bool {
        self.launcher.census.get(self.id).is_none_or(|row| row.state() >= State::Ended)
    }
}

#[async_trait]
impl Control for Attached {
    async fn resize(&self, window: Window) -> Result<()> {
        let options = ResizeContainerTTYOptions { h: window.rows.into(), w: window.columns.into() };
        match self.launcher.docker.client().resize_container_tty(&self.container, options).await {
            // It has no terminal, or has ended, of which the census may not have heard yet.
            Ok(()) | Err(Client::DockerResponseServerError { .. }) => Ok(()),
            Err(e) => Err(failed("can't resize a terminal", e)),
        }
    }

    async fn detach(&self) -> Result<()> {
        if self.has_ended() || self.left.load(Ordering::SeqCst) {
            return Ok(());
        }
        let info = self.launcher.docker.client().info().await;
        let now = info.map_err(|e| failed("can't ask Docker for the time", e))?.system_time;
        let now = now
            .as_deref()
            .and_then(time)
            .ok_or_else(|| Error::new(ErrorCode::Unsupported, "this Docker doesn't say what time it is"))?;
        self.launcher.notes.change(self.id, true, move |note| note.detached = Some(now)).await?;
        self.left.store(true, Ordering::SeqCst);
        let (container, redactor) = (self.container.clone(), self.redactor.clone());
        let copy = self.launcher.output.copy(self.id, container, &self.record, redactor, Some(now), false);
        self.launcher.spawn(copy);
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.left.load(Ordering::SeqCst) && !self.has_ended() {
            let _tasks = self.tasks.enter();
            self.launcher.hang_up(self.id, self.container.clone(), self.record.clone());
        }
    }
}
