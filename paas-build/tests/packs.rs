//! The bundled buildpacks build real apps with the machine's toolchains, and what they build runs.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use runner::{Workshop, fixture_folder, have, pack_folder};

#[path = "packs/runner.rs"]
mod runner;

/// In the order in which they are tried.
const PACKS: [&str; 7] = ["ruby", "nodejs", "python", "go", "rust", "static", "procfile"];

/// Builds without a cache and with it; the slug is the same.
#[track_caller]
fn assert_same_when_warm(workshop: &Workshop) -> (Slug, String) {
    workshop.forget_cache();
    assert!(workshop.build().succeeded);
    let cold = workshop.slug();
    let warm = workshop.build();
    assert!(warm.succeeded);
    assert_same(&cold, &workshop.slug());
    (cold, warm.output)
}

/// And once more without it: nothing in it depends on time or chance.
#[track_caller]
fn assert_same_slug_again(workshop: &Workshop) -> String {
    let (cold, warm_output) = assert_same_when_warm(workshop);
    workshop.forget_cache();
    assert!(workshop.build().succeeded);
    assert_same(&cold, &workshop.slug());
    warm_output
}

type Slug = std::collections::BTreeMap<PathBuf, String>;

#[track_caller]
fn assert_same(one: &Slug, other: &Slug) {
    let paths = one.keys().chain(other.keys().filter(|path| !one.contains_key(*path)));
    let differing: Vec<_> = paths.filter(|path| one.get(*path) != other.get(*path)).collect();
    assert!(differing.is_empty(), "{} of {} files differ: {differing:?}", differing.len(), one.len());
}

#[test]
fn every_app_is_recognised_as_what_it_is() {
    for (fixture, pack) in [
        ("node", "nodejs"),
        ("node-tiny", "nodejs"),
        ("python-flask", "python"),
        ("python-uv", "python"),
        ("django", "python"),
        ("ruby", "ruby"),
        ("go", "go"),
        ("rust", "rust"),
        ("static", "static"),
        ("procfile", "procfile"),
    ] {
        let recognised = PACKS.into_iter().find(|pack| {
            let detect = Command::new("bin/detect")
                .arg(fixture_folder(fixture))
                .current_dir(pack_folder(pack))
                .output();
            detect.unwrap().status.success()
        });
        assert_eq!(recognised, Some(pack), "{fixture}");
    }
}

#[test]
fn a_node_app_installs_once_is_built_pruned_and_serves() {
    if !have(&["node", "npm"]) {
        return;
    }
    let workshop = Workshop::new("nodejs", "node");
    workshop.config("GREETING", "good day\nto you");
    let cold = workshop.build();
    cold.said("Installing node modules (npm ci)")
        .said("Running build")
        .said("Pruning development dependencies");
    assert!(workshop.built("node_modules/polka").exists());
    assert!(!workshop.built("node_modules/semver").exists());
    assert_eq!(fs::read_to_string(workshop.built("built.txt")).unwrap(), "2.0.0 good day\nto you\n");

    let warm = workshop.build();
    warm.said("Reusing node_modules").said_nothing_of("npm ci");
    assert!(!workshop.built("node_modules/semver").exists());
    // The lock file's version, though package.json allows a newer one.
    assert!(
        fs::read_to_string(workshop.built("node_modules/polka/package.json")).unwrap().contains("\"0.5.0\"")
    );
    assert_eq!(warm.default_web().as_deref(), Some("node index.js"));
    assert!(workshop.boot(&warm).get("/").ends_with("polka production 2.0.0 good day\nto you\n"));

    workshop.config("NPM_CONFIG_PRODUCTION", "false");
    workshop.build().said("- config changed").said("Installing node modules").said_nothing_of("Pruning");
    assert!(workshop.built("node_modules/semver").exists());
}

#[test]
fn the_same_node_app_gives_the_same_slug() {
    if have(&["node", "npm"]) {
        assert!(assert_same_slug_again(&Workshop::new("nodejs", "node")).contains("Reusing node_modules"));
    }
}

#[test]
fn a_node_app_without_dependencies_needs_no_package_manager() {
    if !have(&["node"]) {
        return;
    }
    let mut workshop = Workshop::new("nodejs", "node-tiny");
    workshop.with_only(&["node", "sh", "sha256sum", "stat", "mkdir", "cat"]);
    let build = workshop.build();
    build.said("No dependencies");
    assert!(workshop.boot(&build).get("/").ends_with("tiny\n"));
}

#[test]
fn an_install_script_of_the_app_runs_at_every_build_on_untouched_modules() {
    if !have(&["node", "npm"]) {
        return;
    }
    let workshop = Workshop::new("nodejs", "node");
    let package = fs::read_to_string(workshop.dir("source").join("package.json")).unwrap();
    let touch =
        r#""postinstall": "node -e \"require('fs').appendFileSync('node_modules/polka/index.js', '//+')\"","#;
    workshop.edit("package.json", &package.replace(r#""build""#, &format!("{touch} \"build\"")));
    for _ in 0..2 {
        assert!(workshop.build().said("Running postinstall").succeeded);
        let touched = fs::read_to_string(workshop.built("node_modules/polka/index.js")).unwrap();
        assert_eq!(touched.matches("//+").count(), 1);
    }
}

#[test]
fn other_package_managers_install_what_their_lock_files_say() {
    if !have(&["node", "npm"]) {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    let install = Command::new("npm")
        .args(["install", "--silent", "--no-save", "--prefix"])
        .arg(tools.path())
        .args(["yarn@1", "pnpm@10"])
        .status()
        .unwrap();
    assert!(install.success());
    for (manager, make_lock, lock) in [
        // One that is not on the machine is fetched.
        ("yarn", vec!["install", "--ignore-scripts", "--silent", "--non-interactive"], "yarn.lock"),
        ("pnpm", vec!["install", "--lockfile-only", "--silent"], "pnpm-lock.yaml"),
    ] {
        let mut workshop = Workshop::new("nodejs", "node");
        if manager == "pnpm" {
            workshop.with_programs_in(&tools.path().join("node_modules/.bin"));
        }
        let source = workshop.dir("source");
        fs::remove_file(source.join("package-lock.json")).unwrap();
        let locked = Command::new(tools.path().join("node_modules/.bin").join(manager))
            .args(make_lock)
            .current_dir(&source)
            .status()
            .unwrap();
        assert!(locked.success() && source.join(lock).exists());
        if source.join("node_modules").exists() {
            fs::remove_dir_all(source.join("node_modules")).unwrap();
        }
        workshop.build().said(&format!("({manager} install)")).said("Pruning development dependencies");
        let warm = workshop.build();
        warm.said("Reusing node_modules");
        assert!(!workshop.built("node_modules/semver").exists());
        assert!(workshop.boot(&warm).get("/").contains("polka production"));
    }
}

#[test]
fn a_node_version_that_is_not_here_is_a_clear_warning() {
    if !have(&["node"]) {
        return;
    }
    let workshop = Workshop::new("nodejs", "node-tiny");
    workshop.edit("package.json", r#"{ "name": "tiny", "engines": { "node": "0.10.x" } }"#);
    let build = workshop.build();
    build.said(" !     package.json asks for Node.js 0.10.x, this machine has v");
    assert!(build.succeeded);
}

#[test]
fn a_flask_app_installs_once_and_serves_from_another_folder() {
    if !have(&["python3"]) {
        return;
    }
    let workshop = Workshop::new("python", "python-flask");
    workshop.build().said("Installing requirements with pip").said("Successfully installed");
    let warm = workshop.build();
    warm.said("Reusing installed packages").said_nothing_of("pip");
    assert!(workshop.boot(&warm).get("/").ends_with("flask\n"));

    workshop.edit("requirements.txt", "flask==3.1.2\n");
    workshop.build().said("- the dependencies changed").said("Successfully installed");
    assert!(!workshop.built(".heroku/python/bin/gunicorn").exists());
}

#[test]
fn the_same_python_app_gives_the_same_slug() {
    if have(&["python3"]) {
        assert_same_slug_again(&Workshop::new("python", "python-flask"));
    }
}

#[test]
fn a_django_app_has_its_static_files_collected_and_is_offered_a_database() {
    if !have(&["python3"]) {
        return;
    }
    let workshop = Workshop::new("python", "django");
    let build = workshop.build();
    build.said("$ python manage.py collectstatic --noinput").said("1 static file copied");
    assert!(build.proposes_addon("heroku-postgresql"));
    assert!(workshop.built("staticfiles/site.css").exists());
    assert!(workshop.boot(&build).get("/").ends_with("django\n"));

    workshop.edit("blog/settings.py", "raise RuntimeError('SECRET_KEY is missing')\n");
    let broken = workshop.build();
    assert!(!broken.succeeded);
    broken.said("SECRET_KEY is missing").said("DISABLE_COLLECTSTATIC=1");
    workshop.config("DISABLE_COLLECTSTATIC", "1");
    assert!(workshop.build().said("Skipping collectstatic").succeeded);
}

#[test]
fn a_locked_python_project_is_installed_by_uv_and_by_pip_where_there_is_none() {
    if !have(&["python3"]) {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    let venv = Command::new("python3").args(["-m", "venv"]).arg(tools.path()).status().unwrap();
    let pip = Command::new(tools.path().join("bin/pip")).args(["install", "--quiet", "uv"]).status().unwrap();
    assert!(venv.success() && pip.success());
    let uv = tools.path().join("uv");
    fs::create_dir(&uv).unwrap();
    fs::rename(tools.path().join("bin/uv"), uv.join("uv")).unwrap();

    let mut workshop = Workshop::new("python", "python-uv");
    workshop
        .build()
        .said("Installing the dependencies of pyproject.toml with pip")
        .said_nothing_of("uv isn't");
    let lock =
        Command::new(uv.join("uv")).args(["lock", "--quiet"]).current_dir(workshop.dir("source")).status();
    assert!(lock.unwrap().success());
    workshop.build().said("uv isn't on this machine");

    workshop.with_programs_in(&uv);
    workshop.build().said("- uv changed").said("Installing dependencies with uv");
    let warm = workshop.build();
    warm.said("Reusing installed packages");
    assert!(workshop.boot(&warm).get("/").ends_with("waitress\n"));
}

#[test]
fn a_rust_app_is_compiled_again_only_where_its_content_changed() {
    if !have(&["cargo"]) {
        return;
    }
    let workshop = Workshop::new("rust", "rust");
    workshop.build().said("Compiling httparse").said("Compiling rust-fixture").said("Programs: rust-fixture");
    let warm = workshop.build();
    warm.said_nothing_of("Compiling");
    assert_eq!(warm.default_web().as_deref(), Some("./target/release/rust-fixture"));
    assert!(workshop.boot(&warm).get("/").ends_with("rust GET true\n"));

    let main = workshop.dir("source").join("src/main.rs");
    let changed = fs::read_to_string(&main).unwrap().replace("rust {}", "new {}");
    fs::write(&main, changed).unwrap();
    // An archive's file times say nothing.
    assert!(Command::new("touch").args(["-d", "@1"]).arg(&main).status().unwrap().success());
    let build = workshop.build();
    build.said("Compiling rust-fixture").said_nothing_of("Compiling httparse");
    assert!(workshop.boot(&build).get("/").ends_with("new GET true\n"));

    workshop.edit("src/main.rs", "fn main() { oops }\n");
    let broken = workshop.build();
    assert!(!broken.succeeded);
    broken.said("cannot find value `oops`").said(" !     The app could not be compiled.");
}

#[test]
fn the_same_rust_app_gives_the_same_slug() {
    if have(&["cargo"]) {
        assert_same_slug_again(&Workshop::new("rust", "rust"));
    }
}

#[test]
fn a_go_app_is_compiled_and_serves() {
    if !have(&["go"]) {
        return;
    }
    let workshop = Workshop::new("go", "go");
    assert_same_when_warm(&workshop);
    let build = workshop.build();
    build.said("Building bin/hello");
    assert_eq!(build.default_web().as_deref(), Some("bin/hello"));
    assert!(workshop.boot(&build).get("/").ends_with("go\n"));
}

#[test]
fn a_ruby_app_installs_once_and_serves() {
    if !have(&["ruby", "bundle"]) {
        return;
    }
    let workshop = Workshop::new("ruby", "ruby");
    assert!(assert_same_slug_again(&workshop).contains("Reusing installed gems"));
    let build = workshop.build();
    assert!(workshop.boot(&build).get("/").ends_with("ruby\n"));
}

#[test]
fn a_procfile_app_runs_as_it_was_pushed() {
    if !have(&["perl"]) {
        return;
    }
    let workshop = Workshop::new("procfile", "procfile");
    let build = workshop.build();
    assert_eq!(build.default_web(), None);
    assert!(workshop.boot(&build).get("/").ends_with("procfile\n"));
}

#[test]
fn the_sample_app_needs_nothing_but_perl_and_tells_what_happened() {
    if !have(&["perl"]) {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/sample-app");
    let workshop = Workshop::of("procfile", &folder);
    let page = workshop.boot(&workshop.build()).get("/");
    assert!(
        page.contains("pushed with plain <code>git push</code>") && page.contains("No database yet."),
        "{page}"
    );
    assert!(!page.contains("{{"), "{page}");
}

#[test]
fn a_static_site_serves_pages_types_clean_urls_and_its_own_404() {
    if !have(&["perl"]) {
        return;
    }
    let workshop = Workshop::new("static", "static");
    assert_same_slug_again(&workshop);
    let site = workshop.boot(&workshop.build());

    let index = site.get("/");
    assert!(index.starts_with("HTTP/1.1 200") && index.contains("Content-Type: text/html; charset=utf-8"));
    assert!(site.get("/about").ends_with("<p>about</p>\n"));
    assert!(site.get("/docs/").ends_with("<p>docs</p>\n"));
    assert!(site.get("/docs?a=b").contains("Location: /docs/?a=b\r\n"));
    assert!(
        site.get("/old").starts_with("HTTP/1.1 302") && site.get("/old").contains("Location: /about\r\n")
    );
    let css = site.get("/site.css");
    assert!(css.contains("text/css") && css.contains("Cache-Control: public, max-age=60\r\n"));
    let missing = site.get("/nowhere");
    assert!(missing.starts_with("HTTP/1.1 404") && missing.ends_with("<p>not here</p>\n"));

    // What lies beside the pages is nobody's business.
    for path in [
        "/static.json",
        "/.heroku/static/etags",
        "/.profile.d/x",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
    ] {
        let answer = site.get(path);
        assert!(answer.starts_with("HTTP/1.1 404") || answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }

    let tag = css.lines().find_map(|line| line.strip_prefix("ETag: ")).unwrap();
    let known =
        format!("GET /site.css HTTP/1.1\r\nHost: app\r\nIf-None-Match: {tag}\r\nConnection: close\r\n\r\n");
    assert!(site.request(&known).starts_with("HTTP/1.1 304"));
    let range = "GET /site.css HTTP/1.1\r\nHost: app\r\nRange: bytes=0-3\r\nConnection: close\r\n\r\n";
    assert!(site.request(range).starts_with("HTTP/1.1 206") && site.request(range).ends_with("body"));
    let post = "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 3\r\n\r\na=b";
    assert!(site.request(post).starts_with("HTTP/1.1 405"));
    // Two requests on one connection, sent at once, are answered in order.
    let pipelined =
        "GET /about HTTP/1.1\r\nHost: app\r\n\r\nHEAD / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
    let both = site.request(pipelined);
    assert_eq!(both.matches("HTTP/1.1 200 OK").count(), 2);
    assert!(both.contains("<p>about</p>\n") && both.ends_with("\r\n\r\n"));
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let broken = |pack: &str, fixture: &str, file: &str, content: &str| {
        let workshop = Workshop::new(pack, fixture);
        workshop.edit(file, content);
        let build = workshop.build();
        assert!(!build.succeeded);
        build
    };
    if have(&["node"]) {
        broken("nodejs", "node-tiny", "package.json", "{ oops").said(" !     package.json can't be read:");
    }
    if have(&["perl"]) {
        broken("static", "static", "static.json", "{ oops").said(" !     static.json can't be used:");
        broken("static", "static", "static.json", r#"{ "root": "../x" }"#).said("folder inside the app");
    }
    if have(&["cargo"]) {
        broken("rust", "rust", "Cargo.toml", "[package").said(" !     The app could not be compiled.");
    }
    if have(&["go"]) {
        let newer = broken("go", "go", "go.mod", "module example.com/hello\n\ngo 9.25.0\n");
        newer.said("go.mod asks for Go 9.25.0, this machine has ").said("This app asks for Go 9.25.0");
    }
    for (pack, fixture, tool) in [
        ("nodejs", "node", "apt-get install nodejs npm"),
        ("python", "python-flask", "apt-get install python3 python3-pip"),
        ("ruby", "ruby", "apt-get install ruby"),
        ("go", "go", "apt-get install golang-go"),
        ("rust", "rust", "https://rustup.rs"),
        ("static", "static", "apt-get install perl-base"),
    ] {
        let mut workshop = Workshop::new(pack, fixture);
        workshop.with_only(&["sh", "mkdir", "cat", "cut", "sed"]);
        let build = workshop.build();
        assert!(!build.succeeded);
        build.said("Install it (").said(tool);
    }
}

#[test]
fn scripts_are_plain_posix_shell() {
    for pack in PACKS {
        for folder in ["bin", "lib"] {
            for script in fs::read_dir(pack_folder(pack).join(folder)).unwrap() {
                let script = script.unwrap().path();
                if folder == "bin" || script.extension().is_some_and(|name| name == "sh") {
                    assert_parses(&script);
                }
            }
        }
    }
}

fn assert_parses(script: &Path) {
    assert!(Command::new("sh").arg("-n").arg(script).status().unwrap().success(), "{}", script.display());
}
