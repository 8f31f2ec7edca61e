//! A private registry of a test's own: Debian's docker-registry, which lets in one user.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use futures_util::TryStreamExt;
use paas_build::Registries;
use paas_core::ConfigValue;
use paas_docker::bollard::Docker;
use paas_docker::bollard::auth::DockerCredentials;
use paas_docker::bollard::query_parameters::{
    PushImageOptionsBuilder, RemoveImageOptions, TagImageOptionsBuilder,
};
use tempfile::TempDir;

pub(crate) const PASSWORD: &str = "registry-password-41";
const USER: &str = "ci";
/// bcrypt of the password, at its lowest cost.
const USERS: &str = "ci:$2y$04$abcdefghijklmnopqrstuuMgYiKPNL4bHdCnMx4p1/Lv0cARtfUtG\n";

pub(crate) struct Registry {
    process: Child,
    /// `127.0.0.1:4711`.
    pub(crate) address: String,
    _folder: TempDir,
}

impl Registry {
    /// Starts one; `None`, said aloud, where docker-registry isn't installed.
    pub(crate) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (data, users) = (folder.path().join("data"), folder.path().join("users"));
        std::fs::write(&users, USERS).unwrap();
        let config = serde_json::json!({
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": data}},
            "auth": {"htpasswd": {"realm": "tests", "path": users}},
            "http": {"addr": "127.0.0.1:0"},
        });
        // JSON is YAML.
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = match command.spawn() {
            Ok(process) => process,
            Err(e) => {
                assert!(std::env::var_os("CI").is_none(), "docker-registry can't be started: {e}");
                eprintln!("SKIPPED, it needs docker-registry: {e}");
                return None;
            }
        };
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = log.find(|line| line.contains("listening on ")).expect("it says where it listens");
        let (_, rest) = line.split_once("listening on ").unwrap();
        let address = rest.split('"').next().unwrap().to_owned();
        // It goes on speaking, and would wait for somebody to listen.
        std::thread::spawn(move || log.for_each(drop));
        Some(Self { process, address, _folder: folder })
    }

    /// Who may read there.
    pub(crate) fn login(&self) -> Registries {
        Registries::new().login(&self.address, USER, ConfigValue::new(PASSWORD).unwrap())
    }

    /// Puts an image that the daemon has there under this name, and leaves nothing of the name on the daemon.
    pub(crate) async fn put(&self, client: &Docker, image: &str, name: &str, tag: &str) {
        let there = format!("{}/{name}", self.address);
        let options = TagImageOptionsBuilder::new().repo(&there).tag(tag).build();
        client.tag_image(image, Some(options)).await.unwrap();
        let login = DockerCredentials {
            username: Some(USER.to_owned()),
            password: Some(PASSWORD.to_owned()),
            ..DockerCredentials::default()
        };
        let push = PushImageOptionsBuilder::new().tag(tag).build();
        let pushed: Result<Vec<_>, _> =
            client.push_image(&there, Some(push), Some(login)).try_collect().await;
        pushed.unwrap();
        client.remove_image(&format!("{there}:{tag}"), None::<RemoveImageOptions>, None).await.unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
