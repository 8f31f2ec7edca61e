//! placeholder

#[cfg(doctest)]
#[doc = include_str!("../docs/providers.md")]
mod provider_guide {}
