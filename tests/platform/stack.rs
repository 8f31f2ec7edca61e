//! Apps without a `Dockerfile` on Docker: built by buildpacks in a container of the stack's image, and run on it.

use paas::docker::label;
use paas::docker::testkit::BaseImage;

use crate::docker::Case;
use crate::harness::{Repo, World};

fn app<'a>(repo: &'a Repo, word: &str) -> &'a Repo {
    let server = format!(
        "require('http').createServer((_, answer) => answer.end('{word}')).listen(process.env.PORT);\n\
         process.on('SIGTERM', () => process.exit(0));\n"
    );
    repo.write("package.json", r#"{"name": "shop", "version": "1.0.0"}"#)
        .write("server.js", server)
        .write("Procfile", "web: exec node server.js\n")
}

#[test]
fn an_app_is_built_by_buildpacks_in_a_container_and_runs_on_the_same_stack() {
    let stack = BaseImage::Stack.name();
    let Some(mut case) = Case::with(&[BaseImage::Stack], |world: World| world.with_env("PAAS_STACK", stack))
    else {
        return;
    };
    let repo = case.world.repo("packed");
    app(&repo, "one").commit();
    let first = case.world.push(&repo, "packed");
    first.assert_accepted();
    for shown in ["Node.js app detected", "Using Node.js", "Released v1"] {
        assert!(first.said.contains(shown), "{shown:?}: {}", first.said);
    }
    assert_eq!(case.world.get("packed").body.trim(), "one");

    let users = case.world.probe("packed");
    app(&repo, "two").commit();
    case.world.push(&repo, "packed").assert_accepted();
    assert_eq!(case.world.get("packed").body.trim(), "two");
    users.stop().assert_served_by(&["one", "two"]);

    case.until_alone("packed", 1);
    let kinds = [(label::APP, "packed"), (label::KIND, "build")];
    assert_eq!(case.count(&kinds), 0, "builds leave no container");
    case.world.stop();
}
