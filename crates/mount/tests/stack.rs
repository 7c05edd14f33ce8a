//! A directory, really mounted: what only the kernel and the adapter together can get wrong. The rules of the
//! filesystem itself are tested without a mount, in vexfs-core. Where FUSE or root is missing the tests say so and pass.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use vexfs_core::engine::Engine;
use vexfs_core::fs::Stack;
use vexfs_core::fs::change::{Change, ChangeSink};
use vexfs_core::ids::NodeKey;
use vexfs_core::metrics::Metrics;
use vexfs_mount::options::MountOptions;
use vexfs_mount::place::Place;
use vexfs_mount::session::Session;
use vexfs_mount::{Adapter, AdapterOptions, mounting, stack_options};

/// A test that takes longer hangs: its mount is taken away, which ends what waits for it.
const TEST_MAX: Duration = Duration::from_secs(60);

struct Unheard;

impl ChangeSink for Unheard {
    fn maybe_changed(&self, _node: NodeKey) {}
    fn changed(&self, _change: Change) {}
}

struct Mounted {
    source: PathBuf,
    mount: PathBuf,
    engine: Arc<Engine>,
    session: Option<Session>,
    done: Option<mpsc::Sender<()>>,
    _dirs: tempfile::TempDir,
}

impl Mounted {
    fn start(list: &str) -> Option<Mounted> {
        let dirs = tempfile::tempdir().unwrap();
        let (source, mount) = (dirs.path().join("source"), dirs.path().join("mount"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&mount).unwrap();
        Mounted::start_at(dirs, source, mount, list)
    }

    fn start_at(dirs: tempfile::TempDir, source: PathBuf, mount: PathBuf, list: &str) -> Option<Mounted> {
        if fs::metadata("/dev/fuse").is_err() || !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root and /dev/fuse");
            return None;
        }
        let options = MountOptions::parse([list.as_ref()]).unwrap();
        let place = Place::find(&source, &mount).unwrap();
        let root = place.source_dir.try_clone().unwrap();
        let stack = Stack::new(root, stack_options(&place, &options).unwrap(), Arc::new(Unheard)).unwrap();
        let engine = Arc::new(Engine::new(Arc::new(stack), None, Arc::new(Metrics::new())));
        let adapter = Adapter::new(engine.clone(), AdapterOptions::from(&options));
        let kernel_cache = adapter.kernel_cache();
        let mounted = mounting::mount(&place, &options).unwrap();
        let session = Session::start(adapter, mounted, &options, |_| {}).unwrap();
        kernel_cache.connect(session.notifier());
        let (done, wait) = mpsc::channel();
        let watched = session.mount().clone();
        std::thread::spawn(move || {
            if wait.recv_timeout(TEST_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("the test hangs, its mount is taken away");
                let _ = watched.unmount();
            }
        });
        Some(Mounted {
            source,
            mount,
            engine,
            session: Some(session),
            done: Some(done),
            _dirs: dirs,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(session) = self.session.take() {
            let _ = session.mount().unmount();
            session.join();
        }
        assert!(
            std::thread::panicking() || self.engine.metrics().panics.get() == 0,
            "a handler panicked"
        );
    }
}

/// Runs a shell in a directory, as another process: what it does to SOURCE happens behind the mount.
fn shell(dir: &Path, script: &str) {
    assert!(
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(dir)
            .status()
            .unwrap()
            .success(),
        "{script}"
    );
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn one_tree_from_both_sides() {
    for list in ["", "passthrough=off", "allow_other", "ttl=0"] {
        let Some(m) = Mounted::start(list) else { return };
        fs::create_dir_all(m.path("a/b")).unwrap();
        fs::write(m.path("a/b/file"), b"content").unwrap();
        fs::hard_link(m.path("a/b/file"), m.path("hard")).unwrap();
        symlink("a/b/file", m.path("soft")).unwrap();
        fs::rename(m.path("a/b"), m.path("c")).unwrap();
        assert_eq!(fs::read(m.path("c/file")).unwrap(), b"content", "{list}");
        assert_eq!(fs::read(m.source.join("hard")).unwrap(), b"content", "{list}");
        assert_eq!(fs::metadata(m.path("hard")).unwrap().nlink(), 2);
        assert_eq!(
            fs::metadata(m.path("hard")).unwrap().ino(),
            fs::metadata(m.path("c/file")).unwrap().ino()
        );
        assert_eq!(fs::read_link(m.path("soft")).unwrap(), Path::new("a/b/file"));
        shell(&m._dirs.path().join("."), "diff -r --no-dereference source mount");
        fs::remove_file(m.path("c/file")).unwrap();
        fs::remove_dir(m.path("c")).unwrap();
        assert!(!m.source.join("c").exists());
    }
}

#[test]
fn readers_and_writers_of_one_file_see_each_other_in_any_order_of_opening() {
    for list in ["", "passthrough=off"] {
        let Some(m) = Mounted::start(list) else { return };
        fs::write(m.path("f"), b"first").unwrap();
        let reader = File::open(m.path("f")).unwrap();
        let writer = OpenOptions::new()
            .read(true)
            .write(true)
            .open(m.path("f"))
            .unwrap();
        let mut appender = OpenOptions::new().append(true).open(m.path("f")).unwrap();
        writer.write_all_at(b"FIRST", 0).unwrap();
        appender.write_all(b" and more").unwrap();
        let mut all = vec![0; 14];
        reader.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(all, b"FIRST and more", "{list}");
        fs::remove_file(m.path("f")).unwrap();
        writer.write_all_at(b"f", 0).unwrap();
        reader.read_exact_at(&mut all[..1], 0).unwrap();
        assert_eq!(
            (all[0], reader.metadata().unwrap().nlink()),
            (b'f', 0),
            "{list}: it has no name any more"
        );
        assert!(!m.source.join("f").exists());
    }
}

#[test]
fn stores_through_a_mapping_show_in_the_attributes_after_close() {
    for list in ["", "passthrough=off"] {
        let Some(m) = Mounted::start(list) else { return };
        fs::write(m.path("f"), vec![0; 8192]).unwrap();
        let before = fs::metadata(m.path("f")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(m.path("f"))
            .unwrap();
        // SAFETY: the mapping lies within the file, is written while mapped only, and nobody truncates the file.
        unsafe {
            use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let map =
                rustix::mm::mmap(std::ptr::null_mut(), 8192, protection, MapFlags::SHARED, &file, 0).unwrap();
            map.cast::<u8>().write(7);
            rustix::mm::msync(map, 8192, MsyncFlags::SYNC).unwrap();
            rustix::mm::munmap(map, 8192).unwrap();
        }
        drop(file);
        eventually("the store changed the time", || {
            let after = fs::metadata(m.path("f")).unwrap();
            (after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec())
        });
        assert_eq!(fs::read(m.source.join("f")).unwrap()[0], 7);
    }
}

#[test]
fn changes_behind_the_mount_show() {
    // By events where they are allowed, else after a second; and with a time of its own after that.
    for list in ["", "passthrough=off", "ttl=1"] {
        let Some(m) = Mounted::start(list) else { return };
        fs::write(m.path("f"), b"old").unwrap();
        fs::write(m.path("gone"), b"old").unwrap();
        assert_eq!(fs::read_dir(&m.mount).unwrap().count(), 2);
        assert_eq!(fs::metadata(m.path("gone")).unwrap().len(), 3);
        shell(&m.source, "rm gone; echo longer than before > f; echo new > new");
        eventually("a removed name is gone", || fs::metadata(m.path("gone")).is_err());
        eventually("a new size", || fs::metadata(m.path("f")).unwrap().len() == 19);
        eventually("a new content", || {
            fs::read(m.path("f")).unwrap() == b"longer than before\n"
        });
        eventually("a new list", || fs::read_dir(&m.mount).unwrap().count() == 2);
        assert_eq!(fs::read(m.path("new")).unwrap(), b"new\n");
    }
}

#[test]
fn the_mountpoint_inside_the_source_is_cut_out() {
    let dirs = tempfile::tempdir().unwrap();
    let source = dirs.path().join("source");
    fs::create_dir_all(source.join("in/mount")).unwrap();
    fs::write(source.join("in/file"), b"x").unwrap();
    let mount = source.join("in/mount");
    let Some(m) = Mounted::start_at(dirs, source, mount, "") else {
        return;
    };
    let names: Vec<_> = fs::read_dir(m.path("in"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["file"]);
    assert!(fs::metadata(m.path("in/mount")).is_err());
    assert!(fs::create_dir(m.path("in/mount")).is_err());
}

#[test]
fn the_reserved_name_cannot_be_made_or_seen() {
    let Some(m) = Mounted::start("") else { return };
    fs::create_dir(m.source.join(".vexfs")).unwrap();
    fs::write(m.source.join(".vexfs/secret"), b"x").unwrap();
    fs::write(m.path("f"), b"x").unwrap();
    assert_eq!(fs::read_dir(&m.mount).unwrap().count(), 1);
    assert!(fs::metadata(m.path(".vexfs/secret")).is_err());
    let errno = |e: std::io::Error| e.raw_os_error();
    assert_eq!(
        fs::create_dir(m.path(".vexfs")).map_err(errno),
        Err(Some(libc::EPERM))
    );
    assert_eq!(
        fs::rename(m.path("f"), m.path(".vexfs")).map_err(errno),
        Err(Some(libc::EPERM))
    );
    assert_eq!(
        fs::write(m.path(".vexfs"), b"x").map_err(errno),
        Err(Some(libc::EPERM))
    );
}

#[test]
fn holes_are_found_punched_and_copied() {
    let Some(m) = Mounted::start("") else { return };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(m.path("sparse"))
        .unwrap();
    file.write_all_at(&[1; 4096], 1 << 20).unwrap();
    assert_eq!(
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap(),
        1 << 20
    );
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 1 << 20, 4096).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    let mut data = [9; 4096];
    file.read_exact(&mut data).unwrap();
    assert_eq!(data, [0; 4096]);
    file.write_all_at(b"tail", 5000).unwrap();
    assert_eq!(
        fs::copy(m.path("sparse"), m.path("copy")).unwrap(),
        (1 << 20) + 4096
    );
    assert_eq!(
        fs::read(m.path("copy")).unwrap(),
        fs::read(m.source.join("sparse")).unwrap()
    );
}

#[test]
fn long_lists_come_whole_and_once() {
    let Some(m) = Mounted::start("") else { return };
    for i in 0..5000 {
        File::create(
            m.source
                .join(format!("a rather long name, to fill the buffers sooner {i:05}")),
        )
        .unwrap();
    }
    for _ in 0..2 {
        let mut names: Vec<_> = fs::read_dir(&m.mount)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 5000);
    }
    assert_eq!(
        fs::metadata(m.path("a rather long name, to fill the buffers sooner 04999"))
            .unwrap()
            .len(),
        0
    );
}
