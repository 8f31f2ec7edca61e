//! `kill -9` of the platform at random moments of every kind of work, with a real database, pushes and users: what was
//! ordered should be carried out, once.
//!
//! `PAAS_ROUNDS` says how often, `PAAS_SEED` replays the choices, not the moments.

use std::collections::BTreeMap;
use std::time::Duration;

use paas::{
    Addon, AddonId, AddonOrder, AddonState, AppName, ConfigEdit, ConfigVars, ErrorCode, RollbackOrder, Scale,
    Version, WorkflowHandle, WorkflowState,
};
use tokio::time::Instant;

use crate::harness::{Client, Dice, Ground, Instance, Repo, World, rounds, until};

const APP: &str = "survivor";

/// What is ordered in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    Push,
    Rollback,
    Configure,
    Scale,
    Provision,
    Rotate,
    Deprovision,
    Destroy,
}

const ALL: [Work; 8] = [
    Work::Push,
    Work::Rollback,
    Work::Configure,
    Work::Scale,
    Work::Provision,
    Work::Rotate,
    Work::Deprovision,
    Work::Destroy,
];

/// What users should find.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct State {
    /// Which code answers; none before the first push and after the end.
    word: Option<String>,
    color: Option<String>,
    web: u32,
    workers: u32,
    /// By attachment.
    databases: BTreeMap<String, AddonId>,
}

/// An order that may have been heard.
struct Ordered {
    handle: Option<WorkflowHandle>,
    /// What is there when it is carried out.
    after: State,
}

struct Game<G> {
    ground: G,
    /// What there is to order.
    works: &'static [Work],
    client: Client,
    repo: Repo,
    dice: Dice,
    state: State,
    /// The code and colour of releases that were live.
    releases: BTreeMap<Version, (String, Option<String>)>,
    words: u32,
}

fn app() -> AppName {
    APP.parse().unwrap()
}

impl<G: Ground> Game<G> {
    fn new(ground: G, works: &'static [Work]) -> Self {
        let dice = Dice::new();
        let (client, repo) = (Client::open(&ground.world().data), ground.world().repo(APP));
        let (state, releases) = Default::default();
        Self { ground, works, client, repo, dice, state, releases, words: 0 }
    }

    fn world(&self) -> &World {
        self.ground.world()
    }

    /// New code, committed.
    fn commit(&mut self) -> String {
        self.words += 1;
        let word = format!("r{}", self.words);
        self.ground.app(&self.repo, &word);
        let serve = self.ground.serve();
        let procfile = format!("release: sleep 0.05\nweb: {serve}\nworker: exec sleep 100000\n");
        self.repo.write("Procfile", procfile);
        let addons = if self.has_databases() { r#"["postgres"]"# } else { "[]" };
        let checks = r#"{ "worker": { "settle": "50ms" } }"#;
        let manifest = format!(r#"{{ "addons": {addons}, "healthchecks": {checks} }}"#);
        self.repo.write("app.json", manifest).commit();
        word
    }

    fn has_databases(&self) -> bool {
        self.works.contains(&Work::Provision)
    }

    fn live(&self) -> Option<Version> {
        self.world().records().app(APP)?.live.map(|live| live.version)
    }

    fn addons(&self) -> BTreeMap<String, Addon> {
        let addons = self.client.wait(self.client.engine.addons(&app()));
        addons.into_iter().map(|addon| (addon.attachment.to_string(), addon)).collect()
    }

    /// What may be ordered now.
    fn possible(&self) -> Vec<Work> {
        let possible = |work: &Work| match work {
            Work::Provision => self.state.databases.len() < 3,
            Work::Rotate | Work::Deprovision => !self.state.databases.is_empty(),
            Work::Rollback => self.releases.len() > 1,
            Work::Push | Work::Configure | Work::Scale | Work::Destroy => true,
        };
        if self.state.word.is_none() {
            return vec![Work::Push];
        }
        self.works.iter().copied().filter(possible).collect()
    }

    /// Orders anything but a push.
    fn order(&mut self, work: Work) -> Ordered {
        let (engine, me) = (self.client.engine.clone(), Client::me());
        let mut after = self.state.clone();
        let handle = match work {
            Work::Push => unreachable!("git orders it"),
            Work::Rollback => {
                let live = self.live();
                let versions: Vec<_> = self.releases.keys().copied().filter(|v| Some(*v) != live).collect();
                let to = *self.dice.one_of(&versions);
                let (word, color) = self.releases[&to].clone();
                (after.word, after.color) = (Some(word), color);
                self.client.wait(engine.rollback(&app(), RollbackOrder::to(to), &me))
            }
            Work::Configure => {
                let color = format!("#{:06x}", self.dice.below(1 << 24));
                let edit = ConfigEdit::set(ConfigVars::new().with("COLOR", &color).unwrap());
                after.color = Some(color);
                self.client.wait(engine.configure(&app(), edit, &me))
            }
            Work::Scale => {
                (after.web, after.workers) = (1 + self.dice.below(2), self.dice.below(3));
                let wish = [("web", after.web), ("worker", after.workers)];
                let wish = wish.map(|(process, quantity)| (process.parse().unwrap(), Scale::of(quantity)));
                self.client.wait(engine.scale(&app(), BTreeMap::from(wish), &me))
            }
            Work::Provision => {
                let taken = |name: &String| self.state.databases.contains_key(name);
                let names = ["DATABASE", "LEDGER", "ARCHIVE"].map(String::from);
                let name = names.into_iter().find(|name| !taken(name)).unwrap();
                let order = AddonOrder::new("postgres".parse().unwrap()).named(name.parse().unwrap());
                let (id, handle) = self.client.wait(engine.add_addon(&app(), order, &me));
                after.databases.insert(name, id);
                handle
            }
            Work::Rotate => {
                let ids: Vec<_> = self.state.databases.values().copied().collect();
                let id = *self.dice.one_of(&ids);
                self.client.wait(engine.rotate_addon(id, &me))
            }
            Work::Deprovision => {
                let names: Vec<_> = self.state.databases.keys().cloned().collect();
                let id = after.databases.remove(self.dice.one_of(&names)).unwrap();
                self.client.wait(engine.remove_addon(id, &me))
            }
            Work::Destroy => {
                after = State::default();
                self.client.wait(engine.destroy_app(&app(), &me))
            }
        };
        Ordered { handle: Some(handle), after }
    }

    /// What a push leads to. The first one of an app makes what its `app.json` asks for.
    fn pushed(&mut self) -> Ordered {
        let mut after = State { word: Some(self.commit()), ..self.state.clone() };
        if self.state.word.is_none() {
            (after.web, after.workers) = (1, 1);
        }
        Ordered { handle: None, after }
    }

    fn wait_until_all_has_ended(&self, what: &str) {
        until(&format!("the end of all workflows; {what}"), || {
            (self.world().records().open_workflows() == 0).then_some(())
        });
    }

    /// Learns which of the two it is now, and that it is all of that one.
    fn settle(&mut self, ordered: Ordered, what: &str) {
        self.wait_until_all_has_ended(what);
        if let Some(handle) = ordered.handle {
            let workflow = self.client.state(&handle);
            assert_eq!(workflow.state, WorkflowState::Succeeded, "{what}: {workflow:?}");
            self.state = ordered.after;
        } else if self.live().is_some_and(|live| !self.releases.contains_key(&live)) {
            let first = self.state.word.is_none();
            self.state = ordered.after;
            if first {
                let made = self.addons().into_iter().map(|(name, addon)| (name, addon.id));
                self.state.databases = made.collect();
                assert_eq!(self.state.databases.len(), usize::from(self.has_databases()), "{what}");
            }
        }
        self.check(what);
    }

    fn check(&mut self, what: &str) {
        let Some(word) = self.state.word.clone() else {
            let app = self.world().records().app(APP);
            if app.is_none() {
                self.releases.clear();
            }
            until(&format!("no instance; {what}"), || self.ground.instances().is_empty().then_some(()));
            return;
        };
        let wanted = (1..=self.state.web).map(|n| format!("web.{n}"));
        let wanted: Vec<_> = wanted.chain((1..=self.state.workers).map(|n| format!("worker.{n}"))).collect();
        let live = self.live().unwrap();
        let programs = until(&format!("{wanted:?}; {what}"), || {
            let programs = self.ground.instances();
            let mut names: Vec<_> = programs.iter().map(|program| &program.name).collect();
            names.sort_unstable();
            names.into_iter().eq(&wanted).then_some(programs)
        });
        for program in &programs {
            assert_eq!(program.version, format!("v{}", live.number()), "{what}");
            assert_eq!(program.variable("COLOR"), self.state.color.as_deref(), "{what}");
        }
        assert_eq!(self.ground.serving(APP).0, word, "{what}");
        self.releases.insert(live, (word, self.state.color.clone()));
        // What is older may have lost its code.
        while self.releases.len() > 10 {
            self.releases.pop_first();
        }
        self.world().records().releases(APP);

        let addons = self.addons();
        let ids: BTreeMap<_, _> = addons.iter().map(|(name, addon)| (name.clone(), addon.id)).collect();
        assert_eq!(ids, self.state.databases, "{what}");
        assert!(addons.values().all(|addon| addon.state == AddonState::Provisioned), "{addons:?}; {what}");
        for name in addons.keys() {
            let url = format!("{name}_URL");
            let url = programs[0].variable(&url).unwrap_or_else(|| panic!("no {url}; {what}"));
            let databases = databases(&self.client, url);
            assert_eq!(
                databases,
                self.state.databases.len(),
                "databases that are or are not the app's; {what}"
            );
        }
    }

    /// Which process is which instance of which release.
    fn identities(&self) -> BTreeMap<(String, String), String> {
        let all = self.ground.instances().into_iter();
        all.map(|Instance { version, name, identity, .. }| ((version, name), identity)).collect()
    }
}

/// Logs in with what the app was given, and counts the databases of the server's.
fn databases(client: &Client, url: &str) -> usize {
    client.wait(async {
        let failed = |e| paas::Error::new(ErrorCode::Unavailable, "can't log in").with_source(e);
        let (postgres, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.map_err(failed)?;
        let connection = tokio::spawn(connection);
        let counted = "SELECT count(*) FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'";
        let counted: i64 = postgres.query_one(counted, &[]).await.map_err(failed)?.get(0);
        drop(postgres);
        connection.await.expect("no panic").map_err(failed)?;
        Ok(usize::try_from(counted).unwrap())
    })
}

#[test]
fn whatever_is_under_way_when_the_platform_is_killed_is_carried_out_once() {
    let mut world = killed_at_any_moment(World::new(), &ALL, rounds(35));
    world.stop();
    until("the end of all processes", || world.processes().is_empty().then_some(()));
}

/// Plays this many rounds: something is ordered, the platform is killed while it is carried out, and started again.
pub(crate) fn killed_at_any_moment<G: Ground>(ground: G, works: &'static [Work], rounds: u32) -> G {
    let mut game = Game::new(ground, works);
    // Each kind once in peace: how long it usually takes.
    let mut usual = BTreeMap::new();
    let mut peaceful = vec![Work::Push];
    peaceful.extend(works);
    peaceful.push(Work::Push);
    for work in peaceful {
        let start = Instant::now();
        let ordered = if work == Work::Push {
            let ordered = game.pushed();
            game.world().push(&game.repo, APP).assert_accepted();
            ordered
        } else {
            game.order(work)
        };
        game.wait_until_all_has_ended("in peace");
        usual.insert(work, start.elapsed());
        game.settle(ordered, &format!("{work:?} in peace"));
    }

    let (mut killed, mut undone) = (BTreeMap::new(), 0);
    let (mut requests, mut down) = (0, Duration::ZERO);
    for round in 1..=rounds {
        let possible = game.possible();
        let work = *game.dice.one_of(&possible);
        let what = format!("round {round}, {work:?}");
        let users = game.state.word.is_some().then(|| game.world().probe(APP));
        let before = game.identities();
        let push = (work == Work::Push).then(|| game.pushed());
        let delay = game.dice.moment(usual[&work]);
        if work == Work::Destroy
            && let Some(users) = &users
        {
            users.look_away();
        }
        let start = Instant::now();
        let (ordered, push) = match push {
            Some(ordered) => (ordered, Some(game.world().start_push(&game.repo, APP))),
            None => (game.order(work), None),
        };
        std::thread::sleep(delay.saturating_sub(start.elapsed()));
        if work != Work::Destroy
            && let Some(users) = &users
        {
            users.look_away();
        }
        let start = Instant::now();
        game.ground.world_mut().kill();
        let pushed = push.map(crate::harness::Pushing::end);
        let what = format!("{what}, killed after {delay:?}");
        game.ground.world_mut().start();
        down += start.elapsed();
        let (was, wanted) = (game.state.word.clone(), ordered.after.word.clone());
        if work != Work::Destroy
            && let Some(users) = users
        {
            users.look();
            game.settle(ordered, &what);
            let report = users.stop();
            assert!(report.failed.is_empty(), "{what}: {:?}", report.failed);
            requests += report.requests;
        } else {
            game.settle(ordered, &what);
        }
        if let Some(push) = pushed {
            assert!(!push.accepted || game.state.word == wanted, "{what}: {}", push.said);
            undone += u32::from(game.state.word == was);
        }
        if work != Work::Scale {
            let now = game.identities();
            for (instance, identity) in &before {
                let still = now.get(instance).unwrap_or(identity);
                assert_eq!(still, identity, "{instance:?} was started again; {what}");
            }
        }
        *killed.entry(work).or_insert(0) += 1;
    }

    eprintln!(
        "{rounds} kills: {killed:?}; {undone} pushes undone with their pusher, all other work carried out; {requests} \
         requests while the platform was up, 0 failed; a kill with the next start {:?}",
        down / rounds.max(1)
    );
    game.ground
}
