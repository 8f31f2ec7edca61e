//! Everything after an artifact exists: runtimes, the supervisor, the reverse proxy and the logs of `paas`.

pub mod logs;
