//! What filesystem operations cost besides time: stack and allocations.
//!
//! The stack of an operation is measured on a thread of its own whose stack was painted: the deepest byte that lost
//! its paint. Only release builds are held to the bound, since frames of unoptimised code are several times as large.

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
use vexfs_core::metrics::Metrics;

/// The specification allows 6 KiB and wants 4.
const STACK_BYTES_MAX: usize = 4096;

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

mod painted {
    //! A thread on a stack of ours.

    const STACK: usize = 1 << 20;
    /// Bytes right below the frame that paints; its own calls may use them.
    const MARGIN: usize = 512;
    const PAINT: u8 = 0xa5;

    struct Job<'a> {
        lowest: *mut u8,
        warm_up_and_measured: &'a (dyn Fn() + Sync),
        used: usize,
    }

    /// The stack that `f` uses, in bytes, when it runs for the second time on a thread.
    pub(super) fn stack_of(f: &(dyn Fn() + Sync)) -> usize {
        let mut memory = vec![0u8; STACK + 4096];
        let lowest = memory
            .as_mut_ptr()
            .wrapping_add(memory.as_ptr().align_offset(4096));
        let mut job = Job {
            lowest,
            warm_up_and_measured: f,
            used: 0,
        };
        // SAFETY: the attribute is initialised before use; the stack is ours, aligned, and lives until the join; `job`
        // lives until the join as well.
        unsafe {
            let mut attr = std::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&mut attr), 0);
            assert_eq!(libc::pthread_attr_setstack(&mut attr, lowest.cast(), STACK), 0);
            let mut thread = std::mem::zeroed();
            let argument = (&raw mut job).cast();
            assert_eq!(libc::pthread_create(&mut thread, &attr, measure, argument), 0);
            assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
            libc::pthread_attr_destroy(&mut attr);
        }
        job.used
    }

    extern "C" fn measure(job: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the creator passes its job and waits for our end.
        let job = unsafe { &mut *job.cast::<Job<'_>>() };
        let here = (&raw const job).cast::<u8>() as usize;
        // The first run binds symbols and makes the thread's caches; the second one is any later request.
        (job.warm_up_and_measured)();
        let below = here - job.lowest as usize - MARGIN;
        for at in 0..below {
            // SAFETY: inside our stack and below every live frame.
            unsafe { job.lowest.add(at).write_volatile(PAINT) };
        }
        (job.warm_up_and_measured)();
        // SAFETY: inside our stack.
        let paint_ends = (0..below).find(|&at| unsafe { job.lowest.add(at).read_volatile() } != PAINT);
        job.used = paint_ends.map_or(0, |at| below - at) + MARGIN;
        std::ptr::null_mut()
    }

    #[inline(never)]
    fn with_a_buffer() {
        let mut buffer = [0u8; 16_384];
        buffer[0] = 1;
        let _ = std::hint::black_box(&buffer);
    }

    #[test]
    fn a_buffer_on_the_stack_is_seen() {
        let (without, with) = (stack_of(&|| {}), stack_of(&with_a_buffer));
        assert!(
            (16_384..40_000).contains(&with) && without < 4_096,
            "{without} {with}"
        );
    }
}

#[test]
fn no_operation_uses_more_stack_than_allowed() {
    let tree = Tree::new();
    let mut worst = 0;
    for (name, operation) in OPERATIONS {
        let used = painted::stack_of(&|| operation(&tree));
        println!("{used:>6} bytes of stack: {name}");
        worst = worst.max(used);
    }
    if !cfg!(debug_assertions) {
        assert!(worst <= STACK_BYTES_MAX, "{worst}");
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
