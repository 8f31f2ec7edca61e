//! What a provider's test calls it with.

use std::sync::Arc;

use futures_util::StreamExt as _;

use crate::{
    AppName, Cancel, Context, IdempotencyKey, LogQuery, LogSource, LogWriter, Logs, StepName, SystemClock,
    WorkflowId,
};

/// The context of a first attempt at this step for this app, which speaks into these logs under the step's name.
///
/// # Panics
/// When `step` is no step's name.
pub fn context(logs: &Arc<impl Logs>, app: &AppName, step: &str) -> Context {
    let step: StepName = step.parse().expect("a step's name");
    let clock = Arc::new(SystemClock::new());
    let logs: Arc<dyn Logs> = logs.clone();
    let log = LogWriter::new(logs, clock.clone(), app.clone(), LogSource::App, step.as_str());
    Context::new(IdempotencyKey::new(WorkflowId::new(), step), Cancel::new(), clock, log)
}

/// The texts of an app's lines so far.
///
/// # Panics
/// When the logs can't be read.
pub async fn texts(logs: &dyn Logs, app: &AppName) -> Vec<String> {
    let lines = logs.read(app, LogQuery::all()).await.expect("logs that can be read");
    lines.map(|line| line.text).collect().await
}
