//! The filesystem below all systems: ext4 in memory, so that no disk is measured, or a directory of the user's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::bench::Settings;

/// Bytes of the image: the largest phase needs about 1 GiB.
const IMAGE_BYTES: u64 = 6 << 30;

/// A place for the backing directories, taken away on drop.
pub(super) struct Backing {
    scratch: TempDir,
    mounted: bool,
    description: String,
}

impl Backing {
    /// Below `--backing`; else ext4 in memory if we are root; else where temporary files go.
    pub(super) fn make(settings: &Settings) -> anyhow::Result<Backing> {
        if let Some(dir) = &settings.backing {
            let scratch = TempDir::with_prefix_in("vexfs-bench-", dir).context("--backing")?;
            return Ok(Backing {
                scratch,
                mounted: false,
                description: dir.display().to_string(),
            });
        }
        let memory = Path::new("/dev/shm");
        if rustix::process::geteuid().is_root() && memory.is_dir() {
            let scratch = TempDir::with_prefix_in("vexfs-bench-", memory)?;
            match ext4_in(scratch.path()) {
                Ok(()) => {
                    return Ok(Backing {
                        scratch,
                        mounted: true,
                        description: "ext4 in memory (loop device)".into(),
                    });
                }
                Err(error) => tracing::warn!("no ext4 in memory: {error:#}"),
            }
        }
        let scratch = TempDir::with_prefix("vexfs-bench-")?;
        let description = format!("temporary directory {}", scratch.path().display());
        Ok(Backing {
            scratch,
            mounted: false,
            description,
        })
    }

    pub(super) fn description(&self) -> &str {
        &self.description
    }

    /// An empty directory on the filesystem that is measured.
    pub(super) fn fresh_source(&self) -> anyhow::Result<TempDir> {
        let on = if self.mounted {
            self.scratch.path().join("ext4")
        } else {
            self.scratch.path().to_owned()
        };
        Ok(TempDir::with_prefix_in("source-", on)?)
    }

    /// An empty directory elsewhere, to mount on.
    pub(super) fn mountpoint(&self) -> anyhow::Result<PathBuf> {
        let path = self.scratch.path().join("mount");
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e.into()),
            _ => Ok(path),
        }
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if self.mounted {
            let path = self.scratch.path().join("ext4");
            // What is left then is a temporary directory in memory.
            let _ = vexfs_mount::unmounting::unmount_now(&path)
                .or_else(|_| vexfs_mount::unmounting::unmount_lazily(&path));
        }
    }
}

fn ext4_in(dir: &Path) -> anyhow::Result<()> {
    let (image, at) = (dir.join("image"), dir.join("ext4"));
    std::fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
    std::fs::create_dir(&at)?;
    // Everything laid out beforehand: nothing is initialised in the background while we measure.
    let eager = "lazy_itable_init=0,lazy_journal_init=0";
    run(Command::new("mkfs.ext4")
        .args(["-q", "-E", eager, "-N", "2000000"])
        .arg(&image))?;
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at))
}

pub(super) fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.clone())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program}: {}: {}",
            output.status,
            said.lines().next().unwrap_or("said nothing")
        );
    }
    Ok(())
}
