//! A whole platform on a Docker daemon: git push in, URLs out.
//!
//! Run: `cargo run --release --features docker --example docker_platform [-- OPTIONS]`
//!
//! An app with a `Dockerfile` is built and run as it says; an image of a registry is deployed by the source `image`. The
//! daemon is the one that `DOCKER_HOST` names, else the machine's own. Where `PAAS_STACK` names an image with `bash` and some
//! languages, apps without a `Dockerfile` are built by buildpacks in containers of it, and run on it. `"addons": ["postgres:dedicated"]` in
//! `app.json` gives an app a server of its own; `PAAS_POSTGRES=17=IMAGE` names another than the official image. Options and
//! output are those of the example `platform`, and so is all of the program but `machine.rs`.

#[path = "../platform/certificates.rs"]
mod certificates;
#[path = "../platform/demo.rs"]
mod demo;
#[path = "../platform/folder.rs"]
mod folder;
mod machine;
#[path = "../platform/options.rs"]
mod options;
#[path = "../platform/platform.rs"]
mod platform;
#[path = "../platform/program.rs"]
mod program;
#[path = "../platform/replace.rs"]
mod replace;
#[path = "../platform/works.rs"]
mod works;

fn main() -> std::process::ExitCode {
    program::main()
}
