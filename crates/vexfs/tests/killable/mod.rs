//! A mount for tests of transactions: its daemon stays in the foreground, so that it can be killed, and a watchdog
//! cuts it off when a test hangs.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any of these steps takes on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(60);
/// A test that takes longer than this has hung.
const WATCHDOG: Duration = Duration::from_secs(900);
/// Nothing is indexed unless a test asks for it.
const MANUAL: &str = "index=manual";
/// The daemon dies at the point of a commit with this number.
const DIE_AT: &str = "VEXFS_DIE_AT";

/// A tree, its mount, and the daemon that serves it.
pub(crate) struct Mounted {
    dir: tempfile::TempDir,
    options: &'static str,
    daemon: Child,
    done: Arc<AtomicBool>,
}

impl Mounted {
    /// `None` where nothing can be mounted at all.
    pub(crate) fn start(files: &[(&str, &str)]) -> Option<Mounted> {
        Mounted::over(files, None, MANUAL)
    }

    /// The same, on a filesystem in memory of this size.
    pub(crate) fn in_memory(files: &[(&str, &str)], bytes: u64) -> Option<Mounted> {
        Mounted::over(files, Some(bytes), MANUAL)
    }

    /// The same, with a daemon that indexes the files.
    pub(crate) fn indexed(files: &[(&str, &str)]) -> Option<Mounted> {
        Mounted::over(files, None, "index=onclose")
    }

    /// The same, of a copy of a tree.
    pub(crate) fn indexed_copy(tree: &Path) -> Option<Mounted> {
        let m = Mounted::over(&[], None, "index=onclose")?;
        m.sh(&format!("cp -a {}/. .", tree.display()));
        Some(m)
    }

    fn over(files: &[(&str, &str)], memory: Option<u64>, options: &'static str) -> Option<Mounted> {
        if fs::metadata("/dev/fuse").is_err() || !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root and /dev/fuse");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("m")).unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        if let Some(bytes) = memory {
            let mut mount = Command::new("mount");
            mount
                .args(["-t", "tmpfs", "-o"])
                .arg(format!("size={bytes}"))
                .arg("tmpfs");
            if !mount.arg(dir.path().join("source")).status().unwrap().success() {
                eprintln!("skipped: needs the right to mount");
                return None;
            }
        }
        for (path, content) in files {
            let path = dir.path().join("source").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let daemon = serve(dir.path(), options, None);
        let done = Arc::new(AtomicBool::new(false));
        watch(dir.path().join("m"), done.clone());
        Some(Mounted {
            dir,
            options,
            daemon,
            done,
        })
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("m").join(path)
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    /// Runs a script of the shell in the mount; it must succeed.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{script}\n{out}{err}");
        out
    }

    pub(crate) fn try_sh(&self, script: &str) -> Output {
        let mut path = std::ffi::OsString::from(Path::new(env!("CARGO_BIN_EXE_vexfs")).parent().unwrap());
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut child = Command::new("sh");
        child
            .args(["-ec", script])
            .current_dir(self.at(""))
            .env("PATH", path);
        child.output().unwrap()
    }

    /// The value of an extended attribute, if it is set.
    pub(crate) fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 65_536];
        let len = rustix::fs::getxattr(self.at(path), name, &mut value[..]).ok()?;
        value.truncate(len);
        Some(value)
    }

    pub(crate) fn set_xattr(&self, path: &str, name: &str, value: &[u8]) {
        rustix::fs::setxattr(self.at(path), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    }

    /// Ends the daemon as a crash does, and starts another.
    pub(crate) fn crash(&mut self) {
        self.die();
        self.revive(None);
    }

    /// Ends the daemon as a crash does.
    pub(crate) fn die(&mut self) {
        self.daemon.kill().unwrap();
    }

    /// Starts another daemon in place of one that is dead or dying; it dies at a point of its next commit, if one is
    /// named.
    pub(crate) fn revive(&mut self, die_at: Option<u64>) {
        self.daemon.wait().unwrap();
        self.daemon = serve(self.dir.path(), self.options, die_at);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let unmount = |at: PathBuf| {
            let _ = Command::new("umount")
                .arg("-l")
                .arg(at)
                .stderr(Stdio::null())
                .status();
        };
        unmount(self.at(""));
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(self.daemon.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        unmount(self.source());
    }
}

fn serve(dir: &Path, options: &str, die_at: Option<u64>) -> Child {
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_vexfs"));
    daemon
        .args(["mount", "-f", "-o", options])
        .arg(dir.join("source"))
        .arg(dir.join("m"))
        .env_remove(DIE_AT);
    if let Some(point) = die_at {
        daemon.env(DIE_AT, point.to_string());
    }
    let daemon = daemon.stdin(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + STEP_MAX;
    // A file that is made when it is read: names the kernel may remember from the daemon before.
    while fs::read(dir.join("m/.vexfs/status")).is_err() {
        assert!(Instant::now() < deadline, "the mount does not come");
        thread::sleep(Duration::from_millis(5));
    }
    daemon
}

/// Cuts the connection when the test hangs, so that every waiting system call fails and the test with it.
fn watch(mountpoint: PathBuf, done: Arc<AtomicBool>) {
    thread::spawn(move || {
        let end = Instant::now() + WATCHDOG;
        while Instant::now() < end {
            if done.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        eprintln!("watchdog: the mount is cut off");
        let _ = Command::new("umount").arg("-fl").arg(mountpoint).status();
        std::process::abort();
    });
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every path below a directory with type, mode, owner, mtime, links and content. Of directories, what no step of a
/// commit leaves alone, the mtime, only if `times`.
pub(crate) fn snapshot(root: &Path, times: bool) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(root.join(&at)).unwrap() {
            let path = at.join(entry.unwrap().file_name());
            let meta = fs::symlink_metadata(root.join(&path)).unwrap();
            let content = match (meta.is_file(), meta.is_symlink()) {
                (true, _) => fs::read(root.join(&path)).unwrap(),
                (_, true) => fs::read_link(root.join(&path))
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes(),
                _ => Vec::new(),
            };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            let time = match times || !meta.is_dir() {
                true => (meta.mtime(), meta.mtime_nsec()),
                false => (0, 0),
            };
            let facts = (meta.mode(), meta.uid(), meta.gid(), time, links);
            found.insert(path.clone(), format!("{facts:?} {}", text(&content)));
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    found
}
