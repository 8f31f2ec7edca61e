//! How the suite sends requests.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends requests through the router under test.
#[async_trait]
pub trait RouterClient: fmt::Debug + Send + Sync + 'static {
    /// A GET of this path of this host. Returns the status and the whole body; status 0 and the cause where there is no
    /// answer, or only a part of one.
    async fn get(&self, host: &str, path: &str) -> (u16, String);
}

/// Sends plain HTTP/1.1 to an address, a connection for each request.
#[derive(Debug, Clone, Copy)]
pub struct LoopbackClient(SocketAddr);

impl LoopbackClient {
    /// Sends to the router that listens at this address.
    pub fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    async fn exchange(&self, host: &str, path: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.0).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        parse(&answer).ok_or_else(|| {
            let text = String::from_utf8_lossy(&answer);
            io::Error::new(io::ErrorKind::UnexpectedEof, format!("no whole answer: {text:?}"))
        })
    }
}

#[async_trait]
impl RouterClient for LoopbackClient {
    async fn get(&self, host: &str, path: &str) -> (u16, String) {
        self.exchange(host, path).await.unwrap_or_else(|error| (0, error.to_string()))
    }
}

/// Status and body of an answer that ended with its connection; `None` for a part of one.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let body = &answer[end + 4..];
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let header = |wanted: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
    };
    let body = if header("transfer-encoding").is_some() {
        unchunk(body)?
    } else if let Some((_, length)) = header("content-length") {
        let length: usize = length.trim().parse().ok()?;
        (body.len() == length).then(|| body.to_vec())?
    } else {
        body.to_vec()
    };
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

fn unchunk(mut chunked: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunked.windows(2).position(|bytes| bytes == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&chunked[..end]).ok()?.trim(), 16).ok()?;
        chunked = &chunked[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunked.get(..size)?);
        chunked = chunked.get(size + 2..)?;
    }
}
