//! Users: some on connections that they keep, some on new ones, who notice everything.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::http::{Answer, Connection};
use super::until;

/// Two cores are shared with the platform, its builds and its apps.
const PAUSE: Duration = Duration::from_millis(15);

/// Sends requests until it is stopped.
#[derive(Debug)]
pub(crate) struct Prober {
    seen: Arc<Seen>,
    users: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    over: AtomicBool,
    /// Odd while the platform is down on purpose: what fails then, or across a change, doesn't count.
    epoch: AtomicU64,
    count: AtomicU64,
    words: Mutex<BTreeMap<String, u64>>,
    failed: Mutex<Vec<String>>,
}

/// What users noticed.
#[derive(Debug)]
pub(crate) struct Report {
    /// Requests that counted.
    pub(crate) requests: u64,
    /// How often which commit's app answered.
    pub(crate) words: BTreeMap<String, u64>,
    pub(crate) failed: Vec<String>,
}

impl Report {
    /// Nobody noticed anything, and all were answered by one of these.
    pub(crate) fn assert_served_by(&self, words: &[&str]) {
        assert!(
            self.failed.is_empty(),
            "{} of {} failed: {:?}",
            self.failed.len(),
            self.requests,
            self.failed
        );
        let others: Vec<_> = self.words.keys().filter(|word| !words.contains(&word.as_str())).collect();
        assert!(others.is_empty(), "answered by {:?}", self.words);
        assert!(self.requests > 10, "only {} requests were sent", self.requests);
    }
}

impl Prober {
    /// Starts four users of this host and waits for the first answers.
    pub(crate) fn start(router: SocketAddr, host: &str) -> Self {
        Self::start_users(router, host, 1, PAUSE)
    }

    /// Four times as many, who never rest.
    pub(crate) fn start_busy(router: SocketAddr, host: &str) -> Self {
        Self::start_users(router, host, 4, Duration::ZERO)
    }

    fn start_users(router: SocketAddr, host: &str, times: usize, pause: Duration) -> Self {
        let seen = Arc::new(Seen::default());
        let user = |keeps: bool| {
            let (seen, host) = (Arc::clone(&seen), host.to_owned());
            std::thread::spawn(move || seen.be_a_user(router, &host, keeps, pause))
        };
        let users = [true, true, false, false].repeat(times).into_iter().map(user).collect();
        let prober = Self { seen, users };
        until("answers", || (prober.count() > 8).then_some(()));
        prober
    }

    pub(crate) fn count(&self) -> u64 {
        self.seen.count.load(Ordering::SeqCst)
    }

    /// From here on failures don't count: the platform will be killed.
    pub(crate) fn look_away(&self) {
        assert_eq!(self.seen.epoch.fetch_add(1, Ordering::SeqCst) % 2, 0, "it looks away already");
    }

    /// It is back.
    pub(crate) fn look(&self) {
        assert_eq!(self.seen.epoch.fetch_add(1, Ordering::SeqCst) % 2, 1, "it looks already");
    }

    /// Ends after some more requests, so that what has just happened was seen.
    pub(crate) fn stop(mut self) -> Report {
        let enough = self.count() + 20;
        until("more answers", || (self.count() > enough).then_some(()));
        self.end();
        Report {
            requests: self.count(),
            words: std::mem::take(&mut self.seen.words.lock().unwrap()),
            failed: std::mem::take(&mut self.seen.failed.lock().unwrap()),
        }
    }

    fn end(&mut self) {
        self.seen.over.store(true, Ordering::SeqCst);
        for user in self.users.drain(..) {
            user.join().unwrap();
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
        self.seen.over.store(true, Ordering::SeqCst);
    }
}

impl Seen {
    fn be_a_user(&self, router: SocketAddr, host: &str, keeps: bool, pause: Duration) {
        let (mut kept, mut last) = (None, 0);
        while !self.over.load(Ordering::SeqCst) {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch != last {
                (kept, last) = (None, epoch);
            }
            let result = request(&mut kept, router, host, keeps);
            if epoch.is_multiple_of(2) && epoch == self.epoch.load(Ordering::SeqCst) {
                self.note(result);
            }
            std::thread::sleep(pause);
        }
    }

    fn note(&self, result: io::Result<Answer>) {
        match result {
            Ok(answer) if answer.status == 200 => {
                *self.words.lock().unwrap().entry(answer.word().to_owned()).or_default() += 1;
            }
            Ok(answer) => self.failed.lock().unwrap().push(format!("{answer:?}")),
            Err(error) => self.failed.lock().unwrap().push(error.to_string()),
        }
        self.count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Also a connection that was kept and is closed counts as a failure: the router has no reason to close it.
fn request(kept: &mut Option<Connection>, router: SocketAddr, host: &str, keeps: bool) -> io::Result<Answer> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(router)?,
    };
    let (answer, again) = connection.get(host, keeps)?;
    if again {
        *kept = Some(connection);
    }
    Ok(answer)
}
