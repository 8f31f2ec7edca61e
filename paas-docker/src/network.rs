//! A network for each app, so that no app reaches another's containers.
//!
//! Docker's own pools end at some thirty networks. Here each gets a small subnet from a range of the platform's own.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptions;
use paas_core::{AppName, Error, ErrorCode, Result};

use crate::{Docker, failed, label};

/// A range of IPv4 addresses that is cut into subnets for apps: `10.223.0.0/16` in parts of `/26`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnets {
    first: u32,
    bits: u8,
    each: u8,
}

impl Default for Subnets {
    /// `10.223.0.0/16` in 1,024 parts of `/26`: each with room for 61 containers.
    fn default() -> Self {
        Self { first: u32::from(Ipv4Addr::new(10, 223, 0, 0)), bits: 16, each: 26 }
    }
}

impl Subnets {
    /// Cuts this range, such as `10.223.0.0/16`, into subnets of so many bits. An app's containers of two releases must
    /// fit into one of them while it is deployed: a `/26` holds 61.
    ///
    /// # Errors
    /// `invalid_params` when it is no range, or can't be cut so.
    pub fn new(range: &str, each: u8) -> Result<Self> {
        let wrong = |why: &str| {
            let text = format!("{range:?} in subnets of /{each} is not valid: {why}");
            Err(Error::new(ErrorCode::InvalidParams, text))
        };
        let Some((first, bits)) = parse(range) else { return wrong("write a range as 10.223.0.0/16") };
        if bits < 8 || each < bits || each > 29 {
            return wrong("a range has 8 bits or more, and its parts have as many to 29");
        }
        if first & mask(bits) != first {
            return wrong("its address has bits beyond its length");
        }
        Ok(Self { first, bits, each })
    }

    fn count(self) -> u32 {
        1 << (self.each - self.bits)
    }

    /// The first subnet from here on, going round, that touches none of these.
    fn free(self, start: u32, taken: &[(u32, u8)]) -> Option<(u32, String)> {
        let count = self.count();
        let numbers = (0..count).map(|offset| (start + offset) % count);
        let touches = |subnet: u32, (address, bits): (u32, u8)| {
            let shorter = mask(bits.min(self.each));
            address & shorter == subnet & shorter
        };
        let subnet = |number: u32| self.first | (number << (32 - self.each));
        let number = { numbers }.find(|number| !taken.iter().any(|one| touches(subnet(*number), *one)))?;
        Some((number, format!("{}/{}", Ipv4Addr::from(subnet(number)), self.each)))
    }
}

fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or_default()
}

fn parse(range: &str) -> Option<(u32, u8)> {
    let (address, bits) = range.split_once('/')?;
    let bits = bits.parse().ok().filter(|bits| *bits <= 32)?;
    Some((u32::from(Ipv4Addr::from_str(address).ok()?), bits))
}

impl Docker {
    fn network_name(&self, app: &AppName) -> String {
        format!("{}.{app}", self.platform())
    }

    /// The name of this app's network, which is made if it isn't there.
    ///
    /// # Errors
    /// `limit_exceeded` when all subnets are taken, `unavailable`.
    pub async fn network(&self, app: &AppName) -> Result<String> {
        let name = self.network_name(app);
        if self.our_networks(Some(app)).await?.contains_key(&name) {
            return Ok(name);
        }
        // Docker would make two of one name. The next subnet is looked for behind the last one: none is used again soon,
        // so that whoever still speaks to an old address meets nobody.
        let mut next = self.next_subnet.lock().await;
        if self.our_networks(Some(app)).await?.contains_key(&name) {
            return Ok(name);
        }
        let mut taken = self.taken_subnets().await?;
        loop {
            let subnets = self.subnets;
            let Some((number, subnet)) = subnets.free(*next, &taken) else {
                let text = format!(
                    "all {} subnets of {subnets} are taken: remove networks that nobody uses, or give the platform a \
                     larger range",
                    subnets.count()
                );
                return Err(Error::new(ErrorCode::LimitExceeded, text));
            };
            *next = (number + 1) % subnets.count();
            let request = NetworkCreateRequest {
                name: name.clone(),
                driver: Some("bridge".into()),
                ipam: Some(Ipam {
                    config: Some(vec![IpamConfig { subnet: Some(subnet.clone()), ..IpamConfig::default() }]),
                    ..Ipam::default()
                }),
                labels: Some(self.labels([(label::APP, app.to_string()), (label::KIND, "network".into())])),
                ..NetworkCreateRequest::default()
            };
            match self.client().create_network(request).await {
                Ok(_) => return Ok(name),
                // Somebody else's, that Docker knows and we don't: a route of the machine, an overlay.
                Err(bollard::errors::Error::DockerResponseServerError { message, .. })
                    if message.contains("overlap") || message.contains("conflicts with") =>
                {
                    taken.extend(parse(&subnet));
                }
                Err(e) => return Err(failed(format!("can't make a network for {app}"), e)),
            }
        }
    }

    /// Our networks by name, of this app or of all.
    async fn our_networks(&self, app: Option<&AppName>) -> Result<HashMap<String, Option<AppName>>> {
        let wanted = app.map(|app| (label::APP, app.as_str()));
        let filters = self.ours(wanted.as_slice());
        let listed = self.client().list_networks(Some(ListNetworksOptions { filters: Some(filters) })).await;
        let listed = listed.map_err(|e| failed("can't list networks", e))?;
        let app = |labels: Option<HashMap<String, String>>| labels?.get(label::APP)?.parse().ok();
        Ok(listed.into_iter().filter_map(|one| Some((one.name?, app(one.labels)))).collect())
    }

    /// The subnets of every network on the daemon, whoever made it.
    async fn taken_subnets(&self) -> Result<Vec<(u32, u8)>> {
        let listed = self.client().list_networks(None::<ListNetworksOptions>).await;
        let listed = listed.map_err(|e| failed("can't list networks", e))?;
        let configs = listed.into_iter().filter_map(|one| one.ipam?.config).flatten();
        Ok(configs.filter_map(|config| parse(&config.subnet?)).collect())
    }

    /// Removes this app's network, on which nothing is any more. One that isn't there is fine.
    ///
    /// # Errors
    /// `conflict` while something is on it, `unavailable`.
    pub async fn remove_network(&self, app: &AppName) -> Result<()> {
        self.remove_network_named(&self.network_name(app)).await
    }

    async fn remove_network_named(&self, name: &str) -> Result<()> {
        match self.client().remove_network(name).await {
            Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                Ok(())
            }
            Err(e) => Err(failed(format!("can't remove the network {name}"), e)),
        }
    }

    /// Removes our networks of apps that have nothing here any more.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn keep_networks(&self, wanted: impl Fn(&AppName) -> bool) -> Result<()> {
        for (name, app) in self.our_networks(None).await? {
            if app.is_some_and(|app| !wanted(&app)) {
                match self.remove_network_named(&name).await {
                    // Something of the app's is on it that is not ours to end: an add-on's container.
                    Err(e) if e.code() == ErrorCode::Conflict => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Subnets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} in parts of /{}", Ipv4Addr::from(self.first), self.bits, self.each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_into_subnets_that_touch_no_other_network() {
        let subnets = Subnets::new("10.1.0.0/24", 26).unwrap();
        assert_eq!(subnets.count(), 4);
        let taken = |ranges: &[&str]| ranges.iter().filter_map(|range| parse(range)).collect::<Vec<_>>();
        let free = |start, ranges: &[&str]| subnets.free(start, &taken(ranges)).map(|(_, subnet)| subnet);
        assert_eq!(free(0, &[]).as_deref(), Some("10.1.0.0/26"));
        assert_eq!(free(3, &["10.1.0.192/28"]).as_deref(), Some("10.1.0.0/26"), "goes round");
        assert_eq!(free(0, &["10.1.0.0/25", "172.17.0.0/16"]).as_deref(), Some("10.1.0.128/26"));
        assert_eq!(free(0, &["10.0.0.0/8"]), None);
    }

    #[test]
    fn what_is_no_range_is_refused_with_the_reason() {
        for (range, each) in
            [("10.1.0.0", 26), ("10.1.0.0/33", 26), ("10.1.0.0/24", 20), ("10.1.0.1/24", 26), ("::/16", 26)]
        {
            let error = Subnets::new(range, each).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidParams, "{range} {error}");
        }
    }
}
