//! Which host leads to which app.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paas_core::{AppName, AppRoutes, DomainName, Error, ErrorCode, Result};

use super::pools::Pools;
use super::route::Route;

/// Hosts and apps. A lookup never locks; a release doesn't touch the hosts at all, since a route holds its own
/// backends. Changes are made one at a time.
#[derive(Debug, Default)]
pub(super) struct Table {
    hosts: papaya::HashMap<Box<str>, Arc<Route>>,
    /// `*.example.com`, under `example.com`.
    wildcards: papaya::HashMap<Box<str>, Arc<Route>>,
    /// Every app that ever had routes: an old engine must not bring back those of one that is gone.
    apps: Mutex<HashMap<AppName, Arc<Route>>>,
}

impl Table {
    /// The route of a host in lower case, without port or trailing dot.
    pub(super) fn find(&self, host: &str) -> Option<Arc<Route>> {
        if let Some(route) = self.hosts.pin().get(host) {
            return Some(Arc::clone(route));
        }
        let (_, parent) = host.split_once('.')?;
        self.wildcards.pin().get(parent).map(Arc::clone)
    }

    /// Whether a route names this very host, and not only a wildcard that it falls under.
    #[cfg(feature = "tls")]
    pub(super) fn names(&self, host: &str) -> bool {
        self.hosts.pin().contains_key(host)
    }

    /// The route of an app.
    pub(super) fn app(&self, app: &AppName) -> Option<Arc<Route>> {
        self.apps().get(app).map(Arc::clone)
    }

    /// The routes of all apps.
    pub(super) fn all(&self) -> Vec<Arc<Route>> {
        self.apps().values().map(Arc::clone).collect()
    }

    /// Makes these the routes of the app, and says which hosts came (true) and which went.
    ///
    /// # Errors
    /// `stale_generation`, and `conflict` for a host of another app; then nothing has changed.
    pub(super) fn apply(&self, routes: &AppRoutes, pools: &Arc<Pools>) -> Result<Vec<(DomainName, bool)>> {
        let mut apps = self.apps();
        let route = apps.get(&routes.app).map(Arc::clone);
        let route = route.unwrap_or_else(|| Arc::new(Route::new(routes.app.clone())));
        if !route.is_newer(routes)? {
            return Ok(Vec::new());
        }
        for domain in &routes.domains {
            if let Some(owner) = self.owner(domain)
                && owner.app != routes.app
            {
                let message = format!("{domain} belongs to the app {}; remove it there first", owner.app);
                return Err(Error::new(ErrorCode::Conflict, message).with("domain", domain));
            }
        }
        apps.insert(routes.app.clone(), Arc::clone(&route));
        // Backends before hosts: a new host never leads to old backends.
        let before = route.swap(routes, pools);
        let known = before.map(|before| before.domains).unwrap_or_default();
        let came = routes.domains.iter().filter(|domain| !known.contains(domain));
        let went = known.iter().filter(|domain| !routes.domains.contains(domain));
        let changed: Vec<_> = came
            .map(|domain| (domain.clone(), true))
            .chain(went.map(|domain| (domain.clone(), false)))
            .collect();
        for (domain, came) in &changed {
            let (map, key) = self.place(domain);
            match came {
                true => drop(map.pin().insert(key.into(), Arc::clone(&route))),
                false => drop(map.pin().remove(key)),
            }
        }
        Ok(changed)
    }

    fn owner(&self, domain: &DomainName) -> Option<Arc<Route>> {
        let (map, key) = self.place(domain);
        map.pin().get(key).map(Arc::clone)
    }

    fn place<'a>(&self, domain: &'a DomainName) -> (&papaya::HashMap<Box<str>, Arc<Route>>, &'a str) {
        match domain.as_str().strip_prefix("*.") {
            Some(parent) => (&self.wildcards, parent),
            None => (&self.hosts, domain.as_str()),
        }
    }

    fn apps(&self) -> MutexGuard<'_, HashMap<AppName, Arc<Route>>> {
        // A panic under this lock leaves the map whole.
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
