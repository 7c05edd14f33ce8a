//! The kernel's caches of this mount, from where they are told to forget.

use std::ffi::OsStr;
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};
use vexfs_core::fs::Invalidate;
use vexfs_core::ids::Ino;
use vexfs_core::metrics::Metrics;

/// Invalidates names and inodes in the kernel once a session is connected; until then there is nothing cached.
pub struct KernelCache {
    notifier: OnceLock<Notifier>,
    metrics: Arc<Metrics>,
}

impl KernelCache {
    pub(super) fn new(metrics: Arc<Metrics>) -> KernelCache {
        KernelCache {
            notifier: OnceLock::new(),
            metrics,
        }
    }

    /// Connects with the session that serves the mount.
    pub fn connect(&self, notifier: Notifier) {
        // There is one session to an adapter.
        let _ = self.notifier.set(notifier);
    }

    fn send(&self, what: impl FnOnce(&Notifier) -> std::io::Result<()>) {
        let Some(notifier) = self.notifier.get() else {
            return;
        };
        self.metrics.invalidations.add_one();
        if let Err(e) = what(notifier) {
            // The mount is going away, or the kernel has no such inode: then nothing is stale.
            tracing::debug!("invalidation: {e}");
        }
    }
}

impl Invalidate for KernelCache {
    fn entry(&self, parent: Ino, name: &OsStr) {
        self.send(|notifier| notifier.inval_entry(INodeNo(parent.0), name));
    }

    fn inode(&self, ino: Ino, data: bool) {
        // A negative offset leaves the pages alone; a length of 0 means to the end.
        let offset = if data { 0 } else { -1 };
        self.send(|notifier| notifier.inval_inode(INodeNo(ino.0), offset, 0));
    }
}
