//! The command line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use paas::{AppId, AppName, AppRoutes, Backend, DomainName, RouteState};

/// What the command line says.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    pub(crate) routes: Vec<AppRoutes>,
    pub(crate) threads: usize,
    pub(crate) access_log: Option<PathBuf>,
    /// Where the authority of HTTPS is kept.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "nobody can ask for it"))]
    pub(crate) tls: Option<PathBuf>,
    pub(crate) metrics: Option<SocketAddr>,
}

const USAGE: &str = "\
Usage: proxy --route HOST=ADDR… | --routes FILE [OPTIONS]

  --route HOST=ADDR   requests for HOST go to ADDR; several of one HOST share them, and *.NAME is any name below NAME
  --routes FILE       the same from a file, a line each: HOST ADDR
  --listen ADDR       where requests arrive; several threads need a port     [127.0.0.1:8080]
  --threads N         how many cores it uses                                 [1]
  --access-log FILE   a line for each request, in the format of Heroku's router
  --tls               HTTPS instead of HTTP, by an authority of this machine's own
  --ca DIR            where that authority is kept: trust its ca.pem         [paas-ca]
  --metrics ADDR      what Prometheus reads, at http://ADDR/metrics";

impl Options {
    /// Reads the command line.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            routes: Vec::new(),
            threads: 1,
            access_log: None,
            tls: None,
            metrics: None,
        };
        let (mut tls, mut ca) = (false, None);
        let mut hosts: BTreeMap<DomainName, Vec<Backend>> = BTreeMap::new();
        while let Some(arg) = args.next() {
            if arg == "--tls" {
                if cfg!(not(feature = "tls")) {
                    return Err("this build has no HTTPS: add --features tls".to_owned());
                }
                tls = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{arg} needs a value\n\n{USAGE}"))?;
            let wrong = |expected| format!("{arg} {value}: expected {expected}");
            match arg.as_str() {
                "--route" => {
                    let (host, address) = value.split_once('=').ok_or_else(|| wrong("HOST=ADDR"))?;
                    add(&mut hosts, host, address).map_err(|error| format!("{arg} {value}: {error}"))?;
                }
                "--routes" => {
                    let text =
                        std::fs::read_to_string(&value).map_err(|error| format!("{value}: {error}"))?;
                    for (number, line) in (1..).zip(text.lines()) {
                        let added = match line.split_whitespace().collect::<Vec<_>>()[..] {
                            [] => Ok(()),
                            [host, address] => add(&mut hosts, host, address),
                            _ => Err("expected HOST ADDR".to_owned()),
                        };
                        added.map_err(|error| format!("{value}, line {number}: {error}"))?;
                    }
                }
                "--listen" => {
                    options.listen = value.parse().map_err(|_| wrong("an address such as 127.0.0.1:8080"))?;
                }
                "--threads" => {
                    options.threads =
                        value.parse().ok().filter(|n| *n > 0).ok_or_else(|| wrong("a number from 1"))?;
                }
                "--access-log" => options.access_log = Some(value.into()),
                "--ca" => ca = Some(PathBuf::from(value)),
                "--metrics" => {
                    options.metrics =
                        Some(value.parse().map_err(|_| wrong("an address such as 127.0.0.1:9100"))?);
                }
                _ => return Err(format!("there is no option {arg}\n\n{USAGE}")),
            }
        }
        if hosts.is_empty() {
            return Err(USAGE.to_owned());
        }
        if tls {
            options.tls = Some(ca.unwrap_or_else(|| PathBuf::from("paas-ca")));
        } else if ca.is_some() {
            return Err("--ca is where the authority of --tls is kept, and --tls is missing".to_owned());
        }
        for (number, (host, backends)) in (1..).zip(hosts) {
            let app = AppName::new(format!("route-{number}")).map_err(|error| error.to_string())?;
            let mut routes = AppRoutes::new(app, AppId::new(), 1);
            routes.domains = vec![host];
            routes.backends = backends;
            routes.state = RouteState::Serving;
            options.routes.push(routes);
        }
        Ok(options)
    }
}

fn add(hosts: &mut BTreeMap<DomainName, Vec<Backend>>, host: &str, address: &str) -> Result<(), String> {
    let host = host.parse().map_err(|error| format!("{error}"))?;
    let wrong = |_| format!("{address}: expected an address such as 127.0.0.1:5000");
    let address = address.parse().map_err(wrong)?;
    let backends = hosts.entry(host).or_default();
    backends.push(Backend::new(format!("web.{}", backends.len() + 1), address));
    Ok(())
}
