//! Smart HTTP as it comes over a connection, through hyper to where git would be started: request lines, headers, bodies
//! in gzip.

use std::convert::Infallible;
use std::io::Read;
use std::sync::{Arc, Mutex};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use paas_build::fuzzing::{Heard, answer, request};
use paas_core::{AppName, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "git_request",
    run,
    words: &[
        "GET /app.git/info/refs?service=git-receive-pack HTTP/1.1\r\n",
        "POST /app.git/git-receive-pack HTTP/1.1\r\n",
        "POST /app.git/git-upload-pack HTTP/1.1\r\n",
        "Host: x\r\n",
        "Authorization: Basic dTpw\r\n",
        "Authorization: Bearer t\r\n",
        "Content-Type: application/x-git-receive-pack-request\r\n",
        "Content-Encoding: gzip\r\n",
        "Content-Encoding: x-gzip\r\n",
        "Content-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Git-Protocol: version=2\r\n",
        "Expect: 100-continue\r\n",
        "\r\n\r\n",
        "0\r\n\r\n",
        "0000",
        "side-band-64k",
        "report-status",
        "../",
        "%2e%2e",
        "/",
        "?",
        ".git",
    ],
};

/// As much may get to git.
const MOST: u64 = 16 << 10;

/// The input: a connection. What stands between `{gz:` and `}` is sent as gzip, in as many bytes as it takes.
fn run(input: &[u8]) -> String {
    let bytes = super::with_gzip(input);
    let heard: Arc<Mutex<Vec<Result<Heard>>>> = Arc::default();
    let answers = super::block_on(async {
        let (ours, theirs) = tokio::io::duplex(4096);
        let service = service_fn(|sent| {
            let heard = heard.clone();
            async move {
                let asked = request(sent, MOST).await;
                let response = answer(&asked);
                heard.lock().expect("nobody panicked").push(asked);
                Ok::<_, Infallible>(response)
            }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        let (mut from, mut to) = tokio::io::split(ours);
        let sending = async {
            // The server may have had enough.
            let _ = to.write_all(&bytes).await;
            let _ = to.shutdown().await;
        };
        let mut answers = Vec::new();
        let all = async { tokio::join!(serving, sending, from.read_to_end(&mut answers)) };
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), all).await;
        assert!(ended.is_ok(), "a connection hangs");
        answers
    });
    let heard = heard.lock().expect("nobody panicked");
    let mut kinds =
        format!("{} answers", super::few(answers.windows(9).filter(|part| part == b"HTTP/1.1 ").count()));
    for asked in heard.iter() {
        match asked {
            Err(error) => kinds += &super::refused(error),
            Ok(heard) => {
                check(heard, &bytes);
                let ended = heard.ended.as_deref().unwrap_or("whole");
                kinds += [" fetch", " push"][usize::from(heard.push)];
                kinds += [" plain", " gzip"][usize::from(heard.gzip)];
                kinds += [" bare ", " framed "][usize::from(heard.framed)];
                kinds += ended;
            }
        }
    }
    assert!(!String::from_utf8_lossy(&answers).contains(" 500 "), "a client's mistake is taken for ours");
    kinds
}

fn check(heard: &Heard, bytes: &[u8]) {
    assert!(AppName::new(&heard.app).is_ok(), "{:?} is no app's name", heard.app);
    assert!(heard.input.len() as u64 <= MOST, "{} bytes get to git", heard.input.len());
    if let Some(protocol) = &heard.protocol {
        assert!(
            !protocol.contains(|c: char| c.is_control() || c.is_whitespace()),
            "{protocol:?} for git's environment"
        );
    }
    if heard.gzip && heard.ended.is_none() && !heard.input.is_empty() {
        // What git gets is what a decoder of another kind reads at one of the places where gzip begins.
        let places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(&[0x1f, 0x8b]));
        let mut found = places.map(|at| {
            let mut content = Vec::new();
            let read = flate2::read::GzDecoder::new(&bytes[at..]).read_to_end(&mut content);
            read.map(|_| content)
        });
        let chunked = bytes.to_ascii_lowercase().windows(7).any(|word| word == b"chunked");
        assert!(
            chunked || found.any(|content| content.is_ok_and(|content| content == heard.input)),
            "git gets something else"
        );
    }
}
