//! How a slug's processes are started, wherever they run.

/// Sources what the app and its buildpacks prepared, as Heroku does: with config vars set, without `set -e`, in the
/// order of names; then becomes the command, so that signals and the exit status are its own. For `bash -c`, with the
/// command as `$1`.
pub(crate) const BOOT: &str = "for file in .profile.d/*.sh .profile; do [ ! -f \"$file\" ] || . \"./$file\"; done; unset file; \
                               exec \"$BASH\" -c \"$1\"";
