//! The labels of what a platform makes on its daemon. They hold no secret: everybody who may ask the daemon sees them.

/// Which platform made it, on everything: what lacks it is never touched.
pub const PLATFORM: &str = "paas.platform";
/// The app's name.
pub const APP: &str = "paas.app";
/// The app's life: another app of the same name has another.
pub const APP_ID: &str = "paas.app-id";
/// The release's id.
pub const RELEASE: &str = "paas.release";
/// The release's number, such as `v12`.
pub const VERSION: &str = "paas.version";
/// The process type, such as `web`.
pub const PROCESS: &str = "paas.process";
/// Which of all of its type, from 1.
pub const INDEX: &str = "paas.index";
/// The digest of all that would make it be replaced.
pub const SPEC: &str = "paas.spec";
/// The start's id.
pub const LAUNCH: &str = "paas.launch";
/// What it is, where the label alone must say it: `instance`, `once`, `slug`, `build`, `addon`, `volume`.
pub const KIND: &str = "paas.kind";
/// All that is to be known of a launch, as JSON.
pub const RECORD: &str = "paas.record";
/// The add-on's id.
pub const ADDON: &str = "paas.addon";
/// The folder of the build that a container runs.
pub const BUILD: &str = "paas.build";
/// The volume's name in its app.
pub const VOLUME: &str = "paas.volume";
/// The digest of the artifact that an image holds.
pub const ARTIFACT: &str = "paas.artifact";
/// The workflow that made it.
pub const WORKFLOW: &str = "paas.workflow";
/// The digest of the source that an image was built of.
pub const SOURCE: &str = "paas.source";
/// The commit that an image was built of, under the name that everybody knows.
pub const REVISION: &str = "org.opencontainers.image.revision";
