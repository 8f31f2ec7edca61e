//! Users who stay longer than a release does: on WebSockets, and in slow uploads.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::http::Connection;

/// What users do until they are stopped, and what they noticed.
#[derive(Debug)]
pub(crate) struct Lasting {
    over: Arc<AtomicBool>,
    users: Vec<JoinHandle<Noticed>>,
}

#[derive(Debug, Default)]
pub(crate) struct Noticed {
    /// Messages that came back, or uploads that arrived.
    pub(crate) done: u64,
    /// How often one was told that its WebSocket goes away.
    pub(crate) moved: u64,
    pub(crate) failed: Vec<String>,
}

impl Lasting {
    /// So many users who say something on a WebSocket every 20 ms, wait for the echo, and open another one where they are
    /// told that theirs goes away.
    pub(crate) fn on_sockets(count: usize, router: SocketAddr, host: &str) -> Self {
        Self::start(count, router, host, |user| {
            let mut socket = user.socket()?;
            for number in 0_u32.. {
                let text = format!("message {number}");
                match ask(&mut socket, &text)? {
                    Said::Same => user.noticed.done += 1,
                    Said::GoesAway => {
                        user.noticed.moved += 1;
                        return Ok(());
                    }
                }
                if user.is_over() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        })
    }

    /// So many users who upload 64 KiB, which takes them a second and a half each time.
    pub(crate) fn uploading(count: usize, router: SocketAddr, host: &str) -> Self {
        Self::start(count, router, host, |user| {
            let (pieces, piece) = (16, [b'x'; 4096]);
            let mut connection = Connection::open(user.router)?;
            let (host, length) = (&user.host, pieces * piece.len());
            connection
                .send(format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"))?;
            for _ in 0..pieces {
                connection.send(piece)?;
                std::thread::sleep(Duration::from_millis(90));
            }
            let (answer, _) = connection.answer(true)?;
            if answer.status != 200 || answer.number("uploaded") as usize != length {
                return Err(io::Error::other(format!("{answer:?}")));
            }
            user.noticed.done += 1;
            Ok(())
        })
    }

    fn start(
        count: usize,
        router: SocketAddr,
        host: &str,
        visit: impl Fn(&mut User) -> io::Result<()> + Clone + Send + 'static,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let start = |_| {
            let (over, host, visit) = (Arc::clone(&over), host.to_owned(), visit.clone());
            let mut user = User { over, router, host, noticed: Noticed::default() };
            std::thread::spawn(move || {
                while !user.is_over() {
                    if let Err(error) = visit(&mut user) {
                        user.noticed.failed.push(error.to_string());
                    }
                }
                user.noticed
            })
        };
        let users = (0..count).map(start).collect();
        Self { over, users }
    }

    /// Ends once each has finished what it does.
    pub(crate) fn stop(mut self) -> Noticed {
        self.over.store(true, Ordering::SeqCst);
        let mut all = Noticed::default();
        for user in self.users.drain(..) {
            let one = user.join().unwrap();
            all.done += one.done;
            all.moved += one.moved;
            all.failed.extend(one.failed);
        }
        all
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

struct User {
    over: Arc<AtomicBool>,
    router: SocketAddr,
    host: String,
    noticed: Noticed,
}

impl User {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn socket(&self) -> io::Result<Connection> {
        let mut connection = Connection::open(self.router)?;
        connection.send(format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.host
        ))?;
        let (answer, _) = connection.answer(true)?;
        if answer.status == 101 { Ok(connection) } else { Err(io::Error::other(format!("{answer:?}"))) }
    }
}

/// What came back on a WebSocket.
enum Said {
    Same,
    GoesAway,
}

/// "Going away": RFC 6455, section 7.4.1.
const GOES_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

/// Says something of up to 125 bytes, in one frame (section 5.2), and hears what comes back.
fn ask(connection: &mut Connection, text: &str) -> io::Result<Said> {
    say(connection, 0x81, text.as_bytes())?;
    let [kind, length] = connection.read()?;
    match (kind, usize::from(length)) {
        (0x81, length) if length == text.len() => {
            for byte in text.bytes() {
                if connection.read()? != [byte] {
                    return Err(io::Error::other("another message came back"));
                }
            }
            Ok(Said::Same)
        }
        (0x88, 2) if connection.read()? == GOES_AWAY => {
            say(connection, 0x88, &GOES_AWAY)?;
            Ok(Said::GoesAway)
        }
        other => Err(io::Error::other(format!("a frame {other:?}"))),
    }
}

/// A client's frames are masked; by what, is its own matter.
fn say(connection: &mut Connection, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let length = u8::try_from(payload.len()).unwrap();
    let head = [kind, 0x80 | length].into_iter().chain(mask);
    connection.send(head.chain(masked).collect::<Vec<_>>())
}
