//! What users wish, and what they are told.

use std::time::Duration;

use super::fleet::Fleet;
use crate::testkit::history::Acknowledged;
use crate::testkit::random::Random;
use crate::testkit::world::FakeSource;
use crate::vault::KeyFile;
use crate::{
    AddonOrder, AppName, ConfigEdit, ConfigVars, DeployOrder, Engine, Principal, ProcessType, Result,
    RollbackOrder, Scale, WorkflowHandle, WorkflowId,
};

/// Instances of this process type never come up.
pub(super) const CRASHING: &str = "bad";

const CODES: [&str; 7] = [
    "",
    "",
    "worker: work\n",
    "release: migrate\n",
    "bad: crash\n",
    "worker: work\n---\n{\"formation\":{\"worker\":{\"single\":true}}}",
    "---\n{\"addons\":[{\"service\":\"fakesql\",\"plan\":null,\"attachment\":null}]}",
];

pub(super) struct Users {
    /// The apps of today; a destroyed one's successor has another name, so that what happens late is seen.
    apps: Vec<(AppName, u32)>,
    workflows: Vec<WorkflowId>,
    pub(super) told: Vec<Acknowledged>,
    /// What was wished and answered, for people.
    pub(super) story: Vec<String>,
    patience: Duration,
    lease: Duration,
    keys: KeyFile,
    number: u32,
}

impl Users {
    pub(super) fn new(apps: usize, lease: Duration, keys: KeyFile) -> Self {
        let apps = (0..apps).map(|slot| (name(slot, 0), 0)).collect();
        let (workflows, told, story) = (Vec::new(), Vec::new(), Vec::new());
        Self { apps, workflows, told, story, patience: lease * 6, lease, keys, number: 0 }
    }

    /// One wish, at one engine. Nobody waits for its end.
    pub(super) async fn wish(&mut self, random: &mut Random, fleet: &Fleet<'_>) {
        let Some((at, engine)) = fleet.any(random) else {
            self.story.push("all engines are frozen".into());
            return tokio::time::sleep(self.lease).await;
        };
        self.number += 1;
        let number = self.number;
        let slot = random.index(0..self.apps.len());
        let app = self.apps[slot].0.clone();
        let (wish, answer) = tokio::time::timeout(self.patience, self.ask(random, &engine, slot, &app))
            .await
            .unwrap_or_else(|_| ("a wish".into(), Err(crate::Error::from(crate::CancelReason::Timeout))));
        let answer = match answer {
            Ok(told) => {
                self.told.extend(told);
                "yes".to_owned()
            }
            // Whoever gets an error knows nothing.
            Err(error) => error.code().to_string(),
        };
        self.story.push(format!("wish {number} for {app} at {at}: {wish}: {answer}"));
    }

    async fn ask(
        &mut self,
        random: &mut Random,
        engine: &Engine,
        slot: usize,
        app: &AppName,
    ) -> (String, Result<Vec<Acknowledged>>) {
        let by = Principal::platform();
        let number = self.number;
        match random.below(25) {
            0..7 => {
                let code = format!("web: {number}\n{}", random.pick(&CODES));
                let order = DeployOrder::new(FakeSource::code(code.clone()));
                let asked = async {
                    engine.ensure_app(app, &by).await?;
                    let handle = engine.deploy(app, order, &by).await?;
                    Ok((handle, vec![Acknowledged::Made(app.clone())]))
                };
                (format!("deploy {code:?}"), self.queued(asked.await))
            }
            7..10 => {
                let key = random.pick(&["COLOR", "SIZE"]);
                let vars = ConfigVars::new().with(key, &number.to_string()).expect("a config var");
                let key: crate::ConfigKey = key.parse().expect("a constant");
                let edit = if random.below(4) == 0 {
                    ConfigEdit { unset: vec![key.clone()], ..ConfigEdit::default() }
                } else {
                    ConfigEdit::set(vars)
                };
                let told = vec![Acknowledged::Configured(app.clone(), key.clone())];
                let asked = engine.configure(app, edit, &by).await.map(|handle| (handle, told));
                (format!("configure {key}"), self.queued(asked))
            }
            10..12 => {
                let to = u32::try_from(random.below(4)).unwrap_or(1);
                let process = ProcessType::new(random.pick(&["web", "worker"])).expect("a constant");
                let wish = format!("scale {process}={to}");
                let formation = [(process, Scale::of(to))].into();
                let asked = engine.scale(app, formation, &by).await.map(|handle| (handle, Vec::new()));
                (wish, self.queued(asked))
            }
            12 | 13 => {
                let asked = engine.rollback(app, RollbackOrder::previous(), &by).await;
                ("roll back".into(), self.queued(asked.map(|handle| (handle, Vec::new()))))
            }
            14 => {
                let attachment = format!("EXTRA{number}").parse().expect("a config key");
                let order = AddonOrder::new("fakesql".parse().expect("a constant")).named(attachment);
                let asked = engine.add_addon(app, order, &by).await;
                ("add an add-on".into(), self.queued(asked.map(|(_, handle)| (handle, Vec::new()))))
            }
            15 | 16 => {
                let rotates = random.chance();
                let asked = async {
                    let addons = engine.addons(app).await?;
                    let Some(addon) = addons.get(random.index(0..addons.len().max(1))) else {
                        return Err(crate::Error::new(crate::ErrorCode::NotFound, "there is none"));
                    };
                    if rotates {
                        engine.rotate_addon(addon.id, &by).await
                    } else {
                        engine.remove_addon(addon.id, &by).await
                    }
                };
                let wish = if rotates { "rotate an add-on" } else { "remove an add-on" };
                (wish.into(), self.queued(asked.await.map(|handle| (handle, Vec::new()))))
            }
            17 | 18 => {
                let Some(id) = self.some_workflow(random) else { return ("cancel".into(), Ok(Vec::new())) };
                let cancelled = engine.cancel(id, "a whim", &by).await;
                (format!("cancel {id}"), cancelled.map(|()| Vec::new()))
            }
            19 | 20 => {
                let Some(id) = self.some_workflow(random) else { return ("wait".into(), Ok(Vec::new())) };
                let ended = engine.workflow(id).ended().await;
                (format!("wait for {id}"), ended.map(|ended| vec![Acknowledged::Ended(id, ended.state)]))
            }
            21 => {
                let on = random.chance();
                let asked = engine.set_maintenance(app, on, &by).await;
                (format!("maintenance {on}"), asked.map(|()| Vec::new()))
            }
            24 => {
                let asked = async {
                    self.keys.add_key()?;
                    engine.rotate_key(&by).await
                };
                ("another master key".into(), self.queued(asked.await.map(|handle| (handle, Vec::new()))))
            }
            22 => ("collect garbage".into(), engine.collect_garbage().await.map(|_| Vec::new())),
            _ => {
                // Also where the answer is lost, nobody comes back to this name.
                let life = &mut self.apps[slot];
                life.1 += 1;
                life.0 = name(slot, life.1);
                let asked = engine.destroy_app(app, &by).await;
                ("destroy".into(), self.queued(asked.map(|handle| (handle, Vec::new()))))
            }
        }
    }

    fn some_workflow(&self, random: &mut Random) -> Option<WorkflowId> {
        (!self.workflows.is_empty()).then(|| random.pick(&self.workflows))
    }

    fn queued(&mut self, asked: Result<(WorkflowHandle, Vec<Acknowledged>)>) -> Result<Vec<Acknowledged>> {
        let (handle, mut told) = asked?;
        self.workflows.push(handle.id());
        told.push(Acknowledged::Queued(handle.id()));
        Ok(told)
    }
}

fn name(slot: usize, life: u32) -> AppName {
    format!("app-{slot}-{life}").parse().expect("a name")
}
