//! Images that somebody else has built: the source `image` pins a reference to what it means today, and the builder
//! `image` brings that and nothing else.
//!
//! ```text
//! ghcr.io/acme/shop:1.4 --source: asks the registry--> ghcr.io/acme/shop@sha256:0123… --builder: pulls--> artifact
//! ```

mod builder;
mod reference;
mod source;

pub use builder::ImageBuilder;
pub use reference::ImageReference;
pub use source::ImageSource;
