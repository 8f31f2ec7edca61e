//! The one place that encrypts.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use zeroize::Zeroizing;

use crate::{Error, ErrorCode, Result};

/// 32 secret bytes, wiped when dropped.
#[derive(Clone)]
pub(super) struct Key(Zeroizing<[u8; 32]>);

impl Key {
    pub(super) fn random() -> Result<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        random(&mut *bytes)?;
        Ok(Self(bytes))
    }

    pub(super) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes: [u8; 32]| Self(Zeroizing::new(bytes)))
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What a sealed text begins with, so that it can change.
const FORMAT: &str = "v1.";
const NONCE: usize = 24;

/// Encrypts, bound to `context`: it is opened only with the same.
pub(super) fn seal<P: AsRef<[u8]>>(key: &Key, context: &[P], plaintext: &[u8]) -> Result<String> {
    let mut nonce = [0; NONCE];
    random(&mut nonce)?;
    let aad = bound(context);
    let sealed = cipher(key).encrypt(&nonce.into(), Payload { msg: plaintext, aad: &aad });
    let sealed =
        sealed.map_err(|_| Error::new(ErrorCode::LimitExceeded, "this is too long to be encrypted"))?;
    let content = [&nonce[..], &sealed].concat();
    Ok(format!("{FORMAT}{}", URL_SAFE_NO_PAD.encode(content)))
}

/// Decrypts; `None` when key or context are not those of the sealing, or it was changed.
pub(super) fn open<P: AsRef<[u8]>>(
    key: &Key,
    context: &[P],
    sealed: &str,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let unreadable = || Error::new(ErrorCode::Corrupt, "an encrypted value is damaged or of a newer version");
    let content = sealed.strip_prefix(FORMAT).ok_or_else(unreadable)?;
    let content = URL_SAFE_NO_PAD.decode(content).map_err(|_| unreadable())?;
    let (nonce, sealed) = content.split_first_chunk::<NONCE>().ok_or_else(unreadable)?;
    let aad = bound(context);
    let opened = cipher(key).decrypt(&(*nonce).into(), Payload { msg: sealed, aad: &aad });
    Ok(opened.ok().map(Zeroizing::new))
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&(*key.bytes()).into())
}

/// Each part after its length, so that parts can't run together.
fn bound<P: AsRef<[u8]>>(context: &[P]) -> Vec<u8> {
    let mut aad = b"paas/vault/1".to_vec();
    for part in context {
        let part = part.as_ref();
        aad.extend((part.len() as u64).to_be_bytes());
        aad.extend(part);
    }
    aad
}

fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|e| Error::new(ErrorCode::Internal, "the system gives no random bytes").with_source(e))
}
