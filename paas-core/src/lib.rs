//! The nouns, the five traits and the durable engine of `paas`: your own Heroku, as a library.
//!
//! ```text
//!  git push / tarball / directory / image        ConfigVars + add-on bindings
//!         |                                                |
//!      Source -> Checkout -> Builder -> Artifact -> Release v12 -> Runtime -> Instances -> Router -> users
//!                                           AddonProvider
//! ```
//!
//! | trait | what it does | implementations |
//! |---|---|---|
//! | [`Source`] | brings code here | `paas-build`: git, directory, tarball |
//! | [`Builder`] | makes an artifact of code | `paas-build`: buildpack |
//! | [`Runtime`] | runs the processes of a release | `paas-run`: process |
//! | [`Router`] | brings users' requests to them | `paas-run`: proxy |
//! | [`AddonProvider`] | provides databases and the like | `paas-addons`: postgres |
//! | [`Store`] | keeps what must not be lost | memory, `SQLite`, PostgreSQL |
//!
//! The [`Engine`] composes them into durable workflows of fixed, named steps: before the pivot a failure
//! undoes everything and users never notice; after it things only go forward; killed anywhere, the next start
//! goes on. Whoever writes a provider finds its contract in the `# Behavior` section of each trait method, and a suite that
//! says whether it is kept in `testkit`.
//!
//! Not promised: exactly-once *calls*. Calls are made at least once, with a key that stays the same, to providers
//! that ensure or adopt; that makes the *effect* happen once.

pub mod access;
mod addon;
mod app;
pub mod archive;
mod artifact;
mod blobs;
mod blocking;
mod builder;
mod cancel;
mod certificate;
mod clock;
mod config;
mod console;
mod context;
pub mod digest;
pub mod disk;
mod engine;
mod error;
mod event;
mod explanation;
mod freeze;
mod id;
mod log;
mod manifest;
mod memory_logs;
mod name;
mod release;
mod router;
mod routing;
mod runtime;
mod source;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
mod token;
pub mod vault;
mod workflow;

pub use access::{Access, Action, Credentials, DenyAll, Principal};
pub use addon::{
    AddonCapabilities, AddonProvider, AddonStatus, BindRequest, Catalog, Plan, ProvisionRequest,
};
pub use app::{Addon, AddonState, App, Attachment, Head, Live, Scale};
pub use artifact::{Artifact, ArtifactKind, ProcessEntry, ProcessTable};
#[cfg(feature = "blobs-s3")]
pub use blobs::s3::{S3Blobs, S3Options};
pub use blobs::{BlobEntry, BlobReader, Blobs, DirBlobs, NoBlobs};
pub use blocking::blocking;
pub use builder::{BuildRequest, Builder, BuilderCapabilities, BuilderId, Detection};
pub use cancel::{Cancel, CancelReason};
pub use certificate::{
    Certificate, CertificateFailure, CertificateOrigin, CertificateShelf, HeldCertificate,
};
pub use clock::{Clock, SteadyClock, SystemClock};
pub use config::{ConfigValue, ConfigVars, Redactor};
pub use console::{Console, Control, Window};
pub use context::{Context, IdempotencyKey};
pub use digest::Digest;
pub use engine::{
    AddonOrder, Changes, Collected, ConfigEdit, DeployOrder, Engine, EngineBuilder, EngineOptions,
    EventStream, FirstSight, FleetRouter, Flow, KeyState, Moment, RollbackOrder, RouteFollower, Step,
    StepAction, StepCall, StepDef, StepOutput, Turn, Volume, Waist, WorkflowHandle, WorkflowKind,
};
pub use error::{Error, ErrorCode, Failure, Result, Retry};
pub use event::{Event, EventKind};
pub use explanation::{
    Ahead, Explanation, LastDeploy, LiveRelease, Neglect, OpenWorkflow, ProcessCount, Remedy, WaitsFor,
};
pub use freeze::{Freeze, Scope};
pub use id::{AddonId, AppId, OwnerId, ReleaseId, TurnId, Version, VersionError, WorkflowId};
pub use log::{LogLine, LogQuery, LogSource, LogWriter, Logs};
pub use manifest::{AddonWish, EnvWish, FormationWish, HealthCheck, Manifest, Mount};
pub use memory_logs::MemoryLogs;
pub use name::{
    AddonService, AppName, ConfigKey, DomainName, KindName, MountPath, NameError, NodeName, PlanName,
    PrincipalName, ProcessType, ProviderName, StepName, VolumeName,
};
pub use release::{Release, ReleaseState};
pub use router::{AppRoutes, Backend, DrainRequest, RouteState, Router, RouterCapabilities};
pub use routing::{BackendProtocol, Balance, Concurrency, Hsts, PathRoute, Rate, RouteSettings};
pub use runtime::{
    Exit, Instance, InstanceName, InstanceState, ProcessSpec, RunSpec, Runtime, RuntimeCapabilities,
    RuntimeEvent, Size,
};
pub use source::{Checkout, Revision, Source, SourceRef};
pub use store::Store;
pub use token::Tokens;
pub use vault::Vault;
pub use workflow::{
    Abandonment, CancelRequest, Ending, IllegalTransition, Leftover, Missing, StepRecord, StepState, Subject,
    Transition, Workflow, WorkflowState,
};
