//! A log that keeps what it is told, for targets that look at what people would see.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use paas_core::{AppName, Clock, LogLine, LogQuery, LogSource, LogWriter, Logs, Redactor, Result};

/// The time never passes: what is shown must not depend on it.
#[derive(Debug)]
pub(super) struct NoTime;

impl Clock for NoTime {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }
}

#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Vec<String>>);

impl Kept {
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("nobody panicked").clone()
    }

    /// Writes as a build does.
    pub(super) fn writer(self: &Arc<Self>, secrets: Redactor) -> LogWriter {
        let app = AppName::new("app").expect("a name");
        LogWriter::new(self.clone(), Arc::new(NoTime), app, LogSource::App, "build").redacting(secrets)
    }
}

#[async_trait]
impl Logs for Kept {
    fn append(&self, _: &AppName, line: LogLine) {
        self.0.lock().expect("nobody panicked").push(line.text);
    }

    async fn read(&self, _: &AppName, _: LogQuery) -> Result<BoxStream<'static, LogLine>> {
        Ok(futures_util::stream::empty().boxed())
    }

    async fn forget(&self, _: &AppName) -> Result<()> {
        Ok(())
    }
}
