//! A mount for a measurement, made by the program itself as a user makes it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use vexfs_mount::unmounting;

use super::mount;
use crate::cli::client::Client;

/// A daemon that uses less than this share of so much time does nothing.
const QUIET_SHARE: f64 = 0.04;
const QUIET: Duration = Duration::from_secs(4);
/// In a quick run.
const QUIET_SOON: Duration = Duration::from_millis(750);

/// A mounted directory; unmounted on drop.
pub(super) struct Daemon {
    client: Client,
    at: TempDir,
    process: String,
}

impl Daemon {
    /// Mounts `source`, its state in `source/.vexfs`.
    pub(super) fn mount(source: &Path) -> Result<Daemon> {
        Daemon::mount_with(source, "rw")
    }

    /// The same with options, as after `-o`.
    pub(super) fn mount_with(source: &Path, options: &str) -> Result<Daemon> {
        mount::available()?;
        let at = tempfile::tempdir()?;
        run(Command::new(std::env::current_exe()?)
            .args(["mount", "-o", options])
            .arg(source)
            .arg(at.path()))?;
        // From here on whatever fails unmounts.
        let mut daemon = Daemon {
            client: Client::new("".into()),
            at,
            process: std::fs::read_to_string(source.join(".vexfs/lock"))
                .context("the daemon's process id")?,
        };
        let status = daemon.status()?;
        let socket = status["socket"].as_str().context("no socket in the status")?;
        daemon.client = Client::new(socket.into());
        Ok(daemon)
    }

    /// The daemon's process id.
    pub(super) fn pid(&self) -> Result<u32> {
        self.process.trim().parse().context("the daemon's process id")
    }

    /// Where the tree is seen.
    pub(super) fn at(&self) -> &Path {
        self.at.path()
    }

    /// The API.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// `.vexfs/status.json`.
    pub(super) fn status(&self) -> Result<Value> {
        let path = self.at.path().join(".vexfs/status.json");
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Waits until so many files were looked at and nothing is pending, and gives the status of that moment.
    /// `progress` is told the share done.
    pub(super) fn wait(&self, files: u64, limit: Duration, progress: &mut dyn FnMut(f32)) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status()?;
            let number = |name: &str| status[name].as_u64().unwrap_or(0);
            let done = number("ready") + number("failed") + number("excluded");
            if done >= files && status["idle"] == true {
                if number("failed") > 0 {
                    bail!("{} files could not be read", number("failed"));
                }
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{done} of {files} files were indexed in {} s", limit.as_secs());
            }
            progress(done as f32 / files.max(1) as f32);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the daemon does nothing: what it does behind the commits would be measured with all else.
    pub(super) fn wait_quiet(&self, quick: bool, limit: Duration) -> Result<()> {
        let pause = if quick { QUIET_SOON } else { QUIET };
        let few = (pause.as_secs_f64() * QUIET_SHARE * 100.0) as u64;
        let deadline = Instant::now() + limit;
        let mut before = self.ticks()?;
        loop {
            std::thread::sleep(pause);
            let now = self.ticks()?;
            if now - before <= few {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the daemon is still at work after {} s", limit.as_secs());
            }
            before = now;
        }
    }

    /// Clock ticks of processor time that the daemon has used, a hundredth of a second each.
    fn ticks(&self) -> Result<u64> {
        let path = format!("/proc/{}/stat", self.process.trim());
        let text = std::fs::read_to_string(&path).context(path)?;
        let behind_name = text.rsplit(')').next().unwrap_or_default();
        let fields = behind_name.split_whitespace().skip(11).take(2);
        Ok(fields.filter_map(|field| field.parse::<u64>().ok()).sum())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let unmounted = std::env::current_exe()
            .map_err(anyhow::Error::from)
            .and_then(|program| run(Command::new(program).arg("umount").arg(self.at.path())));
        if unmounted.is_err() {
            // Nothing may stay mounted, whatever holds it.
            let _ = unmounting::unmount_lazily(self.at.path());
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
