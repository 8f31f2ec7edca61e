//! The add-on provider: what the engine asks for, said in databases and roles.

use std::time::Duration;

use async_trait::async_trait;
use paas_core::{
    AddonCapabilities, AddonId, AddonProvider, AddonService, AddonStatus, BindRequest, Catalog, ConfigKey,
    ConfigValue, ConfigVars, Context, Error, ErrorCode, Plan, PlanName, ProvisionRequest, Result,
};

use super::database::{self, Database, State};
#[cfg(feature = "docker")]
use super::dedicated::{Dedicated, Found};
use super::error;
use super::rotation::login;
use super::server::{Endpoint, PostgresServer};

/// Gives apps PostgreSQL databases. See the [module](super) for what they get.
#[derive(Debug, Clone)]
pub struct Postgres {
    shared: Option<PostgresServer>,
    #[cfg(feature = "docker")]
    dedicated: Option<Dedicated>,
    plan: PlanName,
    service: AddonService,
    aliases: Vec<AddonService>,
    attachment: ConfigKey,
}

impl Postgres {
    /// Databases on this server: the plan `shared`.
    pub fn new(server: PostgresServer) -> Self {
        Self { shared: Some(server), ..Self::without_plans() }
    }

    /// A server for each add-on: the plan `dedicated`.
    #[cfg(feature = "docker")]
    pub fn dedicated(servers: Dedicated) -> Self {
        Self::without_plans().with_dedicated(servers)
    }

    /// And a server for each add-on that asks for the plan `dedicated`.
    #[cfg(feature = "docker")]
    #[must_use]
    pub fn with_dedicated(mut self, servers: Dedicated) -> Self {
        self.dedicated = Some(servers);
        self
    }

    fn without_plans() -> Self {
        let service = |name| AddonService::new(name).expect("a constant");
        Self {
            shared: None,
            #[cfg(feature = "docker")]
            dedicated: None,
            plan: PlanName::new("shared").expect("a constant"),
            service: service("postgres"),
            aliases: vec![service("postgresql"), service("heroku-postgresql")],
            attachment: ConfigKey::new("DATABASE").expect("a constant"),
        }
    }

    /// The server that add-ons share, where there is one.
    pub fn server(&self) -> Option<&PostgresServer> {
        self.shared.as_ref()
    }

    /// The server on which this add-on is, if it is on any.
    #[cfg_attr(
        not(feature = "docker"),
        allow(unused_variables, clippy::unnecessary_wraps, reason = "all are on the shared one")
    )]
    fn server_of(&self, addon: AddonId) -> Result<Place> {
        #[cfg(feature = "docker")]
        if let Some(found) = self.dedicated.as_ref().map(|servers| servers.find(addon)).transpose()?.flatten()
        {
            return Ok(match found {
                Found::Making => Place::Making,
                Found::Ready(server) => Place::On(server),
            });
        }
        let shared = self.shared.as_ref().filter(|server| server.exists());
        Ok(shared.map_or(Place::Nowhere, |server| Place::On(server.clone())))
    }

    fn on(&self, addon: AddonId) -> Result<PostgresServer> {
        match self.server_of(addon)? {
            Place::On(server) => Ok(server),
            #[cfg(feature = "docker")]
            Place::Making => Err(not_ready(addon)),
            Place::Nowhere => Err(database::gone(addon)),
        }
    }

    /// Makes it on the server that is shared.
    async fn make(&self, server: &PostgresServer, ctx: &Context, addon: AddonId) -> Result<()> {
        if !server.exists() {
            if let Some(why) = server.missing().await {
                return Err(error::unavailable(why));
            }
            ctx.log.line("       Setting up a PostgreSQL server, once");
        }
        let client = server.connect(None).await?;
        let key = server.key()?;
        let database = Database::new(&client, addon);
        database.lock().await?;
        database.ensure(server, &key).await?;
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
        let server = self.on(addon)?;
        let session = server.session().await?;
        let label = match Database::new(&session, addon).label().await? {
            Some(label) if label.state == State::Ready => label,
            Some(label) if label.state == State::Making => return Err(not_ready(addon)),
            _ => return Err(database::gone(addon)),
        };
        let key = server.key()?;
        if label.key != key.fingerprint() {
            return Err(database::wrong_key(addon));
        }
        let Endpoint { host, port } = server.endpoint().await?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let (login, password) = (login(addon, label.rotation), key.password(addon, label.rotation));
        let name = database::name(addon);
        ConfigValue::new(format!("postgres://{login}:{}@{host}:{port}/{name}", password.as_str()))
    }
}

/// Where an add-on is.
enum Place {
    On(PostgresServer),
    /// On a server that is not whole yet.
    #[cfg(feature = "docker")]
    Making,
    Nowhere,
}

fn not_ready(addon: AddonId) -> Error {
    error::unavailable(format!("the database of the add-on {addon} is not ready yet"))
}

#[async_trait]
impl AddonProvider for Postgres {
    async fn catalog(&self) -> Catalog {
        let (mut plans, mut missing) = (Vec::new(), Vec::new());
        if let Some(server) = &self.shared {
            let description = "A database and a role of its own on a server shared by all apps";
            plans.push(Plan::new(self.plan.clone(), description));
            missing.push(server.missing().await);
        }
        #[cfg(feature = "docker")]
        if let Some(servers) = &self.dedicated {
            plans.extend(servers.plans());
            missing.push(servers.missing().await);
        }
        // One that can be had is enough: whoever asks for the other is told then.
        let unavailable = missing.iter().all(Option::is_some).then(|| missing.into_iter().flatten().next());
        Catalog::new(self.service.clone(), self.attachment.clone(), "PostgreSQL", plans)
            .with_aliases(self.aliases.clone())
            .with_unavailable(unavailable.flatten())
    }

    fn capabilities(&self) -> AddonCapabilities {
        AddonCapabilities::shareable().rotating()
    }

    async fn provision(&self, ctx: &Context, request: &ProvisionRequest) -> Result<AddonStatus> {
        #[cfg(feature = "docker")]
        if let Some(servers) = self.dedicated.as_ref().filter(|servers| servers.offers(request)) {
            // It stops by itself when it is told to, where that leaves nothing half done.
            servers.make(ctx, request).await?;
            return Ok(AddonStatus::Ready);
        }
        let server = self.shared.as_ref().filter(|_| request.plan == self.plan);
        let Some(server) = server else {
            let plans: Vec<_> =
                self.catalog().await.plans.into_iter().map(|plan| plan.name.to_string()).collect();
            let message = format!("postgres has no plan {}; it has {}", request.plan, plans.join(", "));
            return Err(Error::new(ErrorCode::InvalidParams, message));
        };
        // All databases of a server are of its version; an app that was written for Heroku may name one all the same.
        for (option, value) in &request.options {
            let plan = &self.plan;
            ctx.log.line(format!(" !     The plan {plan} takes no options: {option}={value} is left out"));
        }
        ctx.cancel.guard(self.make(server, ctx, request.addon)).await??;
        Ok(AddonStatus::Ready)
    }

    async fn status(&self, ctx: &Context, addon: AddonId) -> Result<AddonStatus> {
        let server = match self.server_of(addon)? {
            Place::On(server) => server,
            #[cfg(feature = "docker")]
            Place::Making => return Ok(AddonStatus::Pending(Duration::from_secs(1))),
            Place::Nowhere => return Ok(AddonStatus::Gone),
        };
        let work = async {
            let session = server.session().await?;
            Database::new(&session, addon).label().await
        };
        Ok(match ctx.cancel.guard(work).await??.map(|label| label.state) {
            Some(State::Making) => AddonStatus::Pending(Duration::from_secs(1)),
            Some(State::Ready) => AddonStatus::Ready,
            Some(State::Dropping) | None => AddonStatus::Gone,
        })
    }

    async fn bind(&self, ctx: &Context, request: &BindRequest) -> Result<ConfigVars> {
        let work = async {
            let url = self.url(request.addon).await?;
            #[cfg(feature = "docker")]
            if let Some(servers) = self.has_dedicated(request.addon)? {
                servers.bind(request).await?;
            }
            Ok::<_, Error>(url)
        };
        let url = ctx.cancel.guard(work).await??;
        let name = ConfigKey::new(format!("{}_URL", request.attachment))?;
        Ok(ConfigVars::from_iter([(name, url)]))
    }

    /// The apps that share an add-on share its credentials, so those stay; [`AddonProvider::rotate`] changes them. A
    /// dedicated server leaves the app's network.
    async fn unbind(&self, ctx: &Context, request: &BindRequest) -> Result<()> {
        let _ = ctx;
        #[cfg(feature = "docker")]
        if let Some(servers) = self.has_dedicated(request.addon)? {
            return ctx.cancel.guard(servers.unbind(request)).await?;
        }
        let _ = request;
        Ok(())
    }

    async fn rotate(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        let server = self.on(addon)?;
        let work = async {
            let key = server.key()?;
            let client = server.connect(None).await?;
            let database = Database::new(&client, addon);
            database.lock().await?;
            database.rotate(&server, &key, &ctx.key.to_string()).await
        };
        ctx.cancel.guard(work).await?
    }

    async fn revoke(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        let server = self.on(addon)?;
        let work = async {
            let client = server.connect(None).await?;
            let database = Database::new(&client, addon);
            database.lock().await?;
            database.revoke(&server).await
        };
        ctx.cancel.guard(work).await?
    }

    async fn deprovision(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        #[cfg(feature = "docker")]
        if let Some(servers) = self.has_dedicated(addon)? {
            return servers.destroy(addon).await;
        }
        let Some(server) = self.shared.as_ref().filter(|server| server.exists()) else { return Ok(()) };
        let work = async {
            let client = server.connect(None).await?;
            let database = Database::new(&client, addon);
            database.lock().await?;
            database.drop().await
        };
        ctx.cancel.guard(work).await?
    }
}

#[cfg(feature = "docker")]
impl Postgres {
    /// The dedicated servers, where this add-on is one of them.
    fn has_dedicated(&self, addon: AddonId) -> Result<Option<&Dedicated>> {
        let Some(servers) = &self.dedicated else { return Ok(None) };
        Ok(servers.find(addon)?.map(|_| servers))
    }
}
