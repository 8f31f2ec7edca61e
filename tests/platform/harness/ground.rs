//! What apps run as: processes of this machine, or containers. Behaviours that hold on both are written once, for either.

use std::collections::BTreeSet;

use super::{Gate, Repo, World, has};

/// The main process of an instance, or its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// Such as `web.1`.
    pub(crate) name: String,
    /// Of which release, such as `v3`.
    pub(crate) version: String,
    /// It and no other.
    pub(crate) identity: String,
    /// What it was started with.
    env: Vec<(String, String)>,
}

impl Instance {
    pub(crate) fn new(identity: String, env: Vec<(String, String)>) -> Option<Self> {
        let value = |key: &str| env.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
        let (name, version) = (value("DYNO")?, value("HEROKU_RELEASE_VERSION")?);
        Some(Self { name, version, identity, env })
    }

    pub(crate) fn variable(&self, key: &str) -> Option<&str> {
        self.env.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// A platform, and what its apps run as.
pub(crate) trait Ground: Sync {
    fn world(&self) -> &World;

    fn world_mut(&mut self) -> &mut World;

    /// Makes it the web app that answers with this word, built as apps are here.
    fn app(&self, repo: &Repo, word: &str);

    /// The command with which that app serves.
    fn serve(&self) -> &'static str;

    /// The shell that apps have.
    fn shell(&self) -> &'static str;

    /// A script that ends with status 1, and says so, unless the gate is open.
    fn ask(&self, gate: &Gate) -> String;

    /// Makes its build ask the gate; `false` where this machine lacks what that takes.
    fn build_asks(&self, repo: &Repo, gate: &Gate) -> bool;

    /// The word that users get, and the identity of who said it.
    fn serving(&self, app: &str) -> (String, String);

    /// All that is meant to last.
    fn instances(&self) -> Vec<Instance>;

    /// All that runs for this app, but what only answers its users.
    fn runs(&self, app: &str) -> BTreeSet<String>;
}

impl Ground for World {
    fn world(&self) -> &World {
        self
    }

    fn world_mut(&mut self) -> &mut World {
        self
    }

    fn app(&self, repo: &Repo, word: &str) {
        repo.app(word);
    }

    fn serve(&self) -> &'static str {
        "exec perl server.pl"
    }

    fn shell(&self) -> &'static str {
        "bash"
    }

    fn ask(&self, gate: &Gate) -> String {
        gate.shell()
    }

    fn build_asks(&self, repo: &Repo, gate: &Gate) -> bool {
        let package = r#"{ "name": "web", "version": "1.0.0", "scripts": { "build": "bash build.sh" } }"#;
        repo.write("build.sh", gate.shell()).write("package.json", package);
        has("npm")
    }

    fn serving(&self, app: &str) -> (String, String) {
        let (word, identity) = World::serving(self, app);
        (word, format!("{identity:?}"))
    }

    fn instances(&self) -> Vec<Instance> {
        let programs = self.programs().into_iter();
        programs
            .filter_map(|program| {
                let env = program.variables().map(|(key, value)| (key.to_owned(), value.to_owned()));
                Instance::new(format!("{:?}", program.identity), env.collect())
            })
            .collect()
    }

    fn runs(&self, app: &str) -> BTreeSet<String> {
        let server = World::serving(self, app).1.pid;
        let all = self.processes().into_iter().filter(|process| process.parent != server);
        all.map(|process| format!("{:?}", process.identity)).collect()
    }
}
