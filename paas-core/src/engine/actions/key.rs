//! The master key: which one is in use, and moving to a new one.

use crate::engine::kinds::{ROTATE_KEY, kind_name};
use crate::engine::ledger::decode;
use crate::engine::steps::KeyInput;
use crate::engine::{Engine, WorkflowHandle, presence};
use crate::store::{ListQuery, Table};
use crate::vault::KeyOwner;
use crate::{App, Error, ErrorCode, Principal, Result, Subject};

/// Which master keys a platform's secrets need.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyState {
    /// The id of the key that is sealed with.
    pub sealing: String,
    /// The ids of the keys that this engine knows, the newest first.
    pub known: Vec<String>,
    /// How many apps' keys are still wrapped with another one than that which is sealed with. While there are some, or a
    /// rotation is under way, older keys are needed.
    pub behind: u64,
}

impl Engine {
    /// Moves all that is stored to the newest master key of the key file, as a workflow beside everything else; after it
    /// has succeeded older keys can be thrown away. It begins only when every engine on the store knows the new key,
    /// and until its end all need both.
    ///
    /// First put the new key on top of the file, [`KeyFile::add_key`](crate::vault::KeyFile::add_key), on every machine.
    ///
    /// # Errors
    /// `invalid_params` where there is no newer key than the one in use; what the key file says.
    pub async fn rotate_key(&self, by: &Principal) -> Result<WorkflowHandle> {
        let inner = &self.inner;
        for (open, _) in inner.ledger.open_workflows(&Subject::Platform).await? {
            if open.value.kind.as_str() == ROTATE_KEY {
                return Ok(self.workflow(open.value.id));
            }
        }
        presence::follow(inner).await?;
        let (known, sealing) = (inner.vault.known(), inner.vault.sealing());
        let to = known[0].clone();
        if to == sealing && self.key_state().await?.behind == 0 {
            let what = format!(
                "the newest key of the key file, {to}, is in use already: put a new one on top of it first, on every machine"
            );
            return Err(Error::new(ErrorCode::InvalidParams, what));
        }
        self.submit(&kind_name(ROTATE_KEY), Subject::Platform, &KeyInput { to }, by).await
    }

    /// Which master keys are needed: looks at every app.
    ///
    /// # Errors
    /// What the store says.
    pub async fn key_state(&self) -> Result<KeyState> {
        let vault = &self.inner.vault;
        let (sealing, mut behind) = (vault.sealing(), 0);
        let mut query = ListQuery::all().limit(500);
        loop {
            let rows = self.inner.store.list(Table::Apps, &query).await?;
            let Some(last) = rows.last() else { break };
            query = query.after(last.key.clone());
            for row in &rows {
                let app: App = decode(row, "the app")?;
                behind += u64::from(vault.rewrap(KeyOwner::App(app.id), &app.key, &sealing)?.is_some());
            }
        }
        Ok(KeyState { sealing, known: vault.known(), behind })
    }
}
