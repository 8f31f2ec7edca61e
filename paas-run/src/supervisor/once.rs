//! Commands that run once to their end: the release phase, what somebody runs by hand.

use std::sync::Arc;
use std::time::Duration;

use paas_core::{
    CancelReason, Console, Context, Error, ErrorCode, Exit, InstanceName, Redactor, Result, RunSpec,
    Runtime as _, Window,
};
use tokio::time::timeout;

use super::launcher::{CutOff, End, Found, Kill, Label, Launch, LaunchId, Launcher, Once};
use super::{Shared, Supervisor};

/// Whoever waits for a command ends it in time and says so; one that nobody waits for is ended this much later.
const SLACK: Duration = Duration::from_secs(5);

impl<L: Launcher> Supervisor<L> {
    /// As [`Runtime::run_once`](paas_core::Runtime::run_once) says.
    pub(super) async fn once(&self, ctx: &Context, spec: &RunSpec) -> Result<Exit> {
        ctx.cancel.check()?;
        let launcher = &self.shared.launcher;
        let mut id = LaunchId::of_key(&ctx.key);
        let mut found = self.launch_once(ctx, id, spec).await?;
        while found.end.as_ref().is_some_and(|end| end.cut_off == Some(CutOff::BeforeStart)) {
            // Nothing of it ever ran, so this is still the first time.
            launcher.forget(id).await?;
            id = id.next();
            found = self.launch_once(ctx, id, spec).await?;
        }
        let redactor = Redactor::knowing(&spec.process.env);
        if let Some(end) = found.end {
            return self.ended(id, end, &redactor).await;
        }
        let age = (self.shared.clock.now() - found.process.started_at).to_std().unwrap_or_default();
        let left = spec.timeout.saturating_sub(age);
        let cancelled = tokio::select! {
            biased;
            waited = timeout(left, launcher.wait(id)) => match waited {
                Ok(end) => return self.ended(id, end?, &redactor).await,
                Err(_) => None,
            },
            reason = ctx.cancel.cancelled() => Some(reason),
        };
        match cancelled {
            // It goes on: the next engine, or the one that has the work now, waits for it by the same key.
            Some(reason @ (CancelReason::Shutdown | CancelReason::LeaseLost)) => Err(reason.into()),
            Some(reason) => {
                self.stop_once(id).await?;
                Err(reason.into())
            }
            None => {
                self.stop_once(id).await?;
                let seconds = spec.timeout.as_secs();
                Err(Error::new(ErrorCode::Timeout, format!("the command took longer than {seconds} seconds")))
            }
        }
    }

    /// Launches it, or finds the launch that was made for this key.
    async fn launch_once(&self, ctx: &Context, id: LaunchId, spec: &RunSpec) -> Result<Found> {
        let launcher = &self.shared.launcher;
        if let Some(found) = launcher.find(id).await? {
            return Ok(found);
        }
        let launch = self.command(ctx, id, spec, false);
        let label = launch.label.clone();
        let launched =
            self.apart(move |launcher| async move { launcher.launcher.launch(launch).await }).await;
        match launched {
            Ok(process) => Ok(Found::new(label, process)),
            Err(e) if e.code() == ErrorCode::Exists => launcher.find(id).await?.ok_or(e),
            Err(e) => Err(e),
        }
    }

    /// As [`Runtime::attach`](paas_core::Runtime::attach) says.
    pub(super) async fn console(
        &self,
        ctx: &Context,
        spec: &RunSpec,
        window: Option<Window>,
    ) -> Result<Console> {
        ctx.cancel.check()?;
        let launch = self.command(ctx, LaunchId::of_key(&ctx.key), spec, true);
        let (id, label) = (launch.id, launch.label.clone());
        let console = self.apart(move |shared| async move { shared.launcher.attach(launch, window).await });
        let console = console.await?;
        if let Some(found) = self.shared.launcher.find(id).await? {
            self.see_to_its_end(&Found { label, ..found });
        }
        Ok(console)
    }

    /// Work that goes on when whoever asked for it is gone: a launch that is given up halfway could leave a process that
    /// nobody knows.
    async fn apart<T: Send + 'static, F: Future<Output = Result<T>> + Send>(
        &self,
        work: impl FnOnce(Arc<Shared<L>>) -> F + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::spawn(async move { work(shared).await }).await;
        done.unwrap_or_else(|e| {
            Err(Error::new(ErrorCode::Internal, "launching a command failed").with_source(e))
        })
    }

    fn command(&self, ctx: &Context, id: LaunchId, spec: &RunSpec, attached: bool) -> Launch {
        let process = &spec.process;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let label = Label {
            app: process.app.clone(),
            app_id: process.app_id,
            release: process.release,
            version: process.version,
            name: InstanceName::new(process.process.clone(), 1),
            artifact: process.artifact.digest,
            digest: self.spec_digest(process),
            health: process.health.clone(),
            grace_ms: millis(process.grace),
            restarts: 0,
            crashes: 0,
            once: Some(Once { workflow: ctx.key.workflow, timeout_ms: millis(spec.timeout), attached }),
        };
        Launch { id, label, spec: Arc::new(process.clone()) }
    }

    /// Ends it when its time is over and removes what it leaves behind, also where nobody waits for it any more.
    pub(super) fn see_to_its_end(&self, found: &Found) {
        let Some(once) = &found.label.once else { return };
        let shared = Arc::clone(&self.shared);
        let (id, ended) = (found.process.id, found.end.is_some());
        let age = (shared.clock.now() - found.process.started_at).to_std().unwrap_or_default();
        let left = Duration::from_millis(once.timeout_ms).saturating_add(SLACK).saturating_sub(age);
        tokio::spawn(async move {
            let launcher = &shared.launcher;
            let over = async {
                if !ended && timeout(left, launcher.wait(id)).await.is_err() {
                    launcher.kill(id, Kill::Term).await?;
                    launcher.wait(id).await?;
                }
                launcher.forget(id).await
            };
            let over = tokio::select! {
                biased;
                () = shared.closed.cancelled() => return,
                over = over => over,
            };
            if let Err(e) = over {
                // The next start of the engine tries again.
                tracing::warn!(error = %e, launch.id = %id, "what a command left behind can't be removed");
            }
        });
    }

    /// Ends a one-off command and waits until it has ended.
    pub(super) async fn stop_once(&self, id: LaunchId) -> Result<()> {
        self.shared.launcher.kill(id, Kill::Term).await?;
        self.shared.launcher.wait(id).await?;
        self.shared.launcher.forget(id).await
    }

    /// What the command left behind is removed, and its end is kept.
    async fn ended(&self, id: LaunchId, end: End, redactor: &Redactor) -> Result<Exit> {
        self.shared.launcher.forget(id).await?;
        let Some(mut exit) = end.exit else {
            let why = end.reason.unwrap_or_else(|| "the machine or its helper process was stopped".into());
            return Err(Error::new(
                ErrorCode::ReleasePhaseFailed,
                format!(
                    "the command was started, but how it ended is not known ({why}); it is not run again: deploy again"
                ),
            ));
        };
        exit.output = exit.output.iter().map(|line| redactor.redact(line)).collect();
        Ok(exit)
    }
}
