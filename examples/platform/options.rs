//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use paas::DomainName;
use paas::run::proxy::{Front, ProxyConfig};

/// What the command line says.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) data: PathBuf,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) https: Option<SocketAddr>,
    /// Whom a public authority may write to.
    pub(crate) acme: Option<String>,
    pub(crate) git: Option<SocketAddr>,
    /// Where Prometheus reads; it asks nobody who they are.
    pub(crate) metrics: Option<SocketAddr>,
    /// Proxies before this platform's own.
    pub(crate) front: Front,
    pub(crate) domain: DomainName,
    pub(crate) demo: bool,
    pub(crate) keep_apps: bool,
    pub(crate) replace: bool,
}

const USAGE: &str = "\
Usage: platform [OPTIONS]

  --data DIR      where everything is kept            [paas-data]
  --http ADDR     where users' requests arrive        [127.0.0.1:5080, or a free port]
  --https ADDR    the same over TLS                   [127.0.0.1:5443, or a free port]
  --acme EMAIL    certificates of Let's Encrypt for public names; needs --https to be reached on port 443
  --git ADDR      where git pushes arrive             [127.0.0.1:5081, or a free port]
  --metrics ADDR  what Prometheus reads, at http://ADDR/metrics; for nobody else to reach
  --trust NETWORK a proxy before this one connects from there: what it says of clients' addresses and HTTPS is believed
  --proxy-protocol
                  such a proxy begins each connection with a PROXY header
  --domain NAME   apps answer to APP.NAME             [localhost]
  --no-demo       deploy no sample app
  --keep-apps     apps and databases go on after the end
  --replace       takes over from the platform that runs on DIR: no request fails";

impl Options {
    /// Reads the command line.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            data: PathBuf::from("paas-data"),
            http: None,
            https: None,
            acme: None,
            git: None,
            metrics: None,
            front: Front::default(),
            domain: DomainName::new("localhost").map_err(|e| e.to_string())?,
            demo: true,
            keep_apps: false,
            replace: false,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n\n{USAGE}"));
            match arg.as_str() {
                "--data" => options.data = value()?.into(),
                "--http" => options.http = Some(address(&arg, &value()?)?),
                "--https" => options.https = Some(address(&arg, &value()?)?),
                "--acme" if cfg!(feature = "acme") => options.acme = Some(value()?),
                "--acme" => return Err("this build has no ACME: add --features acme".to_owned()),
                "--git" => options.git = Some(address(&arg, &value()?)?),
                "--metrics" => options.metrics = Some(address(&arg, &value()?)?),
                "--trust" => {
                    let network = value()?;
                    let wrong = |e| format!("{arg} {network}: {e}; write it as 10.0.0.0/8 or 10.0.0.5/32");
                    options.front.peers.push(network.parse().map_err(wrong)?);
                }
                "--proxy-protocol" => options.front.proxy_protocol = true,
                "--domain" => options.domain = value()?.parse().map_err(|e| format!("{e}"))?,
                "--no-demo" => options.demo = false,
                "--keep-apps" => options.keep_apps = true,
                "--replace" => options.replace = true,
                _ => return Err(format!("there is no option {arg}\n\n{USAGE}")),
            }
        }
        if options.front.proxy_protocol && options.front.peers.is_empty() {
            return Err("--proxy-protocol needs --trust: from where does the proxy connect?".to_owned());
        }
        Ok(options)
    }

    /// How requests are brought to apps.
    pub(crate) fn proxy(&self) -> ProxyConfig {
        let mut config = ProxyConfig::default();
        config.front = self.front.clone();
        config
    }
}

fn address(option: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{option} {text}: expected an address and a port such as 127.0.0.1:5080"))
}
