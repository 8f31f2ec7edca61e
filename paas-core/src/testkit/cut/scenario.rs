//! What an engine may be doing when its power is cut: every kind of workflow, with every end it can come to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::testkit::world::{Fault, TestPlatform};
use crate::{
    AddonOrder, AppName, ConfigEdit, ConfigVars, Engine, ErrorCode, Principal, ProcessType, Result,
    RollbackOrder, Scale, Version, WorkflowHandle,
};

/// What the engine is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work {
    /// A deploy of an app that runs.
    Deploy,
    /// A first deploy, which makes an add-on.
    FirstDeploy,
    /// A deploy with a release phase.
    ReleasePhase,
    /// Back to an older release.
    Rollback,
    /// A change of config vars.
    Configure,
    /// More instances.
    ScaleUp,
    /// Fewer.
    ScaleDown,
    /// An add-on.
    AddAddon,
    /// New credentials for one.
    RotateAddon,
    /// Its end.
    RemoveAddon,
    /// The end of an app with an add-on.
    Destroy,
    /// Another master key for everything.
    RotateKey,
}

impl Work {
    /// Every kind of work.
    pub const ALL: &'static [Self] = &[
        Self::Deploy,
        Self::FirstDeploy,
        Self::ReleasePhase,
        Self::Rollback,
        Self::Configure,
        Self::ScaleUp,
        Self::ScaleDown,
        Self::AddAddon,
        Self::RotateAddon,
        Self::RemoveAddon,
        Self::Destroy,
        Self::RotateKey,
    ];

    /// The call before the pivot that is made to fail or to hang; none for what only goes forward.
    fn weak_spot(self) -> Option<&'static str> {
        match self {
            Self::Deploy => Some("build"),
            Self::FirstDeploy => Some("bind"),
            Self::ReleasePhase => Some("run_once"),
            Self::Rollback | Self::Configure | Self::ScaleUp => Some("ensure"),
            Self::AddAddon => Some("provision"),
            Self::RotateAddon => Some("rotate"),
            Self::ScaleDown | Self::RemoveAddon | Self::Destroy | Self::RotateKey => None,
        }
    }
}

/// How it is to end, where nothing is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Well.
    Success,
    /// A provider fails for good.
    Failure,
    /// What it starts never comes up.
    Crash,
    /// Somebody cancels it in the middle, or while it waits where it only goes forward.
    Cancel,
    /// Newer ones take its place while it waits.
    Superseded,
    /// A provider doesn't answer until it is told to stop: after an hour, where time is paused.
    Timeout,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scenario {
    /// What is asked for.
    pub work: Work,
    /// How it ends.
    pub outcome: Outcome,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} with {:?}", self.work, self.outcome)
    }
}

impl Scenario {
    /// The work and each end that it can come to. Timeouts take an hour, so most are only there where time is paused.
    pub fn of(work: Work, paused: bool) -> Vec<Self> {
        let mut outcomes = vec![Outcome::Success];
        if work.weak_spot().is_some() {
            outcomes.extend([Outcome::Failure, Outcome::Cancel]);
        }
        if work.weak_spot() == Some("ensure") || matches!(work, Work::Deploy | Work::FirstDeploy) {
            outcomes.push(Outcome::Crash);
        }
        if work.weak_spot().is_some() && (paused || work == Work::Deploy) {
            outcomes.push(Outcome::Timeout);
        }
        match work {
            Work::Deploy => outcomes.push(Outcome::Superseded),
            Work::RemoveAddon | Work::Destroy | Work::RotateKey => outcomes.push(Outcome::Cancel),
            _ => {}
        }
        outcomes.into_iter().map(|outcome| Self { work, outcome }).collect()
    }

    /// Every work with every end.
    pub fn all(paused: bool) -> Vec<Self> {
        Work::ALL.iter().flat_map(|work| Self::of(*work, paused)).collect()
    }

    /// What is there before.
    pub(super) async fn before(self, engine: &Engine) -> Result<()> {
        engine.create_app(&app(), &by()).await?;
        if self.work != Work::FirstDeploy {
            deploy(engine, "web: serve\nworker: work\n").await?.succeeded().await?;
        }
        match self.work {
            Work::Rollback => drop(deploy(engine, "web: other\n").await?.succeeded().await?),
            Work::ScaleDown => drop(engine.scale(&app(), web(3), &by()).await?.succeeded().await?),
            Work::RotateAddon | Work::RemoveAddon | Work::Destroy => {
                engine.add_addon(&app(), fakesql(), &by()).await?.1.succeeded().await?;
            }
            Work::RotateKey => {
                let vars = ConfigVars::new().with("SECRET", "hunter2hunter2")?;
                engine.configure(&app(), ConfigEdit::set(vars), &by()).await?.succeeded().await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What happens while the power may be cut at any write.
    pub(super) async fn happen(self, platform: &TestPlatform, engine: &Engine) -> Result<()> {
        let (world, weak) = (&platform.world, self.work.weak_spot());
        if self.work == Work::RotateKey {
            platform.keys().add_key()?;
        }
        match self.outcome {
            Outcome::Success => {}
            Outcome::Crash => world.crash("web"),
            Outcome::Failure if self.work == Work::ReleasePhase => world.run_status(1),
            Outcome::Failure => world.plan(weak.unwrap_or("build"), [Fault::Fail(ErrorCode::Internal)]),
            Outcome::Timeout => world.plan(weak.unwrap_or("build"), [Fault::Hang]),
            Outcome::Superseded => {
                world.plan("build", [Fault::Delay(Duration::from_millis(3))]);
                let mut handles = Vec::new();
                for code in ["web: one\n", "web: two\n", "web: three\n"] {
                    handles.push(deploy(engine, code).await?);
                }
                for handle in handles {
                    handle.ended().await?;
                }
                return Ok(());
            }
            Outcome::Cancel => return self.cancelled(platform, engine).await,
        }
        self.ask(engine).await?.ended().await.map(drop)
    }

    async fn cancelled(self, platform: &TestPlatform, engine: &Engine) -> Result<()> {
        let inside = async |call: &'static str, work: Work| {
            platform.world.plan(call, [Fault::Hang]);
            let handle = Self { work, ..self }.ask(engine).await?;
            while platform.world.planned(call) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok::<_, crate::Error>(handle)
        };
        if self.work == Work::RotateKey {
            let handle = self.ask(engine).await?;
            match engine.cancel(handle.id(), "not that", &by()).await {
                // It was faster.
                Err(late) if matches!(late.code(), ErrorCode::PastPivot | ErrorCode::Conflict) => {}
                answer => answer?,
            }
            return handle.ended().await.map(drop);
        }
        let in_the_way = match (self.work.weak_spot(), self.work) {
            (Some(call), work) => inside(call, work).await?,
            (None, Work::RemoveAddon) => inside("rotate", Work::RotateAddon).await?,
            (None, _) => inside("build", Work::Deploy).await?,
        };
        if self.work.weak_spot().is_none() {
            let waits = self.ask(engine).await?;
            engine.cancel(waits.id(), "not that", &by()).await?;
            waits.ended().await?;
        }
        engine.cancel(in_the_way.id(), "enough", &by()).await?;
        in_the_way.ended().await.map(drop)
    }

    async fn ask(self, engine: &Engine) -> Result<WorkflowHandle> {
        match self.work {
            Work::Deploy => deploy(engine, "web: new\n").await,
            Work::FirstDeploy => deploy(engine, FIRST).await,
            Work::ReleasePhase => deploy(engine, "web: new\nrelease: migrate\n").await,
            Work::Rollback => engine.rollback(&app(), RollbackOrder::to(Version::FIRST), &by()).await,
            Work::Configure => {
                let vars = ConfigVars::new().with("COLOR", "blue")?;
                engine.configure(&app(), ConfigEdit::set(vars), &by()).await
            }
            Work::ScaleUp => engine.scale(&app(), web(3), &by()).await,
            Work::ScaleDown => engine.scale(&app(), web(1), &by()).await,
            Work::AddAddon => engine.add_addon(&app(), fakesql(), &by()).await.map(|(_, handle)| handle),
            Work::RotateAddon => {
                let addons = engine.addons(&app()).await?;
                engine.rotate_addon(addons[0].id, &by()).await
            }
            Work::RemoveAddon => {
                let addons = engine.addons(&app()).await?;
                engine.remove_addon(addons[0].id, &by()).await
            }
            Work::Destroy => engine.destroy_app(&app(), &by()).await,
            Work::RotateKey => engine.rotate_key(&by()).await,
        }
    }
}

const FIRST: &str = "web: a\n---\n{\"addons\":[{\"service\":\"fakesql\",\"plan\":null,\"attachment\":null}]}";

/// The app that everything happens to.
pub(super) fn app() -> AppName {
    AppName::new("hello").expect("a constant")
}

fn by() -> Principal {
    Principal::platform()
}

fn web(quantity: u32) -> BTreeMap<ProcessType, Scale> {
    [(ProcessType::web(), Scale::of(quantity))].into()
}

fn fakesql() -> AddonOrder {
    AddonOrder::new("fakesql".parse().expect("a constant"))
}

pub(super) async fn deploy(engine: &Engine, code: &str) -> Result<WorkflowHandle> {
    TestPlatform::deploy(engine, &app(), code).await
}
