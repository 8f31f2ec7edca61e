use super::*;
use crate::store::MemoryStore;
use crate::vault::MasterKey;
use crate::{SystemClock, Vault};

async fn shelf() -> (Arc<dyn Store>, CertificateShelf) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
    let vault = Arc::new(Vault::new(MasterKey::generate().unwrap()));
    vault.unlock(store.as_ref()).await.unwrap();
    (store.clone(), CertificateShelf::new(store, vault, Arc::new(SystemClock::new())))
}

fn host() -> DomainName {
    "hello.example.com".parse().unwrap()
}

#[tokio::test]
async fn a_certificate_is_kept_with_its_key_sealed_and_every_proxy_hears_of_it() {
    let (store, shelf) = shelf().await;
    let now = shelf.clock().now();
    let place = shelf.place().await.unwrap();
    let mut one = Certificate::wanted(host(), CertificateOrigin::Authority, now);
    shelf.hold(&mut one, "chain".into(), b"very secret", (now, now)).unwrap();
    shelf.put(&one, "issued", None).await.unwrap();

    let kept = shelf.get(&host()).await.unwrap().unwrap();
    assert_eq!(shelf.key(&kept).unwrap().as_slice(), b"very secret");
    assert_eq!((kept.rev, kept.held.as_ref().unwrap().chain.as_str()), (1, "chain"));
    let rows = store.list(Table::Platform, &ListQuery::all()).await.unwrap();
    assert!(!format!("{rows:?}{kept:?}").contains("very secret"));
    let (changed, after) = shelf.changed_after(place).await.unwrap();
    assert_eq!(changed.into_iter().collect::<Vec<_>>(), [host()]);
    assert!(shelf.changed_after(after).await.unwrap().0.is_empty());

    // Another host's row can't have its key.
    let stolen = Certificate { domain: "other.example.com".parse().unwrap(), ..kept };
    assert_eq!(shelf.key(&stolen).unwrap_err().code(), ErrorCode::WrongKey);
}

#[tokio::test]
async fn what_was_changed_meanwhile_is_not_overwritten_and_only_who_leads_writes_as_leader() {
    let (_, shelf) = shelf().await;
    let now = shelf.clock().now();
    let wanted = Certificate::wanted(host(), CertificateOrigin::Authority, now);
    shelf.put(&wanted, "wanted", None).await.unwrap();
    assert_eq!(shelf.put(&wanted, "wanted", None).await.unwrap_err().code(), ErrorCode::Conflict);

    let mut kept = shelf.get(&host()).await.unwrap().unwrap();
    kept.failure = Some(CertificateFailure::after(None, "no", now));
    let ttl = Duration::from_secs(60);
    assert!(shelf.lead("one", ttl).await.unwrap() && !shelf.lead("two", ttl).await.unwrap());
    assert_eq!(shelf.put(&kept, "failed", Some("two")).await.unwrap_err().code(), ErrorCode::LeaseLost);
    shelf.put(&kept, "failed", Some("one")).await.unwrap();
    shelf.resign("one").await.unwrap();
    assert!(shelf.lead("two", ttl).await.unwrap());
    shelf.remove(&host()).await.unwrap();
    assert!(shelf.get(&host()).await.unwrap().is_none() && shelf.all().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_account_is_sealed_and_the_first_one_counts() {
    let (store, shelf) = shelf().await;
    let account = || shelf.account::<String>("https://ca.test/dir");
    assert_eq!(account().await.unwrap(), None);
    shelf.put_account("https://ca.test/dir", &"account key").await.unwrap();
    let second = shelf.put_account("https://ca.test/dir", &"another").await.unwrap_err();
    assert_eq!(second.code(), ErrorCode::Exists);
    assert_eq!(account().await.unwrap().as_deref(), Some("account key"));
    let rows = store.list(Table::Platform, &ListQuery::all()).await.unwrap();
    assert!(!format!("{rows:?}").contains("account key"));
}

#[tokio::test]
async fn what_an_authority_is_to_see_is_there_for_every_proxy_until_it_has_seen_it() {
    let (_, shelf) = shelf().await;
    shelf.show("http-01/token", "token.thumbprint").await.unwrap();
    assert_eq!(shelf.shown("http-01/token").await.unwrap().as_deref(), Some("token.thumbprint"));
    shelf.hide("http-01/token").await.unwrap();
    assert_eq!(shelf.shown("http-01/token").await.unwrap(), None);
}
