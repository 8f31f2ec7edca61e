//! What an embedder may set.

use std::path::PathBuf;
use std::time::Duration;

use crate::{DomainName, Size};

/// Which process types start by themselves when they are seen for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FirstSight {
    /// One of each type that the app itself names.
    #[default]
    All,
    /// One web, none of the others, as on Heroku.
    WebOnly,
}

/// What an embedder may set; every field has a default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Apps answer to `NAME.domain`.
    pub domain: DomainName,
    /// The scheme of apps' URLs as people see them: `http` or `https`.
    pub public_scheme: String,
    /// The port of apps' URLs as people see them, where it isn't the scheme's own.
    pub public_port: Option<u16>,
    /// How long a claim lasts without a renewal: after a crash, the next engine goes on after this time at most.
    pub lease: Duration,
    /// How many workflows run here at once.
    pub concurrency: usize,
    /// How often the store is asked when no hint came.
    pub poll: Duration,
    /// The longest pause between two attempts.
    pub max_backoff: Duration,
    /// The longest pause where an attempt failed so often and so finally that only a person can help.
    pub max_stuck_backoff: Duration,
    /// How often engines may die in the middle of one step before the workflow is undone.
    pub max_takeovers: u32,
    /// How often a transaction is tried against others who change the same rows.
    pub max_conflicts: u32,
    /// How long a step that was told to stop may take until it is dropped.
    pub stop_grace: Duration,
    /// How long a call of the runtime or the router may take beside workflows, whose steps have limits of their own. More
    /// than [`EngineOptions::grace`], and than the largest slug takes to be fetched: what takes longer is cut off, told
    /// as [`EventKind::Neglected`](crate::EventKind) and by `explain`, and tried again.
    pub call_timeout: Duration,
    /// How long requests may go on at a release that was replaced.
    pub drain: Duration,
    /// How long a process may take to end after SIGTERM.
    pub grace: Duration,
    /// How long a build may take; Heroku's 15 minutes.
    pub build_timeout: Duration,
    /// How much one instance may use where the app names no size.
    pub size: Size,
    /// How many of an app's newest releases that went live keep their code, so that one can go back to them.
    pub keep_releases: usize,
    /// How long what nothing refers to is kept: code that was pushed and never released, builds that failed later.
    pub keep_unused: Duration,
    /// How long workflows that have ended and events are kept.
    pub keep_history: Duration,
    /// How often garbage is collected, the first time so long after the start.
    pub collect_every: Duration,
    /// Which process types start by themselves.
    pub first_sight: FirstSight,
    /// Where checkouts are unpacked while they are built.
    pub work_dir: PathBuf,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            domain: DomainName::new("localhost").expect("a constant"),
            public_scheme: "http".into(),
            public_port: None,
            lease: Duration::from_secs(10),
            concurrency: 32,
            poll: Duration::from_secs(1),
            max_backoff: Duration::from_secs(30),
            max_stuck_backoff: Duration::from_secs(10 * 60),
            max_takeovers: 5,
            max_conflicts: 100,
            stop_grace: Duration::from_secs(45),
            call_timeout: Duration::from_secs(5 * 60),
            drain: Duration::from_secs(30),
            grace: Duration::from_secs(30),
            build_timeout: Duration::from_secs(15 * 60),
            size: Size::standard(),
            keep_releases: 20,
            keep_unused: Duration::from_secs(24 * 60 * 60),
            keep_history: Duration::from_secs(90 * 24 * 60 * 60),
            collect_every: Duration::from_secs(60 * 60),
            first_sight: FirstSight::All,
            work_dir: std::env::temp_dir().join("paas"),
        }
    }
}
