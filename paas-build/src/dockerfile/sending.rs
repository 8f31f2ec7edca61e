//! The context over a build's session: BuildKit hears what there is, and asks for the files that it wants.
//!
//! ```text
//! daemon ──DiffCopy──────────> us
//!        <─────STAT, STAT, ..., an empty one
//!        ──REQ 3, REQ 7, ...──>
//!        <─────DATA 3, DATA 3, an empty one, ...
//!        ──FIN──>  <──FIN──
//! ```
//!
//! An entry's number is its place among those that were told. Each call is for one of two folders: that of the recipe,
//! and that of what may be copied.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc as queue;

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use paas_core::{Error, ErrorCode, Result, blocking};
use tokio::sync::mpsc;

use super::context::{BuildContext, Entry, Kind};
use super::wire::{fields, put, put_number};

/// gRPC's name of the call.
pub(super) const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// Sent at once, in bytes.
const CHUNK: usize = 32 * 1024;
/// A longer message of the daemon's is none: it asks for files by number, in bytes.
const MESSAGE: usize = 64 * 1024;

/// A file's kind, as the daemon writes modes.
const FOLDER: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

/// Kinds of packets.
const WANTED: u64 = 1;
const DATA: u64 = 2;
const END: u64 = 3;
const FAILED: u64 = 4;

/// Which folder the daemon asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Folder {
    /// The `Dockerfile` alone.
    Recipe,
    /// What may be copied.
    Context,
    /// What the daemon would read `.dockerignore` from. We have done what it says already.
    Ignored,
}

impl Folder {
    fn asked(headers: &HeaderMap) -> Self {
        let named =
            |key: &str, value: &str| headers.get(key).is_some_and(|is| is.as_bytes() == value.as_bytes());
        if named("dir-name", "dockerfile") {
            return Self::Recipe;
        }
        let mut paths =
            ["followpaths", "include-patterns"].into_iter().flat_map(|key| headers.get_all(key)).peekable();
        let asks = paths.peek().is_some();
        if asks && paths.all(|path| path.as_bytes().ends_with(b".dockerignore")) {
            Self::Ignored
        } else {
            Self::Context
        }
    }
}

/// Answers one call, until the daemon has what it wants.
pub(super) async fn send(
    headers: &HeaderMap,
    asked: RecvStream,
    stream: &mut SendStream<Bytes>,
    context: Arc<BuildContext>,
) -> Result<()> {
    let folder = Folder::asked(headers);
    let (want, wanted) = queue::channel();
    let (packets, mut ready) = mpsc::channel(4);
    let reading = blocking(move || {
        let shown = context.dir.display().to_string();
        match (Sender { context, to: packets, held: Vec::new() }).run(folder, &wanted) {
            // Nobody waits for it any more.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| Error::from_io(format!("can't send {shown} to Docker"), e)),
        }
    });
    let telling = async {
        while let Some(packet) = ready.recv().await {
            push(stream, packet).await?;
        }
        Ok(())
    };
    tokio::try_join!(hear(asked, want), telling, reading)?;
    let mut end = Vec::new();
    put_number(&mut end, 1, END);
    push(stream, framed(&end).into()).await
}

/// Passes on what the daemon asks for, until it has all.
async fn hear(mut asked: RecvStream, want: queue::Sender<u32>) -> Result<()> {
    let mut held = BytesMut::new();
    loop {
        while let Some(message) = next(&mut held)? {
            let (mut kind, mut id, mut said) = (0, 0, String::new());
            for (field, value) in fields(&message) {
                match field {
                    1 => kind = value.number(),
                    3 => id = value.number(),
                    4 => said = value.text(),
                    _ => {}
                }
            }
            match kind {
                WANTED => {
                    // Nobody listens where reading has failed, which is told by itself.
                    let _ = want.send(u32::try_from(id).unwrap_or(u32::MAX));
                }
                END => return Ok(()),
                FAILED => return Err(broken(format!("Docker can't take the files: {said}"))),
                _ => {}
            }
        }
        let part = asked.data().await.ok_or_else(|| broken("Docker asks for no more files"))?;
        let part = part.map_err(gone)?;
        asked.flow_control().release_capacity(part.len()).map_err(gone)?;
        held.extend_from_slice(&part);
    }
}

/// The next message, if it is whole: one byte says that it isn't compressed, four how long it is.
fn next(held: &mut BytesMut) -> Result<Option<BytesMut>> {
    let Some(head) = held.first_chunk::<5>() else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 || length > MESSAGE {
        return Err(broken("Docker asks for files in a way that is not known"));
    }
    if held.len() < 5 + length {
        return Ok(None);
    }
    held.advance(5);
    Ok(Some(held.split_to(length)))
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// Sends no faster than the daemon takes it.
async fn push(stream: &mut SendStream<Bytes>, mut packet: Bytes) -> Result<()> {
    while !packet.is_empty() {
        stream.reserve_capacity(packet.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.ok_or_else(|| broken("Docker takes no more files"))?.map_err(gone)?;
        let part = packet.split_to(room.min(packet.len()));
        stream.send_data(part, false).map_err(gone)?;
    }
    Ok(())
}

fn broken(text: impl Into<String>) -> Error {
    Error::new(ErrorCode::Unavailable, text)
}

fn gone(e: h2::Error) -> Error {
    broken("Docker went away while files were sent to it").with_source(e)
}

/// Reads what is sent.
struct Sender {
    context: Arc<BuildContext>,
    to: mpsc::Sender<Bytes>,
    held: Vec<u8>,
}

impl Sender {
    fn run(&mut self, folder: Folder, wanted: &queue::Receiver<u32>) -> io::Result<()> {
        let files = self.tell(folder)?;
        loop {
            let id = if let Ok(id) = wanted.try_recv() {
                id
            } else {
                self.flush()?;
                // It has what it wants.
                let Ok(id) = wanted.recv() else { return Ok(()) };
                id
            };
            let path = files.get(id as usize).and_then(Option::as_ref);
            let path = path.ok_or_else(|| io::Error::other(format!("there is no file {id}")))?;
            self.file(id, &self.context.dir.join(path))?;
        }
    }

    /// Tells what there is; gives the files by their numbers.
    fn tell(&mut self, folder: Folder) -> io::Result<Vec<Option<PathBuf>>> {
        let context = Arc::clone(&self.context);
        let (mut files, mut folders) = (Vec::new(), HashSet::new());
        let mut tell = |entry: Entry| {
            // What is taken back from a folder that is left out needs that folder.
            for parent in ancestors(&entry.path) {
                if folders.insert(parent.to_owned()) {
                    self.stat(&Entry { path: parent.to_owned(), kind: Kind::Folder })?;
                    files.push(None);
                }
            }
            if matches!(entry.kind, Kind::Folder) && !folders.insert(entry.path.clone()) {
                return Ok(());
            }
            self.stat(&entry)?;
            files.push(matches!(entry.kind, Kind::File { .. }).then_some(entry.path));
            Ok(())
        };
        match folder {
            Folder::Ignored => {}
            Folder::Context => context.walk(false, &mut tell)?,
            Folder::Recipe => {
                let kind = Kind::file(&fs::symlink_metadata(context.dir.join(&context.dockerfile))?);
                let path = Path::new(&context.dockerfile).components().collect();
                tell(Entry { path, kind })?;
            }
        }
        self.packet(&[])?;
        Ok(files)
    }

    fn stat(&mut self, entry: &Entry) -> io::Result<()> {
        let mut stat = Vec::new();
        put(&mut stat, 1, entry.path.as_os_str().as_bytes());
        let mode = entry.kind.mode();
        let at = self.context.at.timestamp_nanos_opt().unwrap_or_default();
        let (mode, size) = match &entry.kind {
            Kind::Folder => (FOLDER | mode, 0),
            Kind::Link(to) => (LINK | mode, to.as_os_str().len() as u64),
            Kind::File { size, .. } => (mode, *size),
        };
        put_number(&mut stat, 2, u64::from(mode));
        put_number(&mut stat, 5, size);
        put_number(&mut stat, 6, u64::try_from(at).unwrap_or_default());
        if let Kind::Link(to) = &entry.kind {
            put(&mut stat, 7, to.as_os_str().as_bytes());
        }
        let mut packet = Vec::new();
        put(&mut packet, 2, &stat);
        self.packet(&packet)
    }

    fn file(&mut self, id: u32, path: &Path) -> io::Result<()> {
        let mut file = fs::File::open(path)?;
        let mut piece = vec![0; CHUNK];
        loop {
            let read = file.read(&mut piece)?;
            let mut packet = Vec::new();
            put_number(&mut packet, 1, DATA);
            put_number(&mut packet, 3, u64::from(id));
            if read > 0 {
                put(&mut packet, 4, &piece[..read]);
            }
            self.packet(&packet)?;
            if read == 0 {
                return Ok(());
            }
        }
    }

    fn packet(&mut self, message: &[u8]) -> io::Result<()> {
        self.held.extend(framed(message));
        if self.held.len() < CHUNK { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        self.to.blocking_send(held.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The folders that lead to a path, from the outermost.
fn ancestors(path: &Path) -> Vec<&Path> {
    let mut all: Vec<_> = path.ancestors().skip(1).filter(|part| !part.as_os_str().is_empty()).collect();
    all.reverse();
    all
}
