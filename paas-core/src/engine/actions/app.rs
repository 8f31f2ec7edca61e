//! An app: made, named, changed, destroyed.

use super::{handle, order_for};
use crate::engine::kinds::{DESTROY, DestroyInput};
use crate::engine::ledger::{DomainOwner, Ledger, encode, put_app};
use crate::engine::{Engine, WorkflowHandle};
use crate::store::{Expect, QueueState, Table, Transaction, Write};
use crate::{
    App, AppId, AppName, DomainName, Error, ErrorCode, EventKind, Head, Principal, Result, RouteSettings,
    Subject,
};

impl Engine {
    /// Makes an app.
    ///
    /// # Errors
    /// `exists`.
    pub async fn create_app(&self, name: &AppName, by: &Principal) -> Result<App> {
        let inner = &self.inner;
        let id = AppId::new();
        let wrapping = inner.wrapping.read().await;
        let app = App {
            id,
            name: name.clone(),
            created_at: inner.clock.now(),
            created_by: by.clone(),
            head: Head::default(),
            live: None,
            last_version: None,
            domains: Vec::new(),
            buildpacks: Vec::new(),
            maintenance: false,
            paused: false,
            routing: RouteSettings::default(),
            frozen: None,
            node: None,
            destroying: false,
            key: inner.vault.new_app_key(id)?,
        };
        let default = inner.default_domain(name)?;
        if inner.ledger.domain(&default).await?.is_some() {
            return Err(Error::new(
                ErrorCode::Exists,
                format!("the domain {default} belongs to another app"),
            ));
        }
        let mut tx = Transaction::new().write(put_app(&app, Expect::Absent)?);
        let created = EventKind::AppCreated { by: by.clone() };
        Ledger::note(&mut tx, &inner.ledger.event(Some(name), None, created))?;
        match inner.store.commit(tx).await {
            Ok(_) => {}
            Err(error) if error.code() == ErrorCode::Conflict => {
                return Err(Error::new(ErrorCode::Exists, format!("there is an app {name} already")));
            }
            Err(error) => return Err(error),
        }
        drop(wrapping);
        inner.refresh_routes(name).await?;
        Ok(app)
    }

    /// Makes an app, where there is none of this name.
    ///
    /// # Errors
    /// As [`Engine::create_app`], but for the app's own being there.
    pub async fn ensure_app(&self, name: &AppName, by: &Principal) -> Result<App> {
        match self.app(name).await {
            Err(error) if error.code() == ErrorCode::NotFound => {}
            found => return found,
        }
        match self.create_app(name, by).await {
            // Somebody else made it meanwhile.
            Err(error) if error.code() == ErrorCode::Exists => self.app(name).await,
            made => made,
        }
    }

    /// Destroys an app with its releases, add-ons and data. Its queued workflows are cancelled.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn destroy_app(&self, app: &AppName, by: &Principal) -> Result<WorkflowHandle> {
        for (queued, standing) in self.inner.ledger.open_workflows(&Subject::App(app.clone())).await? {
            if standing.entry.state != QueueState::Active && queued.value.kind.as_str() != DESTROY {
                let (id, why) = (queued.value.id, "the app is being destroyed");
                match self.cancel(id, why, by).await {
                    // It waits with what users see already, and has nothing to wait for any more.
                    Err(error) if error.code() == ErrorCode::PastPivot => self.give_up(id, why, by).await?,
                    cancelled => cancelled?,
                }
            }
        }
        self.change(app, |_, app| {
            app.destroying = true;
            Ok((Vec::new(), Some(order_for(app, DESTROY, &DestroyInput { app_id: app.id }, by)?)))
        })
        .await
        .and_then(handle)
    }

    /// Gives an app a host name beside the platform's own for it.
    ///
    /// # Errors
    /// `exists` when it belongs to an app.
    pub async fn add_domain(&self, app: &AppName, domain: DomainName, by: &Principal) -> Result<()> {
        let inner = &self.inner;
        let platform = inner.options.domain.as_str();
        let ours = domain.as_str() == platform || domain.as_str().ends_with(&format!(".{platform}"));
        if ours || inner.ledger.domain(&domain).await?.is_some() {
            return Err(Error::new(ErrorCode::Exists, format!("the domain {domain} is taken")));
        }
        self.change_with(app, |_, app| {
            app.domains.push(domain.clone());
            let owner = DomainOwner { app: app.name.clone(), app_id: app.id };
            let write = Write::put(
                Table::Domains,
                domain.as_str(),
                app.id.to_string(),
                Expect::Absent,
                encode(&owner)?,
            );
            let what = format!("added the domain {domain}");
            Ok((vec![write], vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await?;
        inner.refresh_routes(app).await
    }

    /// Takes a host name from an app.
    ///
    /// # Errors
    /// `not_found` when it isn't the app's.
    pub async fn remove_domain(&self, app: &AppName, domain: &DomainName, by: &Principal) -> Result<()> {
        self.change_with(app, |_, app| {
            if !app.domains.contains(domain) {
                return Err(Error::new(ErrorCode::NotFound, format!("{} has no domain {domain}", app.name)));
            }
            app.domains.retain(|other| other != domain);
            let write = Write::delete(Table::Domains, domain.as_str(), Expect::Any);
            let what = format!("removed the domain {domain}");
            Ok((vec![write], vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await?;
        self.inner.refresh_routes(app).await
    }

    /// Shows users the maintenance page, or no longer.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn set_maintenance(&self, app: &AppName, on: bool, by: &Principal) -> Result<()> {
        self.change(app, |_, app| {
            app.maintenance = on;
            let what = format!("turned maintenance mode {}", if on { "on" } else { "off" });
            Ok((vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await?;
        self.inner.refresh_routes(app).await
    }

    /// Holds an app's requests until [`Engine::resume`], for as long as a router's clients wait for an app that boots, and
    /// only so many of them: for what takes seconds and must lose none.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn pause(&self, app: &AppName, by: &Principal) -> Result<()> {
        self.set_paused(app, true, by).await
    }

    /// Lets an app's requests go on.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn resume(&self, app: &AppName, by: &Principal) -> Result<()> {
        self.set_paused(app, false, by).await
    }

    async fn set_paused(&self, app: &AppName, on: bool, by: &Principal) -> Result<()> {
        self.change(app, |_, app| {
            app.paused = on;
            let what = if on { "holds requests" } else { "lets requests go on" }.to_owned();
            Ok((vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await?;
        self.inner.refresh_routes(app).await
    }

    /// Says how requests are brought to an app, from now on and without a release.
    ///
    /// # Errors
    /// `not_found`; `invalid_params` for settings that can't be carried out.
    pub async fn set_routing(&self, app: &AppName, settings: RouteSettings, by: &Principal) -> Result<()> {
        settings.check()?;
        self.change(app, |_, app| {
            app.routing.clone_from(&settings);
            let what = "changed how requests are routed".to_owned();
            Ok((vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await?;
        self.inner.refresh_routes(app).await
    }

    /// Chooses an app's buildpacks, for its next deploy.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn set_buildpacks(&self, app: &AppName, buildpacks: Vec<String>, by: &Principal) -> Result<()> {
        self.change(app, |_, app| {
            app.buildpacks.clone_from(&buildpacks);
            let what = "chose buildpacks".to_owned();
            Ok((vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await
        .map(drop)
    }
}
