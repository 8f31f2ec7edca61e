//! The add-on provider: what the engine asks for, said in databases and roles.

use std::time::Duration;

use async_trait::async_trait;
use paas_core::{
    AddonCapabilities, AddonId, AddonProvider, AddonService, AddonStatus, BindRequest, Catalog, ConfigKey,
    ConfigValue, ConfigVars, Context, Error, ErrorCode, Plan, PlanName, ProvisionRequest, Result,
};

use super::database::{self, Database, State};
use super::error;
use super::rotation::login;
use super::server::{Endpoint, PostgresServer};

/// Gives apps PostgreSQL databases. See the [module](super) for what they get.
#[derive(Debug, Clone)]
pub struct Postgres {
    server: PostgresServer,
    plan: PlanName,
    service: AddonService,
    aliases: Vec<AddonService>,
    attachment: ConfigKey,
}

impl Postgres {
    /// Databases on this server.
    ///
    /// # Panics
    /// Never: the names it parses are constants.
    pub fn new(server: PostgresServer) -> Self {
        let service = |name| AddonService::new(name).expect("a constant");
        Self {
            server,
            plan: PlanName::new("shared").expect("a constant"),
            service: service("postgres"),
            aliases: vec![service("postgresql"), service("heroku-postgresql")],
            attachment: ConfigKey::new("DATABASE").expect("a constant"),
        }
    }

    /// The server they are on.
    pub fn server(&self) -> &PostgresServer {
        &self.server
    }

    async fn make(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        if !self.server.exists() {
            if let Some(why) = self.server.missing().await {
                return Err(error::unavailable(why));
            }
            ctx.log.line("       Setting up a PostgreSQL server, once");
        }
        let client = self.server.connect(None).await?;
        let key = self.server.key()?;
        let database = Database::new(&client, addon);
        database.lock().await?;
        database.ensure(&self.server, &key).await?;
        let open = database.open_neighbours().await?;
        if !open.is_empty() {
            ctx.log.line(format!(
                " !     The server lets every role connect to: {}. This app can, too.\n !     REVOKE CONNECT ON DATABASE … FROM PUBLIC there ends that.",
                open.join(", ")
            ));
        }
        Ok(())
    }

    async fn url(&self, addon: AddonId) -> Result<ConfigValue> {
        if !self.server.exists() {
            return Err(database::gone(addon));
        }
        let session = self.server.session().await?;
        let label = match Database::new(&session, addon).label().await? {
            Some(label) if label.state == State::Ready => label,
            Some(label) if label.state == State::Making => {
                return Err(error::unavailable(format!(
                    "the database of the add-on {addon} is not ready yet"
                )));
            }
            _ => return Err(database::gone(addon)),
        };
        let key = self.server.key()?;
        if label.key != key.fingerprint() {
            return Err(database::wrong_key(addon));
        }
        let Endpoint { host, port } = self.server.endpoint().await?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let (login, password) = (login(addon, label.rotation), key.password(addon, label.rotation));
        let name = database::name(addon);
        ConfigValue::new(format!("postgres://{login}:{}@{host}:{port}/{name}", password.as_str()))
    }
}

#[async_trait]
impl AddonProvider for Postgres {
    async fn catalog(&self) -> Catalog {
        let plan =
            Plan::new(self.plan.clone(), "A database and a role of its own on a server shared by all apps");
        Catalog::new(self.service.clone(), self.attachment.clone(), "PostgreSQL", vec![plan])
            .with_aliases(self.aliases.clone())
            .with_unavailable(self.server.missing().await)
    }

    fn capabilities(&self) -> AddonCapabilities {
        AddonCapabilities::shareable().rotating()
    }

    async fn provision(&self, ctx: &Context, request: &ProvisionRequest) -> Result<AddonStatus> {
        if request.plan != self.plan {
            let message = format!("postgres has no plan {}; it has {}", request.plan, self.plan);
            return Err(Error::new(ErrorCode::InvalidParams, message));
        }
        if let Some(option) = request.options.keys().next() {
            let message = format!("the plan {} takes no options, but {option:?} was given", self.plan);
            return Err(Error::new(ErrorCode::InvalidParams, message));
        }
        ctx.cancel.guard(self.make(ctx, request.addon)).await??;
        Ok(AddonStatus::Ready)
    }

    async fn status(&self, ctx: &Context, addon: AddonId) -> Result<AddonStatus> {
        if !self.server.exists() {
            return Ok(AddonStatus::Gone);
        }
        let work = async {
            let session = self.server.session().await?;
            Database::new(&session, addon).label().await
        };
        Ok(match ctx.cancel.guard(work).await??.map(|label| label.state) {
            Some(State::Making) => AddonStatus::Pending(Duration::from_secs(1)),
            Some(State::Ready) => AddonStatus::Ready,
            Some(State::Dropping) | None => AddonStatus::Gone,
        })
    }

    async fn bind(&self, ctx: &Context, request: &BindRequest) -> Result<ConfigVars> {
        let url = ctx.cancel.guard(self.url(request.addon)).await??;
        let name = ConfigKey::new(format!("{}_URL", request.attachment))?;
        Ok(ConfigVars::from_iter([(name, url)]))
    }

    /// Nothing to do: the apps that share an add-on share its credentials; [`AddonProvider::rotate`] changes them.
    async fn unbind(&self, _ctx: &Context, _request: &BindRequest) -> Result<()> {
        Ok(())
    }

    async fn rotate(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        if !self.server.exists() {
            return Err(database::gone(addon));
        }
        let work = async {
            let key = self.server.key()?;
            let client = self.server.connect(None).await?;
            let database = Database::new(&client, addon);
            database.lock().await?;
            database.rotate(&self.server, &key, &ctx.key.to_string()).await
        };
        ctx.cancel.guard(work).await?
    }

    async fn revoke(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        if !self.server.exists() {
            return Err(database::gone(addon));
        }
        let work = async {
            let client = self.server.connect(None).await?;
            let database = Database::new(&client, addon);
            database.lock().await?;
            database.revoke(&self.server).await
        };
        ctx.cancel.guard(work).await?
    }

    async fn deprovision(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        if !self.server.exists() {
            return Ok(());
        }
        let work = async {
            let client = self.server.connect(None).await?;
            let database = Database::new(&client, addon);
            database.lock().await?;
            database.drop().await
        };
        ctx.cancel.guard(work).await?
    }
}
