//! One backing inode that the kernel knows, and the descriptors that are kept for some of them.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::handle::{Form, Handle};
use super::stat::Stamp;
use crate::ids::Ino;
use crate::label::Label;

/// A backing inode. It lives in the table as long as the kernel counts lookups of it, and longer in the open files.
pub(crate) struct Node {
    /// The number shown to the kernel.
    pub(crate) ino: Ino,
    /// The inode number on the backing filesystem.
    pub(crate) number: u64,
    /// Index of its mount.
    pub(crate) mount: u32,
    /// Tells two uses of one inode number apart: by the handle, or by the birth time if [`Node::is_by_birth`] or where
    /// there are no handles.
    pub(crate) generation: u32,
    /// Lookups that the kernel has not taken back. Changed under the lock of the table's shard only.
    pub(super) lookups: AtomicU32,
    /// Type bits of the mode, moved down; they never change while an inode lives.
    kind: u8,
    /// How its handle is made of number and generation, if it is.
    form: Option<Form>,
    /// The descriptor was used since the clock's hand passed.
    hot: AtomicBool,
    /// Extended attributes known to be missing, as bits of [`Absent`].
    absent: AtomicU8,
    /// Taken after the table's shard, never across a system call.
    state: Mutex<State>,
}

/// The kernel may know a million inodes, and this is what each costs, with 16 bytes around it.
const _: () = assert!(size_of::<Node>() == 56);

/// The changing part of a node. Most have none.
#[derive(Default)]
struct State {
    /// How the inode is opened again, if not by a handle of a known form.
    reference: Option<Box<Reference>>,
    uses: Option<Box<Uses>>,
}

/// Where the type stands in a mode.
const KIND_SHIFT: u32 = 12;

/// What is remembered of an inode that is in use.
#[derive(Default)]
pub(super) struct Uses {
    /// A descriptor, O_PATH or better: of directories, of files that are passed through, and of those that cannot be opened in
    /// another way.
    fd: Option<Arc<OwnedFd>>,
    /// Exists while somebody has the file open for writing.
    pub(super) writing: Option<Box<Writing>>,
    /// Programs that run from the file.
    pub(super) executing: u32,
    /// The file as the last of our writers left it, or as it was when cached pages of the kernel were right.
    pub(super) settled: Option<Stamp>,
}

impl Uses {
    fn is_none(&self) -> bool {
        self.fd.is_none() && self.writing.is_none() && self.executing == 0 && self.settled.is_none()
    }
}

/// How the inode is opened again.
#[derive(Clone, Debug)]
pub(super) enum Reference {
    /// By its handle: nothing can get in the way while the inode lives.
    Handle(Handle),
    /// By its number; what is opened is compared by its birth time.
    Number,
    /// By the last name that it was looked up by; the inode found there is compared.
    Name { parent: Ino, name: Label },
    /// Only by the descriptor: the root, and files that lost the name.
    Descriptor,
}

impl Reference {
    /// By a name in a directory.
    pub(super) fn name(parent: Ino, name: &OsStr) -> Reference {
        Reference::Name {
            parent,
            name: Label::new(name.as_bytes()),
        }
    }

    /// Whether it is by this name.
    pub(super) fn is_name(&self, in_parent: Ino, called: &OsStr) -> bool {
        match self {
            Reference::Name { parent, name } => *parent == in_parent && name.as_bytes() == called.as_bytes(),
            _ => false,
        }
    }
}

/// What is remembered while a file is open for writing.
pub(super) struct Writing {
    /// Open files that may write.
    pub(super) writers: u32,
    /// One of them may write through a mapping, or might have before it was closed.
    pub(super) may_map: bool,
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
        let form = match &reference {
            Reference::Handle(handle) if handle.generation() == generation => handle.form(number),
            Reference::Number => Some(Form::AnyInode32),
            _ => None,
        };
        Node {
            ino,
            number,
            mount,
            generation,
            lookups: AtomicU32::new(0),
            kind: (kind >> KIND_SHIFT) as u8,
            form,
            hot: AtomicBool::new(false),
            absent: AtomicU8::new(0),
            state: Mutex::new(State {
                reference: form.is_none().then(|| Box::new(reference)),
                uses: None,
            }),
        }
    }

    /// Type bits of the mode.
    pub(crate) fn kind(&self) -> u32 {
        u32::from(self.kind) << KIND_SHIFT
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind() == libc::S_IFREG
    }

    /// Whether the birth time tells this inode from all that ever have its number.
    pub(super) fn is_by_birth(&self) -> bool {
        self.form == Some(Form::AnyInode32)
    }

    /// How it is opened again.
    pub(super) fn reference(&self) -> Reference {
        match self.form {
            Some(Form::AnyInode32) => Reference::Number,
            Some(form) => Reference::Handle(Handle::of(form, self.number, self.generation)),
            None => match &self.state.lock().reference {
                Some(reference) => (**reference).clone(),
                None => Reference::Descriptor,
            },
        }
    }

    /// It is opened again by `reference` from now on, unless its handle serves for ever.
    pub(super) fn set_reference(&self, reference: Reference) {
        if self.form.is_none() {
            self.state.lock().reference = Some(Box::new(reference));
        }
    }

    /// Looks at what is remembered of its use, if it is or was in use.
    pub(super) fn look<T>(&self, f: impl FnOnce(&Uses) -> T) -> Option<T> {
        self.state.lock().uses.as_deref().map(f)
    }

    /// Changes what is remembered of its use.
    pub(super) fn change<T>(&self, f: impl FnOnce(&mut Uses) -> T) -> T {
        let mut state = self.state.lock();
        let uses = state.uses.get_or_insert_default();
        let result = f(uses);
        if uses.is_none() {
            state.uses = None;
        }
        result
    }

    /// Whether somebody has the file open for writing.
    pub(super) fn is_being_written(&self) -> bool {
        self.look(|uses| uses.writing.is_some()).unwrap_or(false)
    }

    /// Keeps a descriptor until the table lets go of the node: nothing else leads to it.
    pub(super) fn pin_fd(&self, fd: OwnedFd) {
        self.change(|uses| uses.fd = Some(Arc::new(fd)));
    }

    /// The kept descriptor, if there is one.
    pub(super) fn kept_fd(&self) -> Option<Arc<OwnedFd>> {
        let fd = self.look(|uses| uses.fd.clone()).flatten();
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
        let fd = Arc::new(fd);
        let kept = node.change(|uses| uses.fd.get_or_insert_with(|| fd.clone()).clone());
        if !Arc::ptr_eq(&kept, &fd) {
            return kept;
        }
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
        match self.reference() {
            Reference::Descriptor => None,
            _ => self.change(|uses| uses.fd.take()),
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
        let named = || Reference::name(Ino(1), OsStr::new("x"));
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
