//! What the builders that work with a Docker daemon share.

pub(crate) mod kept;
pub(crate) mod registries;
