//! The conformance suite of [`AddonProvider`].
//!
//! The provider is asked for real resources, and a [`Probe`] of the implementer's goes through the config vars
//! that it returns, as an app would: the suite believes what the probe finds, not what the provider says.

#![allow(clippy::unwrap_used, reason = "a suite panics where a promise is broken")]

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::{
    AddonId, AddonProvider, AddonStatus, AppName, BindRequest, Cancel, CancelReason, ConfigKey, ConfigVars,
    Context, ErrorCode, IdempotencyKey, LogLine, LogQuery, LogSource, LogWriter, Logs, PlanName,
    ProvisionRequest, Result, StepName, SystemClock, WorkflowId,
};

/// Uses a resource as an app does, with nothing but the config vars that it was bound with.
#[async_trait]
pub trait Probe: fmt::Debug + Send + Sync {
    /// Leaves a note in the resource.
    ///
    /// # Errors
    /// When the vars give no access.
    async fn write(&self, vars: &ConfigVars, note: &str) -> Result<()>;

    /// The notes that were left in the resource.
    ///
    /// # Errors
    /// When the vars give no access.
    async fn read(&self, vars: &ConfigVars) -> Result<Vec<String>>;

    /// Stays connected to the resource until what it returns is dropped.
    ///
    /// # Errors
    /// When the vars give no access.
    async fn hold(&self, vars: &ConfigVars) -> Result<Box<dyn Any + Send>>;
}

/// Asserts everything that [`AddonProvider`] promises, by what the provider says it can do. Whatever it
/// provisions it destroys.
///
/// # Panics
/// With a sentence that says which promise was broken.
pub async fn conformance(provider: Arc<dyn AddonProvider>, probe: &dyn Probe) {
    let suite = Suite { provider, probe, logs: Arc::new(Heard::default()) };
    suite.the_catalog_says_what_can_be_had().await;
    suite.what_was_never_made_is_gone().await;
    suite.a_plan_that_is_not_offered_makes_nothing().await;
    suite.the_same_id_is_the_same_resource().await;
    suite.neighbours_do_not_touch_each_other().await;
    suite.a_resource_can_be_shared_if_the_provider_says_so().await;
    suite.the_plan_changes_if_the_provider_says_so().await;
    suite.credentials_rotate_if_the_provider_says_so().await;
    suite.unbinding_ends_access_if_the_provider_says_so().await;
    suite.destroying_works_while_somebody_is_connected_and_again().await;
    suite.a_cancelled_call_can_be_made_again().await;
}

struct Suite<'a> {
    provider: Arc<dyn AddonProvider>,
    probe: &'a dyn Probe,
    logs: Arc<Heard>,
}

impl Suite<'_> {
    async fn the_catalog_says_what_can_be_had(&self) {
        let catalog = self.provider.catalog().await;
        assert_eq!(catalog.unavailable, None, "the suite needs a provider that can provide");
        assert!(!catalog.plans.is_empty(), "a service has a plan");
        assert!(!catalog.description.is_empty(), "a service says what it is");
        assert!(catalog.is_called(&catalog.service), "a service answers to its own name");
        assert!(!catalog.aliases.contains(&catalog.service), "an alias is another name");
        for (index, plan) in catalog.plans.iter().enumerate() {
            let again = catalog.plans[..index].iter().any(|other| other.name == plan.name);
            assert!(!again, "the plan {} is offered once", plan.name);
        }
    }

    async fn what_was_never_made_is_gone(&self) {
        let (ctx, addon) = (self.context(), AddonId::new());
        assert_eq!(self.status(addon).await, AddonStatus::Gone, "what was never made is gone");
        let bound = self.provider.bind(&ctx, &bind(addon, "one", "DATABASE")).await;
        assert_eq!(bound.unwrap_err().code(), ErrorCode::NotFound, "what is gone can't be bound");
        let unbound = self.provider.unbind(&ctx, &bind(addon, "one", "DATABASE")).await;
        unbound.expect("unbinding what isn't bound is no error");
        self.destroy(addon).await;
    }

    async fn a_plan_that_is_not_offered_makes_nothing(&self) {
        let addon = AddonId::new();
        let plan = PlanName::new("no-such-plan").unwrap();
        let request = ProvisionRequest::new(addon, plan, app("one"));
        let error = self.provider.provision(&self.context(), &request).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidParams, "a plan that isn't offered is refused: {error}");
        assert_eq!(self.status(addon).await, AddonStatus::Gone, "nothing was made for it");
    }

    async fn the_same_id_is_the_same_resource(&self) {
        let addon = AddonId::new();
        join_all((0..4).map(|_| self.make(addon))).await;
        let vars = self.bind(addon, "one", "DATABASE").await;
        assert!(!vars.is_empty(), "a binding has vars");
        self.probe.write(&vars, "first").await.expect("the bound vars give access");
        self.make(addon).await;
        assert_eq!(self.bind(addon, "one", "DATABASE").await, vars, "the same request gives the same vars");
        assert_eq!(self.notes(&vars).await, ["first"], "making it again keeps its data");
        let other = self.bind(addon, "one", "OTHER_NAME").await;
        assert_eq!(self.notes(&other).await, ["first"], "another attachment is another name for the same");
        self.nobody_heard(&[&vars, &other]);
        self.destroy(addon).await;
    }

    async fn neighbours_do_not_touch_each_other(&self) {
        let (one, two) = (AddonId::new(), AddonId::new());
        tokio::join!(self.make(one), self.make(two));
        let (ones, twos) = (self.bind(one, "one", "DATABASE").await, self.bind(two, "two", "DATABASE").await);
        assert_ne!(ones, twos, "neighbours have vars of their own");
        self.probe.write(&ones, "mine").await.expect("the bound vars give access");
        self.probe.write(&twos, "yours").await.expect("the bound vars give access");
        assert_eq!(self.notes(&ones).await, ["mine"], "a neighbour's data isn't seen");
        self.destroy(two).await;
        assert_eq!(self.notes(&ones).await, ["mine"], "destroying one leaves its neighbour alone");
        assert_eq!(self.bind(one, "one", "DATABASE").await, ones, "and so it does with its credentials");
        self.destroy(one).await;
    }

    async fn a_resource_can_be_shared_if_the_provider_says_so(&self) {
        if !self.provider.capabilities().shareable {
            return;
        }
        let addon = AddonId::new();
        self.make(addon).await;
        let (first, second) =
            (self.bind(addon, "one", "DATABASE").await, self.bind(addon, "two", "SHARED").await);
        self.probe.write(&first, "for all").await.expect("the bound vars give access");
        assert_eq!(self.notes(&second).await, ["for all"], "what is shared has the same data for both");
        self.probe.write(&second, "from all").await.expect("both may write");
        assert_eq!(self.notes(&first).await, ["for all", "from all"], "each sees what the other wrote");
        let unbound = self.provider.unbind(&self.context(), &bind(addon, "two", "SHARED")).await;
        unbound.expect("what is bound can be unbound");
        self.notes(&first).await;
        self.destroy(addon).await;
    }

    async fn the_plan_changes_if_the_provider_says_so(&self) {
        let (ctx, addon) = (self.context(), AddonId::new());
        self.make(addon).await;
        let plans = self.provider.catalog().await.plans;
        if self.provider.capabilities().change_plan {
            let vars = self.bind(addon, "one", "DATABASE").await;
            self.probe.write(&vars, "kept").await.expect("the bound vars give access");
            for plan in plans.iter().chain(plans.first()) {
                let changed = self.provider.change_plan(&ctx, addon, &plan.name).await;
                self.until_ready(addon, changed.expect("an offered plan can be changed to")).await;
                let vars = self.bind(addon, "one", "DATABASE").await;
                assert_eq!(self.notes(&vars).await, ["kept"], "the plan {} keeps the data", plan.name);
            }
        } else {
            let error = self.provider.change_plan(&ctx, addon, &plans[0].name).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::Unsupported, "what isn't claimed is unsupported");
        }
        self.destroy(addon).await;
    }

    async fn credentials_rotate_if_the_provider_says_so(&self) {
        let addon = AddonId::new();
        self.make(addon).await;
        if !self.provider.capabilities().rotate {
            let (rotated, revoked) = (
                self.provider.rotate(&self.context(), addon).await,
                self.provider.revoke(&self.context(), addon).await,
            );
            for result in [rotated, revoked] {
                assert_eq!(
                    result.unwrap_err().code(),
                    ErrorCode::Unsupported,
                    "what isn't claimed is unsupported"
                );
            }
            return self.destroy(addon).await;
        }
        let first = self.bind(addon, "one", "DATABASE").await;
        self.probe.write(&first, "first").await.expect("the bound vars give access");
        let second = self.rotate(addon).await;
        assert_ne!(second, first, "rotated credentials are new");
        self.probe.write(&second, "second").await.expect("new credentials give access to what was there");
        assert_eq!(
            self.notes(&first).await,
            ["first", "second"],
            "the old ones stay valid until they are revoked"
        );
        // Nobody took those over: the app still runs with the first.
        let third = self.rotate(addon).await;
        assert_ne!(third, second, "rotated credentials are new");
        assert_eq!(self.notes(&first).await, ["first", "second"], "those that are in use stay valid");
        self.probe.write(&third, "third").await.expect("the newest credentials give access");
        let held = self.probe.hold(&first).await.expect("the old ones stay valid until they are revoked");
        self.revoke(addon).await;
        drop(held);
        for old in [&first, &second] {
            assert!(self.probe.read(old).await.is_err(), "what was revoked gives no access any more");
        }
        assert_eq!(self.notes(&third).await, ["first", "second", "third"], "revoking leaves today's alone");
        assert_eq!(self.bind(addon, "one", "DATABASE").await, third, "revoking leaves today's alone");
        let fourth = self.rotate(addon).await;
        self.revoke(addon).await;
        assert!(self.probe.read(&third).await.is_err(), "what was revoked gives no access any more");
        self.probe.write(&fourth, "fourth").await.expect("rotating may go on for ever");
        assert_eq!(self.notes(&fourth).await.len(), 4, "rotating keeps the data");
        self.nobody_heard(&[&first, &second, &third, &fourth]);
        self.destroy(addon).await;
        let gone = self.provider.rotate(&self.context(), addon).await;
        assert_eq!(gone.unwrap_err().code(), ErrorCode::NotFound, "what is gone has no credentials");
    }

    /// Rotates by a call that is made twice.
    async fn rotate(&self, addon: AddonId) -> ConfigVars {
        let ctx = self.context();
        self.provider.rotate(&ctx, addon).await.expect("credentials can be rotated");
        let vars = self.bind(addon, "one", "DATABASE").await;
        self.provider.rotate(&ctx, addon).await.expect("the same call again is no error");
        assert_eq!(self.bind(addon, "one", "DATABASE").await, vars, "the same call again changes nothing");
        vars
    }

    async fn revoke(&self, addon: AddonId) {
        for time in ["once", "again"] {
            let revoked = self.provider.revoke(&self.context(), addon).await;
            assert!(revoked.is_ok(), "old credentials can be revoked {time}: {revoked:?}");
        }
    }

    async fn unbinding_ends_access_if_the_provider_says_so(&self) {
        if !self.provider.capabilities().own_credentials {
            return;
        }
        let addon = AddonId::new();
        self.make(addon).await;
        let (first, second) =
            (self.bind(addon, "one", "DATABASE").await, self.bind(addon, "one", "SECOND").await);
        let unbound = self.provider.unbind(&self.context(), &bind(addon, "one", "SECOND")).await;
        unbound.expect("what is bound can be unbound");
        assert!(self.probe.read(&second).await.is_err(), "what was unbound gives no access any more");
        self.notes(&first).await;
        self.destroy(addon).await;
    }

    async fn destroying_works_while_somebody_is_connected_and_again(&self) {
        let addon = AddonId::new();
        self.make(addon).await;
        let vars = self.bind(addon, "one", "DATABASE").await;
        let held = self.probe.hold(&vars).await.expect("the bound vars give access");
        self.destroy(addon).await;
        assert!(self.probe.read(&vars).await.is_err(), "what was destroyed gives no access any more");
        drop(held);
        let bound = self.provider.bind(&self.context(), &bind(addon, "one", "DATABASE")).await;
        assert_eq!(bound.unwrap_err().code(), ErrorCode::NotFound, "what was destroyed can't be bound");
        self.destroy(addon).await;
    }

    async fn a_cancelled_call_can_be_made_again(&self) {
        let (ctx, addon) = (self.context(), AddonId::new());
        let request = self.request(addon).await;
        let (provisioned, ()) = tokio::join!(self.provider.provision(&ctx, &request), async {
            tokio::task::yield_now().await;
            ctx.cancel.cancel(CancelReason::Shutdown);
        });
        if let Err(error) = provisioned {
            assert_eq!(error.code(), ErrorCode::Cancelled, "a cancelled call says so: {error}");
        }
        self.make(addon).await;
        let vars = self.bind(addon, "one", "DATABASE").await;
        self.probe.write(&vars, "whole").await.expect("what was cut off is made whole");
        self.destroy(addon).await;
    }

    async fn request(&self, addon: AddonId) -> ProvisionRequest {
        let plan = self.provider.catalog().await.plans.swap_remove(0).name;
        ProvisionRequest::new(addon, plan, app("one"))
    }

    async fn make(&self, addon: AddonId) {
        let status = self.provider.provision(&self.context(), &self.request(addon).await).await;
        self.until_ready(addon, status.expect("a resource can be made")).await;
    }

    async fn until_ready(&self, addon: AddonId, mut status: AddonStatus) {
        while let AddonStatus::Pending(pause) = status {
            tokio::time::sleep(pause).await;
            status = self.status(addon).await;
        }
        assert_eq!(status, AddonStatus::Ready, "what was provisioned becomes ready");
        assert_eq!(self.status(addon).await, AddonStatus::Ready, "and stays so");
    }

    async fn status(&self, addon: AddonId) -> AddonStatus {
        self.provider.status(&self.context(), addon).await.expect("the status can be told")
    }

    async fn bind(&self, addon: AddonId, name: &str, attachment: &str) -> ConfigVars {
        let bound = self.provider.bind(&self.context(), &bind(addon, name, attachment)).await;
        let vars = bound.expect("what is ready can be bound");
        for key in vars.keys() {
            let rest = key.as_str().strip_prefix(attachment);
            let begins = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
            assert!(begins, "{key} is {attachment}, or begins with {attachment}_");
        }
        vars
    }

    async fn notes(&self, vars: &ConfigVars) -> Vec<String> {
        self.probe.read(vars).await.expect("the bound vars give access")
    }

    async fn destroy(&self, addon: AddonId) {
        for time in ["once", "again"] {
            let destroyed = self.provider.deprovision(&self.context(), addon).await;
            assert!(destroyed.is_ok(), "a resource can be destroyed {time}: {destroyed:?}");
        }
        assert_eq!(self.status(addon).await, AddonStatus::Gone, "what was destroyed is gone");
    }

    fn nobody_heard(&self, secrets: &[&ConfigVars]) {
        let said = format!("{:?}\n{}", self.provider, self.logs.all().join("\n"));
        for (key, value) in secrets.iter().flat_map(|vars| vars.iter()) {
            assert!(!said.contains(value.expose()), "the value of {key} is shown nowhere");
        }
    }

    fn context(&self) -> Context {
        let clock = Arc::new(SystemClock::new());
        let key = IdempotencyKey::new(WorkflowId::new(), StepName::new("provision").unwrap());
        let log = LogWriter::new(self.logs.clone(), clock.clone(), app("one"), LogSource::Platform, "addon");
        Context::new(key, Cancel::new(), clock, log)
    }
}

fn app(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

fn bind(addon: AddonId, name: &str, attachment: &str) -> BindRequest {
    BindRequest::new(addon, app(name), ConfigKey::new(attachment).unwrap())
}

/// Remembers what the provider said.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Logs for Heard {
    fn append(&self, _app: &AppName, line: LogLine) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_string());
    }

    async fn read(&self, _app: &AppName, _query: LogQuery) -> Result<BoxStream<'static, LogLine>> {
        Ok(stream::empty().boxed())
    }

    async fn forget(&self, _app: &AppName) -> Result<()> {
        Ok(())
    }
}
