use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use proptest::prelude::*;

use super::{KeyFile, KeyOwner, MasterKey, Sealed, Vault, WrappedKey};
use crate::store::{ListQuery, MemoryStore, Store, Table};
use crate::{AppId, ConfigKey, ConfigVars, ErrorCode, SystemClock};

const SECRET: &str = "correct horse battery staple";

fn vault() -> Vault {
    Vault::new(MasterKey::generate().unwrap())
}

fn vars() -> ConfigVars {
    ConfigVars::new().with("A", SECRET).unwrap().with("B", "").unwrap().with("C", "several\nlines é").unwrap()
}

fn store() -> MemoryStore {
    MemoryStore::new(Arc::new(SystemClock::new()))
}

#[test]
fn sealed_config_vars_open_again_and_show_nothing_meanwhile() {
    let (vault, app) = (vault(), AppId::new());
    let wrapped = vault.new_app_key(app).unwrap();
    let key = vault.app_key(app, &wrapped).unwrap();
    let sealed = key.seal_vars(&vars()).unwrap();
    let stored = serde_json::to_string(&(&sealed, &wrapped)).unwrap();
    assert!(!stored.contains("correct") && !stored.contains("several"));
    let (sealed, wrapped): (BTreeMap<ConfigKey, Sealed>, WrappedKey) = serde_json::from_str(&stored).unwrap();
    assert_eq!(vault.app_key(app, &wrapped).unwrap().open_vars(&sealed).unwrap(), vars());
    let again = key.seal_vars(&vars()).unwrap();
    assert_ne!(sealed, again, "equal values don't look equal");
    let shown = format!("{vault:?} {key:?} {sealed:?} {wrapped:?}");
    assert!(!shown.contains("v1."), "{shown}");
}

#[test]
fn another_master_key_is_a_clear_error_and_never_garbage() {
    let app = AppId::new();
    let wrapped = vault().new_app_key(app).unwrap();
    let error = vault().app_key(app, &wrapped).unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongKey);
    assert!(error.message().contains("start with the key file"), "{error}");
}

#[test]
fn a_stored_value_opens_only_for_its_own_app_and_name() {
    let (vault, app, other) = (vault(), AppId::new(), AppId::new());
    let wrapped = vault.new_app_key(app).unwrap();
    assert_eq!(vault.app_key(other, &wrapped).unwrap_err().code(), ErrorCode::WrongKey);
    let key = vault.app_key(app, &wrapped).unwrap();
    let others = vault.app_key(other, &vault.new_app_key(other).unwrap()).unwrap();
    let mut sealed = key.seal_vars(&vars()).unwrap();
    assert_eq!(others.open_vars(&sealed).unwrap_err().code(), ErrorCode::WrongKey);
    let (a, b): (ConfigKey, ConfigKey) = ("A".parse().unwrap(), "B".parse().unwrap());
    let (value_a, value_b) = (sealed[&a].clone(), sealed[&b].clone());
    sealed.insert(a, value_b);
    sealed.insert(b, value_a.clone());
    assert_eq!(key.open_vars(&sealed).unwrap_err().code(), ErrorCode::WrongKey, "swapped");
    assert_eq!(key.open("A", &value_a).unwrap_err().code(), ErrorCode::WrongKey, "a var is no value");
    let value = key.seal("admin", b"x").unwrap();
    assert_eq!(*key.open("admin", &value).unwrap(), b"x");
}

#[test]
fn a_changed_value_is_refused() {
    let (vault, app) = (vault(), AppId::new());
    let key = vault.app_key(app, &vault.new_app_key(app).unwrap()).unwrap();
    let sealed = serde_json::to_value(key.seal("x", SECRET.as_bytes()).unwrap()).unwrap();
    let text = sealed.as_str().unwrap();
    for index in 0..text.len() {
        let mut changed = text.as_bytes().to_vec();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        let changed: Sealed = serde_json::from_value(String::from_utf8(changed).unwrap().into()).unwrap();
        let code = key.open("x", &changed).map_err(|e| e.code());
        assert!(matches!(code, Err(ErrorCode::WrongKey | ErrorCode::Corrupt)), "at {index}: {code:?}");
    }
    for cut in 0..text.len() {
        let cut: Sealed = serde_json::from_value(text[..cut].into()).unwrap();
        assert!(key.open("x", &cut).is_err());
    }
}

proptest! {
    #[test]
    fn any_text_from_the_store_opens_without_a_panic(text in ".{0,80}") {
        let vault = vault();
        let key = vault.app_key(AppId::new(), &WrappedKey(text.clone()));
        prop_assert!(key.is_err());
        let app = AppId::new();
        let key = vault.app_key(app, &vault.new_app_key(app).unwrap()).unwrap();
        let sealed: Sealed = serde_json::from_value(text.into()).unwrap();
        prop_assert!(key.open("x", &sealed).is_err());
    }
}

#[test]
fn a_new_master_key_takes_over_what_is_stored() {
    let (old, new, app) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap(), AppId::new());
    let before = Vault::new(old.clone());
    let wrapped = before.new_app_key(app).unwrap();
    let sealed = before.app_key(app, &wrapped).unwrap().seal_vars(&vars()).unwrap();
    let both = Vault::new(new.clone()).with_older(old);
    assert_eq!(both.app_key(app, &wrapped).unwrap().open_vars(&sealed).unwrap(), vars(), "old values open");
    let wrapped = both.rewrap(KeyOwner::App(app), &wrapped, &new.id()).unwrap().unwrap();
    assert_eq!(both.rewrap(KeyOwner::App(app), &wrapped, &new.id()).unwrap(), None, "once is enough");
    let after = Vault::new(new);
    assert_eq!(after.app_key(app, &wrapped).unwrap().open_vars(&sealed).unwrap(), vars());
    assert_eq!(before.app_key(app, &wrapped).unwrap_err().code(), ErrorCode::WrongKey);
    assert_eq!(
        after.rewrap(KeyOwner::App(app), &wrapped, "another").unwrap_err().code(),
        ErrorCode::WrongKey
    );
}

#[test]
fn a_key_file_takes_new_keys_on_top_and_forgets_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let file = KeyFile::new(dir.path().join("master.key"));
    let vault = Vault::of_file(file.clone()).unwrap();
    let old = vault.sealing();
    let new = file.add_key().unwrap();
    assert_eq!(vault.known(), std::slice::from_ref(&old));
    vault.reload().unwrap();
    assert_eq!(
        (vault.known(), vault.sealing()),
        (vec![new.clone(), old.clone()], old),
        "known, not yet used"
    );
    let error = MasterKey::open_or_create(dir.path().join("master.key")).unwrap_err();
    assert!(error.message().contains("older keys"), "{error}");
    file.drop_old_keys().unwrap();
    assert_eq!(Vault::of_file(file).unwrap().known(), [new]);
    assert_eq!(fs::metadata(dir.path().join("master.key")).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn the_keyed_hash_changes_with_every_config_var_and_needs_the_key() {
    let (vault, app) = (vault(), AppId::new());
    let wrapped = vault.new_app_key(app).unwrap();
    let hash = |vars: &ConfigVars| vault.app_key(app, &wrapped).unwrap().keyed_hash(vars);
    let with = |key: &str, value: &str| ConfigVars::new().with(key, value).unwrap();
    assert_eq!(hash(&vars()), hash(&vars()));
    let different = [with("A", "bc"), with("AB", "c"), with("A", ""), with("A", "bC"), ConfigVars::new()];
    let hashes: std::collections::BTreeSet<_> = different.iter().map(hash).collect();
    assert_eq!(hashes.len(), different.len());
    let other = vault.app_key(app, &vault.new_app_key(app).unwrap()).unwrap();
    assert_ne!(other.keyed_hash(&vars()), hash(&vars()));
}

#[tokio::test]
async fn a_store_opens_only_with_the_master_key_that_it_was_made_with() {
    let (store, dir) = (store(), tempfile::tempdir().unwrap());
    let path = dir.path().join("master.key");
    let first = Vault::new(MasterKey::open_or_create(&path).unwrap());
    assert_eq!(first.platform().unwrap_err().code(), ErrorCode::Internal, "locked");
    first.unlock(&store).await.unwrap();
    let sealed = first.platform().unwrap().seal("x", b"secret").unwrap();
    let next_start = Vault::new(MasterKey::open_or_create(&path).unwrap());
    next_start.unlock(&store).await.unwrap();
    assert_eq!(*next_start.platform().unwrap().open("x", &sealed).unwrap(), b"secret");
    let stranger = vault();
    assert_eq!(stranger.unlock(&store).await.unwrap_err().code(), ErrorCode::WrongKey);
    assert!(stranger.platform().is_err());
    let rows = store.list(Table::Platform, &ListQuery::all()).await.unwrap();
    assert_eq!(rows.len(), 1, "the stranger wrote nothing");
}

#[tokio::test]
async fn engines_that_start_at_once_agree_on_one_key() {
    let (store, bytes) = (Arc::new(store()), [7; 32]);
    let starts = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let vault = Vault::new(MasterKey::from_bytes(&bytes).unwrap());
            vault.unlock(&*store).await.unwrap();
            vault.platform().unwrap().keyed_hash(&vars())
        })
    });
    let hashes = futures_util::future::join_all(starts).await;
    let hashes: std::collections::BTreeSet<_> = hashes.into_iter().map(Result::unwrap).collect();
    assert_eq!(hashes.len(), 1);
}

#[test]
fn the_key_file_is_made_once_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.key");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || *MasterKey::open_or_create(path).unwrap().key.bytes())
        })
        .collect();
    let keys: std::collections::BTreeSet<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(keys.len(), 1, "of many who make it at once, one does");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(fs::read_to_string(&path).unwrap().trim().len(), 44);
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.key");
    MasterKey::open_or_create(&path).unwrap();
    for mode in [0o640, 0o604, 0o644, 0o660, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = MasterKey::open_or_create(&path).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidParams);
        assert!(error.message().contains("chmod 600"), "{error}");
    }
}

#[test]
fn a_file_without_a_key_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.key");
    for content in ["", "hello", "aGVsbG8=", "AAAA\nAAAA\n", &"A".repeat(100_000)] {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = MasterKey::open_or_create(&path).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Corrupt);
        assert!(error.message().contains("master.key"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    assert!(MasterKey::open_or_create(dir.path()).is_err(), "a folder");
    assert!(MasterKey::open_or_create(dir.path().join("none/key")).is_err(), "in no folder");
}
