//! The authority's client, which remembers when the authority wants to be left alone.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::header::RETRY_AFTER;
use http::{Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error as AcmeError, HttpClient};
use paas_core::{Clock, Error, ErrorCode, Result};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Until when the authority wants to be left alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Pause(Arc<Mutex<Option<DateTime<Utc>>>>);

impl Pause {
    fn set(&self, until: DateTime<Utc>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(known.map_or(until, |known| known.max(until)));
    }

    pub(super) fn until(&self) -> Option<DateTime<Utc>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Speaks HTTPS with an authority.
pub(super) struct AttentiveClient {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    pause: Pause,
    clock: Arc<dyn Clock>,
}

impl AttentiveClient {
    /// Believes what this machine believes, or only this certificate.
    pub(super) fn new(trusted: Option<&Path>, clock: Arc<dyn Clock>, pause: Pause) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let builder = match trusted {
            None => {
                HttpsConnectorBuilder::new().with_provider_and_platform_verifier(provider).map_err(failed)?
            }
            Some(path) => {
                let what = format!("{} holds no certificate", path.display());
                let root = CertificateDer::from_pem_file(path)
                    .map_err(|e| Error::new(ErrorCode::InvalidParams, what).with_source(e))?;
                let mut roots = RootCertStore::empty();
                roots.add(root).map_err(failed)?;
                let config =
                    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
                let config = config.map_err(failed)?.with_root_certificates(roots).with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(config)
            }
        };
        let connector = builder.https_only().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), pause, clock })
    }
}

impl HttpClient for AttentiveClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = std::result::Result<BytesResponse, AcmeError>> + Send>> {
        let asked = HttpClient::request(&self.client, request);
        let (pause, clock) = (self.pause.clone(), Arc::clone(&self.clock));
        Box::pin(async move {
            let response = asked.await?;
            let head = &response.parts;
            if matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
                && let Some(until) = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok())
                && let Some(until) = retry_after(until, clock.now())
            {
                pause.set(until);
            }
            Ok(response)
        })
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorCode::Internal, "can't speak HTTPS with the authority").with_source(error)
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
fn retry_after(value: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    match value.trim().parse::<i64>() {
        Ok(seconds) => now.checked_add_signed(TimeDelta::try_seconds(seconds.max(0))?),
        Err(_) => DateTime::parse_from_rfc2822(value.trim()).ok().map(|date| date.to_utc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_says_in_seconds_or_by_date_how_long_to_leave_it_alone() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        assert_eq!(retry_after(" 120 ", now), Some(now + TimeDelta::seconds(120)));
        let date = "Fri, 15 Jan 2027 08:00:30 GMT";
        assert_eq!(retry_after(date, now), Some(now + TimeDelta::seconds(30)));
        assert_eq!(retry_after("soon", now), None);
    }
}
