//! One backing inode that the kernel knows, and the descriptors that are kept for some of them.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::handle::Handle;
use super::stat::Stamp;
use crate::ids::Ino;

/// A backing inode. It lives in the table as long as the kernel counts lookups of it, and longer in the open files.
pub(crate) struct Node {
    /// The number shown to the kernel.
    pub(crate) ino: Ino,
    /// The inode number on the backing filesystem.
    pub(crate) number: u64,
    /// Index of its mount.
    pub(crate) mount: u32,
    /// Tells two uses of one inode number apart.
    pub(crate) generation: u32,
    /// Type bits of the mode; they never change while an inode lives.
    pub(crate) kind: u32,
    /// Lookups that the kernel has not taken back. Changed under the lock of the table's shard only.
    pub(super) lookups: AtomicU64,
    /// The descriptor was used since the clock's hand passed.
    hot: AtomicBool,
    /// Extended attributes known to be missing, as bits of [`Absent`].
    absent: AtomicU8,
    /// Taken after the table's shard, never across a system call.
    pub(super) state: Mutex<State>,
}

/// The changing part of a node.
pub(super) struct State {
    pub(super) reference: Reference,
    /// An O_PATH descriptor: of hot directories, and of files that cannot be opened in another way.
    pub(super) fd: Option<Arc<OwnedFd>>,
    /// Exists while somebody has the file open for writing.
    pub(super) writing: Option<Box<Writing>>,
    /// Programs that run from the file.
    pub(super) executing: u32,
    /// The file as the last of our writers left it, or as it was when cached pages of the kernel were right.
    pub(super) settled: Option<Box<Stamp>>,
}

/// How the inode is opened again.
#[derive(Clone, Debug)]
pub(super) enum Reference {
    /// By its handle: nothing can get in the way while the inode lives.
    Handle(Handle),
    /// By the last name that it was looked up by; the inode found there is compared.
    Name { parent: Ino, name: Box<OsStr> },
    /// Only by the descriptor: the root, and files that lost the name.
    Descriptor,
}

/// What is remembered while a file is open for writing.
pub(super) struct Writing {
    /// Open files that may write.
    pub(super) writers: u32,
    /// What the index was last told.
    pub(super) indexed: Stamp,
    /// What the kernel was last told.
    pub(super) told: Stamp,
}

/// An extended attribute that the kernel asks for on its own, and that most files lack.
#[derive(Clone, Copy)]
pub(crate) enum Absent {
    /// `security.capability`, asked for at every write.
    Capability = 1,
    /// `system.posix_acl_access`, asked for by permission checks.
    AccessAcl = 2,
    /// `system.posix_acl_default`.
    DefaultAcl = 4,
}

impl Absent {
    pub(crate) fn by_name(name: &OsStr) -> Option<Absent> {
        match name.as_encoded_bytes() {
            b"security.capability" => Some(Absent::Capability),
            b"system.posix_acl_access" => Some(Absent::AccessAcl),
            b"system.posix_acl_default" => Some(Absent::DefaultAcl),
            _ => None,
        }
    }
}

impl Node {
    pub(super) fn new(
        ino: Ino,
        number: u64,
        mount: u32,
        generation: u32,
        kind: u32,
        reference: Reference,
    ) -> Node {
        Node {
            ino,
            number,
            mount,
            generation,
            kind,
            lookups: AtomicU64::new(0),
            hot: AtomicBool::new(false),
            absent: AtomicU8::new(0),
            state: Mutex::new(State {
                reference,
                fd: None,
                writing: None,
                executing: 0,
                settled: None,
            }),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind == libc::S_IFDIR
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind == libc::S_IFREG
    }

    /// The kept descriptor, if there is one.
    pub(super) fn kept_fd(&self) -> Option<Arc<OwnedFd>> {
        let fd = self.state.lock().fd.clone();
        if fd.is_some() && !self.hot.load(Relaxed) {
            self.hot.store(true, Relaxed);
        }
        fd
    }

    pub(super) fn is_absent(&self, what: Absent) -> bool {
        self.absent.load(Relaxed) & what as u8 != 0
    }

    pub(super) fn set_absent(&self, what: Absent, absent: bool) {
        if absent {
            self.absent.fetch_or(what as u8, Relaxed);
        } else {
            self.absent.fetch_and(!(what as u8), Relaxed);
        }
    }

    /// Forgets which attributes are missing: the file was changed behind the mount, or its mode was.
    pub(super) fn forget_absent(&self) {
        self.absent.store(0, Relaxed);
    }
}

/// Bounds the descriptors kept in nodes: a clock, which spares those used since its hand passed.
pub(super) struct KeptFds {
    capacity: usize,
    clock: Mutex<VecDeque<Weak<Node>>>,
}

impl KeptFds {
    pub(super) fn new(capacity: usize) -> KeptFds {
        KeptFds {
            capacity,
            clock: Mutex::new(VecDeque::new()),
        }
    }

    /// Keeps `fd` in the node, unless it has one, and lets go of others beyond the capacity.
    pub(super) fn keep(&self, node: &Arc<Node>, fd: OwnedFd) -> Arc<OwnedFd> {
        let fd = {
            let mut state = node.state.lock();
            if let Some(kept) = &state.fd {
                return kept.clone();
            }
            let fd = Arc::new(fd);
            state.fd = Some(fd.clone());
            fd
        };
        let mut dropped = Vec::new();
        {
            let mut clock = self.clock.lock();
            clock.push_back(Arc::downgrade(node));
            // Everything may be hot: after one round the oldest goes nevertheless.
            let mut patience = clock.len();
            while clock.len() > self.capacity {
                let Some(oldest) = clock.pop_front() else { break };
                patience = patience.saturating_sub(1);
                match oldest.upgrade() {
                    Some(node) if node.hot.swap(false, Relaxed) && patience > 0 => clock.push_back(oldest),
                    Some(node) => dropped.extend(node.release_fd()),
                    None => {}
                }
            }
        }
        drop(dropped); // closes outside the lock
        fd
    }

    /// Lets go of every kept descriptor that can be opened again: the process has run out of them.
    pub(super) fn shrink(&self) {
        let all = std::mem::take(&mut *self.clock.lock());
        for node in all.into_iter().filter_map(|n| n.upgrade()) {
            drop(node.release_fd());
        }
    }

    /// How many descriptors are kept, at most.
    pub(super) fn len(&self) -> usize {
        self.clock.lock().len()
    }
}

impl Node {
    /// Takes the descriptor out of the node, unless nothing else leads to the inode.
    fn release_fd(&self) -> Option<Arc<OwnedFd>> {
        let mut state = self.state.lock();
        match state.reference {
            Reference::Descriptor => None,
            _ => state.fd.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ino: u64, reference: Reference) -> Arc<Node> {
        Arc::new(Node::new(Ino(ino), ino, 0, 0, libc::S_IFDIR, reference))
    }

    fn fd() -> OwnedFd {
        std::fs::File::open("/").unwrap().into()
    }

    #[test]
    fn the_clock_spares_what_was_used_and_what_cannot_be_opened_again() {
        let kept = KeptFds::new(2);
        let named = || Reference::Name {
            parent: Ino(1),
            name: OsStr::new("x").into(),
        };
        let (pinned, hot, cold, new) = (
            node(1, Reference::Descriptor),
            node(2, named()),
            node(3, named()),
            node(4, named()),
        );
        for n in [&pinned, &hot, &cold] {
            kept.keep(n, fd());
        }
        assert!(pinned.kept_fd().is_some(), "the root is never closed");
        assert!(hot.kept_fd().is_some());
        kept.keep(&new, fd());
        assert!(cold.kept_fd().is_none() || hot.kept_fd().is_none());
        assert!(hot.kept_fd().is_some(), "used since the hand passed");
        assert!(kept.len() <= 2);
        kept.shrink();
        assert!(hot.kept_fd().is_none() && new.kept_fd().is_none() && pinned.kept_fd().is_some());
    }
}
