//! Names that are shown to be ours by what the name server says of them.

use std::fmt;

use async_trait::async_trait;
use paas_core::Result;

/// Whoever keeps a domain's DNS records, as far as DNS-01 (RFC 8555 section 8.4) needs it. The one way to a wildcard's
/// certificate.
#[async_trait]
pub trait DnsProvider: fmt::Debug + Send + Sync + 'static {
    /// Makes the name servers answer with this text for the TXT record of this name, such as
    /// `_acme-challenge.example.com`, beside what they say already.
    ///
    /// # Behavior
    /// - Returns once every name server of the zone says so: the authority asks right after it.
    /// - It is asked again after a failure, with another text.
    ///
    /// # Errors
    /// Whatever keeps the provider from it; it is told with the host's status.
    async fn set_txt(&self, name: &str, text: &str) -> Result<()>;

    /// Takes that text away again; nothing happens where it is gone.
    ///
    /// # Errors
    /// Whatever keeps the provider from it; the text harms nobody.
    async fn clear_txt(&self, name: &str, text: &str) -> Result<()>;
}
