//! Our steps, a file each: everything that a workflow does happens here, and nothing else is decided here.

mod addon;
mod await_healthy;
mod build;
mod destroy;
mod fetch;
mod finish;
mod first_env;
mod prepare;
mod provision;
mod release_phase;
mod retire_old;
mod rotate;
mod rotate_key;
mod start;
mod switch_route;
mod workdir;

pub(crate) use addon::{Attach, BindAddon, DeprovisionAddon, Detach, ProvisionAddon, Settle};
pub(crate) use await_healthy::AwaitHealthy;
pub(crate) use build::Build;
pub(crate) use destroy::{DeprovisionAll, Forget, Stop, Withdraw};
pub(crate) use fetch::Fetch;
pub(crate) use finish::Finish;
pub(crate) use prepare::{From, Prepare, PrepareScale};
pub(crate) use provision::{ProvisionFirst, chosen, hides};
pub(crate) use release_phase::ReleasePhase;
pub(crate) use retire_old::RetireOld;
pub(crate) use rotate::{Rebind, Revoke, RotateAddon, TakenOver};
pub(crate) use rotate_key::{Agree, Announce, Followed, KeyInput, Rewrap, Switch};
pub(crate) use start::Start;
pub(crate) use switch_route::SwitchRoute;
pub(crate) use workdir::sweep;
