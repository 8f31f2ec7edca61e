//! All requests in one file.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use paas::{AppName, Error, LogLine, LogQuery, Logs, Result};

/// So many bytes are written at once, or what there is after this time.
const BUFFER: usize = 64 * 1024;
const DELAY: Duration = Duration::from_secs(1);

type File = Mutex<BufWriter<Box<dyn Write + Send>>>;

/// A log without readers. What was written last is in the file a second later, or once this is dropped.
pub(crate) struct AccessLog(Arc<File>);

impl AccessLog {
    /// Appends to this file; without one, to nothing.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let file: Box<dyn Write + Send> = match path {
            None => Box::new(std::io::sink()),
            Some(path) => Box::new(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|error| Error::from_io(format!("can't open {}", path.display()), error))?,
            ),
        };
        let file = Arc::new(Mutex::new(BufWriter::with_capacity(BUFFER, file)));
        let weak = Arc::downgrade(&file);
        thread::spawn(move || flush(&weak));
        Ok(Self(file))
    }
}

fn flush(file: &Weak<File>) {
    while let Some(file) = file.upgrade() {
        told(locked(&file).flush());
        drop(file);
        thread::sleep(DELAY);
    }
}

fn locked(file: &File) -> MutexGuard<'_, BufWriter<Box<dyn Write + Send>>> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

fn told(written: std::io::Result<()>) {
    if let Err(error) = written {
        eprintln!(" !     The access log can't be written: {error}");
    }
}

#[async_trait]
impl Logs for AccessLog {
    fn append(&self, _: &AppName, line: LogLine) {
        told(writeln!(locked(&self.0), "{line}"));
    }

    async fn read(&self, _: &AppName, _: LogQuery) -> Result<BoxStream<'static, LogLine>> {
        Ok(stream::empty().boxed())
    }

    async fn forget(&self, _: &AppName) -> Result<()> {
        Ok(())
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        told(locked(&self.0).flush());
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessLog")
    }
}
