use std::path::Path;

use paas_core::AddonProvider;

use crate::support::{TestServer, bind, context, database, request, url as url_of};

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_anywhere_but_in_the_bound_url() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, url) = database(&server.provider).await;
    let password = url.split(':').nth(2).unwrap().split('@').next().unwrap().to_owned();
    assert_eq!(password.len(), 64);
    let (ctx, heard) = context();
    server.provider.provision(&ctx, &request(addon)).await.unwrap();
    server.provider.rotate(&ctx, addon).await.unwrap();
    let rotated = url_of(&bind(&server.provider, addon).await.unwrap());
    let rotated = rotated.split(':').nth(2).unwrap().split('@').next().unwrap().to_owned();
    let admin = server.admin().await;
    admin.batch_execute("CHECKPOINT").await.unwrap();

    let key = std::fs::read_to_string(server.path().join("key")).unwrap();
    for secret in [password.as_str(), rotated.as_str(), key.trim()] {
        assert!(!heard.all().contains(secret));
        assert!(!format!("{:?} {:?}", server.provider, server.provider.server()).contains(secret));
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            for file in ["cmdline", "environ"] {
                // Processes end while one looks.
                let text = std::fs::read(process.path().join(file)).unwrap_or_default();
                assert!(!contains(&text, secret), "{}", process.path().display());
            }
        }
        let own = server.path().join("key");
        let found = files_with(&server.path(), secret);
        assert!(found.iter().all(|file| *file == own), "{found:?}");
    }
}

fn contains(text: &[u8], secret: &str) -> bool {
    text.windows(secret.len()).any(|part| part == secret.as_bytes())
}

fn files_with(folder: &Path, secret: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&path, secret));
        } else if kind.is_file() && contains(&std::fs::read(&path).unwrap_or_default(), secret) {
            found.push(path);
        }
    }
    found
}
