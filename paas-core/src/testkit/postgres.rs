//! A PostgreSQL server of a test's own, from the programs that are installed, and stores on it.

mod clocked;
mod server;

pub use clocked::ClockedStore;
pub use server::PostgresServer;
