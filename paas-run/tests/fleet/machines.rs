//! A runtime whose instances are HTTP servers, which end hard: whatever still talks to one of them notices.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use paas_core::{
    AppName, Context, Instance, InstanceState, ProcessSpec, ReleaseId, Result, Runtime, RuntimeCapabilities,
    RuntimeEvent,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Machines that all engines reach. Each instance answers with its release's number.
#[derive(Debug)]
pub(crate) struct Machines {
    instances: Mutex<Vec<(Instance, DropGuard)>>,
    changes: broadcast::Sender<RuntimeEvent>,
}

impl Machines {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { instances: Mutex::default(), changes: broadcast::Sender::new(1024) })
    }

    /// How many releases have instances.
    pub(crate) fn releases(&self) -> usize {
        let instances = self.instances.lock().unwrap();
        instances.iter().map(|(instance, _)| instance.release).collect::<BTreeSet<_>>().len()
    }

    fn end(&self, app: &AppName, which: impl Fn(&Instance) -> bool) {
        self.instances.lock().unwrap().retain(|(instance, _)| instance.app != *app || !which(instance));
        self.changed(app);
    }

    fn changed(&self, app: &AppName) {
        // Nobody listening is fine: it is a hint.
        let _ = self.changes.send(RuntimeEvent::new(app.clone(), None));
    }
}

#[async_trait]
impl Runtime for Machines {
    fn capabilities(&self) -> RuntimeCapabilities {
        let mut capabilities = RuntimeCapabilities::none();
        capabilities.survives_engine = true;
        capabilities
    }

    async fn ensure(&self, _: &Context, spec: &ProcessSpec) -> Result<()> {
        let ours = |i: &Instance| i.release == spec.release && i.name.process == spec.process;
        self.end(&spec.app, |i| ours(i) && i.name.index > spec.quantity);
        for index in 1..=spec.quantity {
            let (address, server) = serve(spec.version.number()).await;
            let mut instance = Instance::starting(spec, index, chrono::DateTime::UNIX_EPOCH);
            (instance.state, instance.address) = (InstanceState::Up, Some(address));
            let mut instances = self.instances.lock().unwrap();
            if !instances.iter().any(|(i, _)| i.app == spec.app && ours(i) && i.name.index == index) {
                instances.push((instance, server));
            }
        }
        self.changed(&spec.app);
        Ok(())
    }

    async fn observe(&self, app: &AppName) -> Result<Vec<Instance>> {
        let instances = self.instances.lock().unwrap();
        Ok(instances.iter().map(|(i, _)| i).filter(|i| i.app == *app).cloned().collect())
    }

    async fn apps(&self) -> Result<Vec<AppName>> {
        let instances = self.instances.lock().unwrap();
        Ok(instances.iter().map(|(i, _)| i.app.clone()).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn watch(&self) -> BoxStream<'static, RuntimeEvent> {
        let events = self.changes.subscribe();
        let next = |mut events: broadcast::Receiver<RuntimeEvent>| async move {
            loop {
                match events.recv().await {
                    Ok(event) => return Some((event, events)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        };
        stream::unfold(events, next).boxed()
    }

    async fn retire(&self, _: &Context, app: &AppName, release: ReleaseId) -> Result<()> {
        self.end(app, |instance| instance.release == release);
        Ok(())
    }

    async fn forget(&self, _: &Context, app: &AppName) -> Result<()> {
        self.end(app, |_| true);
        Ok(())
    }
}

/// A server that answers with this number until it is dropped: then its listener and its connections go at once.
async fn serve(number: u32) -> (SocketAddr, DropGuard) {
    let ends = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let alive = ends.clone();
    tokio::spawn(ends.clone().run_until_cancelled_owned(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(alive.clone().run_until_cancelled_owned(answer(stream, number)));
        }
    }));
    (address, ends.drop_guard())
}

async fn answer(stream: TcpStream, number: u32) {
    let mut stream = BufReader::new(stream);
    let (mut line, body) = (String::new(), number.to_string());
    while matches!(stream.read_line(&mut line).await, Ok(n) if n > 0) {
        if line == "\r\n" {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        line.clear();
    }
}
