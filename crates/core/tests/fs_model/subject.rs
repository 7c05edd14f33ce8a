//! The stack under test, and what the kernel would hold of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use vexfs_core::fs::change::{Change, ChangeSink};
use vexfs_core::fs::ops::{Caller, Entry};
use vexfs_core::fs::{Stack, StackOptions};
use vexfs_core::ids::{Ino, NodeKey};

/// Older than an inode that is told from others by its handle.
const AGE: Duration = Duration::from_millis(25);

#[derive(Default)]
pub(super) struct Recorder {
    pub(super) maybe: Mutex<Vec<NodeKey>>,
    pub(super) changes: Mutex<Vec<Change>>,
}

impl ChangeSink for Recorder {
    fn maybe_changed(&self, node: NodeKey) {
        self.maybe.lock().unwrap().push(node);
    }
    fn changed(&self, change: Change) {
        self.changes.lock().unwrap().push(change);
    }
}

/// The stack under test, and what the kernel would hold of it.
pub(super) struct Subject {
    pub(super) backing: tempfile::TempDir,
    pub(super) handles: bool,
    pub(super) stack: Stack,
    pub(super) changes: Arc<Recorder>,
    pub(super) lookups: BTreeMap<Ino, u64>,
    pub(super) open: Vec<OpenHandle>,
}

pub(super) struct OpenHandle {
    pub(super) ino: Ino,
    pub(super) fh: u64,
    pub(super) node: usize,
    pub(super) wrote: bool,
}

impl Subject {
    pub(super) fn new(handles: bool) -> Subject {
        let backing = tempfile::tempdir().unwrap();
        let changes = Arc::new(Recorder::default());
        let stack = mount(&backing, handles, changes.clone());
        Subject {
            backing,
            handles,
            stack,
            changes,
            lookups: BTreeMap::new(),
            open: Vec::new(),
        }
    }

    pub(super) fn count(&mut self, entry: &Entry) -> Ino {
        *self.lookups.entry(entry.attr.ino).or_default() += 1;
        entry.attr.ino
    }

    pub(super) fn lookup(&mut self, parent: Ino, name: &str) -> Ino {
        let entry = self.stack.lookup(parent, OsStr::new(name)).unwrap();
        self.count(&entry)
    }

    pub(super) fn walk(&mut self, path: &[&str]) -> Ino {
        path.iter().fold(Ino::ROOT, |dir, name| self.lookup(dir, name))
    }

    pub(super) fn forget(&mut self) {
        // What is found again then is told by its birth time alone.
        thread::sleep(AGE);
        for (ino, count) in std::mem::take(&mut self.lookups) {
            if self.open.iter().any(|h| h.ino == ino) {
                self.lookups.insert(ino, count);
            } else {
                self.stack.forget(ino, count);
            }
        }
        if self.open.is_empty() {
            assert_eq!(
                self.stack.inodes(),
                1,
                "only the root is left when all is forgotten"
            );
        }
    }

    pub(super) fn close(&mut self, at: usize) {
        let handle = self.open.remove(at);
        let key = self.stack.node_key(handle.ino).unwrap();
        self.changes.changes.lock().unwrap().clear();
        self.stack.release(handle.ino, handle.fh).unwrap();
        let told = self
            .changes
            .changes
            .lock()
            .unwrap()
            .contains(&Change::Content { node: key });
        // Another handle's close may have told it already.
        let alone = self.open.iter().all(|h| h.node != handle.node);
        assert!(
            told || !handle.wrote || !alone,
            "the index was not told of a written file"
        );
        // What was told by this close the next one need not tell.
        let unsaid = handle.wrote && !told;
        for other in self.open.iter_mut().filter(|h| h.node == handle.node) {
            other.wrote = unsaid || other.wrote && !told;
        }
    }

    pub(super) fn reopen(&mut self) {
        while !self.open.is_empty() {
            self.close(0);
        }
        self.lookups.clear();
        thread::sleep(AGE);
        self.stack = mount(&self.backing, self.handles, self.changes.clone());
    }
}

pub(super) fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: std::process::id(),
    }
}

pub(super) fn mount(backing: &tempfile::TempDir, handles: bool, changes: Arc<Recorder>) -> Stack {
    let root: OwnedFd = std::fs::File::open(backing.path()).unwrap().into();
    Stack::new(
        root,
        StackOptions {
            handles,
            ..StackOptions::default()
        },
        changes,
    )
    .unwrap()
}
