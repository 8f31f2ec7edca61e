//! Apps whose node is lost, on another one.

use crate::engine::Engine;
use crate::{AppName, Error, ErrorCode, EventKind, Principal, Result, Scope};

impl Engine {
    /// Gives an app whose node is lost a new one, this engine's: what is live is started here, and what was under way goes
    /// on here as far as it can. When the lost node comes back it ends what it still runs of the app.
    ///
    /// Make sure that it is gone. One that is only cut off from the store goes on running the app's processes, which nobody
    /// reaches but which work and write.
    ///
    /// # Errors
    /// `conflict` while an engine of its node is there; `forbidden` where an access is set up and doesn't let `by` repair;
    /// `not_found`.
    pub async fn move_here(&self, app: &AppName, by: &Principal) -> Result<()> {
        self.may_repair(&Scope::App(app.clone()), by).await?;
        let inner = &self.inner;
        let stored = inner.ledger.app(app).await?.value;
        let Some(home) = inner.home_elsewhere(&stored).cloned() else { return Ok(()) };
        if inner.is_there(&home).await? {
            let what = format!("{app} runs on {home}, which is there: end its engine first");
            return Err(Error::new(ErrorCode::Conflict, what));
        }
        let here = inner.runtime.node().cloned();
        self.change(app, |_, app| {
            app.node.clone_from(&here);
            let moved = EventKind::Moved { from: home.clone(), by: by.clone() };
            Ok((vec![moved], None))
        })
        .await?;
        inner.let_go(app).await?;
        inner.look_after(app).await;
        Ok(())
    }
}
