//! Volumes: what is written there stays, for this app alone.

use super::{RuntimeWorld, Subject};
use crate::{ErrorCode, FormationWish, Mount, ProcessSpec};

/// Writes a line more and says how many there are.
const COUNT: &str =
    "echo one more >> /data/lines; echo there are $(wc -l < /data/lines) of them; exec sleep 1000";

fn mount() -> Mount {
    Mount::new("data".parse().unwrap(), "/data".parse().unwrap())
}

/// A type that asks for the volume, as an engine tells of it.
fn spec(subject: &mut Subject<'_>) -> ProcessSpec {
    let wish = FormationWish { volumes: vec![mount()], ..FormationWish::default() };
    subject.artifact.manifest.formation.insert("counter".parse().unwrap(), wish);
    subject.spec("counter", COUNT).with_volumes(vec![mount()])
}

/// Runs one release of it to its end.
async fn count(subject: &mut Subject<'_>, expected: u32) {
    let spec = spec(subject);
    subject.ensure(&spec).await;
    subject.line(&format!("there are {expected} of them")).await;
    subject.all_up(1).await;
    let volume = mount().volume;
    let error = subject.runtime().remove_volume(&subject.ctx(), &subject.app.0, &volume).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict, "a volume in use: {error}");
    subject.runtime().retire(&subject.ctx(), &subject.app.0, spec.release).await.unwrap();
}

pub(super) async fn outlives_releases_and_goes_with_the_app(world: &dyn RuntimeWorld) {
    let mut subject = Subject::new(world, "conf-volume", &[]).await;
    let mut other = subject.neighbour("conf-volume-b");
    count(&mut subject, 1).await;
    count(&mut subject, 2).await;
    count(&mut other, 1).await;
    let volume = mount().volume;
    assert_eq!(subject.runtime().volumes(&subject.app.0).await.unwrap(), std::slice::from_ref(&volume));
    subject.runtime().remove_volume(&subject.ctx(), &subject.app.0, &volume).await.unwrap();
    subject.runtime().remove_volume(&subject.ctx(), &subject.app.0, &volume).await.unwrap();
    assert_eq!(subject.runtime().volumes(&subject.app.0).await.unwrap(), []);
    subject.forget().await;
    count(&mut other, 2).await;
    other.forget().await;
    assert_eq!(other.runtime().volumes(&other.app.0).await.unwrap(), [], "volumes go with their app");
    let mut again = subject.neighbour("conf-volume-b");
    count(&mut again, 1).await;
    again.forget().await;
}

pub(super) async fn is_refused(world: &dyn RuntimeWorld) {
    let mut subject = Subject::new(world, "conf-volume", &[]).await;
    let spec = spec(&mut subject);
    let error = subject.runtime().ensure(&subject.ctx(), &spec).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported, "{error}");
    assert_eq!(subject.instances().await, [], "it was started without its volume");
}
