//! A copy-on-write view of the whole tree: what a transaction's `root` shows.
//!
//! The lower layer is the backing tree, the upper one a directory of the stage; both are [`Stack`]s, so files are made
//! with the caller's identity, inherit ACLs and group from real directories, and keep every attribute. What the upper
//! layer cannot say stands in the table of nodes: which base inode a staged one came from, and which base names are
//! hidden. A moved directory is an empty upper directory that goes on showing its base; a moved file is an empty
//! placeholder until it is written.
//!
//! A node's number is its own for the life of the transaction, whichever layer serves it. What is staged is pinned in
//! the table: the table grows with the change, not with the tree.
//!
//! Locks: `changing` before `state`. `changing` orders changes of names and copies, and is held while they go on, as
//! the kernel holds a directory's lock; `state` is never held across a system call.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::told::AllTold;
use crate::fs::change::{Change, ChangeSink};
use crate::fs::ops::{Attr, Caller, Entry, Timestamp};
use crate::fs::{Stack, StackOptions};
use crate::ids::{Ino, NodeKey};
use crate::{Error, Result};

mod attributes;
pub(super) mod before;
mod content;
mod copying;
mod files;
mod limits;
mod listing;
mod names;

use before::Contents;
use files::{OpenFile, Reader};
use limits::{Limits, Seen};
use listing::Listing;

/// How long the kernel may believe what it was told: changes outside of the transaction show through after it.
pub const TTL: Duration = Duration::from_secs(1);

/// Bits of a number within a view; above them stands which view.
pub(super) const NUMBER_BITS: u32 = 40;

/// The upper directory that stands for the root, and that of further links to staged copies, in the stage.
pub(super) const TREE: &str = "tree";
pub(super) const KEPT: &str = "kept";

/// A base inode as it was when the transaction first touched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// Which inode.
    pub(super) key: NodeKey,
    /// Type bits of the mode.
    kind: u32,
    pub(super) size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
}

impl Base {
    pub(super) fn is_regular(&self) -> bool {
        self.kind == libc::S_IFREG
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == libc::S_IFDIR
    }

    pub(super) fn of(key: NodeKey, attr: &Attr) -> Base {
        let kind = attr.mode & libc::S_IFMT;
        // A directory's size and times change with its children, each of which is looked at by itself.
        let directory = kind == libc::S_IFDIR;
        let unless = |time: Timestamp| if directory { Timestamp::default() } else { time };
        Base {
            key,
            kind,
            size: if directory { 0 } else { attr.size },
            mtime: unless(attr.mtime),
            ctime: unless(attr.ctime),
        }
    }
}

/// The view of one transaction.
pub struct View {
    pub(super) lower: Arc<Stack>,
    pub(super) upper: Stack,
    /// The daemon itself, for copies.
    daemon: Caller,
    /// Upper bits of this view's numbers.
    prefix: u64,
    root: Ino,
    changing: Mutex<()>,
    frozen: AtomicBool,
    limits: Limits,
    before: Contents,
    pub(super) state: Mutex<State>,
    files: Mutex<HashMap<u64, OpenFile>>,
    readers: Mutex<HashMap<Ino, Reader>>,
    listings: Mutex<HashMap<u64, Arc<Listing>>>,
    last_handle: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) nodes: HashMap<u64, Node>,
    /// Numbers of the inodes of each layer; never taken back while the transaction lives.
    pub(super) by_lower: HashMap<Ino, u64>,
    pub(super) by_upper: HashMap<Ino, u64>,
    last: u64,
    /// What stood at each changed name of a base directory when it was changed first. `None`: nothing.
    pub(super) touched: HashMap<(u64, OsString), Option<Base>>,
    /// Names of base directories that are no longer to be seen, by directory.
    pub(super) hidden: HashMap<u64, HashSet<OsString>>,
    /// Base inodes that a strict transaction read, with their nodes.
    read: HashMap<Ino, (u64, Seen)>,
    /// What was told of files.
    pub(super) told: AllTold,
    /// Base directories that were removed, with the names that were removed from them before.
    pub(super) emptied: Vec<(Ino, HashSet<OsString>)>,
}

impl State {
    /// The number of a base inode. An inode that came after another with the same base number is another file.
    fn number_of_lower(&mut self, prefix: u64, lower: Ino, generation: u64) -> u64 {
        if let Some(number) = self.by_lower.get(&lower) {
            let same = |node: &Node| node.lower_generation == generation || node.lower == Some(Ino::ROOT);
            if self.nodes.get(number).is_none_or(same) {
                return *number;
            }
        }
        self.last += 1;
        self.by_lower.insert(lower, prefix | self.last);
        prefix | self.last
    }

    /// The number under which a base inode is listed: what it will have, most likely, when it is looked up.
    fn listed_number(&mut self, prefix: u64, lower: Ino) -> u64 {
        match self.by_lower.get(&lower) {
            Some(number) => *number,
            None => self.number_of_lower(prefix, lower, 0),
        }
    }
}

/// An inode of the view.
#[derive(Clone)]
pub(super) struct Node {
    /// The base inode, if there is one.
    pub(super) lower: Option<Ino>,
    pub(super) lower_generation: u64,
    /// The staged inode: a copy, a new file, a placeholder of a moved one.
    pub(super) upper: Option<Ino>,
    /// Content and attributes are the staged inode's. Always so for directories in the stage.
    pub(super) copied: bool,
    /// Type bits of the mode.
    pub(super) kind: u32,
    /// Where it was seen last.
    pub(super) parent: u64,
    pub(super) name: OsString,
    /// A base file that lost the name it was seen under before it was copied, or a directory that was removed.
    pub(super) gone: bool,
    /// Something was told of it.
    pub(super) told: bool,
    /// Where the base has it: the directory's node and the name, from when it came into the stage.
    pub(super) origin: Option<(u64, OsString)>,
    /// The base inode's links when it was copied.
    pub(super) base_links: u32,
    /// Attributes of the base as they were told last, to see whether cached pages are right.
    pub(super) seen: Option<(u64, Timestamp, Timestamp)>,
    /// Cached pages are those of the base before it was copied.
    outdated: bool,
    /// A base directory as it was when it came into the stage.
    pub(super) before: Option<Attr>,
    /// Mode, owner, times or extended attributes of a directory were set.
    pub(super) set: bool,
    lookups: u64,
}

impl Node {
    pub(super) fn is_dir(&self) -> bool {
        self.kind == libc::S_IFDIR
    }
}

/// Which layer serves a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Lower,
    Upper,
}

/// The stage is nobody's business: its changes reach the index when they are committed.
struct Unheard;

impl ChangeSink for Unheard {
    fn maybe_changed(&self, _node: NodeKey) {}
    fn changed(&self, _change: Change) {}
}

impl View {
    /// A view over `lower` with an empty stage: `stage` is an empty directory on the filesystem of the backing tree.
    /// `index` distinguishes the numbers of views that live at the same time.
    pub fn new(lower: Arc<Stack>, stage: OwnedFd, index: u32) -> Result<View> {
        let options = StackOptions {
            ctlname: None,
            handles: lower.uses_handles(),
            ..StackOptions::default()
        };
        let before = Contents::new(rustix::io::fcntl_dupfd_cloexec(&stage, 0)?);
        let upper = Stack::new(stage, options, Arc::new(Unheard))?;
        let daemon = Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: 0,
        };
        upper.mkdir(&daemon, Ino::ROOT, OsStr::new(KEPT), 0o700, 0)?;
        let tree = upper.mkdir(&daemon, Ino::ROOT, OsStr::new(TREE), 0o700, 0)?;
        let prefix = Ino::STAGED_BIT | u64::from(index) << NUMBER_BITS;
        let view = View {
            lower,
            upper,
            daemon,
            prefix,
            root: Ino(prefix | 1),
            changing: Mutex::new(()),
            frozen: AtomicBool::new(false),
            limits: Limits::default(),
            before,
            state: Mutex::default(),
            files: Mutex::default(),
            readers: Mutex::default(),
            listings: Mutex::default(),
            last_handle: AtomicU64::new(0),
        };
        let base = view.lower.getattr(Ino::ROOT, None)?;
        view.copy_attributes(Ino::ROOT, tree.attr.ino)?;
        let mut state = view.state.lock();
        state.last = 1;
        state.by_lower.insert(Ino::ROOT, view.root.0);
        state.by_upper.insert(tree.attr.ino, view.root.0);
        state.nodes.insert(
            view.root.0,
            Node {
                lower: Some(Ino::ROOT),
                lower_generation: 0,
                upper: Some(tree.attr.ino),
                copied: true,
                kind: libc::S_IFDIR,
                parent: view.root.0,
                name: OsString::new(),
                gone: false,
                told: false,
                origin: None,
                base_links: 0,
                seen: None,
                outdated: false,
                before: Some(base),
                set: false,
                lookups: 0,
            },
        );
        drop(state);
        Ok(view)
    }

    /// The view of the tree's root.
    pub fn root(&self) -> Ino {
        self.root
    }

    /// The root, looked up once more.
    pub fn lookup_root(&self) -> Result<Entry> {
        let attr = self.getattr(self.root, None)?;
        self.update(self.root, |node| node.lookups += 1)?;
        Ok(self.entry(attr))
    }

    /// Finds a name. The answer counts as one lookup.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Entry> {
        let dir = self.node(parent)?;
        if !dir.is_dir() {
            return Err(Error::Os(libc::ENOTDIR));
        }
        if let Some(upper) = dir.upper {
            match self.upper.lookup(upper, name) {
                Ok(found) => return self.enter_upper(parent, name, &found),
                Err(Error::Os(libc::ENOENT)) => {}
                Err(e) => return Err(e),
            }
        }
        match dir.lower {
            Some(lower) if !self.is_hidden(parent, name) => {
                let found = self.lower.lookup(lower, name)?;
                self.enter_lower(parent, name, &found)
            }
            _ => Err(Error::Os(libc::ENOENT)),
        }
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        let lower = {
            let mut state = self.state.lock();
            let State { nodes, read, .. } = &mut *state;
            let Some(node) = nodes.get_mut(&ino.0) else {
                return;
            };
            node.lookups = node.lookups.saturating_sub(count);
            // What is staged stays until the transaction ends, and what a strict one has read.
            let is_read = node.lower.is_some_and(|lower| read.contains_key(&lower));
            if node.lookups > 0 || node.upper.is_some() || node.told || is_read {
                return;
            }
            let Some(node) = state.nodes.remove(&ino.0) else {
                return;
            };
            node.lower
        };
        if let Some(lower) = lower {
            self.read_never(lower);
            self.lower.forget(lower, 1);
        }
    }

    /// The base inode of a node that is shown as it is.
    pub fn base_key(&self, ino: Ino) -> Option<NodeKey> {
        let node = self.node(ino).ok()?;
        self.lower.node_key(node.lower?)
    }

    /// A name found in the stage; everything there was put there through this view.
    fn enter_upper(&self, parent: Ino, name: &OsStr, found: &Entry) -> Result<Entry> {
        // The stage's inodes are referred to once, since they were made.
        self.upper.forget(found.attr.ino, 1);
        let (number, base) = {
            let mut state = self.state.lock();
            let number = *state
                .by_upper
                .get(&found.attr.ino)
                .ok_or(Error::Os(libc::ESTALE))?;
            let node = state.nodes.get_mut(&number).ok_or(Error::Os(libc::ESTALE))?;
            node.lookups += 1;
            if !node.is_dir() {
                (node.parent, node.name) = (parent.0, name.to_owned());
            }
            (number, node.lower.filter(|_| !node.copied))
        };
        let attr = match base {
            Some(lower) => self.lower.getattr(lower, None)?,
            None => found.attr,
        };
        Ok(self.entry(self.numbered(Ino(number), attr)))
    }

    /// A name found in the base.
    fn enter_lower(&self, parent: Ino, name: &OsStr, found: &Entry) -> Result<Entry> {
        let (number, staged, known) = {
            let mut state = self.state.lock();
            let number = state.number_of_lower(self.prefix, found.attr.ino, found.generation);
            match state.nodes.get_mut(&number) {
                Some(node) => {
                    node.lookups += 1;
                    if node.upper.is_none() {
                        (node.parent, node.name) = (parent.0, name.to_owned());
                        node.gone = false;
                    }
                    (number, node.upper.filter(|_| node.copied), true)
                }
                None => {
                    let node = Node {
                        lower: Some(found.attr.ino),
                        lower_generation: found.generation,
                        upper: None,
                        copied: false,
                        kind: found.attr.mode & libc::S_IFMT,
                        parent: parent.0,
                        name: name.to_owned(),
                        gone: false,
                        told: false,
                        origin: None,
                        base_links: 0,
                        seen: None,
                        outdated: false,
                        before: None,
                        set: false,
                        lookups: 1,
                    };
                    state.nodes.insert(number, node);
                    (number, None, false)
                }
            }
        };
        if known {
            self.lower.forget(found.attr.ino, 1);
        }
        let attr = match staged {
            // Another name of a file that was changed under the first.
            Some(upper) => self.upper.getattr(upper, None)?,
            None => found.attr,
        };
        Ok(self.entry(self.numbered(Ino(number), attr)))
    }

    /// A new inode of the stage gets a number, and its one reference.
    fn enter_new(&self, parent: Ino, name: &OsStr, made: &Entry) -> Entry {
        let number = {
            let mut state = self.state.lock();
            state.last += 1;
            let number = self.prefix | state.last;
            state.by_upper.insert(made.attr.ino, number);
            state.nodes.insert(
                number,
                Node {
                    lower: None,
                    lower_generation: 0,
                    upper: Some(made.attr.ino),
                    copied: true,
                    kind: made.attr.mode & libc::S_IFMT,
                    parent: parent.0,
                    name: name.to_owned(),
                    gone: false,
                    told: false,
                    origin: None,
                    base_links: 0,
                    seen: None,
                    outdated: false,
                    before: None,
                    set: false,
                    lookups: 1,
                },
            );
            number
        };
        self.entry(self.numbered(Ino(number), made.attr))
    }

    pub(super) fn node(&self, ino: Ino) -> Result<Node> {
        self.state
            .lock()
            .nodes
            .get(&ino.0)
            .cloned()
            .ok_or(Error::Os(libc::ESTALE))
    }

    fn is_hidden(&self, dir: Ino, name: &OsStr) -> bool {
        self.state
            .lock()
            .hidden
            .get(&dir.0)
            .is_some_and(|names| names.contains(name))
    }

    fn update<T>(&self, ino: Ino, f: impl FnOnce(&mut Node) -> T) -> Result<T> {
        let mut state = self.state.lock();
        Ok(f(state.nodes.get_mut(&ino.0).ok_or(Error::Os(libc::ESTALE))?))
    }

    /// Begins a change: nobody else changes names until the guard goes. EBUSY while the view is committed.
    pub(super) fn still(&self) -> Result<MutexGuard<'_, ()>> {
        let guard = self.changing.lock();
        match self.frozen.load(Acquire) {
            true => Err(Error::Os(libc::EBUSY)),
            false => Ok(guard),
        }
    }

    /// Keeps names as they are, for a look at them, until the guard goes.
    pub(super) fn quiet(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    /// From now on nothing can be changed. A commit freezes the view instead of holding a lock: requests that wait for
    /// the lock have passed the gate, and the gate waits for them.
    pub(super) fn freeze(&self) {
        let _quiet = self.quiet();
        self.frozen.store(true, Release);
    }

    /// The commit failed: everything can be changed again.
    pub(super) fn thaw(&self) {
        self.frozen.store(false, Release);
    }

    /// The layer that serves content and attributes of a node, and its inode there.
    fn serving(&self, node: &Node) -> (Layer, Ino) {
        match (node.upper, node.lower) {
            (Some(upper), _) if node.copied => (Layer::Upper, upper),
            (_, Some(lower)) => (Layer::Lower, lower),
            (Some(upper), None) => (Layer::Upper, upper),
            (None, None) => unreachable!("a node is in one of the layers"),
        }
    }

    fn stack(&self, layer: Layer) -> &Stack {
        match layer {
            Layer::Lower => &self.lower,
            Layer::Upper => &self.upper,
        }
    }

    fn numbered(&self, ino: Ino, attr: Attr) -> Attr {
        // Links of a merged directory are not known without reading both; 1 says so, and find(1) understands.
        let nlink = if attr.mode & libc::S_IFMT == libc::S_IFDIR {
            1
        } else {
            attr.nlink
        };
        Attr { ino, nlink, ..attr }
    }

    fn entry(&self, attr: Attr) -> Entry {
        Entry {
            attr,
            generation: 0,
            entry_ttl: TTL,
            attr_ttl: TTL,
        }
    }

    fn next_handle(&self) -> u64 {
        self.last_handle.fetch_add(1, Relaxed) + 1
    }
}

impl Drop for View {
    /// Gives back what it holds of the backing tree's stack, which goes on without it.
    fn drop(&mut self) {
        for file in self.files.get_mut().values() {
            file.give_back(&self.lower);
        }
        for reader in self.readers.get_mut().values() {
            reader.give_back(&self.lower);
        }
        for (number, node) in &self.state.get_mut().nodes {
            if let Some(lower) = node.lower.filter(|_| *number != self.root.0) {
                self.lower.forget(lower, 1);
            }
        }
    }
}
