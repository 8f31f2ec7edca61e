//! The event stream: everything that happens, in order, by cursor.
//!
//! Run: `cargo run --example watch_events`
//!
//! You see each event of a deploy as it happens. Afterwards the stream is read again from the start: it is the same, event by
//! event, so that a reader who was away goes on from the last number it saw and misses nothing.

mod support;

use std::path::Path;
use std::process::ExitCode;

use futures_util::StreamExt;
use paas::build::DirectorySource;
use paas::{AppName, DeployOrder, Engine, Error, ErrorCode, EventKind, Principal, Result};

fn main() -> ExitCode {
    paas::init();
    support::run(support::on_a_platform(support::of_folders, show))
}

async fn show(engine: &Engine, folder: &Path) -> Result<()> {
    let code = &folder.join("code");
    let (app, me) = (AppName::new("watched")?, Principal::named("me")?);
    engine.ensure_app(&app, &me).await?;
    support::write_app(code, "an app that is watched")?;
    let deploy = engine.deploy(&app, DeployOrder::new(DirectorySource::at(code)?), &me).await?;

    let mut events = engine.watch(0, Some(app.clone()));
    let mut seen = Vec::new();
    while let Some(event) = events.next().await.transpose()? {
        println!("{:>4}  {}  {}", event.seq, event.at.format("%H:%M:%S%.3f"), event.kind);
        let over = matches!(event.kind, EventKind::Ended { .. }) && event.workflow == Some(deploy.id());
        seen.push(event);
        if over {
            break;
        }
    }

    let again = engine.events(0, Some(&app), seen.len()).await?;
    if again != seen {
        return Err(Error::new(ErrorCode::Internal, "the second reading tells another story"));
    }
    println!("-----> Read again from the start: the same {} events", again.len());
    if let Some(middle) = seen.get(seen.len() / 2) {
        let rest = engine.events(middle.seq, Some(&app), seen.len()).await?;
        println!("       And {} of them after number {}", rest.len(), middle.seq);
    }
    Ok(())
}
