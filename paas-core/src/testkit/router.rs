//! The conformance suite of [`Router`]: what anything that brings requests to instances must do.
//!
//! Give [`conformance`] an empty router and a way to send it requests: [`LoopbackClient`] where it listens with plain
//! HTTP on an address, an implementation of [`RouterClient`] elsewhere. The suite starts small HTTP servers on loopback
//! as backends, so the router must be able to reach those. It panics with a sentence that says what does not hold.

mod client;
mod origin;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub use client::{LoopbackClient, RouterClient};
pub use origin::Origin;

use crate::{
    AppId, AppName, AppRoutes, Backend, Cancel, CancelReason, Context, DomainName, DrainRequest, Error,
    ErrorCode, IdempotencyKey, LogSource, LogWriter, MemoryLogs, RouteState, Router, StepName, SystemClock,
    Version, WorkflowId,
};

/// How long the suite waits for what must come: far more than it takes, so that a busy machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Checks a router that has no routes yet.
///
/// # Panics
/// With what does not hold.
pub async fn conformance(router: Arc<dyn Router>, client: Arc<dyn RouterClient>) {
    let suite = Suite { router, client };
    suite.a_host_that_nobody_named_leads_nowhere().await;
    suite.a_host_leads_to_its_app_however_it_is_written().await;
    suite.a_wildcard_leads_to_its_app_and_a_name_goes_before_it().await;
    suite.what_is_applied_is_observed().await;
    suite.after_apply_only_the_new_backends_get_requests().await;
    suite.an_older_generation_is_refused_and_the_same_changes_nothing().await;
    suite.a_new_life_of_an_app_counts_anew().await;
    suite.a_host_of_another_app_is_refused_and_stays_where_it_is().await;
    suite.a_host_that_is_no_longer_named_leads_nowhere_and_is_free().await;
    suite.an_app_without_backends_answers_for_itself().await;
    suite.no_request_fails_while_routes_change().await;
    suite.a_request_in_flight_outlives_the_change_of_its_backend().await;
    if suite.router.capabilities().drain {
        suite.a_drain_waits_for_requests_in_flight_and_says_how_many_are_left().await;
        suite.a_drain_can_be_cancelled().await;
    }
    if suite.router.capabilities().expires {
        suite.a_router_whose_time_is_up_reaches_no_backend_until_it_gets_more().await;
    }
}

struct Suite {
    router: Arc<dyn Router>,
    client: Arc<dyn RouterClient>,
}

impl Suite {
    async fn a_host_that_nobody_named_leads_nowhere(&self) {
        let (status, _) = self.get("nobody.conformance.test", "/").await;
        assert!((400..600).contains(&status), "a host that nobody named is an error, not {status}");
    }

    async fn a_host_leads_to_its_app_however_it_is_written(&self) {
        let origin = Origin::start("one").await;
        self.apply(&routes("written", 1, &["written.conformance.test"], &[&origin])).await;
        for host in ["written.conformance.test", "Written.Conformance.Test", "written.conformance.test:8080"]
        {
            assert_eq!(self.get(host, "/").await, (200, "one".into()), "{host} leads to its app");
        }
    }

    async fn a_wildcard_leads_to_its_app_and_a_name_goes_before_it(&self) {
        let (wild, named) = (Origin::start("wild").await, Origin::start("named").await);
        self.apply(&routes("wild", 1, &["*.wild.conformance.test"], &[&wild])).await;
        self.apply(&routes("named", 1, &["a.wild.conformance.test"], &[&named])).await;
        assert_eq!(self.get("b.wild.conformance.test", "/").await.1, "wild", "a wildcard leads to its app");
        assert_eq!(
            self.get("a.wild.conformance.test", "/").await.1,
            "named",
            "a name goes before a wildcard"
        );
    }

    async fn what_is_applied_is_observed(&self) {
        let app: AppName = name("observed");
        let observed = self.router.observe(&app).await.expect("routes can be observed");
        assert_eq!(observed, None, "an app without routes has none");
        let origin = Origin::start("one").await;
        let routes = routes("observed", 7, &["observed.conformance.test"], &[&origin]);
        self.apply(&routes).await;
        let observed = self.router.observe(&app).await.expect("routes can be observed");
        assert_eq!(observed, Some(routes), "what is applied is observed");
    }

    async fn after_apply_only_the_new_backends_get_requests(&self) {
        let host = "switched.conformance.test";
        let (old, new) = (Origin::start("old").await, Origin::start("new").await);
        let mut routes = routes("switched", 1, &[host], &[&old]);
        self.apply(&routes).await;
        for _ in 0..20 {
            assert_eq!(self.get(host, "/").await.1, "old");
        }
        change(&mut routes, &[&new]);
        self.apply(&routes).await;
        let before = old.requests();
        for _ in 0..50 {
            assert_eq!(self.get(host, "/").await.1, "new", "after apply only the new backend gets requests");
        }
        assert_eq!(old.requests(), before, "a removed backend gets no request any more");
    }

    async fn an_older_generation_is_refused_and_the_same_changes_nothing(&self) {
        let host = "stale.conformance.test";
        let (old, new) = (Origin::start("old").await, Origin::start("new").await);
        let stale = routes("stale", 1, &[host], &[&old]);
        let mut current = stale.clone();
        change(&mut current, &[&new]);
        self.apply(&current).await;
        let error = self.try_apply(&stale).await.expect_err("an older generation is refused");
        assert_eq!(error.code(), ErrorCode::StaleGeneration, "an older generation is stale: {error}");
        self.apply(&current).await;
        assert_eq!(self.get(host, "/").await.1, "new", "a refused generation changes nothing");
        let mut other = current.clone();
        other.backends = vec![old.backend()];
        self.apply(&other).await;
        assert_eq!(self.get(host, "/").await.1, "new", "the same generation again changes nothing");
    }

    async fn a_new_life_of_an_app_counts_anew(&self) {
        let host = "reborn.conformance.test";
        let (first, second) = (Origin::start("first").await, Origin::start("second").await);
        self.apply(&routes("reborn", 40, &[host], &[&first])).await;
        self.apply(&routes("reborn", 1, &[host], &[&second])).await;
        assert_eq!(
            self.get(host, "/").await.1,
            "second",
            "a new life's generations have nothing to do with the old one's"
        );
    }

    async fn a_host_of_another_app_is_refused_and_stays_where_it_is(&self) {
        let host = "owned.conformance.test";
        let (owner, thief) = (Origin::start("owner").await, Origin::start("thief").await);
        self.apply(&routes("owner", 1, &[host], &[&owner])).await;
        let theft = routes("thief", 1, &["thief.conformance.test", host], &[&thief]);
        let error = self.try_apply(&theft).await.expect_err("a host of another app is refused");
        assert_eq!(error.code(), ErrorCode::Conflict, "a host of another app is a conflict: {error}");
        assert_eq!(self.get(host, "/").await.1, "owner", "the host stays where it is");
        let (status, _) = self.get("thief.conformance.test", "/").await;
        assert_ne!(status, 200, "routes that were refused are not applied in part");
    }

    async fn a_host_that_is_no_longer_named_leads_nowhere_and_is_free(&self) {
        let host = "freed.conformance.test";
        let (old, new) = (Origin::start("old").await, Origin::start("new").await);
        let mut routes_of_old = routes("leaver", 1, &[host, "leaver.conformance.test"], &[&old]);
        self.apply(&routes_of_old).await;
        routes_of_old.domains.remove(0);
        routes_of_old.generation += 1;
        self.apply(&routes_of_old).await;
        assert_ne!(self.get(host, "/").await.0, 200, "a host that is no longer named leads nowhere");
        assert_eq!(self.get("leaver.conformance.test", "/").await.1, "old", "the others stay");
        self.apply(&routes("taker", 1, &[host], &[&new])).await;
        assert_eq!(self.get(host, "/").await.1, "new", "another app can have it");
    }

    async fn an_app_without_backends_answers_for_itself(&self) {
        let host = "nobody-home.conformance.test";
        let mut routes = routes("nobody-home", 0, &[host], &[]);
        for state in [RouteState::Empty, RouteState::Serving, RouteState::Stopped, RouteState::Maintenance] {
            routes.generation += 1;
            routes.state = state;
            self.apply(&routes).await;
            assert_eq!(
                self.get(host, "/").await.0,
                503,
                "an app that is {state:?} without backends is unavailable"
            );
        }
    }

    async fn no_request_fails_while_routes_change(&self) {
        const SWAPS: u64 = 60;
        let host = "swapped.conformance.test";
        let origins = [Origin::start("0").await, Origin::start("1").await];
        let mut routes = routes("swapped", 2, &[host], &[&origins[0]]);
        self.apply(&routes).await;
        let applied = Arc::new(AtomicU64::new(routes.generation));
        let done = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (client, applied, done) =
                    (Arc::clone(&self.client), Arc::clone(&applied), Arc::clone(&done));
                tokio::spawn(async move {
                    let mut answers = 0;
                    while !done.load(Ordering::SeqCst) {
                        let before = applied.load(Ordering::SeqCst);
                        let (status, body) = client.get(host, "/").await;
                        let after = applied.load(Ordering::SeqCst);
                        assert_eq!(status, 200, "no request fails while routes change, but: {body}");
                        if before == after && before % 2 == 0 {
                            // Odd while a change is under way: then both answers are right.
                            let expected = (before / 2 + 1) % 2;
                            assert_eq!(
                                body,
                                expected.to_string(),
                                "after apply no new request reaches what was removed"
                            );
                        }
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        for swap in 1..=SWAPS {
            let next = usize::try_from(swap % 2).expect("0 or 1");
            applied.fetch_add(1, Ordering::SeqCst);
            change(&mut routes, &[&origins[next]]);
            self.apply(&routes).await;
            applied.fetch_add(1, Ordering::SeqCst);
            let (seen, new) = (origins[next].requests(), &origins[next]);
            within("requests at the new backend", async { new.reached(seen + 3).await }).await;
        }
        done.store(true, Ordering::SeqCst);
        let mut answers = 0;
        for client in clients {
            answers += client.await.expect("no request fails while routes change");
        }
        assert!(answers >= SWAPS, "requests were made while routes changed");
    }

    async fn a_request_in_flight_outlives_the_change_of_its_backend(&self) {
        let host = "outlives.conformance.test";
        let (old, new) = (Origin::start("old").await, Origin::start("new").await);
        let mut routes = routes("outlives", 1, &[host], &[&old]);
        self.apply(&routes).await;
        let held = self.hold(host, &old).await;
        change(&mut routes, &[&new]);
        self.apply(&routes).await;
        assert_eq!(self.get(host, "/").await.1, "new");
        old.release();
        let answer =
            within("the answer of a request in flight", held).await.expect("the client doesn't panic");
        assert_eq!(answer, (200, "old".into()), "a request in flight outlives the change");
    }

    async fn a_drain_waits_for_requests_in_flight_and_says_how_many_are_left(&self) {
        let host = "drained.conformance.test";
        let (old, new) = (Origin::start("old").await, Origin::start("new").await);
        let mut routes = routes("drained", 1, &[host], &[&old]);
        self.apply(&routes).await;
        let held = self.hold(host, &old).await;
        let request =
            DrainRequest::new(name("drained"), vec![old.backend()]).with_timeout(Duration::from_millis(50));
        let left = self.drain(&request).await.expect("a drain can be asked for");
        assert_eq!(left, 0, "backends that the routes still name are not waited for");
        change(&mut routes, &[&new]);
        self.apply(&routes).await;
        let left = self.drain(&request).await.expect("a drain can be asked for");
        assert_eq!(left, 1, "a drain whose time is up says how many requests are left");
        let long = request.with_timeout(PATIENCE);
        let context = context(&Cancel::new());
        let drained = self.router.drain(&context, &long);
        old.release();
        let left = within("the drain", drained).await.expect("a drain can be asked for");
        assert_eq!(left, 0, "a drain ends when the last request ends");
        assert_eq!(held.await.expect("the client doesn't panic"), (200, "old".into()));
    }

    async fn a_drain_can_be_cancelled(&self) {
        let host = "cancelled.conformance.test";
        let (old, new) = (Origin::start("old").await, Origin::start("new").await);
        let mut routes = routes("cancelled", 1, &[host], &[&old]);
        self.apply(&routes).await;
        let held = self.hold(host, &old).await;
        change(&mut routes, &[&new]);
        self.apply(&routes).await;
        let cancel = Cancel::new();
        let context = context(&cancel);
        let request = DrainRequest::new(name("cancelled"), vec![old.backend()]).with_timeout(PATIENCE);
        let (drained, ()) = tokio::join!(self.router.drain(&context, &request), async {
            tokio::task::yield_now().await;
            cancel.cancel(CancelReason::User);
        });
        let error = drained.expect_err("a cancelled drain is an error");
        assert_eq!(error.code(), ErrorCode::Cancelled);
        old.release();
        held.await.expect("the client doesn't panic");
    }

    async fn a_router_whose_time_is_up_reaches_no_backend_until_it_gets_more(&self) {
        let host = "expired.conformance.test";
        let origin = Origin::start("one").await;
        self.apply(&routes("expired", 1, &[host], &[&origin])).await;
        let until =
            |until| self.router.serve_until(until).expect("it can be told until when its routes hold");
        until(Some(tokio::time::Instant::now()));
        assert_eq!(self.get(host, "/").await.0, 503, "a router whose time is up answers for itself");
        let unknown = self.get("unknown.conformance.test", "/").await.0;
        assert_eq!(unknown, 503, "and can't know that a host leads nowhere");
        assert_eq!(origin.requests(), 0, "a router whose time is up reaches no backend");
        until(Some(tokio::time::Instant::now() + PATIENCE));
        assert_eq!(self.get(host, "/").await.1, "one", "with more time the routes hold again");
        until(None);
        assert_eq!(self.get(host, "/").await.1, "one", "and then for ever");
    }

    /// Sends a request that the origin doesn't answer before it is released.
    async fn hold(&self, host: &'static str, origin: &Origin) -> tokio::task::JoinHandle<(u16, String)> {
        let client = Arc::clone(&self.client);
        let before = origin.requests();
        let held = tokio::spawn(async move { client.get(host, "/hold").await });
        within("the request at its backend", origin.reached(before + 1)).await;
        held
    }

    async fn get(&self, host: &str, path: &str) -> (u16, String) {
        within("an answer", self.client.get(host, path)).await
    }

    async fn try_apply(&self, routes: &AppRoutes) -> Result<(), Error> {
        let context = context(&Cancel::new());
        within("apply", self.router.apply(&context, routes)).await
    }

    async fn apply(&self, routes: &AppRoutes) {
        self.try_apply(routes).await.unwrap_or_else(|error| panic!("routes can be applied, but: {error}"));
    }

    async fn drain(&self, request: &DrainRequest) -> Result<u64, Error> {
        let context = context(&Cancel::new());
        within("drain", self.router.drain(&context, request)).await
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("{what} didn't come within {} s", PATIENCE.as_secs()))
}

fn name(text: &str) -> AppName {
    text.parse().expect("the suite's names are valid")
}

fn routes(app: &str, generation: u64, domains: &[&str], origins: &[&Origin]) -> AppRoutes {
    let mut routes = AppRoutes::new(name(app), AppId::new(), generation);
    let domain = |text: &&str| -> DomainName { text.parse().expect("the suite's hosts are valid") };
    routes.domains = domains.iter().map(domain).collect();
    routes.version = Some(Version::FIRST);
    routes.backends = origins.iter().map(|origin| origin.backend()).collect();
    routes.state = RouteState::Serving;
    routes
}

fn change(routes: &mut AppRoutes, origins: &[&Origin]) {
    routes.generation += 1;
    routes.backends = origins.iter().map(|origin| origin.backend()).collect::<Vec<Backend>>();
}

fn context(cancel: &Cancel) -> Context {
    let step: StepName = "switch_route".parse().expect("the suite's names are valid");
    let clock = Arc::new(SystemClock::new());
    let log = LogWriter::new(
        Arc::new(MemoryLogs::default()),
        clock.clone(),
        name("conformance"),
        LogSource::Platform,
        "router",
    );
    Context::new(IdempotencyKey::new(WorkflowId::new(), step), cancel.clone(), clock, log)
}
