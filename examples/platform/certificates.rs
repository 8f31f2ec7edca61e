//! Where the certificates for HTTPS come from.

use std::path::Path;
use std::sync::Arc;

use paas::run::proxy::tls::{Authority, Certificates};
use paas::{Cancel, Result};

/// The platform's own authority, and beside it a public one where somebody agreed to its terms.
#[cfg(feature = "acme")]
pub(crate) fn open(
    tls: &Path,
    own: Authority,
    contact: Option<&String>,
    stop: &Cancel,
) -> Result<Arc<dyn Certificates>> {
    use paas::SystemClock;
    use paas::run::proxy::tls::acme::{Acme, AcmeOptions};

    let Some(contact) = contact else { return Ok(Arc::new(own)) };
    let options = AcmeOptions::new(tls.join("acme")).contact(contact);
    let acme = Acme::open(options, Arc::new(SystemClock::new()))?;
    let (runs, stop) = (acme.clone(), stop.clone());
    tokio::spawn(async move { runs.run(stop).await });
    Ok(Arc::new(acme.beside(Arc::new(own))))
}

/// The platform's own authority.
#[cfg(not(feature = "acme"))]
#[allow(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
pub(crate) fn open(
    _: &Path,
    own: Authority,
    _: Option<&String>,
    _: &Cancel,
) -> Result<Arc<dyn Certificates>> {
    Ok(Arc::new(own))
}
