//! A builder of your own, beside or instead of buildpacks.
//!
//! Run: `cargo run --example custom_builder`
//!
//! You see what the builder says during a deploy, and what the app it built answers. Then a folder that it doesn't
//! know is refused, with what was looked for. `docs/providers.md` tells what a builder has to keep to, and how to test it.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use paas::build::DirectorySource;
use paas::{
    AppId, AppName, Artifact, ArtifactKind, Blobs, BuildRequest, Builder, BuilderCapabilities, BuilderId,
    Context, DeployOrder, Detection, Engine, Error, ErrorCode, Local, LogQuery, Principal, ProcessType,
    ProviderName, Result, archive,
};

/// Builds every folder with a `serve.sh`: the folder as it is, started by that script.
#[derive(Debug)]
struct ServeScript {
    blobs: Arc<dyn Blobs>,
}

#[async_trait]
impl Builder for ServeScript {
    fn id(&self) -> BuilderId {
        BuilderId::new(ProviderName::new("serve-script").expect("a constant"), "1")
    }

    fn capabilities(&self) -> BuilderCapabilities {
        BuilderCapabilities::default() // it runs nothing, so there is nothing to keep apart
    }

    async fn detect(&self, _: &Context, request: &BuildRequest) -> Result<Detection> {
        let there = request.checkout.dir.join("serve.sh").is_file();
        Ok(if there { Detection::Yes("serve.sh".into()) } else { Detection::No(vec!["serve.sh".into()]) })
    }

    async fn build(&self, ctx: &Context, request: &BuildRequest) -> Result<Artifact> {
        ctx.log.line("-----> Packing the folder around serve.sh");
        let scratch = support::scratch()?;
        let (dir, slug) = (request.checkout.dir.clone(), scratch.path().join("slug"));
        let packing = tokio::task::spawn_blocking({
            let slug = slug.clone();
            move || archive::pack(&dir, &slug, &|_, _| true)
        });
        let packed = packing
            .await
            .map_err(|e| Error::new(ErrorCode::Internal, "packing panicked").with_source(e))??;
        self.blobs.put(packed.digest, &slug).await?;
        ctx.log.line(format!("       {} bytes, {}", packed.size, packed.digest));

        let (builder, now) = (self.id().name, ctx.clock.now());
        let mut artifact = Artifact::new(ArtifactKind::Slug, packed.digest, packed.size, builder, now);
        artifact.processes.declare(ProcessType::web(), "bash serve.sh");
        Ok(artifact)
    }

    async fn forget(&self, _: &Context, _: AppId) -> Result<()> {
        Ok(()) // nothing is kept between builds
    }
}

fn main() -> ExitCode {
    paas::init();
    support::run(support::on_a_platform(engine, show))
}

async fn engine(local: &Local) -> Result<Engine> {
    local
        .engine()?
        .with_source(Arc::new(DirectorySource::new()))
        .with_builder(Arc::new(ServeScript { blobs: local.blobs.clone() }))
        .build()
}

async fn show(engine: &Engine, folder: &Path) -> Result<()> {
    let (app, me) = (AppName::new("scripted")?, Principal::named("me")?);
    engine.ensure_app(&app, &me).await?;

    let good = folder.join("good");
    support::write(&good, "serve.sh", "exec perl server.pl\n")?;
    support::write(&good, "server.pl", &support::SERVER.replace("TEXT", "what ServeScript built"))?;
    let deploy = engine.deploy(&app, DeployOrder::new(DirectorySource::at(&good)?), &me).await?;
    deploy.live().await?;
    let mut log = engine.read_log(&app, LogQuery::all().workflow(deploy.id()).process("build")).await?;
    while let Some(line) = futures_util::StreamExt::next(&mut log).await {
        println!("{}", line.text);
    }
    println!("       {} says: {}", engine.url(&app)?, support::get(&engine.url(&app)?).await?);

    let bad = folder.join("bad");
    support::write(&bad, "index.html", "<h1>Who serves me?</h1>\n")?;
    let refused = engine.deploy(&app, DeployOrder::new(DirectorySource::at(&bad)?), &me).await?;
    if let Err(error) = refused.live().await {
        println!("-----> A folder without serve.sh is refused: {error}");
    }
    println!("       {}", support::get(&engine.url(&app)?).await?);
    Ok(())
}
