//! What an implementer needs to know that theirs is right: one conformance suite per trait, fakes that count
//! their effects, a store that cuts the power, a clock of one's own.

pub mod addon;
pub mod blobs;
pub mod builder;
pub mod chaos;
mod clock;
mod context;
pub mod cut;
pub mod history;
pub mod logs;
#[cfg(feature = "store-postgres")]
pub mod postgres;
mod random;
pub mod router;
pub mod runtime;
#[cfg(feature = "blobs-s3")]
pub mod s3;
pub mod source;
pub mod store;
pub mod storm;
pub mod world;

pub use clock::ManualClock;
pub use context::{context, texts};
pub use cut::{Cut, CutStore};
pub use random::seeds;
