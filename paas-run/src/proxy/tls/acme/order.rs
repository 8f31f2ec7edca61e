//! One order: from a host's name to its certificate.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use paas_core::{Certificate, DomainName, Error, ErrorCode, HeldCertificate, Result};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::super::cannot_sign;
use super::super::stored::{Checked, by_http, by_tls};
use super::client::AttentiveClient;
use super::{DnsProvider, Inner, Proof, schedule};

/// An authority takes its time to look.
const PATIENT: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(60));

/// A certificate that an authority issued.
pub(super) struct Issued {
    pub(super) chain: String,
    /// In PEM; empty where it was read from the shelf.
    pub(super) key: Zeroizing<String>,
    pub(super) from: DateTime<Utc>,
    pub(super) until: DateTime<Utc>,
}

impl Issued {
    pub(super) fn from_held(held: &HeldCertificate) -> Self {
        Self { chain: held.chain.clone(), key: Zeroizing::default(), from: held.from, until: held.until }
    }

    /// How the authority calls it (RFC 9773 section 4.1).
    fn identifier(&self) -> Result<CertificateIdentifier<'static>> {
        let unnamed = |why: String| Error::new(ErrorCode::Unsupported, why);
        let first =
            CertificateDer::from_pem_slice(self.chain.as_bytes()).map_err(|e| unnamed(e.to_string()))?;
        CertificateIdentifier::try_from(&first).map(CertificateIdentifier::into_owned).map_err(unnamed)
    }
}

/// What an authority can see for as long as an order is under way.
pub(super) enum Shown {
    OnShelf(String),
    InDns { provider: Arc<dyn DnsProvider>, name: String, text: String },
}

impl Inner {
    /// The account, which is made at first use: one for all proxies.
    async fn account(&self) -> Result<&Account> {
        self.account.get_or_try_init(|| self.find_account()).await
    }

    async fn find_account(&self) -> Result<Account> {
        let (options, shelf) = (&self.options, self.stored.shelf());
        let directory = &options.directory;
        loop {
            let clock = Arc::clone(shelf.clock());
            let client = AttentiveClient::new(options.trusted.as_deref(), clock, self.pause.clone())?;
            let builder = Account::builder_with_http(Box::new(client));
            if let Some(known) = shelf.account(directory).await? {
                return builder.from_credentials(known).await.map_err(refused);
            }
            let contact: Vec<&str> = options.contact.iter().map(String::as_str).collect();
            let new =
                NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
            let (account, credentials) =
                builder.create(&new, directory.clone(), None).await.map_err(refused)?;
            match shelf.put_account(directory, &credentials).await {
                Err(error) if error.code() == ErrorCode::Exists => {}
                kept => {
                    kept?;
                    tracing::info!(account = account.id(), "made an account at the certificate authority");
                    return Ok(account);
                }
            }
        }
    }

    /// Shows that the host is ours, and gets its certificate.
    pub(super) async fn obtain(&self, before: &Certificate, shown: &mut Vec<Shown>) -> Result<Issued> {
        let host = before.domain.as_str();
        let account = self.account().await?;
        let mut order = self.begin(account, before).await?;
        let tries = before.failure.as_ref().map_or(0, |failure| failure.tries as usize);
        self.show(&before.domain, tries, &mut order, shown).await?;
        let key = KeyPair::generate().map_err(cannot_sign)?;
        let mut params = CertificateParams::new([host.to_owned()]).map_err(cannot_sign)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(cannot_sign)?;
        order.finalize_csr(request.der()).await.map_err(refused)?;
        let chain = order.poll_certificate(&PATIENT).await.map_err(refused)?;
        let key = Zeroizing::new(key.serialize_pem());
        let checked = Checked::read(chain.as_bytes(), key.as_bytes())?;
        Ok(Issued { chain, key, from: checked.from, until: checked.until })
    }

    async fn begin(&self, account: &Account, before: &Certificate) -> Result<Order> {
        let identifiers = [Identifier::Dns(before.domain.as_str().to_owned())];
        // Where the authority says when to renew, it doesn't count the one that takes another's place.
        let replaced = before.held.as_ref().filter(|_| before.ask.is_some());
        let replaced = replaced.map(|held| Issued::from_held(held).identifier());
        if let Some(Ok(replaced)) = replaced {
            match account.new_order(&NewOrder::new(&identifiers).replaces(replaced)).await {
                // It was replaced already, or is none that it knows.
                Err(instant_acme::Error::Api(problem)) if problem.status.is_some_and(|code| code < 429) => {}
                begun => return begun.map_err(refused),
            }
        }
        account.new_order(&NewOrder::new(&identifiers)).await.map_err(refused)
    }

    /// Answers what the authority asks.
    async fn show(
        &self,
        domain: &DomainName,
        tries: usize,
        order: &mut Order,
        shown: &mut Vec<Shown>,
    ) -> Result<()> {
        let mut authorizations = order.authorizations();
        let mut door = "";
        while let Some(authorization) = authorizations.next().await {
            let authorization = authorization.map_err(refused)?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            door = match domain.as_str().strip_prefix("*.") {
                Some(parent) => self.show_in_dns(parent, authorization, shown).await?,
                None => self.show_here(domain.as_str(), tries, authorization, shown).await?,
            };
        }
        match order.poll_ready(&PATIENT).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
            Ok(_) => Err(unseen(domain, "it doesn't say why", door)),
            Err(instant_acme::Error::Api(problem)) => {
                Err(unseen(domain, problem.detail.as_deref().unwrap_or("it doesn't say why"), door))
            }
            Err(error) => Err(refused(error)),
        }
    }

    async fn show_here(
        &self,
        host: &str,
        tries: usize,
        mut authorization: AuthorizationHandle<'_>,
        shown: &mut Vec<Shown>,
    ) -> Result<&'static str> {
        let proofs = &self.options.proofs;
        let proof = proofs.get(tries % proofs.len().max(1)).copied().unwrap_or(Proof::TlsAlpn01);
        let (kind, door) = match proof {
            Proof::TlsAlpn01 => (ChallengeType::TlsAlpn01, "its port 443 to the platform's HTTPS"),
            Proof::Http01 => (ChallengeType::Http01, "its port 80 to the platform's HTTP"),
        };
        let Some(mut challenge) = authorization.challenge(kind) else {
            let what = format!("the authority doesn't offer {proof:?} for {host}");
            return Err(Error::new(ErrorCode::Unsupported, what));
        };
        let answer = challenge.key_authorization();
        let (asked, answer) = match proof {
            Proof::TlsAlpn01 => (by_tls(host), hex(answer.digest().as_ref())),
            Proof::Http01 => (by_http(&challenge.token), answer.as_str().to_owned()),
        };
        // Before it is shown: what is half done is taken away, too.
        shown.push(Shown::OnShelf(asked.clone()));
        self.stored.shelf().show(&asked, &answer).await?;
        challenge.set_ready().await.map_err(refused)?;
        Ok(door)
    }

    async fn show_in_dns(
        &self,
        parent: &str,
        mut authorization: AuthorizationHandle<'_>,
        shown: &mut Vec<Shown>,
    ) -> Result<&'static str> {
        let Some(provider) = &self.options.dns else {
            let what =
                format!("*.{parent} can only be shown to be ours by DNS, and there is no DNS provider");
            return Err(Error::new(ErrorCode::Unsupported, what));
        };
        let Some(mut challenge) = authorization.challenge(ChallengeType::Dns01) else {
            let what = format!("the authority doesn't offer DNS-01 for *.{parent}");
            return Err(Error::new(ErrorCode::Unsupported, what));
        };
        let (name, text) = (format!("_acme-challenge.{parent}"), challenge.key_authorization().dns_value());
        let (provider, name_, text_) = (Arc::clone(provider), name.clone(), text.clone());
        shown.push(Shown::InDns { provider: Arc::clone(&provider), name: name_, text: text_ });
        provider.set_txt(&name, &text).await?;
        challenge.set_ready().await.map_err(refused)?;
        Ok("the name servers of its domain to the provider's records")
    }

    /// When the authority wants this certificate renewed, and when to ask it again; nothing where it doesn't say so.
    pub(super) async fn renewal(
        &self,
        domain: &DomainName,
        issued: &Issued,
    ) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
        let asked = async {
            let (account, identifier) = (self.account().await?, issued.identifier()?);
            account.renewal_info(&identifier).await.map_err(refused)
        };
        match asked.await {
            Ok((info, after)) => {
                let at = |time: i64| DateTime::from_timestamp(time, 0);
                let window = &info.suggested_window;
                let window = (at(window.start.unix_timestamp()), at(window.end.unix_timestamp()));
                let next = match window {
                    (Some(start), Some(end)) => Some(schedule::within(domain.as_str(), start, end)),
                    _ => None,
                };
                (next, Some(schedule::ask(self.stored.shelf().clock().now(), after)))
            }
            Err(error) => {
                tracing::debug!(host = %domain, error = %error, "the authority doesn't say when to renew");
                (None, None)
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The authority saw something else, or nothing.
fn unseen(domain: &DomainName, why: &str, door: &str) -> Error {
    let what = format!(
        "the authority could not see that {domain} is ours: {why}; does its name lead to this machine, and {door}?"
    );
    Error::new(ErrorCode::Forbidden, what)
}

fn refused(error: instant_acme::Error) -> Error {
    let (code, what) = match &error {
        instant_acme::Error::Api(problem) => {
            let why = problem.detail.as_deref().unwrap_or("it doesn't say why");
            (ErrorCode::Forbidden, format!("the certificate authority refuses: {why}"))
        }
        _ => (
            ErrorCode::Unavailable,
            "the certificate authority can't be reached, or makes no sense".to_owned(),
        ),
    };
    Error::new(code, what).with_source(error)
}
