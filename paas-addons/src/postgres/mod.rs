//! The `postgres` add-on: a database and a role of its own for each add-on, on one shared server.
//!
//! The server is one of two ([`PostgresServer`]): one that the platform sets up, starts and looks after
//! from installed binaries, or one whose URL it is given.
//!
//! ```no_run
//! use std::sync::Arc;
//! use paas_addons::postgres::{Postgres, PostgresServer};
//! use paas_core::AddonProvider;
//!
//! let server = PostgresServer::managed("/srv/paas/postgres");
//! let addons: Vec<Arc<dyn AddonProvider>> = vec![Arc::new(Postgres::new(server.clone()))];
//! // At the platform's start: `server.resume()`. At its end, unless apps go on without it: `server.stop()`.
//! ```
//!
//! With the feature `docker`, an add-on may have a server for itself, in a container (`Dedicated`): the plan `dedicated`.
//!
//! # What an app gets
//!
//! `DATABASE_URL=postgres://paas_<id>:<password>@127.0.0.1:<port>/paas_<id>`, under the attachment's name.
//! The role owns the database: it makes schemas and trusted extensions, restores dumps, and may have
//! [20 connections](CONNECTIONS) open.
//!
//! The URL says nothing of `sslmode`, as on Heroku, so apps and drivers keep the habits they have there. The
//! managed server speaks TLS to whoever asks for it (`sslmode=require`, which Heroku's guides tell apps to set
//! and some drivers, such as Go's `lib/pq`, do by themselves) and plain text over loopback to whoever doesn't. A
//! parameter would break one of them: `require` those drivers that then check the certificate, which is
//! self-signed as Heroku's own is, and `disable` apps that append a `?sslmode=require` of their own.
//!
//! # What neighbours see of each other
//!
//! A role can connect to its own database only, so it sees no table, no name of a table, no size and no row of
//! a neighbour. PostgreSQL shows every role the rows of its shared catalogues, and tools break where that is
//! taken away: the names of databases and roles (which is why they are made of the add-on's id and tell
//! nothing), how many sessions a neighbour has, but not their queries or addresses, and the counters of
//! `pg_stat_database`.
//!
//! On a server that you name ([`PostgresServer::external`]) databases which are not ours keep their
//! privileges; where they let everybody connect, as PostgreSQL does unless told otherwise, provisioning says so.
//!
//! # Credentials
//!
//! Passwords are not stored. Each is derived from a key that stays with the platform, the add-on's id and the
//! number of its last rotation, which stands in the role's comment on the server ([`PasswordKey`]). The server
//! is given only a SCRAM verifier, so no password is ever in its logs, catalogues or backups.
//!
//! All apps that an add-on is bound to share its credentials, as on Heroku: unbinding takes the config var
//! out of the app's next release, and a rotation locks out whoever noted the old password.
//!
//! A rotation fails no request: the add-on has two logins that act as the same role and take turns, so the old
//! password works until [`revoke`](paas_core::AddonProvider::revoke), which also ends the sessions that were opened
//! with it. What `ALTER ROLE … SET` says holds for one login alone; settings that shall stay go to the database
//! (`ALTER DATABASE … SET`), which the role owns.

mod database;
#[cfg(feature = "docker")]
mod dedicated;
mod error;
mod external;
mod key;
mod managed;
mod provider;
mod rotation;
mod server;

pub use database::CONNECTIONS;
#[cfg(feature = "docker")]
pub use dedicated::{Dedicated, DedicatedConfig, DedicatedPlan, Reach};
pub use key::PasswordKey;
pub use managed::ManagedOptions;
pub use provider::Postgres;
pub use server::PostgresServer;
