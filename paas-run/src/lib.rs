//! Everything after an artifact exists: runtimes, the supervisor, the reverse proxy and the logs of `paas`.

#[cfg(any(feature = "docker", feature = "process"))]
mod boot;
#[cfg(feature = "docker")]
pub mod docker;
pub mod handover;
#[cfg(any(feature = "docker", feature = "process"))]
mod keep;
pub mod logs;
#[cfg(feature = "process")]
pub mod process;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod supervisor;

/// Serves as a helper process if this process was started as one, and never returns then; otherwise remembers
/// that it was asked. Call it, or `paas::init()`, as the first line of `main`.
pub fn init() {
    #[cfg(feature = "process")]
    {
        let mut args = std::env::args_os().skip(1);
        let (first, second) = (args.next(), args.next());
        process::init(first.as_deref(), second.as_deref());
    }
    paas_sandbox::init();
}
