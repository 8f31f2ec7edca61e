//! The suite's backends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Backend;

/// A small HTTP/1.1 server on loopback that answers each GET with its name. `/hold` is answered once it is released.
#[derive(Debug)]
pub struct Origin {
    name: &'static str,
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    requests: watch::Sender<u64>,
    released: watch::Sender<bool>,
}

impl Origin {
    /// Listens on a free port of loopback.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(State { requests: watch::Sender::new(0), released: watch::Sender::new(false) });
        let accepting = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let state = Arc::clone(&state);
                    // A connection that breaks is the router's business: it shows in the answers.
                    tokio::spawn(async move { serve(stream, name, &state).await });
                }
            }
        });
        Self { name, address, state, accepting }
    }

    /// This server as an instance.
    pub fn backend(&self) -> Backend {
        Backend::new(format!("web.{}", self.name), self.address)
    }

    /// How many requests have come.
    pub fn requests(&self) -> u64 {
        *self.state.requests.borrow()
    }

    /// Waits until so many requests have come.
    pub async fn reached(&self, requests: u64) {
        let mut seen = self.state.requests.subscribe();
        // The sender lives as long as we do.
        let _ = seen.wait_for(|count| *count >= requests).await;
    }

    /// Answers the requests that are held, and holds none from now on.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, name: &str, state: &State) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let held = line.split(' ').nth(1).is_some_and(|path| path.starts_with("/hold"));
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
        }
        state.requests.send_modify(|count| *count += 1);
        if held {
            // An error would mean that the origin is gone; then the connection may go too.
            let _ = state.released.subscribe().wait_for(|released| *released).await;
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        stream.get_mut().write_all(answer.as_bytes()).await?;
    }
}
