//! A whole platform on this machine: git push in, URLs out.
//!
//! Run: `cargo run --release --example platform [-- OPTIONS]`
//!
//! You see a sample app being pushed, built and released, and then where it is and how to push your own. It stays up
//! until Ctrl-C. Options: `--acme EMAIL` (with `--features acme`), `--data DIR`, `--http ADDR`, `--https ADDR`, `--git ADDR`, `--metrics ADDR`,
//! `--domain NAME`, `--no-demo`, `--keep-apps`, `--replace`.

mod certificates;
mod demo;
mod folder;
mod machine;
mod options;
mod platform;
mod program;
mod replace;
mod works;

fn main() -> std::process::ExitCode {
    program::main()
}
