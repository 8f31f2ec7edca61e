//! One order: from a host's name to its certificate.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use paas_core::{DomainName, Error, ErrorCode, Result};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::super::cannot_sign;
use super::shelf::{Kept, Shelf};
use super::{AcmeOptions, Inner};

/// An authority takes its time to look.
const PATIENT: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(60));

/// The account that is kept, or a new one.
pub(super) async fn account(options: &AcmeOptions, shelf: &Shelf) -> Result<Account> {
    let builder = match &options.trusted {
        Some(root) => Account::builder_with_root(root),
        None => Account::builder(),
    };
    let builder = builder.map_err(refused)?;
    if let Some(known) = shelf.account()? {
        return builder.from_credentials(known).await.map_err(refused);
    }
    let contact: Vec<&str> = options.contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let made = builder.create(&new, options.directory.clone(), None).await;
    let (account, credentials) = made.map_err(refused)?;
    shelf.put_account(&credentials)?;
    tracing::info!(account = account.id(), "made an account at the certificate authority");
    Ok(account)
}

impl Inner {
    /// Shows that the host is ours, and gets its certificate.
    pub(super) async fn obtain(&self, host: &str) -> Result<Kept> {
        let name = DomainName::new(host)?;
        let account = self.account().await?;
        let identifiers = [Identifier::Dns(host.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(refused)?;
        self.show(host, &mut order).await?;
        let key = KeyPair::generate().map_err(cannot_sign)?;
        let mut params = CertificateParams::new([host.to_owned()]).map_err(cannot_sign)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(cannot_sign)?;
        order.finalize_csr(request.der()).await.map_err(refused)?;
        let chain = order.poll_certificate(&PATIENT).await.map_err(refused)?;
        let pem = format!("{}\n{}", chain.trim_end(), key.serialize_pem());
        let kept = Kept::read(&pem)?;
        self.shelf.put(&name, &pem)?;
        Ok(kept)
    }

    /// Answers what the authority asks.
    async fn show(&self, host: &str, order: &mut Order) -> Result<()> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(refused)?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
                let what = format!("the authority doesn't offer TLS-ALPN-01 for {host}");
                return Err(Error::new(ErrorCode::Unsupported, what));
            };
            let answer = answer(host, challenge.key_authorization().digest().as_ref())?;
            self.challenges.pin().insert(host.into(), Arc::new(answer));
            challenge.set_ready().await.map_err(refused)?;
        }
        match order.poll_ready(&PATIENT).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
            Ok(_) => Err(unseen(host, "it doesn't say why")),
            Err(instant_acme::Error::Api(problem)) => {
                Err(unseen(host, problem.detail.as_deref().unwrap_or("it doesn't say why")))
            }
            Err(error) => Err(refused(error)),
        }
    }
}

/// What the authority gets to see: a certificate that holds the digest (RFC 8737 section 3).
fn answer(host: &str, digest: &[u8]) -> Result<CertifiedKey> {
    let key = KeyPair::generate().map_err(cannot_sign)?;
    let mut params = CertificateParams::new([host.to_owned()]).map_err(cannot_sign)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(cannot_sign)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(CertifiedKey::new(vec![certificate.der().clone()], any_supported_type(&key).map_err(cannot_sign)?))
}

/// The authority saw something else, or nothing.
fn unseen(host: &str, why: &str) -> Error {
    let what = format!(
        "the authority could not see that {host} is ours: {why}; does its name lead to this machine, and its port 443 to \
         the platform's HTTPS?"
    );
    Error::new(ErrorCode::Forbidden, what)
}

fn refused(error: instant_acme::Error) -> Error {
    let code = match &error {
        instant_acme::Error::Api(_) => ErrorCode::Forbidden,
        _ => ErrorCode::Unavailable,
    };
    Error::new(code, "the certificate authority gives none").with_source(error)
}
