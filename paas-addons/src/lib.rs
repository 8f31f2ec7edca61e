//! Add-on providers of `paas`: what an app asks for besides its own code, and finds in its config vars.
//!
//! ```text
//!  app.json "addons": ["postgres"]
//!         |
//!      engine ── provision ──> AddonProvider ── database and role ──> PostgreSQL
//!         |                        |                                (ours, or one you name)
//!         └──────── bind ──────────┘
//!                    |
//!             DATABASE_URL ──> the app's next release
//! ```
//!
//! | service | provider | feature |
//! |---|---|---|
//! | `postgres` (also `postgresql`, `heroku-postgresql`) | [`postgres::Postgres`] | `postgres`; its plan `dedicated`: `docker` |
//!
//! A provider of your own implements [`paas_core::AddonProvider`] and proves itself with
//! `paas_core::testkit::addon::conformance`.

#[cfg(feature = "postgres")]
pub mod postgres;
