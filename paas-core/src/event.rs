//! What happened, in order: written in the transaction that made it so, read by cursor.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    AddonService, AppName, ConfigKey, DomainName, Failure, KindName, Leftover, Missing, NodeName, Principal,
    ProcessType, StepName, Version, WorkflowId, WorkflowState,
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// Its place among all; the cursor to go on from.
    #[serde(default)]
    pub seq: u64,
    /// When.
    pub at: DateTime<Utc>,
    /// Which app it is about.
    pub app: Option<AppName>,
    /// During which workflow.
    pub workflow: Option<WorkflowId>,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// An app was made.
    AppCreated {
        /// Who made it.
        by: Principal,
    },
    /// An app is gone.
    AppDestroyed,
    /// The owner changed config vars.
    ConfigChanged {
        /// Which.
        keys: Vec<ConfigKey>,
        /// Who changed them.
        by: Principal,
    },
    /// The owner changed the formation.
    Scaled {
        /// The new quantities.
        formation: Vec<(ProcessType, u32)>,
        /// Who changed it.
        by: Principal,
    },
    /// The owner changed domains, buildpacks or maintenance mode.
    AppChanged {
        /// What, in words.
        what: String,
        /// Who changed it.
        by: Principal,
    },
    /// A workflow waits for its turn.
    Queued {
        /// What kind.
        kind: KindName,
        /// Who asked for it.
        by: Principal,
    },
    /// An engine took a workflow.
    Claimed {
        /// The how-manieth claim this is: more than 1 after a wait or a crash.
        claim: u64,
    },
    /// A step was begun.
    StepStarted {
        /// Which.
        step: StepName,
        /// Which attempt.
        attempt: u32,
    },
    /// A step is done.
    StepFinished {
        /// Which.
        step: StepName,
    },
    /// A step failed this time.
    StepFailed {
        /// Why, and which step.
        failure: Failure,
        /// When it will be tried again, where it will.
        retry_at: Option<DateTime<Utc>>,
    },
    /// A step is undone.
    StepUndone {
        /// Which.
        step: StepName,
    },
    /// A workflow waits for somebody outside.
    Parked {
        /// Which step waits.
        step: StepName,
        /// For what, in words.
        why: String,
    },
    /// Somebody outside answered.
    Signalled {
        /// Which step was told.
        step: StepName,
        /// By whom.
        by: Principal,
    },
    /// Somebody wants a workflow to stop.
    CancelRequested {
        /// Who.
        by: Principal,
        /// Why, in words.
        why: String,
    },
    /// A step that can only go forward, or only back, fails in a way that won't pass: from now on it is tried ever more
    /// rarely, until somebody retries or abandons its workflow.
    Stuck {
        /// Why, and which step.
        failure: Failure,
        /// What of it is missing.
        missing: Missing,
    },
    /// A workflow waits for a node: only its engines can go on.
    Held {
        /// For whom, in words.
        why: String,
    },
    /// The runtime or the router didn't answer: until it does, the app isn't kept as it should be. Said once until it is
    /// well again.
    Neglected {
        /// What was not answered, in words.
        why: String,
    },
    /// An app whose node is lost runs on another one.
    Moved {
        /// The lost one.
        from: NodeName,
        /// Who moved it.
        by: Principal,
    },
    /// Somebody wants a step tried again at once.
    RetryRequested {
        /// Who.
        by: Principal,
    },
    /// Somebody gives a workflow up.
    AbandonRequested {
        /// Who.
        by: Principal,
        /// Why, in words.
        why: String,
    },
    /// A workflow that was given up leaves a step as it is.
    StepLeft {
        /// Which, and why.
        left: Leftover,
    },
    /// No release is made from now on, of this app or of any.
    Frozen {
        /// Who froze it.
        by: Principal,
        /// Why, in words.
        why: String,
    },
    /// Releases are made again.
    Unfrozen {
        /// Who ended the freeze.
        by: Principal,
    },
    /// A release has its number.
    ReleaseCreated {
        /// Its number.
        version: Version,
        /// Why it was made.
        description: String,
    },
    /// A release is what users see from now on.
    ReleaseLive {
        /// Its number.
        version: Version,
        /// The generation of the routes.
        generation: u64,
    },
    /// The routes changed without a release: instances moved or came back.
    RoutesChanged {
        /// The generation of the routes.
        generation: u64,
    },
    /// A host's certificate was wanted, issued, refused, brought or removed.
    CertificateChanged {
        /// The host.
        domain: DomainName,
        /// What, in words.
        what: String,
    },
    /// A release never went live.
    ReleaseFailed {
        /// Its number.
        version: Version,
    },
    /// An add-on can be used.
    AddonProvisioned {
        /// The service.
        service: AddonService,
        /// The name that its config vars begin with.
        attachment: ConfigKey,
    },
    /// An add-on has new credentials, and the roll-out that brings them to its app is queued.
    AddonRotated {
        /// The service.
        service: AddonService,
        /// The name that its config vars begin with.
        attachment: ConfigKey,
    },
    /// An add-on and its data are gone.
    AddonDeprovisioned {
        /// The service.
        service: AddonService,
    },
    /// What nothing refers to any more was removed.
    GarbageCollected {
        /// How many sources and slugs.
        contents: u64,
        /// Their bytes.
        bytes: u64,
        /// How many builds that can't be used again.
        #[serde(default)]
        artifacts: u64,
        /// How many workflows that had ended.
        #[serde(default)]
        workflows: u64,
        /// How many events.
        #[serde(default)]
        events: u64,
    },
    /// Apps' keys were wrapped with the new master key; more may follow.
    KeysRewrapped {
        /// How many, in this go.
        apps: u64,
    },
    /// Nothing is sealed with an older master key any more: it can be thrown away.
    KeyRotated {
        /// The id of the new one.
        key: String,
    },
    /// A workflow is over.
    Ended {
        /// How.
        state: WorkflowState,
        /// Why it failed.
        failure: Option<Failure>,
    },
}

/// One line for people, without the app, the workflow and the time.
impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppCreated { by } => write!(f, "{by} made the app"),
            Self::AppDestroyed => f.write_str("the app is gone"),
            Self::ConfigChanged { keys, by } => {
                let keys: Vec<_> = keys.iter().map(ConfigKey::as_str).collect();
                write!(f, "{by} changed {}", keys.join(", "))
            }
            Self::Scaled { formation, by } => {
                let formation: Vec<_> =
                    formation.iter().map(|(process, n)| format!("{process}={n}")).collect();
                write!(f, "{by} scaled to {}", formation.join(" "))
            }
            Self::AppChanged { what, by } => write!(f, "{by} {what}"),
            Self::Queued { kind, by } => write!(f, "{by} asked for {kind}"),
            Self::Claimed { claim: 1 } => f.write_str("begun"),
            Self::Claimed { claim } => write!(f, "gone on with, claim {claim}"),
            Self::StepStarted { step, attempt: 1 } => write!(f, "{step} began"),
            Self::StepStarted { step, attempt } => write!(f, "{step} began, attempt {attempt}"),
            Self::StepFinished { step } => write!(f, "{step} is done"),
            Self::StepFailed { failure, retry_at } => {
                match &failure.step {
                    Some(step) => write!(f, "{step} failed: {}", failure.message)?,
                    None => write!(f, "failed: {}", failure.message)?,
                }
                match retry_at {
                    Some(at) => write!(f, "; again at {}", at.format("%H:%M:%S")),
                    None => Ok(()),
                }
            }
            Self::StepUndone { step } => write!(f, "{step} is undone"),
            Self::Parked { step, why } => write!(f, "{step} waits for {why}"),
            Self::Signalled { step, by } => write!(f, "{by} answered {step}"),
            Self::CancelRequested { by, why } => write!(f, "{by} wants it to stop: {why}"),
            Self::Stuck { failure, missing } => {
                let step = failure.step.as_ref().map_or("it", StepName::as_str);
                let what = match missing {
                    Missing::Doing => "done",
                    Missing::Undoing => "undone",
                };
                write!(f, "{step} can't be {what}: {}; retry or abandon it", failure.message)
            }
            Self::Held { why } => write!(f, "waits for {why}"),
            Self::Neglected { why } => write!(f, "can't be looked after; tried again and again: {why}"),
            Self::Moved { from, by } => write!(f, "{by} moved it away from {from}, which is lost"),
            Self::RetryRequested { by } => write!(f, "{by} wants it tried again at once"),
            Self::AbandonRequested { by, why } => write!(f, "{by} gives it up: {why}"),
            Self::StepLeft { left } => write!(f, "{left}"),
            Self::Frozen { by, why } => write!(f, "{by} froze deploys: {why}"),
            Self::Unfrozen { by } => write!(f, "{by} ended the freeze of deploys"),
            Self::ReleaseCreated { version, description } => write!(f, "{version} is made: {description}"),
            Self::ReleaseLive { version, .. } => write!(f, "{version} is live"),
            Self::RoutesChanged { generation } => write!(f, "routes changed, generation {generation}"),
            Self::CertificateChanged { domain, what } => write!(f, "the certificate of {domain}: {what}"),
            Self::ReleaseFailed { version } => write!(f, "{version} never went live"),
            Self::AddonProvisioned { service, attachment } => {
                write!(f, "{service} is attached as {attachment}")
            }
            Self::AddonRotated { service, attachment } => {
                write!(f, "{service}, attached as {attachment}, has new credentials")
            }
            Self::AddonDeprovisioned { service } => write!(f, "{service} and its data are gone"),
            Self::GarbageCollected { contents, bytes, artifacts, workflows, events } => {
                let sources = format!("sources and slugs of {bytes} bytes");
                let counted = [
                    (contents, sources.as_str()),
                    (artifacts, "builds"),
                    (workflows, "ended workflows"),
                    (events, "events"),
                ];
                let counted = counted.iter().filter(|(count, _)| **count > 0);
                let counted: Vec<_> = counted.map(|(count, what)| format!("{count} {what}")).collect();
                write!(f, "removed what nothing needs: {}", counted.join(", "))
            }
            Self::KeysRewrapped { apps } => {
                write!(f, "the keys of {apps} apps are wrapped with the new master key")
            }
            Self::KeyRotated { key } => {
                write!(f, "everything is sealed with the master key {key}: older ones can be thrown away")
            }
            Self::Ended { state, failure: Some(failure) } => write!(f, "{state}: {}", failure.message),
            Self::Ended { state, failure: None } => write!(f, "{state}"),
        }
    }
}
