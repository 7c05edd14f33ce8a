//! A mount of an empty directory, as a user makes it, for parts that measure the whole way of a file.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use vexfs_mount::unmounting;

use super::Unavailable;

/// Unmounted on drop.
pub(super) struct TempMount {
    at: TempDir,
    source: TempDir,
}

impl TempMount {
    /// Mounts with options as after `-o`.
    pub(super) fn new(options: &str) -> Result<TempMount> {
        if !Path::new("/dev/fuse").exists() {
            bail!(Unavailable("there is no /dev/fuse".into()));
        }
        let mount = TempMount {
            at: tempfile::tempdir()?,
            source: tempfile::tempdir()?,
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("mount");
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        run(command.arg(mount.source.path()).arg(mount.path()))?;
        Ok(mount)
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        self.at.path()
    }

    /// What the mount says of itself.
    pub(super) fn status(&self) -> Result<Value> {
        let path = self.path().join(".vexfs/status.json");
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }
}

impl Drop for TempMount {
    fn drop(&mut self) {
        let unmounted = std::env::current_exe()
            .map_err(anyhow::Error::from)
            .and_then(|program| run(Command::new(program).arg("umount").arg(self.path())));
        if unmounted.is_err() {
            // Nothing may stay mounted, whatever holds it.
            let _ = unmounting::unmount_lazily(self.path());
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
