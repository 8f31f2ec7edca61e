//! The logs of all apps, as the engine keeps them.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use paas_core::{
    AppName, Clock as _, Error, ErrorCode, LogLine, LogQuery, LogSource, Logs, Result, SystemClock,
};
use tokio::sync::watch;

use super::folder::Folder;
use super::tail::Tail;
use super::{LogBounds, LogFile, record};

/// Lines wait in memory up to this many bytes per app while the disk is slow; more are counted and dropped.
const PENDING_BYTES: usize = 512 * 1024;

/// A burst of lines becomes one write: the writer rests this long between two rounds. A single line is not held up.
const LINGER: Duration = Duration::from_millis(1);

/// How often a reader that follows looks for lines of other processes. Lines of this process wake it.
const POLL: Duration = Duration::from_millis(20);

/// So many apps' files are kept open.
const OPEN_FILES: usize = 256;

/// The logs of all apps in one folder, for one engine process and any number of [`LogFile`]s in others.
///
/// A line is given to a writer thread and is in the file microseconds later; dropping this writes what is left.
///
/// ```
/// use futures_util::StreamExt as _;
/// use paas_core::{AppName, Clock as _, LogLine, LogQuery, LogSource, Logs as _, SystemClock};
/// use paas_run::logs::{FileLogs, LogBounds};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let logs = FileLogs::open(folder.path(), LogBounds::default())?;
/// let app: AppName = "hello".parse()?;
/// logs.append(&app, LogLine::new(SystemClock::new().now(), LogSource::App, "web.1", "Listening on 5000"));
/// let lines: Vec<LogLine> = logs.read(&app, LogQuery::all()).await?.collect().await;
/// assert_eq!(lines[0].text, "Listening on 5000");
/// # Ok(()) }
/// ```
pub struct FileLogs {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    root: PathBuf,
    bounds: LogBounds,
    apps: RwLock<HashMap<AppName, Arc<AppLog>>>,
    work: Mutex<Work>,
    wake: Condvar,
    open_files: AtomicUsize,
}

/// What the writer thread is to do.
#[derive(Default)]
struct Work {
    waiting: Vec<Arc<AppLog>>,
    stop: bool,
}

struct AppLog {
    path: PathBuf,
    pending: Mutex<Pending>,
    file: Mutex<Option<LogFile>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Pending {
    records: Vec<u8>,
    lines: u64,
    dropped: u64,
}

/// A panic of another thread leaves these states whole: each is changed in one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FileLogs {
    /// Opens the logs in this folder, which is made when the first line comes.
    ///
    /// # Errors
    /// `unavailable` when the writer thread can't be started.
    pub fn open(root: impl AsRef<Path>, bounds: LogBounds) -> Result<Self> {
        let shared = Arc::new(Shared {
            root: root.as_ref().to_owned(),
            bounds,
            apps: RwLock::default(),
            work: Mutex::default(),
            wake: Condvar::new(),
            open_files: AtomicUsize::new(0),
        });
        let writer = thread::Builder::new()
            .name("paas-logs".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.write_all()
            })
            .map_err(|error| {
                Error::new(ErrorCode::Unavailable, "can't start the thread that writes logs")
                    .with_source(error)
            })?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// The folder of this app's log, to be given to [`LogFile::open`] in another process.
    pub fn folder(&self, app: &AppName) -> PathBuf {
        self.shared.root.join(app.as_str())
    }

    /// How much is kept of each app's log.
    pub fn bounds(&self) -> LogBounds {
        self.shared.bounds
    }
}

impl Shared {
    fn app(&self, app: &AppName) -> Arc<AppLog> {
        if let Some(log) = self.apps.read().unwrap_or_else(PoisonError::into_inner).get(app) {
            return Arc::clone(log);
        }
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(AppLog {
                path: self.root.join(app.as_str()),
                pending: Mutex::default(),
                file: Mutex::default(),
                changed: watch::Sender::new(()),
            })
        };
        Arc::clone(apps.entry(app.clone()).or_insert_with(new))
    }

    /// The writer thread: writes until it is told to stop and nothing is left.
    fn write_all(&self) {
        loop {
            let waiting = {
                let mut work = locked(&self.work);
                while work.waiting.is_empty() {
                    if work.stop {
                        return;
                    }
                    work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
                std::mem::take(&mut work.waiting)
            };
            for app in waiting {
                self.flush(&app);
            }
            self.close_some();
            thread::sleep(LINGER);
        }
    }

    /// Writes what waits. Whoever holds the file takes what waits, so lines keep their order.
    fn flush(&self, app: &AppLog) {
        let mut file = locked(&app.file);
        let taken = {
            let mut pending = locked(&app.pending);
            (pending.lines > 0).then(|| std::mem::take(&mut *pending))
        };
        let Some(Pending { records, lines, dropped }) = taken else { return };
        if file.is_none() {
            match LogFile::open(&app.path, self.bounds) {
                Ok(opened) => {
                    self.open_files.fetch_add(1, Ordering::Relaxed);
                    *file = Some(opened);
                }
                Err(error) => {
                    tracing::warn!(error = %error, "an app's log can't be opened");
                    locked(&app.pending).dropped += dropped + lines;
                    return;
                }
            }
        }
        if let Some(file) = &*file {
            file.lost(dropped);
            file.append_records(&records, lines);
        }
        drop(file);
        app.changed.send_replace(());
        // The buffer goes back, so that a busy app doesn't allocate one for each round.
        let mut pending = locked(&app.pending);
        if pending.records.capacity() == 0 && records.capacity() <= PENDING_BYTES / 8 {
            pending.records = records;
            pending.records.clear();
        }
    }

    /// Ten thousand apps must not hold ten thousand files.
    fn close_some(&self) {
        if self.open_files.load(Ordering::Relaxed) <= OPEN_FILES {
            return;
        }
        for app in self.apps.read().unwrap_or_else(PoisonError::into_inner).values() {
            if locked(&app.file).take().is_some() {
                self.open_files.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for FileLogs {
    fn drop(&mut self) {
        locked(&self.shared.work).stop = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes logs has panicked");
        }
    }
}

#[async_trait]
impl Logs for FileLogs {
    fn append(&self, app: &AppName, line: LogLine) {
        let app = self.shared.app(app);
        let mut pending = locked(&app.pending);
        if pending.records.len() >= PENDING_BYTES {
            pending.dropped += 1;
            return;
        }
        let first = pending.lines == 0;
        let records = record::encode(&line, &mut pending.records);
        pending.lines += records;
        drop(pending);
        if first {
            let mut work = locked(&self.shared.work);
            work.waiting.push(app);
            if work.waiting.len() == 1 {
                self.shared.wake.notify_one();
            }
        }
    }

    async fn read(&self, app: &AppName, query: LogQuery) -> Result<BoxStream<'static, LogLine>> {
        let app = self.shared.app(app);
        let shared = Arc::clone(&self.shared);
        let changed = app.changed.subscribe();
        let follow = query.follow;
        let tail = blocking({
            let app = Arc::clone(&app);
            move || {
                // So that a caller reads what it has just written.
                shared.flush(&app);
                Tail::open(Folder::new(&app.path), query)
            }
        })
        .await
        .map_err(|error| Error::from_io(format!("can't read the log in {}", app.path.display()), error))?;
        let reader = Reader { tail: Some(tail), ready: VecDeque::new(), changed, follow, app };
        Ok(stream::unfold(reader, Reader::step).boxed())
    }

    async fn forget(&self, app: &AppName) -> Result<()> {
        let log = self.shared.app(app);
        let shared = Arc::clone(&self.shared);
        let path = log.path.clone();
        blocking(move || {
            let mut file = locked(&log.file);
            *locked(&log.pending) = Pending::default();
            if file.take().is_some() {
                shared.open_files.fetch_sub(1, Ordering::Relaxed);
            }
            Folder::new(&log.path).remove()
        })
        .await
        .map_err(|error| Error::from_io(format!("can't remove the log in {}", path.display()), error))
    }
}

/// One reader's stream.
struct Reader {
    /// Away while a thread reads.
    tail: Option<Tail>,
    ready: VecDeque<LogLine>,
    changed: watch::Receiver<()>,
    follow: bool,
    /// Keeps the sender of `changed`.
    app: Arc<AppLog>,
}

impl Reader {
    async fn step(mut self) -> Option<(LogLine, Self)> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some((line, self));
            }
            self.changed.mark_unchanged();
            let mut tail = self.tail.take()?;
            match blocking(move || tail.next().map(|lines| (lines, tail))).await {
                Ok((lines, tail)) => {
                    self.ready = lines.into();
                    self.tail = Some(tail);
                }
                Err(error) => {
                    let text = format!("This log can't be read any more: {error}");
                    tracing::warn!(error = %error, log.folder = ?self.app.path, "a log can't be read any more");
                    let line = LogLine::new(SystemClock::new().now(), LogSource::Platform, "logs", text);
                    return Some((line, self));
                }
            }
            if self.ready.is_empty() {
                if !self.follow {
                    return None;
                }
                tokio::select! {
                    // An error would mean that the sender is gone; this reader holds it.
                    Ok(()) = self.changed.changed() => {}
                    () = tokio::time::sleep(POLL) => {}
                }
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

impl fmt::Debug for FileLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileLogs")
            .field("root", &self.shared.root)
            .field("bounds", &self.shared.bounds)
            .finish_non_exhaustive()
    }
}
