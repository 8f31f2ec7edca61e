//! What the hook asks: may git accept this push? It may once its deploy is live.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use paas_core::archive::{self, Limits};
use paas_core::{
    CancelReason, DeployOrder, Digest, Error, ErrorCode, LogLine, LogQuery, LogSource, Release, Result,
    Revision, StepName, Subject, WorkflowHandle, WorkflowState,
};
use tokio::io::AsyncWriteExt;

use super::door::Order;
use super::git::cant_start;
use super::session::{Landing, Session};
use super::updates::{Update, plan};
use super::voice::Voice;
use super::{Inner, source};

/// Why a push is not accepted.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: Error,
    /// The step of the deploy that failed.
    pub(crate) step: Option<StepName>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, step: None }
    }
}

/// How long a deploy that can't begin waits until the pusher hears of it.
const SILENCE: Duration = Duration::from_secs(1);
/// How long the last lines of a log may take to come.
const LAST_LINES: Duration = Duration::from_secs(2);

impl Inner {
    /// Decides on a push, whose deploy is live when this is `Ok`.
    pub(crate) async fn pre_receive(
        &self,
        session: &Session,
        order: Order,
        voice: &mut Voice,
    ) -> Result<(), Refusal> {
        let plan = plan(order.updates.clone(), &self.options.deploy_branches)?;
        if session.is_first {
            voice.line(&format!("-----> Created app {}", session.app)).await;
        }
        for branch in plan.kept {
            let deploys = self.options.deploy_branches.join(" or ");
            voice
                .line(&format!("-----> Skipping deploy: {branch} is kept, only {deploys} is deployed"))
                .await;
        }
        let Some((branch, update)) = plan.deploy else { return Ok(()) };
        source::unmoved(session.repo.branch(&branch)?.as_ref(), &update.old, &branch)?;
        let turn = if self.live(session).await?.is_some_and(|live| is_of(&live, &update)) {
            self.only_move(session, &branch, &update, voice).await?
        } else {
            None
        };
        let turn = match turn {
            Some(turn) => turn,
            None => self.deploy(session, &branch, &update, &order, voice).await?,
        };
        session.land(Landing { branch, to: update.new, turn });
        Ok(())
    }

    async fn live(&self, session: &Session) -> Result<Option<Release>> {
        match self.engine.app(&session.app).await?.live {
            Some(live) => self.engine.release(&session.app, live.version).await.map(Some),
            None => Ok(None),
        }
    }

    /// The commit is live already, so only the branch must follow; `None` if that changed when the turn came.
    async fn only_move(
        &self,
        session: &Session,
        branch: &str,
        update: &Update,
        voice: &mut Voice,
    ) -> Result<Option<paas_core::Turn>> {
        let turn = self.engine.take_turn(&session.app).await?;
        session.stop.guard(turn.keep()).await??;
        source::unmoved(session.repo.branch(branch)?.as_ref(), &update.old, branch)?;
        let Some(live) = self.live(session).await?.filter(|live| is_of(live, update)) else {
            return Ok(None);
        };
        voice.line(&format!("-----> {} is live already, as {}", update.new.short(), live.version)).await;
        voice.line(&format!("       Nothing to deploy, {branch} follows")).await;
        Ok(Some(turn))
    }

    async fn deploy(
        &self,
        session: &Session,
        branch: &str,
        update: &Update,
        order: &Order,
        voice: &mut Voice,
    ) -> Result<paas_core::Turn, Refusal> {
        let (app, engine) = (&session.app, &self.engine);
        // Said before anything is archived; the deploy's own transaction looks again.
        if let Some(freeze) = engine.frozen(app).await? {
            return Err(freeze.refusal().into());
        }
        let prepared = async {
            tokio::try_join!(
                self.revision(session, branch, update, order),
                self.archive(session, update, order),
                engine.take_turn(app),
                // From here on: the deploy's own lines are yet to come.
                engine.read_log(app, LogQuery::all().last(0).follow()),
            )
        };
        let ((revision, submodules), tree, turn, log) = session.stop.guard(prepared).await??;
        if submodules {
            voice.complain("Submodules are not fetched: their folders are empty").await;
        }
        let source = source::reference(session.app_id, update, tree, revision);
        let order = DeployOrder::new(source).during(&turn);
        let handle = engine.deploy(app, order, &session.by).await?;
        let watch = Watch { inner: self, session, handle, log, voice };
        watch.until_live(update).await.map(|()| turn)
    }

    /// What is known of the commit, and whether it has submodules.
    async fn revision(
        &self,
        session: &Session,
        branch: &str,
        update: &Update,
        order: &Order,
    ) -> Result<(Revision, bool)> {
        let mut cat = self.repos.git().command(&session.repo.path);
        cat.args(["cat-file", "--batch"]).envs(order.quarantine.iter().cloned());
        cat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = cat.spawn().map_err(cant_start)?;
        let failed = |e| Error::from_io("can't read the commit", e);
        if let Some(mut stdin) = child.stdin.take() {
            let ask = format!("{0}\n{0}:.gitmodules\n", update.new);
            stdin.write_all(ask.as_bytes()).await.map_err(failed)?;
        }
        let said = child.wait_with_output().await.map_err(failed)?.stdout;
        let said = String::from_utf8_lossy(&said);
        let (head, rest) = said.split_once('\n').unwrap_or_default();
        if head.split(' ').nth(1) != Some("commit") {
            let what = format!(
                "{branch} must be a commit, and {} is none. If it is a tag, push its commit: TAG^{{}}:{branch}",
                update.new.short()
            );
            return Err(Error::new(ErrorCode::BadSource, what));
        }
        let submodules = !said.trim_end().ends_with(":.gitmodules missing");
        let mut revision = described(rest);
        revision.id = Some(update.new.to_string());
        revision.branch = Some(branch.to_owned());
        Ok((revision, submodules))
    }

    /// Archives the pushed tree into `Blobs`.
    async fn archive(&self, session: &Session, update: &Update, order: &Order) -> Result<Digest> {
        let failed = |e| Error::from_io("can't archive what was pushed", e);
        let (tar, to_tar) = std::io::pipe().map_err(failed)?;
        let mut git = self.repos.git().command(&session.repo.path);
        // Of the tree and not of the commit: the same tree gives the same archive.
        git.args(["archive", "--format=tar"]).arg(format!("{}^{{tree}}", update.new));
        git.envs(order.quarantine.iter().cloned()).stdout(to_tar).stderr(Stdio::piped());
        let child = git.spawn().map_err(cant_start)?;
        // With it goes our copy of the pipe's other end.
        drop(git);
        // Swept at the next start if this process is killed.
        let work = tempfile::Builder::new().prefix(".new-").tempdir_in(self.repos.root()).map_err(failed)?;
        let to = work.path().join("tree.tar.zst");
        let packing = {
            let to = to.clone();
            tokio::task::spawn_blocking(move || {
                let packed = archive::repack(&tar, &to, Limits::default())?;
                // git pads the archive beyond its end, and would be killed for writing to nobody.
                std::io::copy(&mut &tar, &mut std::io::sink()).map_err(failed)?;
                Ok::<_, Error>(packed)
            })
        };
        let (packed, done) = tokio::join!(packing, child.wait_with_output());
        let (packed, done) = (packed.map_err(|e| failed(e.into()))?, done.map_err(failed)?);
        if let (Ok(_), false) = (&packed, done.status.success()) {
            let said = String::from_utf8_lossy(&done.stderr);
            let what = format!("git can't archive {}: {}", update.new.short(), said.trim());
            return Err(Error::new(ErrorCode::BadSource, what));
        }
        let packed = packed?;
        self.engine.blobs().put(packed.digest, &to).await?;
        Ok(packed.digest)
    }
}

fn is_of(release: &Release, update: &Update) -> bool {
    release.revision.id.as_deref() == Some(update.new.as_str())
}

/// Author and first line of a commit as git stores it.
fn described(commit: &str) -> Revision {
    let (headers, message) = commit.split_once("\n\n").unwrap_or((commit, ""));
    let short = |text: &str| text.trim().chars().take(500).collect::<String>();
    let author = headers.lines().find_map(|line| line.strip_prefix("author "));
    let mut revision = Revision::default();
    revision.author =
        author.and_then(|author| author.rsplit_once('>')).map(|(who, _)| short(&format!("{who}>")));
    revision.message = message.lines().map(short).find(|line| !line.is_empty());
    revision
}

/// A pusher who watches their deploy.
struct Watch<'a> {
    inner: &'a Inner,
    session: &'a Session,
    handle: WorkflowHandle,
    log: BoxStream<'static, LogLine>,
    voice: &'a mut Voice,
}

impl Watch<'_> {
    /// Tells the pusher what the deploy says until it is live or has failed and is undone.
    async fn until_live(mut self, update: &Update) -> Result<(), Refusal> {
        let handle = self.handle.clone();
        let mut live = Box::pin(handle.live());
        let mut silence = Box::pin(tokio::time::sleep(SILENCE));
        let (mut is_silent, mut stopping, mut log_ended) = (true, None, false);
        let result = loop {
            tokio::select! {
                biased;
                line = self.log.next(), if !log_ended => match line {
                    Some(line) => {
                        is_silent &= !self.say(&line).await;
                    }
                    None => log_ended = true,
                },
                result = &mut live => break result,
                reason = self.session.stop.cancelled(), if stopping.is_none() => {
                    stopping = Some(reason);
                    self.stop(reason).await?;
                }
                () = &mut silence, if is_silent => {
                    is_silent = false;
                    self.explain_silence().await?;
                }
            }
        };
        let short = update.new.short();
        let Err(error) = result else {
            self.flush(format!("Deploy of {short} by {} is live", self.session.by)).await;
            return Ok(());
        };
        self.flush(format!("Deploy of {short} by {} came to nothing: {}", self.session.by, error.code()))
            .await;
        let workflow = self.handle.state().await?;
        if workflow.state == WorkflowState::Superseded {
            let what = "a newer push took this one's place before its turn came";
            return Err(Error::new(ErrorCode::Conflict, what).into());
        }
        let error = match stopping {
            Some(CancelReason::Timeout) => Error::new(ErrorCode::Timeout, "the push took too long"),
            _ => error,
        };
        Err(Refusal { error, step: workflow.failure.and_then(|failure| failure.step) })
    }

    /// Whether it was a line of this deploy.
    async fn say(&mut self, line: &LogLine) -> bool {
        let ours = line.workflow == Some(self.handle.id());
        if ours {
            self.voice.line(&line.text).await;
        }
        ours
    }

    /// Cancels the deploy, unless users see it already.
    async fn stop(&mut self, reason: CancelReason) -> Result<()> {
        let why = match reason {
            CancelReason::Timeout => "the push took too long",
            CancelReason::Shutdown => "the platform is shutting down",
            _ => "the push was interrupted",
        };
        match self.inner.engine.cancel(self.handle.id(), why, &self.session.by).await {
            Ok(()) if reason == CancelReason::Shutdown => {
                // It is undone now or at the next start; the pusher need not wait for that.
                Err(Error::new(ErrorCode::Cancelled, "the platform is shutting down; push again later"))
            }
            // It has ended, or goes on to its end: either way that is waited for.
            Ok(()) => Ok(()),
            Err(e) if matches!(e.code(), ErrorCode::PastPivot | ErrorCode::Conflict) => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn explain_silence(&mut self) -> Result<()> {
        if self.handle.state().await?.state == WorkflowState::Queued {
            let app = &self.session.app;
            let before = self.inner.engine.open_workflows(&Subject::App(app.clone())).await?;
            let what = before.first().filter(|first| first.id != self.handle.id());
            let what = what
                .map_or_else(|| "its turn".to_owned(), |first| format!("a {} of {app} to end", first.kind));
            self.voice.line(&format!("-----> Waiting for {what}")).await;
        }
        Ok(())
    }

    /// Says the lines that are still on their way: all that were logged before the one that we log now.
    async fn flush(&mut self, last: String) {
        let line = LogLine::new(self.inner.engine.clock().now(), LogSource::Platform, "push", last);
        let line = line.during(self.handle.id());
        self.inner.engine.logs().append(&self.session.app, line.clone());
        let rest = async {
            while let Some(next) = self.log.next().await {
                if next.process == line.process && next.text == line.text && next.workflow == line.workflow {
                    break;
                }
                self.say(&next).await;
            }
        };
        if tokio::time::timeout(LAST_LINES, rest).await.is_err() {
            tracing::warn!(app.name = %self.session.app, "the log is too slow for a pusher to read it all");
        }
    }
}

/// Ends what the answer to a push has left to do.
pub(crate) async fn settle(inner: &Arc<Inner>, session: &Session, landing: Landing) {
    if let Err(error) = landing.turn.end().await {
        tracing::warn!(error = %error, "a turn can't be given back; it runs out by itself");
    }
    if let Err(error) = inner.repos.tidy(&session.repo).await {
        tracing::warn!(error = %error, "a repository can't be tidied");
    }
}

/// Whether git moved the branch, and what to say if it didn't.
pub(crate) fn look_at_branch(session: &Session, landing: &Landing) -> Option<String> {
    let now = session.repo.branch(&landing.branch);
    if matches!(&now, Ok(Some(now)) if *now == landing.to) {
        return None;
    }
    let short = landing.to.short();
    tracing::error!(
        app.name = %session.app,
        "git could not move {} to {short}, although that is live",
        landing.branch
    );
    Some(format!(
        " !     {short} is live and stays so, but git could not move {}.\n \
         !     Push again: that only moves the branch.\n",
        landing.branch
    ))
}
