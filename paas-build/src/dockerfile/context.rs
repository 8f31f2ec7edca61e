//! What a build may copy from: the checkout without what `.dockerignore` names; for the classic builder as a tar stream
//! that is made while it is sent.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use paas_core::{Error, Result, blocking};
use paas_docker::Body;
use tar::{EntryType, Header, HeaderMode};
use tokio::sync::mpsc;

use super::ignored::Ignored;
use crate::file::read_small;

/// Sent at once, in bytes.
const CHUNK: usize = 64 * 1024;
/// A larger `.dockerignore` is a mistake, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// A context to be sent.
#[derive(Debug)]
pub(super) struct BuildContext {
    pub(super) dir: PathBuf,
    pub(super) dockerfile: String,
    ignored: Ignored,
    /// The time of all files. It is nothing that a layer is found again by, but web servers tell by it that a file has
    /// changed.
    pub(super) at: DateTime<Utc>,
    /// Lines of `.dockerignore` that are no patterns.
    pub(super) wrong: Vec<String>,
}

impl BuildContext {
    /// Of this folder, with the `Dockerfile` at this path. A file beside it that is called as it and `.dockerignore` goes
    /// before the folder's own, as with Docker.
    pub(super) fn of(dir: &Path, dockerfile: &str, at: DateTime<Utc>) -> Result<Self> {
        let beside = format!("{dockerfile}.dockerignore");
        let text = match read_small(dir, &beside, MAX_BYTES)? {
            Some(text) => Some(text),
            None => read_small(dir, ".dockerignore", MAX_BYTES)?,
        };
        let (ignored, wrong) = Ignored::parse(&String::from_utf8_lossy(&text.unwrap_or_default()));
        Ok(Self { dir: dir.to_owned(), dockerfile: dockerfile.to_owned(), ignored, at, wrong })
    }

    /// As a request's body; the other part makes it, and must run beside the request.
    pub(super) fn body(self) -> (Body, impl Future<Output = Result<()>> + Send) {
        let (sender, mut receiver) = mpsc::channel(4);
        let chunks = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let packing = blocking(move || {
            let shown = self.dir.display().to_string();
            match self.pack(Sending(sender.clone())) {
                // The daemon wants no more of it, and says why.
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                    // Half a context must not pass for a whole one; nobody may be there to be told.
                    let _ = sender.blocking_send(Err(io::ErrorKind::Interrupted.into()));
                    Err(Error::from_io(format!("can't send {shown} to Docker"), e))
                }
                _ => Ok(()),
            }
        });
        (StreamBody::new(chunks).boxed_unsync(), packing)
    }

    fn pack(&self, to: Sending) -> io::Result<()> {
        let mut tar = tar::Builder::new(BufWriter::with_capacity(CHUNK, to));
        tar.mode(HeaderMode::Deterministic);
        self.walk(true, &mut |entry| {
            let Entry { path, kind } = entry;
            match kind {
                Kind::Folder => {
                    tar.append_data(&mut self.header(EntryType::Directory, 0, kind.mode()), path, io::empty())
                }
                Kind::Link(to) => tar.append_link(&mut self.header(EntryType::Symlink, 0, 0o777), path, to),
                Kind::File { size, .. } => {
                    let file = fs::File::open(self.dir.join(&path))?;
                    tar.append_data(&mut self.header(EntryType::Regular, size, kind.mode()), path, file)
                }
            }
        })?;
        tar.into_inner()?.flush()
    }

    /// What the context holds, each folder before what is in it and all in the order of their names; `recipe`: with the
    /// Dockerfile, also where the app leaves it out of what it copies.
    pub(super) fn walk(
        &self,
        recipe: bool,
        visit: &mut dyn FnMut(Entry) -> io::Result<()>,
    ) -> io::Result<()> {
        self.folder(Path::new(""), recipe, visit)
    }

    fn folder(
        &self,
        within: &Path,
        recipe: bool,
        visit: &mut dyn FnMut(Entry) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut entries = fs::read_dir(self.dir.join(within))?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = within.join(entry.file_name());
            let kind = entry.file_type()?;
            let leads_to_it = recipe && Path::new(&self.dockerfile).starts_with(&path);
            let out = self.ignored.leaves_out(&path) && !(recipe && Path::new(&self.dockerfile) == path);
            if kind.is_dir() {
                if !out {
                    visit(Entry { path: path.clone(), kind: Kind::Folder })?;
                }
                if !out || leads_to_it || !self.ignored.is_final() {
                    self.folder(&path, recipe, visit)?;
                }
                continue;
            }
            if out {
                continue;
            }
            if kind.is_symlink() {
                let to = fs::read_link(entry.path())?;
                visit(Entry { path, kind: Kind::Link(to) })?;
            } else if kind.is_file() {
                visit(Entry { path, kind: Kind::file(&entry.metadata()?) })?;
            }
        }
        Ok(())
    }

    fn header(&self, kind: EntryType, size: u64, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(self.at.timestamp()).unwrap_or_default());
        header
    }
}

/// One thing of a context.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where it is in the context.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Folder,
    /// A symbolic link, and where it leads.
    Link(PathBuf),
    File {
        executable: bool,
        size: u64,
    },
}

impl Kind {
    pub(super) fn file(meta: &fs::Metadata) -> Self {
        Self::File { executable: meta.permissions().mode() & 0o111 != 0, size: meta.len() }
    }

    /// Who may do what with it. Nothing else of a checkout's modes means anything.
    pub(super) fn mode(&self) -> u32 {
        match self {
            Self::Link(_) => 0o777,
            Self::Folder | Self::File { executable: true, .. } => 0o755,
            Self::File { executable: false, .. } => 0o644,
        }
    }
}

/// Hands over to the request.
struct Sending(mpsc::Sender<io::Result<Frame<Bytes>>>);

impl Write for Sending {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let frame = Frame::data(Bytes::copy_from_slice(content));
        self.0.blocking_send(Ok(frame)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    async fn packed(dir: &Path, dockerfile: &str) -> Vec<u8> {
        let (body, packing) = BuildContext::of(dir, dockerfile, DateTime::UNIX_EPOCH).unwrap().body();
        let (body, packing) = tokio::join!(body.collect(), packing);
        packing.unwrap();
        body.unwrap().to_bytes().to_vec()
    }

    fn names(tar: &[u8]) -> BTreeMap<String, u32> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(Result::unwrap);
        entries.map(|e| (e.path().unwrap().display().to_string(), e.header().mode().unwrap())).collect()
    }

    fn write(dir: &Path, path: &str, text: &str) {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        fs::write(dir.join(path), text).unwrap();
    }

    #[tokio::test]
    async fn what_dockerignore_names_is_not_sent_but_the_dockerfile_is() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["deploy/Dockerfile", "deploy/key", "node_modules/x/y", "src/a", "src/b.log"] {
            write(dir.path(), path, "x");
        }
        write(dir.path(), ".dockerignore", "node_modules\ndeploy\n**/*.log\n");
        let sent = packed(dir.path(), "deploy/Dockerfile").await;
        let sent: Vec<_> = names(&sent).into_keys().collect();
        assert_eq!(sent, [".dockerignore", "deploy/Dockerfile", "src", "src/a"]);
    }

    #[tokio::test]
    async fn the_same_tree_gives_the_same_bytes() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (dir, order) in [(&one, ["a", "b"]), (&two, ["b", "a"])] {
            for name in order {
                write(dir.path(), name, name);
            }
            fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        }
        fs::set_permissions(two.path().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        let (one, two) = (packed(one.path(), "Dockerfile").await, packed(two.path(), "Dockerfile").await);
        assert!(one == two, "the same tree gives the same bytes");
        assert_eq!(names(&one)["a"], 0o755);
    }
}
