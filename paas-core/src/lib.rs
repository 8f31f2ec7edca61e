//! The nouns, the five traits and the durable engine of `paas`.

pub mod access;
mod addon;
pub mod archive;
mod artifact;
mod blobs;
mod builder;
mod cancel;
mod clock;
mod config;
mod context;
pub mod digest;
mod error;
mod id;
mod log;
mod manifest;
mod name;
mod router;
mod runtime;
mod source;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
mod token;
pub mod vault;

pub use access::{Access, Action, Credentials, Principal};
pub use addon::{
    AddonCapabilities, AddonProvider, AddonStatus, BindRequest, Catalog, Plan, ProvisionRequest,
};
pub use artifact::{Artifact, ArtifactKind, ProcessEntry, ProcessTable};
pub use blobs::{BlobReader, Blobs, DirBlobs};
pub use builder::{BuildRequest, Builder, BuilderCapabilities, BuilderId, Detection};
pub use cancel::{Cancel, CancelReason};
pub use clock::{Clock, SystemClock};
pub use config::{ConfigValue, ConfigVars, Redactor};
pub use context::{Context, IdempotencyKey};
pub use digest::Digest;
pub use error::{Error, ErrorCode, Failure, Result, Retry};
pub use id::{AddonId, AppId, OwnerId, ReleaseId, TurnId, Version, VersionError, WorkflowId};
pub use log::{LogLine, LogQuery, LogSource, LogWriter, Logs};
pub use manifest::{AddonWish, EnvWish, FormationWish, HealthCheck, Manifest};
pub use name::{
    AddonService, AppName, ConfigKey, DomainName, KindName, NameError, PlanName, PrincipalName, ProcessType,
    ProviderName, StepName,
};
pub use router::{AppRoutes, Backend, DrainRequest, RouteState, Router, RouterCapabilities};
pub use runtime::{
    Exit, Instance, InstanceName, InstanceState, ProcessSpec, RunSpec, Runtime, RuntimeCapabilities,
    RuntimeEvent, Size,
};
pub use source::{Checkout, Revision, Source, SourceRef};
pub use store::Store;
pub use token::Tokens;
pub use vault::Vault;
