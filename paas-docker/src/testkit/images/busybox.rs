//! One static program that is all of them.

use std::io;
use std::process::Command;

use super::Layer;

pub(super) fn layer() -> io::Result<Vec<u8>> {
    let mut layer = Layer::new()?;
    layer.folder("bin", 0o755)?;
    programs(&mut layer, "bin")?;
    layer.done()
}

/// Puts all of them into a folder.
pub(super) fn programs(layer: &mut Layer, folder: &str) -> io::Result<()> {
    let program = "/bin/busybox";
    let missing = |e: io::Error| {
        io::Error::other(format!("{program}: {e}; `cargo xtask test` installs it (Debian's busybox-static)"))
    };
    let listed = Command::new(program).arg("--list").output().map_err(missing)?;
    layer.file(&format!("{folder}/busybox"), &std::fs::read(program).map_err(missing)?, 0o755)?;
    for applet in String::from_utf8_lossy(&listed.stdout).lines().filter(|applet| *applet != "busybox") {
        layer.link(&format!("{folder}/{applet}"), "busybox")?;
    }
    Ok(())
}
