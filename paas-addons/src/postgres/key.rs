//! Passwords that nobody has to store.

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use paas_core::{AddonId, Error, ErrorCode, Result};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

/// The key that passwords are derived from: `HMAC-SHA-256(key, purpose, add-on, rotation)`.
///
/// Whoever has it and can ask the server for the rotation knows every add-on's password, so it is kept like
/// the platform's master key: a file of mode 0600 that the database server itself can't read. Engines
/// that share a server share the key.
#[derive(Clone)]
pub struct PasswordKey(Zeroizing<[u8; 32]>);

impl PasswordKey {
    /// This key, such as one from a vault.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key in this file, which is made with mode 0600 if it isn't there: 64 hexadecimal digits. Of two that
    /// make it at once both get the same.
    ///
    /// # Errors
    /// `corrupt` when the file holds something else, `forbidden` when others may read it; when it can't be read
    /// or made.
    pub fn open(file: &Path) -> Result<Self> {
        let io = |e| Error::from_io(format!("can't open the password key {}", file.display()), e);
        if !file.try_exists().map_err(io)? {
            Self::make(file)?;
        }
        let mode = fs::metadata(file).map_err(io)?.permissions().mode();
        if mode & 0o077 != 0 {
            let message = format!("others may read the password key {}: run chmod 600 on it", file.display());
            return Err(Error::new(ErrorCode::Forbidden, message));
        }
        let text = Zeroizing::new(fs::read_to_string(file).map_err(io)?);
        from_hex(text.trim_end()).map(Self).ok_or_else(|| {
            let message = format!(
                "the password key {} is damaged: restore it from a backup, or remove it and rotate every add-on",
                file.display()
            );
            Error::new(ErrorCode::Corrupt, message)
        })
    }

    fn make(file: &Path) -> Result<()> {
        let io = |e| Error::from_io(format!("can't make the password key {}", file.display()), e);
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut()).map_err(|e| {
            Error::new(ErrorCode::Internal, "the system gives no random numbers").with_source(e)
        })?;
        let folder = file.parent().unwrap_or_else(|| Path::new("."));
        let aside = folder.join(format!(".key-{}", Uuid::new_v4().simple()));
        let mut made =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(io)?;
        let written = made.write_all(to_hex(bytes.as_ref()).as_bytes()).and_then(|()| made.sync_all());
        // A link, not a rename: whoever comes second must not replace the key that the first one uses.
        let linked = written.and_then(|()| match fs::hard_link(&aside, file) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        });
        fs::remove_file(&aside).map_err(io)?;
        linked.map_err(io)?;
        fs::File::open(folder).and_then(|f| f.sync_all()).map_err(io)
    }

    /// The password of the platform's own role on a server that it manages.
    pub(super) fn own_password(&self) -> Zeroizing<String> {
        self.derive(b"server", &[])
    }

    /// The password of the platform's own role on the server that an add-on has for itself.
    #[cfg(feature = "docker")]
    pub(super) fn dedicated_password(&self, addon: AddonId) -> Zeroizing<String> {
        self.derive(b"dedicated", addon.uuid().as_bytes())
    }

    /// The password of an add-on's role after this many rotations.
    pub(super) fn password(&self, addon: AddonId, rotation: u32) -> Zeroizing<String> {
        let mut input = addon.uuid().as_bytes().to_vec();
        input.extend_from_slice(&rotation.to_be_bytes());
        self.derive(b"addon", &input)
    }

    /// Tells keys apart without telling them: stands beside the rotation on the server.
    pub(super) fn fingerprint(&self) -> String {
        self.derive(b"fingerprint", &[])[..12].to_owned()
    }

    /// 64 hexadecimal digits, which need no quoting in URLs, shells or SQL. The purposes are of different
    /// lengths of fixed input, so no two inputs are the same.
    fn derive(&self, purpose: &[u8], input: &[u8]) -> Zeroizing<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_ref())
            .unwrap_or_else(|_| unreachable!("any length will do"));
        mac.update(b"paas postgres ");
        mac.update(purpose);
        mac.update(b"\0");
        mac.update(input);
        Zeroizing::new(to_hex(&mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for PasswordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordKey([redacted])")
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
        }
        hex
    })
}

fn from_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_depends_on_key_addon_and_rotation_alone() {
        let (key, other) = (PasswordKey::new([1; 32]), PasswordKey::new([2; 32]));
        let (a, b) = (AddonId::new(), AddonId::new());
        assert_eq!(key.password(a, 0), PasswordKey::new([1; 32]).password(a, 0));
        assert_ne!(key.password(a, 0), key.password(a, 1));
        assert_ne!(key.password(a, 0), key.password(b, 0));
        assert_ne!(key.password(a, 0), other.password(a, 0));
        assert_ne!(key.fingerprint(), other.fingerprint());
    }

    #[test]
    fn everybody_who_opens_the_file_gets_the_same_key_and_nobody_else_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| PasswordKey::open(&file).unwrap())).collect();
            threads.into_iter().map(|t| t.join().unwrap().fingerprint()).collect()
        });
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_damaged_or_open_key_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        PasswordKey::open(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(PasswordKey::open(&file).unwrap_err().code(), ErrorCode::Forbidden);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "zz").unwrap();
        assert_eq!(PasswordKey::open(&file).unwrap_err().code(), ErrorCode::Corrupt);
    }

    #[test]
    fn debug_does_not_show_the_key() {
        assert_eq!(format!("{:?}", PasswordKey::new([0x41; 32])), "PasswordKey([redacted])");
    }
}
