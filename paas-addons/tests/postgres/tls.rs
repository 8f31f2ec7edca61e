//! Apps that come from Heroku ask for TLS; apps that don't ask are served as well.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tokio::process::Command;

use crate::support::{TestServer, bind, database, url};

/// What a session's encryption is: `t TLSv1.3`, or `f`.
const ENCRYPTION: &str = "SELECT concat_ws(' ', ssl, version) FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// What PostgreSQL's own client prints; `None`, said aloud, where it isn't installed. There CI fails.
async fn psql(url: &str, environment: &[(&str, &str)]) -> Option<Result<String, String>> {
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "-At", "-c", ENCRYPTION, url]).envs(environment.iter().copied());
    match psql.output().await {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "psql is not installed");
            eprintln!("SKIPPED, it needs psql");
            None
        }
        output => {
            let output = output.unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            Some(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_requires_tls_gets_it_and_one_that_wants_none_is_served_too() {
    let Some(server) = TestServer::start().await else { return };
    let (_, url) = database(&server.provider).await;
    assert!(!url.contains('?'), "apps append parameters of their own");
    let Some(said) = psql(&format!("{url}?sslmode=require"), &[]).await else { return };
    assert_eq!(said.as_deref(), Ok("t TLSv1.3"));
    for (mode, encryption) in [("disable", "f"), ("prefer", "t TLSv1.3"), ("allow", "f")] {
        let said = psql(&url, &[("PGSSLMODE", mode)]).await.unwrap();
        assert_eq!(said.as_deref(), Ok(encryption), "{mode}");
    }
    // The certificate is for the address in the URL: an app that is given it can check even that.
    let certificate = server.path().join("server/data/tls.pem");
    let checks = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", certificate.to_str().unwrap())];
    assert_eq!(psql(&url, &checks).await.unwrap().as_deref(), Ok("t TLSv1.3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_tls_that_are_no_longer_safe_are_refused() {
    let Some(server) = TestServer::start().await else { return };
    let (_, url) = database(&server.provider).await;
    let url = format!("{url}?sslmode=require&ssl_min_protocol_version=TLSv1");
    let Some(new) = psql(&format!("{url}&ssl_max_protocol_version=TLSv1.2"), &[]).await else { return };
    assert_eq!(new.as_deref(), Ok("t TLSv1.2"));
    let old = psql(&format!("{url}&ssl_max_protocol_version=TLSv1.1"), &[]).await.unwrap();
    assert!(old.is_err(), "{old:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_its_servers_alone_and_stays_the_same_when_it_starts_again() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    let file = server.path().join("server/data/tls.pem");
    let before = std::fs::read(&file).unwrap();
    let (of_file, of_data) =
        (std::fs::metadata(&file).unwrap(), std::fs::metadata(file.parent().unwrap()).unwrap());
    assert_eq!(of_file.permissions().mode() & 0o777, 0o600);
    assert_eq!((of_file.uid(), of_file.gid()), (of_data.uid(), of_data.gid()));

    server.provider.server().unwrap().stop().await.unwrap();
    server.another().server().unwrap().resume().await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_of_before_there_was_tls_gains_it_when_it_starts() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, before) = database(&server.provider).await;
    server.provider.server().unwrap().stop().await.unwrap();
    let data = server.path().join("server/data");
    std::fs::remove_file(data.join("tls.pem")).unwrap();
    let settings = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
    let old: String = settings.lines().filter(|l| !l.starts_with("ssl")).flat_map(|l| [l, "\n"]).collect();
    assert_ne!(old, settings);
    std::fs::write(data.join("postgresql.conf"), old).unwrap();

    let next = server.another();
    next.server().unwrap().resume().await.unwrap();
    let after = url(&bind(&next, addon).await.unwrap());
    assert_eq!(after, before);
    let Some(said) = psql(&format!("{after}?sslmode=require"), &[]).await else { return };
    assert_eq!(said.as_deref(), Ok("t TLSv1.3"));
}
