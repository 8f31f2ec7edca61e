use std::sync::Arc;

use super::Tokens;
use crate::store::{ListQuery, MemoryStore, Store, Table};
use crate::{Access, Action, AppName, Credentials, ErrorCode, PrincipalName, SystemClock};

fn tokens() -> (Arc<MemoryStore>, Tokens) {
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
    (store.clone(), Tokens::new(store))
}

fn name(text: &str) -> PrincipalName {
    text.parse().unwrap()
}

fn basic(password: &str) -> Credentials {
    Credentials::Basic { user: "anything".into(), password: password.into() }
}

#[tokio::test]
async fn a_token_tells_who_shows_it() {
    let (_, tokens) = tokens();
    let (ada, ci) =
        (tokens.issue(&name("ada")).await.unwrap(), tokens.issue(&name("token:ci")).await.unwrap());
    assert_ne!(ada, ci);
    assert_eq!(tokens.authenticate(&basic(&ada)).await.unwrap().name, name("ada"));
    assert_eq!(tokens.authenticate(&Credentials::Bearer(ci)).await.unwrap().name, name("token:ci"));
    assert_eq!(tokens.names().await.unwrap(), [name("ada"), name("token:ci")]);
}

#[tokio::test]
async fn whoever_shows_no_known_token_is_refused() {
    let (_, tokens) = tokens();
    assert_eq!(tokens.authenticate(&basic("")).await.unwrap_err().code(), ErrorCode::Unauthorized);
    let token = tokens.issue(&name("ada")).await.unwrap();
    for wrong in
        ["", "ada", &token[1..], &token[..token.len() - 1], &token.to_uppercase(), &format!("{token} ")]
    {
        let error = tokens.authenticate(&basic(wrong)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unauthorized);
        assert!(wrong.len() < 4 || !error.to_string().contains(wrong));
    }
}

#[tokio::test]
async fn a_token_is_shown_once_and_never_stored() {
    let (store, tokens) = tokens();
    let token = tokens.issue(&name("ada")).await.unwrap();
    let rows = format!("{:?}", store.list(Table::Platform, &ListQuery::all()).await.unwrap());
    assert!(rows.contains("ada") && !rows.contains(&token) && !rows.contains(&token[5..]));
    assert_eq!(tokens.issue(&name("ada")).await.unwrap_err().code(), ErrorCode::Exists);
    assert!(tokens.authenticate(&basic(&token)).await.is_ok(), "the refused one changed nothing");
}

#[tokio::test]
async fn a_revoked_token_is_refused_from_then_on() {
    let (_, tokens) = tokens();
    let (ada, ci) = (tokens.issue(&name("ada")).await.unwrap(), tokens.issue(&name("ci")).await.unwrap());
    tokens.revoke(&name("ada")).await.unwrap();
    tokens.revoke(&name("nobody")).await.unwrap();
    assert_eq!(tokens.authenticate(&basic(&ada)).await.unwrap_err().code(), ErrorCode::Unauthorized);
    assert!(tokens.authenticate(&basic(&ci)).await.is_ok());
}

#[tokio::test]
async fn the_owners_own_token_can_be_set_again_at_every_start() {
    let (_, tokens) = tokens();
    let (first, second) = ("first-secret-of-the-owner", "second-secret-of-the-owner");
    tokens.ensure(&name("owner"), first).await.unwrap();
    tokens.ensure(&name("owner"), first).await.unwrap();
    assert!(tokens.authenticate(&basic(first)).await.is_ok());
    tokens.ensure(&name("owner"), second).await.unwrap();
    assert!(tokens.authenticate(&basic(first)).await.is_err());
    assert!(tokens.authenticate(&basic(second)).await.is_ok());
    let short = tokens.ensure(&name("owner"), "hunter2").await.unwrap_err();
    assert_eq!(short.code(), ErrorCode::InvalidParams);
    assert!(!short.to_string().contains("hunter2"));
}

#[tokio::test]
async fn making_apps_must_be_allowed_and_the_rest_is_everybodys() {
    let (_, tokens) = tokens();
    let token = tokens.issue(&name("ada")).await.unwrap();
    let ada = tokens.authenticate(&basic(&token)).await.unwrap();
    let app: AppName = "hello".parse().unwrap();
    for action in [Action::Read, Action::Deploy, Action::Destroy] {
        tokens.authorize(&ada, action, &app).await.unwrap();
    }
    assert_eq!(tokens.authorize(&ada, Action::Create, &app).await.unwrap_err().code(), ErrorCode::Forbidden);
    tokens.allow_create().authorize(&ada, Action::Create, &app).await.unwrap();
}
