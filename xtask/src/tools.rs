//! What the tests need of the machine beside Rust and git, and how to get it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use crate::run::{cargo, program};

/// One thing that tests use.
struct Tool {
    /// For people.
    name: &'static str,
    /// Ends well where the tool is there.
    there: fn(&Path) -> bool,
    /// Debian's and Ubuntu's packages that bring it.
    packages: &'static [&'static str],
}

const TOOLS: &[Tool] = &[
    Tool { name: "git", there: |root| answers(root, "git", &["--version"]), packages: &["git"] },
    Tool { name: "bash", there: |root| answers(root, "bash", &["--version"]), packages: &["bash"] },
    Tool {
        name: "curl",
        there: |root| answers(root, "curl", &["--version"]),
        packages: &["curl", "ca-certificates"],
    },
    Tool {
        name: "Node.js and npm",
        there: |root| answers(root, "node", &["--version"]) && answers(root, "npm", &["--version"]),
        packages: &["nodejs", "npm"],
    },
    Tool {
        name: "Python with venv and pip",
        there: |root| answers(root, "python3", &["-c", "import venv, ensurepip"]),
        packages: &["python3", "python3-venv", "python3-pip"],
    },
    Tool {
        name: "Ruby and Bundler",
        there: |root| answers(root, "ruby", &["--version"]) && answers(root, "bundle", &["--version"]),
        packages: &["ruby", "bundler"],
    },
    Tool { name: "Go", there: |root| answers(root, "go", &["version"]), packages: &["golang-go"] },
    Tool {
        name: "a clock that can be faked",
        there: |_| Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1").exists(),
        packages: &["libfaketime"],
    },
    Tool {
        name: "pebble",
        there: |_| {
            ["pebble", "pebble-challtestsrv"].iter().all(|name| Path::new("/usr/bin").join(name).exists())
        },
        packages: &["pebble"],
    },
    Tool {
        name: "Docker",
        there: |root| {
            answers(root, "dockerd", &["--version"])
                && answers(root, "iptables-save", &["--version"])
                && answers(root, "ip", &["-V"])
        },
        packages: &["docker.io", "iptables", "iproute2"],
    },
    Tool {
        name: "a registry of images",
        there: |root| answers(root, "docker-registry", &["--version"]),
        packages: &["docker-registry"],
    },
    Tool {
        name: "a static busybox",
        there: |root| answers(root, "/bin/busybox", &["--list"]),
        packages: &["busybox-static"],
    },
    Tool { name: "mkfs.ext4", there: |root| answers(root, "mkfs.ext4", &["-V"]), packages: &["e2fsprogs"] },
    Tool { name: "PostgreSQL server", there: |_| has_postgres(), packages: &["postgresql"] },
];

/// An object store that keeps its objects as files, from the registry: Debian has none that small. It is built once, in
/// about three minutes.
const OBJECT_STORE: &[&str] =
    &["install", "s3s-fs", "--version", "0.14.1", "--features", "binary", "--locked"];

/// Debian makes and starts a cluster when its server package is installed; the tests start their own, so ours
/// must not leave one running.
const NO_CLUSTER: (&str, &str) =
    ("/etc/postgresql-common/createcluster.d/paas-tests.conf", "create_main_cluster = false");

/// Finds out what is missing, says what would be installed and by which commands, asks where somebody can answer,
/// and installs. What can't be had is said; the tests that need it then skip loudly, or fail where `CI` is set.
pub(crate) fn set_up(root: &Path, yes: bool) {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| !(tool.there)(root)).collect();
    let mut commands: Vec<Vec<String>> = Vec::new();
    let components: Vec<&str> =
        ["fmt", "clippy"].into_iter().filter(|name| !cargo(root, &[name, "--version"]).succeeds()).collect();
    if !components.is_empty() {
        commands.push(words(&["rustup", "component", "add", "rustfmt", "clippy"]));
    }
    if !missing.is_empty() {
        commands.extend(apt(root, &missing));
    }
    let objects = has_object_store(root);
    if !objects {
        commands.push(words(&[&["cargo"], OBJECT_STORE].concat()));
    }
    if missing.is_empty() && components.is_empty() && objects {
        println!("everything that the tests need is there");
        return;
    }
    let names = missing.iter().map(|tool| tool.name).chain(components);
    let names: Vec<&str> = names.chain((!objects).then_some("an object store (s3s-fs)")).collect();
    println!("missing on this machine: {}", names.join(", "));
    if commands.is_empty() {
        println!("they can be installed by apt-get only: please install them by hand");
        return;
    }
    println!("to install them I would run:");
    for command in &commands {
        println!("    {}", command.join(" "));
    }
    if !(yes || std::env::var_os("CI").is_some() || agreed()) {
        println!("not installed: the tests that need them are going to say that they are skipped");
        return;
    }
    for command in &commands {
        let arguments: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        if !program(root, &command[0], &arguments).run() {
            println!("that failed: {}", command.join(" "));
        }
    }
    if !has_object_store(root) {
        println!("still missing: an object store (cargo {})", OBJECT_STORE.join(" "));
    }
    for tool in missing.iter().filter(|tool| !(tool.there)(root)) {
        println!(
            "still missing: {} (Debian's and Ubuntu's packages: {})",
            tool.name,
            tool.packages.join(" ")
        );
    }
}

/// The commands that install these by apt-get; none where there is no apt-get or no way to be root.
fn apt(root: &Path, missing: &[&Tool]) -> Vec<Vec<String>> {
    let is_root = program(root, "id", &["-u"]).output().is_some_and(|id| id.trim() == "0");
    let become_root: &[&str] = match (is_root, std::io::stdin().is_terminal()) {
        (true, _) => &[],
        (false, true) => &["sudo"],
        // Nobody is there to type a password.
        (false, false) => &["sudo", "-n"],
    };
    if !answers(root, "apt-get", &["--version"]) || (!is_root && !answers(root, "sudo", &["--version"])) {
        return Vec::new();
    }
    let as_root = |command: &[&str]| words(&[become_root, command].concat());
    let packages: Vec<&str> = missing.iter().flat_map(|tool| tool.packages).copied().collect();
    let mut commands = Vec::new();
    if packages.contains(&"postgresql") {
        let (file, line) = NO_CLUSTER;
        let write = format!("mkdir -p $(dirname {file}) && echo '{line}' > {file}");
        commands.push(as_root(&["sh", "-c", &write]));
    }
    commands.push(as_root(&["apt-get", "update"]));
    let install =
        ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends"];
    commands.push(as_root(&[&install[..], &packages].concat()));
    commands
}

/// Whether whoever sits at the terminal says yes; nobody there is a yes.
fn agreed() -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return true;
    }
    print!("install them now? [Y/n] ");
    if std::io::stdout().flush().is_err() {
        return false;
    }
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes")
}

/// Debian keeps the server's programs in a folder per version, away from PATH.
fn has_postgres() -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let folders = versions.map(|version| version.path().join("bin")).chain(std::env::split_paths(&on_path));
    folders.collect::<Vec<PathBuf>>().iter().any(|folder| folder.join("initdb").is_file())
}

/// On PATH, or where cargo puts it, which needn't be on PATH.
fn has_object_store(root: &Path) -> bool {
    let installed = |folder: PathBuf| folder.join("bin/s3s-fs").is_file();
    answers(root, "s3s-fs", &["--version"])
        || std::env::var_os("CARGO_HOME").is_some_and(|home| installed(home.into()))
        || std::env::var_os("HOME").is_some_and(|home| installed(PathBuf::from(home).join(".cargo")))
}

fn answers(root: &Path, name: &str, arguments: &[&str]) -> bool {
    program(root, name, arguments).succeeds()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}
