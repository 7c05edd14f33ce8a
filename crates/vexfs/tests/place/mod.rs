//! A place to mount at, for tests: SOURCE and MOUNTPOINT in a directory of their own, commands with a time limit, and
//! nothing left mounted.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) const VEXFS: &str = env!("CARGO_BIN_EXE_vexfs");
/// No command takes this long, on however busy a machine.
pub(crate) const COMMAND_MAX: Duration = Duration::from_secs(180);
pub(crate) const NOBODY: u32 = 65534;

/// SOURCE and MOUNTPOINT in a directory of their own.
pub(crate) struct Place {
    dir: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Place {
        let place = Place {
            dir: TempDir::with_prefix("vexfs-test-").expect("a directory"),
        };
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        for name in ["source", "mnt"] {
            fs::create_dir(place.at(name)).expect("mkdir");
        }
        fs::write(place.at("source/file"), "content").expect("write");
        place
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("exists").join(name)
    }

    /// Runs `vexfs` with words in which `@` stands for the directory.
    pub(crate) fn vexfs(&self, line: &str) -> Ended {
        let dir = self.at("").to_string_lossy().trim_end_matches('/').to_owned();
        run(Command::new(VEXFS).args(line.split(' ').map(|word| word.replace('@', &dir))))
    }

    pub(crate) fn mount(&self, line: &str) {
        let ended = self.vexfs(line);
        assert_eq!(ended.code, 0, "{line}: {ended:?}");
    }

    /// The daemon's process id, from the lock in its store.
    pub(crate) fn daemon(&self, source: &str) -> i32 {
        let lock = fs::read_to_string(self.at(source).join(".vexfs/lock")).expect("a lock");
        lock.trim().parse().expect("a number")
    }

    /// Kills the daemon, and returns when it holds nothing any more.
    pub(crate) fn kill_daemon(&self, source: &str) {
        let pid = self.daemon(source);
        run(Command::new("kill").args(["-9", &pid.to_string()]));
        // A process that nobody has waited for yet is as dead.
        eventually("dead", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let here = self.dir.path().to_string_lossy().into_owned();
        let below = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|at| at.starts_with(&here));
        for at in below.collect::<Vec<_>>().into_iter().rev() {
            run(Command::new("umount").args(["-l", at]));
        }
    }
}

/// Runs a command to its end, or fails after the time limit.
pub(crate) fn run(command: &mut Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdout = reader(child.stdout.take().expect("piped"));
    let stderr = reader(child.stderr.take().expect("piped"));
    let until = Instant::now() + COMMAND_MAX;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if Instant::now() > until {
            child.kill().expect("kill");
            panic!("{command:?} hangs");
        }
        sleep(Duration::from_millis(2));
    };
    let text = |reader: JoinHandle<String>| reader.join().expect("text");
    Ended {
        code: status.code().unwrap_or(-1),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

/// Reads while the command runs: a full pipe would stop it.
fn reader(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("readable");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Whether mounts can be tried as root here.
pub(crate) fn can_mount() -> bool {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    // A container's root may have the device and still not the right to mount.
    let can = device.is_ok()
        && Command::new("unshare")
            .args(["-m", "true"])
            .status()
            .is_ok_and(|s| s.success());
    if !can {
        eprintln!("skipped: needs /dev/fuse and the right to mount");
    }
    can
}

pub(crate) fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc");
    mounts.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}

/// Waits until it holds, or fails.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + COMMAND_MAX;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(5));
    }
}
