//! Instances that come up at once.

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::{World, address, flake};
use crate::{
    AppName, Context, Digest, Exit, Instance, InstanceName, InstanceState, NodeName, ProcessSpec, ReleaseId,
    Result, RunSpec, Runtime, RuntimeCapabilities, RuntimeEvent, VolumeName,
};

/// A runtime whose instances are entries of a [`World`].
#[derive(Debug, Clone)]
pub struct FakeRuntime(World, Option<NodeName>);

impl FakeRuntime {
    /// Runs in this world.
    pub fn new(world: &World) -> Self {
        Self(world.clone(), None)
    }

    /// Only on this node of it: others' instances are not seen from here.
    #[must_use]
    pub fn on(mut self, node: NodeName) -> Self {
        self.1 = Some(node);
        self
    }

    fn sees(&self, instance: &Instance) -> bool {
        instance.metadata.get("node").map(String::as_str) == self.1.as_ref().map(NodeName::as_str)
    }

    fn converge(&self, world: &World, spec: &ProcessSpec, digest: Digest) {
        let mut state = world.lock();
        let ours = |i: &Instance| {
            let same = i.release == spec.release && i.name.process == spec.process && i.app == spec.app;
            same && self.sees(i)
        };
        let mut effects = Vec::new();
        let mounts = spec.volumes.iter().filter(|_| spec.quantity > 0);
        state.volumes.extend(mounts.map(|mount| (spec.app.clone(), mount.volume.clone())));
        for index in 1..=spec.quantity {
            let name = format!("{}.{index} {}", spec.process, spec.version);
            let key = (spec.app.clone(), spec.release, InstanceName::new(spec.process.clone(), index));
            if let Some(at) = state.instances.iter().position(|i| ours(i) && i.name.index == index) {
                if state.specs.get(&key) == Some(&digest) {
                    continue;
                }
                state.instances.remove(at);
                effects.push(format!("replace {} {name}", spec.app));
            }
            state.specs.insert(key, digest);
            let mut instance = Instance::starting(spec, index, chrono::DateTime::UNIX_EPOCH);
            let node = self.1.iter().map(|node| ("node".to_owned(), node.to_string()));
            instance.metadata.extend(node);
            if state.crashing.contains(&spec.process.to_string()) {
                instance.state = InstanceState::Crashed;
                instance.reason = Some("Process exited with status 1".into());
                instance.last_exit = Some(Exit::new(1, vec!["boom".into()]));
            } else {
                instance.state = InstanceState::Up;
                state.next_port += 1;
                instance.address = Some(address(state.next_port));
            }
            state.instances.push(instance);
            effects.push(format!("start {} {name}", spec.app));
        }
        let before = state.instances.len();
        state.instances.retain(|i| !ours(i) || i.name.index <= spec.quantity);
        if state.instances.len() < before {
            effects.push(format!("stop {} {} {} to {}", spec.app, spec.process, spec.version, spec.quantity));
        }
        drop(state);
        for effect in effects {
            world.effect(effect);
        }
        world.changed(&spec.app);
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::full().without_attach()
    }

    async fn ensure(&self, ctx: &Context, spec: &ProcessSpec) -> Result<()> {
        self.0.stalled(&spec.app, "ensure", Some(ctx)).await;
        self.0
            .act(ctx, "ensure", |world| {
                self.converge(world, spec, self.spec_digest(spec));
                Ok(())
            })
            .await
    }

    async fn observe(&self, app: &AppName) -> Result<Vec<Instance>> {
        self.0.stalled(app, "observe", None).await;
        if self.0.lock().blind {
            self.0.effect("look in vain");
            return Err(flake("observe"));
        }
        Ok(self.0.lock().instances.iter().filter(|i| i.app == *app && self.sees(i)).cloned().collect())
    }

    async fn apps(&self) -> Result<Vec<AppName>> {
        let mut apps: Vec<AppName> =
            self.0.lock().instances.iter().filter(|i| self.sees(i)).map(|i| i.app.clone()).collect();
        apps.sort();
        apps.dedup();
        Ok(apps)
    }

    fn watch(&self) -> BoxStream<'static, RuntimeEvent> {
        let events = self.0.changes.subscribe();
        // A reader that is too slow missed hints, and gets the next one.
        stream::unfold(events, |mut events| async move {
            loop {
                match events.recv().await {
                    Ok(event) => return Some((event, events)),
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }

    async fn run_once(&self, ctx: &Context, spec: &RunSpec) -> Result<Exit> {
        let key = ctx.key.to_string();
        let name = format!("run {} {} {}", spec.process.app, spec.process.process, spec.process.version);
        self.0
            .act(ctx, "run_once", |world| {
                let recorded = world.lock().runs.get(&key).copied();
                let status = recorded.unwrap_or_else(|| {
                    let status = world.lock().run_status;
                    world.effect(name);
                    world.lock().runs.insert(key, status);
                    status
                });
                Ok(Exit::new(status, vec![format!("ended with {status}")]))
            })
            .await
    }

    async fn retire(&self, ctx: &Context, app: &AppName, release: ReleaseId) -> Result<()> {
        self.0.stalled(app, "retire", Some(ctx)).await;
        self.0
            .act(ctx, "retire", |world| {
                let gone: Vec<Instance> = {
                    let mut state = world.lock();
                    let gone = state
                        .instances
                        .extract_if(.., |i| i.app == *app && i.release == release && self.sees(i));
                    gone.collect()
                };
                for instance in gone {
                    world.effect(format!("stop {app} {} {}", instance.name, instance.version));
                }
                world.changed(app);
                Ok(())
            })
            .await
    }

    async fn forget(&self, ctx: &Context, app: &AppName) -> Result<()> {
        self.0
            .act(ctx, "forget", |world| {
                world.lock().instances.retain(|i| i.app != *app || !self.sees(i));
                world.lock().volumes.retain(|(of, _)| of != app);
                world.effect(format!("forget {app}"));
                Ok(())
            })
            .await
    }

    async fn volumes(&self, app: &AppName) -> Result<Vec<VolumeName>> {
        let state = self.0.lock();
        Ok(state.volumes.iter().filter(|(of, _)| of == app).map(|(_, volume)| volume.clone()).collect())
    }

    async fn remove_volume(&self, ctx: &Context, app: &AppName, volume: &VolumeName) -> Result<()> {
        let remove = |world: &World| {
            world.lock().volumes.remove(&(app.clone(), volume.clone()));
            world.effect(format!("remove {app} {volume}"));
            Ok(())
        };
        self.0.act(ctx, "remove_volume", remove).await
    }

    fn node(&self) -> Option<&NodeName> {
        self.1.as_ref()
    }
}
