//! A mount for a test: made by the command as a user makes it, taken away at the end, and cut off by a watchdog if
//! the test hangs.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A test that takes longer than this has hung, on however busy a machine.
const WATCHDOG: Duration = Duration::from_secs(600);

/// A mounted temporary directory.
pub(crate) struct Mounted {
    dir: tempfile::TempDir,
    done: Arc<AtomicBool>,
}

impl Mounted {
    /// Makes the files and mounts their directory with the given options.
    pub(crate) fn with(files: &[(&str, &str)], options: &[&str]) -> Mounted {
        Mounted::with_patience(files, options, WATCHDOG)
    }

    /// The same for a test that takes longer than others.
    pub(crate) fn with_patience(files: &[(&str, &str)], options: &[&str], patience: Duration) -> Mounted {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("source")).expect("an empty directory");
        std::fs::create_dir(dir.path().join("mnt")).expect("an empty directory");
        let mounted = Mounted {
            dir,
            done: Arc::default(),
        };
        for (name, text) in files {
            let path = mounted.source().join(name);
            std::fs::create_dir_all(path.parent().expect("files have a directory")).expect("directories");
            std::fs::write(path, text).expect("a file");
        }
        mounted.mount(options);
        mounted.watch(patience);
        mounted
    }

    /// A mount that all users see and may enter.
    pub(crate) fn for_all(files: &[(&str, &str)]) -> Mounted {
        let mount = Mounted::with(files, &["-o", "allow_other"]);
        for dir in [mount.dir.path().to_owned(), mount.source(), mount.path()] {
            chmod(&dir, 0o755);
        }
        mount
    }

    /// Runs a shell command in the mount as another user, who finds this program in `$VEXFS`.
    pub(crate) fn as_stranger(&self, command: &str) -> Output {
        self.stranger(command).output().expect("setpriv runs")
    }

    /// Such a command, to be run.
    pub(crate) fn stranger(&self, command: &str) -> Command {
        let mut stranger = Command::new("setpriv");
        stranger
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "sh",
                "-c",
                command,
            ])
            .env("VEXFS", env!("CARGO_BIN_EXE_vexfs"))
            .current_dir(self.path());
        stranger
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path().join(path)
    }

    pub(crate) fn mount(&self, options: &[&str]) {
        let (source, mountpoint) = (self.source(), self.path());
        let mut args = vec![
            "mount",
            source.to_str().expect("UTF-8"),
            mountpoint.to_str().expect("UTF-8"),
        ];
        args.extend_from_slice(options);
        let output = vexfs(&args);
        assert!(
            output.status.success(),
            "mount: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    pub(crate) fn umount(&self) {
        let output = vexfs(&["umount", self.path().to_str().expect("UTF-8")]);
        assert!(
            output.status.success(),
            "umount: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Waits until every change is searchable.
    pub(crate) fn settle(&self) {
        let output = vexfs(&[
            "status",
            "--watch",
            "--json",
            self.path().to_str().expect("UTF-8"),
        ]);
        assert!(
            output.status.success(),
            "status: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The names in a directory of the mount, as `ls` shows them.
    pub(crate) fn ls(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.join(path)).unwrap_or_else(|e| panic!("ls {path}: {e}"));
        let mut names: Vec<String> = entries
            .map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.join(path)).unwrap_or_else(|e| panic!("cat {path}: {e}"))
    }

    /// Cuts the connection when the test hangs, so that every waiting system call fails and the test with it.
    fn watch(&self, patience: Duration) {
        let (done, mountpoint) = (self.done.clone(), self.path());
        std::thread::spawn(move || {
            let end = Instant::now() + patience;
            while Instant::now() < end {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            eprintln!("watchdog: the mount is cut off");
            let _ = Command::new("umount").arg("-fl").arg(mountpoint).status();
            std::process::abort();
        });
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _ = vexfs(&["umount", self.path().to_str().unwrap_or_default()]);
    }
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("chmod");
}

/// Runs the command.
pub(crate) fn vexfs(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vexfs"))
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the command runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
