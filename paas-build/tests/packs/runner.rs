//! Keeps Heroku's classic buildpack contract for one bundled buildpack and one app, and boots what came out.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What steers the machine's package managers: proxies, certificates, mirrors.
const TOOL_ENV: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_",
    "NPM_CONFIG_",
    "PIP_",
    "UV_",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "GOPROXY",
    "GOSUMDB",
    "GOPRIVATE",
    "BUNDLE_",
    "RUSTUP_",
];

/// An app and everything that stays between its builds.
pub(crate) struct Workshop {
    pack: String,
    root: tempfile::TempDir,
    path: String,
}

/// What one build gave.
pub(crate) struct Build {
    pub(crate) succeeded: bool,
    pub(crate) output: String,
    release: serde_norway::Value,
}

impl Workshop {
    /// A copy of the fixture, and the buildpack of this name.
    pub(crate) fn new(pack: &str, fixture: &str) -> Self {
        Self::of(pack, &fixture_folder(fixture))
    }

    /// A copy of this folder, and the buildpack of this name.
    pub(crate) fn of(pack: &str, app: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["cache", "env", "home", "tmp"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        copy(app, &root.path().join("source"));
        Self { pack: pack.to_owned(), root, path: std::env::var("PATH").unwrap() }
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A path inside the app as it was built.
    pub(crate) fn built(&self, path: &str) -> PathBuf {
        self.dir("build").join(path)
    }

    pub(crate) fn edit(&self, path: &str, content: &str) {
        fs::write(self.dir("source").join(path), content).unwrap();
    }

    pub(crate) fn config(&self, name: &str, value: &str) {
        fs::write(self.dir("env").join(name), value).unwrap();
    }

    /// From now on builds find these programs only.
    pub(crate) fn with_only(&mut self, programs: &[&str]) {
        let bin = self.dir("bin");
        fs::create_dir_all(&bin).unwrap();
        for program in programs {
            std::os::unix::fs::symlink(which(program).unwrap(), bin.join(program)).unwrap();
        }
        self.path = bin.display().to_string();
    }

    /// Builds may use this folder of programs too.
    pub(crate) fn with_programs_in(&mut self, folder: &Path) {
        self.path = format!("{}:{}", folder.display(), self.path);
    }

    pub(crate) fn forget_cache(&self) {
        fs::remove_dir_all(self.dir("cache")).unwrap();
        fs::create_dir(self.dir("cache")).unwrap();
    }

    /// detect, compile and release, each as the contract has it: in a fresh copy of app and buildpack.
    pub(crate) fn build(&self) -> Build {
        let (pack, build) = (self.dir("pack"), self.dir("build"));
        for folder in [&pack, &build] {
            if folder.exists() {
                fs::remove_dir_all(folder).unwrap();
            }
        }
        copy(&pack_folder(&self.pack), &pack);
        copy(&self.dir("source"), &build);
        let (detected, name) = self.call("bin/detect", &[&build]);
        assert!(detected, "{} doesn't recognise the app", self.pack);
        assert!(!name.trim().is_empty());
        let (succeeded, output) = self.call("bin/compile", &[&build, &self.dir("cache"), &self.dir("env")]);
        println!("{output}");
        let (released, yaml) = self.call("bin/release", &[&build]);
        assert!(released, "bin/release failed: {yaml}");
        Build { succeeded, output, release: serde_norway::from_str(&yaml).unwrap() }
    }

    fn call(&self, script: &str, args: &[&Path]) -> (bool, String) {
        let pack = self.dir("pack");
        let output = Command::new(pack.join(script))
            .args(args)
            .current_dir(&pack)
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| TOOL_ENV.iter().any(|tool| name.starts_with(tool))))
            .env("PATH", &self.path)
            .env("HOME", self.dir("home"))
            .env("TMPDIR", self.dir("tmp"))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// Every file of the app as built: what a slug would hold.
    pub(crate) fn slug(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        list(&self.dir("build"), Path::new(""), &mut files);
        files
    }

    /// Starts the app's web process elsewhere than where it was built, as a runtime would.
    pub(crate) fn boot(&self, build: &Build) -> Running {
        assert!(build.succeeded);
        let app = self.dir("app");
        if app.exists() {
            fs::remove_dir_all(&app).unwrap();
        }
        fs::rename(self.dir("build"), &app).unwrap();
        let command =
            web_of_procfile(&app).or_else(|| build.default_web()).expect("something says how to start it");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = format!("for f in .profile.d/*.sh; do [ ! -f \"$f\" ] || . \"$f\"; done\n{command}");
        let log = fs::File::create(self.dir("log")).unwrap();
        let child = Command::new("bash")
            .args(["-c", &script])
            .current_dir(&app)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &app)
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut running = Running { child, port, log: self.dir("log") };
        running.wait_until_it_listens();
        running
    }
}

impl Build {
    /// The buildpack's own idea of how the app is started.
    pub(crate) fn default_web(&self) -> Option<String> {
        Some(self.release.get("default_process_types")?.get("web")?.as_str()?.to_owned())
    }

    pub(crate) fn proposes_addon(&self, name: &str) -> bool {
        let addons = self.release.get("addons").and_then(|addons| addons.as_sequence());
        addons.is_some_and(|addons| addons.iter().any(|addon| addon.as_str() == Some(name)))
    }

    #[track_caller]
    pub(crate) fn said(&self, text: &str) -> &Self {
        assert!(self.output.contains(text), "{text:?} is not in the output:\n{}", self.output);
        self
    }

    #[track_caller]
    pub(crate) fn said_nothing_of(&self, text: &str) -> &Self {
        assert!(!self.output.contains(text), "{text:?} is in the output:\n{}", self.output);
        self
    }
}

/// A booted app; it ends with all its processes when this is dropped.
pub(crate) struct Running {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Running {
    fn wait_until_it_listens(&mut self) {
        for _ in 0..3000 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the app ended with {status}:\n{}", fs::read_to_string(&self.log).unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the app doesn't listen:\n{}", fs::read_to_string(&self.log).unwrap());
    }

    /// The whole answer to a GET, head and body. To 1.0 nobody answers in chunks.
    pub(crate) fn get(&self, path: &str) -> String {
        self.request(&format!("GET {path} HTTP/1.0\r\nHost: app\r\n\r\n"))
    }

    pub(crate) fn request(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child);
        // It may have ended by itself.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Whether all these programs are here. A missing one fails under CI and is said aloud elsewhere.
pub(crate) fn have(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|program| which(program).is_none()).collect();
    assert!(missing.is_empty() || std::env::var_os("CI").is_none(), "not installed: {missing:?}");
    if !missing.is_empty() {
        eprintln!("SKIPPED: not installed: {missing:?}");
    }
    missing.is_empty()
}

fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|file| file.is_file())
}

pub(crate) fn fixture_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub(crate) fn pack_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("buildpacks").join(name)
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-rL").arg(from).arg(to).status().unwrap().success());
}

fn web_of_procfile(app: &Path) -> Option<String> {
    let text = fs::read_to_string(app.join("Procfile")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix("web:")?.trim().to_owned()))
}

fn list(root: &Path, path: &Path, files: &mut BTreeMap<PathBuf, String>) {
    let full = root.join(path);
    let meta = full.symlink_metadata().unwrap();
    let content = if meta.is_symlink() {
        format!("link to {}", full.read_link().unwrap().display())
    } else if meta.is_dir() {
        for entry in fs::read_dir(&full).unwrap() {
            list(root, &path.join(entry.unwrap().file_name()), files);
        }
        "folder".to_owned()
    } else {
        let mut hasher = DefaultHasher::new();
        fs::read(&full).unwrap().hash(&mut hasher);
        format!("{:x} {}", hasher.finish(), meta.permissions().mode() & 0o111 != 0)
    };
    files.insert(path.to_owned(), content);
}
