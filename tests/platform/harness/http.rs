//! Requests as a browser sends them, and what came back, byte for byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The first word of what a [`Repo`](super::Repo)'s app answers: which commit it is of.
    pub(crate) fn word(&self) -> &str {
        self.body.split(' ').next().unwrap_or_default()
    }

    /// The number after `key=` in it.
    pub(crate) fn number(&self, key: &str) -> u32 {
        let mut words = self.body.split_whitespace().filter_map(|word| word.split_once('='));
        let (_, value) = words.find(|(k, _)| *k == key).unwrap_or_else(|| panic!("no {key} in {self:?}"));
        value.parse().unwrap()
    }
}

/// A connection that may be used again.
#[derive(Debug)]
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a request; with the answer, whether the connection can be used again.
    pub(crate) fn get(&mut self, host: &str, keep: bool) -> io::Result<(Answer, bool)> {
        let connection = if keep { "keep-alive" } else { "close" };
        self.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n"))?;
        self.answer(keep)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())
    }

    pub(crate) fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The answer to what was sent; and whether the connection can be used again, which a 101 says nothing of.
    pub(crate) fn answer(&mut self, keep: bool) -> io::Result<(Answer, bool)> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| bad(&first))?;
        let (mut length, mut keeps, mut chunked) = (None, keep, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                None => break,
                Some(("content-length", value)) => length = value.parse::<usize>().ok(),
                Some(("transfer-encoding", "chunked")) => chunked = true,
                Some(("connection", "close")) => keeps = false,
                Some(_) => {}
            }
        }
        let mut body = Vec::new();
        if chunked {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).map_err(|_| bad("a chunk's size"))?;
                let at = body.len();
                body.resize(at + size, 0);
                self.0.read_exact(&mut body[at..])?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = length {
            body.resize(length, 0);
            self.0.read_exact(&mut body)?;
        } else if status != 101 {
            keeps = false;
            self.0.read_to_end(&mut body)?;
        }
        Ok((Answer { status, body: String::from_utf8_lossy(&body).into_owned() }, keeps))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it was closed before the answer ended",
            ));
        }
        Ok(line.trim_end().to_owned())
    }
}

/// One request on a connection of its own.
pub(crate) fn get(address: SocketAddr, host: &str) -> io::Result<Answer> {
    Connection::open(address)?.get(host, false).map(|(answer, _)| answer)
}
