//! What filesystem operations cost besides time: stack and allocations.
//!
//! Only release builds are held to the bound of the stack, since frames of unoptimised code are several times as large.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::sync::Arc;

use vexfs_core::change::{Change, ChangeSink};
use vexfs_core::engine::Engine;
use vexfs_core::fs::ops::Caller;
use vexfs_core::fs::{Reopen, Stack, StackOptions};
use vexfs_core::ids::{Ino, NodeKey};
use vexfs_core::metrics::{Metrics, stack};

/// Counts the allocations of a thread.
struct Counting;

thread_local!(static ALLOCATIONS: Cell<usize> = const { Cell::new(0) });

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Unheard;

impl ChangeSink for Unheard {
    fn maybe_changed(&self, _node: NodeKey) {}
    fn changed(&self, _change: Change) {}
}

/// An engine over a directory with some files, and the inode of one of them.
struct Tree {
    engine: Engine,
    file: Ino,
    caller: Caller,
    _dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..300 {
            fs::write(dir.path().join(format!("file{n}")), vec![b'x'; 5000]).unwrap();
        }
        let root = File::open(dir.path()).unwrap();
        let stack = Stack::new(root.into(), StackOptions::default(), Arc::new(Unheard)).unwrap();
        let engine = Engine::new(Arc::new(stack), None, Arc::new(Metrics::new()));
        let caller = Caller {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            pid: std::process::id(),
        };
        let file = engine
            .lookup(&caller, Ino::ROOT, OsStr::new("file0"))
            .unwrap()
            .attr
            .ino;
        Tree {
            engine,
            file,
            caller,
            _dir: dir,
        }
    }
}

type Operation = (&'static str, fn(&Tree));

/// Every kind of operation; each may run many times.
const OPERATIONS: [Operation; 13] = [
    ("lookup", |t| {
        t.engine
            .lookup(&t.caller, Ino::ROOT, OsStr::new("file7"))
            .unwrap();
    }),
    ("lookup of nothing", |t| {
        t.engine
            .lookup(&t.caller, Ino::ROOT, OsStr::new("none"))
            .unwrap_err();
    }),
    ("getattr", |t| {
        t.engine.getattr(&t.caller, t.file, None).unwrap();
    }),
    ("open, release (passthrough)", |t| {
        let opened = t
            .engine
            .open(&t.caller, t.file, libc::O_RDONLY, Reopen::Passthrough)
            .unwrap();
        t.engine.release(t.file, opened.fh).unwrap();
    }),
    ("open, read, release", |t| {
        let opened = t
            .engine
            .open(&t.caller, t.file, libc::O_RDONLY, Reopen::Daemon)
            .unwrap();
        let mut buffer = vexfs_core::pool::take(4096);
        let read = t.engine.read(&t.caller, t.file, opened.fh, 0, &mut buffer);
        assert_eq!(read.unwrap(), 4096);
        t.engine.release(t.file, opened.fh).unwrap();
    }),
    ("open, write, release", |t| {
        let opened = t
            .engine
            .open(&t.caller, t.file, libc::O_WRONLY, Reopen::Daemon)
            .unwrap();
        let written = t.engine.write(&t.caller, t.file, opened.fh, 0, &[1; 512], false);
        assert_eq!(written.unwrap(), 512);
        t.engine.release(t.file, opened.fh).unwrap();
    }),
    ("create, release, unlink", |t| {
        let name = OsStr::new("made");
        let (entry, opened) = t
            .engine
            .create(
                &t.caller,
                Ino::ROOT,
                name,
                (0o644, 0o022),
                libc::O_RDWR,
                Reopen::Daemon,
            )
            .unwrap();
        t.engine.release(entry.attr.ino, opened.fh).unwrap();
        t.engine.unlink(&t.caller, Ino::ROOT, name).unwrap();
        t.engine.forget(entry.attr.ino, 1);
    }),
    ("mkdir, rmdir", |t| {
        let name = OsStr::new("directory");
        let entry = t.engine.mkdir(&t.caller, Ino::ROOT, name, 0o755, 0o022).unwrap();
        t.engine.rmdir(&t.caller, Ino::ROOT, name).unwrap();
        t.engine.forget(entry.attr.ino, 1);
    }),
    ("rename, and back", |t| {
        for (from, to) in [("file1", "other"), ("other", "file1")] {
            let (from, to) = (OsStr::new(from), OsStr::new(to));
            t.engine
                .rename(&t.caller, Ino::ROOT, from, Ino::ROOT, to, 0)
                .unwrap();
        }
    }),
    ("opendir, readdir, releasedir", |t| {
        let fh = t.engine.opendir(&t.caller, Ino::ROOT).unwrap();
        let mut entries = 0;
        let full = |_: &vexfs_core::fs::DirEntry<'_>| {
            entries += 1;
            false
        };
        t.engine.readdir(&t.caller, Ino::ROOT, fh, 0, full).unwrap();
        assert!(entries >= 300);
        t.engine.releasedir(Ino::ROOT, fh).unwrap();
    }),
    ("statfs", |t| {
        t.engine.statfs(t.file).unwrap();
    }),
    ("getxattr", |t| {
        let mut buffer = vexfs_core::pool::take(1024);
        let name = OsStr::new("user.none");
        t.engine
            .getxattr(&t.caller, t.file, name, &mut buffer)
            .unwrap_err();
    }),
    ("access", |t| {
        t.engine.access(&t.caller, t.file, libc::R_OK).unwrap();
    }),
];

#[test]
fn no_operation_uses_more_stack_than_allowed() {
    let tree = Tree::new();
    let mut worst = 0;
    for (name, operation) in OPERATIONS {
        // The first run binds symbols and makes the thread's caches, the second one is measured by the engine itself.
        operation(&tree);
        operation(&tree);
        let ((), used) = stack::used(stack::Threads::Session, || operation(&tree));
        println!("{used:>6} bytes of stack: {name}");
        worst = worst.max(used);
    }
    if !cfg!(debug_assertions) {
        assert!(worst <= stack::BYTES_MAX, "{worst}");
    }
}

#[test]
fn the_commonest_operations_allocate_nothing() {
    let tree = Tree::new();
    for (name, operation) in OPERATIONS {
        operation(&tree);
        let before = ALLOCATIONS.get();
        for _ in 0..10 {
            operation(&tree);
        }
        let allocations = ALLOCATIONS.get() - before;
        println!("{:>6.1} allocations: {name}", allocations as f64 / 10.0);
        let frugal = [
            "lookup",
            "lookup of nothing",
            "getattr",
            "open, release (passthrough)",
            "statfs",
        ];
        if frugal.contains(&name) {
            assert_eq!(allocations, 0, "{name}");
        }
    }
}
