//! Who we are at private registries.

use std::collections::BTreeMap;
use std::fmt;

use paas_core::ConfigValue;
use paas_docker::bollard::auth::DockerCredentials;

/// Logins by registry. They are shown to the daemon when it pulls from that registry, and to nobody else.
#[derive(Clone, Default)]
pub struct Registries(BTreeMap<String, Login>);

/// A login at one registry.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    user: String,
    password: ConfigValue,
}

impl Registries {
    /// None: everything is pulled as anybody may.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a login at this registry, named as in references: `ghcr.io`, `registry.example.com:5000`; Docker Hub is
    /// `docker.io`.
    #[must_use]
    pub fn login(
        mut self,
        registry: impl Into<String>,
        user: impl Into<String>,
        password: ConfigValue,
    ) -> Self {
        self.0.insert(host(&registry.into()).to_owned(), Login { user: user.into(), password });
        self
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Login)> {
        self.0.iter()
    }

    /// The login at this registry.
    pub(crate) fn get(&self, registry: &str) -> Option<&Login> {
        self.0.get(host(registry))
    }
}

/// Docker Hub has three names.
fn host(registry: &str) -> &str {
    match registry {
        "index.docker.io" | "registry-1.docker.io" | "https://index.docker.io/v1/" => "docker.io",
        other => other,
    }
}

impl Registries {
    /// The login at this registry, as the daemon's client takes it.
    pub(crate) fn credentials(&self, registry: &str) -> Option<DockerCredentials> {
        let login = self.get(registry)?;
        Some(DockerCredentials {
            username: Some(login.user.clone()),
            password: Some(login.password.expose().to_owned()),
            serveraddress: Some(registry.to_owned()),
            ..DockerCredentials::default()
        })
    }
}

impl Login {
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) fn password(&self) -> &ConfigValue {
        &self.password
    }
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(registry, login)| (registry, &login.user))).finish()
    }
}
