//! Where the certificates for HTTPS come from.

use std::sync::Arc;

use paas::run::proxy::tls::{Authority, Certificates};
use paas::{Cancel, Engine, Result};

/// The platform's own authority, and beside it a public one where somebody agreed to its terms.
#[cfg(feature = "acme")]
pub(crate) async fn open(
    engine: &Engine,
    own: Authority,
    contact: Option<&String>,
    stop: &Cancel,
) -> Result<Arc<dyn Certificates>> {
    use paas::run::proxy::tls::acme::{Acme, AcmeOptions};

    let Some(contact) = contact else { return Ok(Arc::new(own)) };
    let acme = Acme::open(AcmeOptions::new().contact(contact), engine.certificates()).await?;
    let (runs, stop) = (acme.clone(), stop.clone());
    tokio::spawn(async move { runs.run(stop).await });
    Ok(Arc::new(acme.beside(Arc::new(own))))
}

/// The platform's own authority.
#[cfg(not(feature = "acme"))]
#[allow(clippy::unused_async, clippy::unnecessary_wraps, reason = "with the feature it waits and can fail")]
pub(crate) async fn open(
    _: &Engine,
    own: Authority,
    _: Option<&String>,
    _: &Cancel,
) -> Result<Arc<dyn Certificates>> {
    Ok(Arc::new(own))
}
