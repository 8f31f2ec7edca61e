//! Landlock: which paths may be read and written, told to the kernel by the process itself.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use crate::Profile;

/// The newest rights that are asked for; an older kernel enforces those it knows.
const NEWEST: ABI = ABI::V6;

/// Rules whose folders are opened already, so that they can be applied after privileges are dropped.
pub(crate) struct Rules(landlock::RulesetCreated);

impl Rules {
    /// The rules of a profile. In a root of its own everything that is there may be read.
    pub(crate) fn open(profile: &Profile, own_root: bool) -> Result<Self, RulesetError> {
        let mut readable: Vec<&Path> = profile.read_only.iter().map(PathBuf::as_path).collect();
        let mut writable: Vec<&Path> = profile.read_write.iter().map(PathBuf::as_path).collect();
        writable.extend(["/tmp", "/var/tmp", "/dev", "/proc"].map(Path::new));
        if own_root {
            readable.push(Path::new("/"));
            writable.extend(profile.binds.iter().filter(|bind| bind.writable).map(|bind| bind.to.as_path()));
            writable.extend(profile.overlays.iter().map(|overlay| overlay.to.as_path()));
        } else {
            readable.extend(Profile::SYSTEM.iter().map(Path::new));
        }
        let all: BitFlags<AccessFs> = AccessFs::from_all(NEWEST);
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .scope(Scope::AbstractUnixSocket | Scope::Signal)?
            .create()?
            .add_rules(path_beneath_rules(readable, AccessFs::from_read(NEWEST)))?
            .add_rules(path_beneath_rules(writable, all))?;
        Ok(Self(rules))
    }

    /// Binds this process and all its children for ever; false where the kernel knows no landlock.
    pub(crate) fn enforce(self) -> Result<bool, RulesetError> {
        Ok(self.0.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
    }
}
