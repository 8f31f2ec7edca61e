//! Base images of what is installed here.

mod busybox;
mod postgres;
mod stack;

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::TryStreamExt;
use paas_core::{Error, Result, blocking};
use tar::{Builder, EntryType, Header};

use crate::failed;

/// An image that tests start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BaseImage {
    /// Debian's busybox-static with all its applets in `/bin`: 2 MB.
    Busybox,
    /// What slugs need: bash, the usual small tools, Node.js and Python, some 160 MB.
    Stack,
    /// The newest PostgreSQL that is installed here, behind the contract of the official image: 60 MB.
    Postgres,
}

impl BaseImage {
    /// Its name, with its tag.
    pub fn name(self) -> &'static str {
        match self {
            Self::Busybox => "paas-test/busybox:1",
            Self::Stack => "paas-test/stack:1",
            Self::Postgres => "paas-test/postgres:1",
        }
    }

    /// The major version of the PostgreSQL that is installed here.
    pub fn postgres_version() -> Option<u16> {
        postgres::version()
    }
}

/// Imports it where the daemon doesn't have it.
pub(super) async fn import(client: &Docker, image: BaseImage) -> Result<()> {
    if client.inspect_image(image.name()).await.is_ok() {
        return Ok(());
    }
    let layer = blocking(move || {
        let made = match image {
            BaseImage::Busybox => busybox::layer(),
            BaseImage::Stack => stack::layer(),
            BaseImage::Postgres => postgres::layer(),
        };
        made.map_err(|e| Error::from_io(format!("can't make the image {}", image.name()), e))
    })
    .await?;
    let path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let mut changes = vec![path];
    if image == BaseImage::Postgres {
        changes.extend(postgres::changes());
    }
    // Beside each other, of two that import it the second one's is the image.
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(image.name()).changes(changes).build();
    let imported = client.create_image(Some(options), Some(bollard::body_full(layer.into())), None);
    let said = imported.try_collect::<Vec<_>>().await;
    said.map(drop).map_err(|e| failed(format!("can't import the image {}", image.name()), e))
}

/// A layer in the making.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    /// With the files that every program expects.
    fn new() -> std::io::Result<Self> {
        let mut layer = Self(Builder::new(Vec::new()));
        for folder in ["dev", "etc", "proc", "root", "run", "sys", "usr", "usr/bin", "usr/sbin", "var"] {
            layer.folder(folder, 0o755)?;
        }
        layer.folder("tmp", 0o1777)?;
        let users = "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n\
            nobody:x:65534:65534::/:/bin/false\n";
        layer.file("etc/passwd", users.as_bytes(), 0o644)?;
        layer.file("etc/group", b"root:x:0:\npostgres:x:999:\nnogroup:x:65534:\n", 0o644)?;
        Ok(layer)
    }

    fn folder(&mut self, path: &str, mode: u32) -> std::io::Result<()> {
        self.0.append_data(&mut header(EntryType::Directory, 0, mode), path, std::io::empty())
    }

    fn file(&mut self, path: &str, content: &[u8], mode: u32) -> std::io::Result<()> {
        self.0.append_data(&mut header(EntryType::Regular, content.len() as u64, mode), path, content)
    }

    fn link(&mut self, path: &str, to: &str) -> std::io::Result<()> {
        self.0.append_link(&mut header(EntryType::Symlink, 0, 0o777), path, to)
    }

    fn done(self) -> std::io::Result<Vec<u8>> {
        self.0.into_inner()
    }
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    // The same files give the same image.
    header.set_mtime(0);
    header
}
