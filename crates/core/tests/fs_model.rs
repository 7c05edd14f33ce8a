//! Random operations on a stack, each compared with a model in memory: the outcome, and then the whole tree with
//! contents, modes, link counts and attributes. With file handles and without, through forgetting and reopening.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vexfs_core::Error;
use vexfs_core::fs::change::{Change, ChangeSink};
use vexfs_core::fs::ops::{Caller, Entry, SetAttr};
use vexfs_core::fs::{Reopen, Stack, StackOptions};
use vexfs_core::ids::{Ino, NodeKey};

const NAMES: [&str; 4] = ["a", "b", "c", "\u{1f600} d"];
const FILE_MAX: u64 = 20_000;
const HANDLES_MAX: usize = 4;
const TARGET: &str = "../a target";

/// A name in one of the directories that exist, which is chosen by number.
type At = (usize, usize);

#[derive(Clone, Debug)]
enum Op {
    Create {
        at: At,
        exclusive: bool,
    },
    Mkdir {
        at: At,
    },
    Symlink {
        at: At,
    },
    Link {
        from: At,
        to: At,
    },
    Unlink {
        at: At,
    },
    Rmdir {
        at: At,
    },
    Rename {
        from: At,
        to: At,
        flags: u32,
    },
    Open {
        at: At,
        truncate: bool,
    },
    Write {
        handle: usize,
        offset: u64,
        len: usize,
        byte: u8,
        append: bool,
    },
    Close {
        handle: usize,
    },
    Truncate {
        at: At,
        size: u64,
    },
    Chmod {
        at: At,
        mode: u32,
    },
    SetXattr {
        at: At,
        value: u8,
    },
    RemoveXattr {
        at: At,
    },
    Copy {
        from: usize,
        to: usize,
        offset: u64,
        len: usize,
    },
    Forget,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let at = || (0..6usize, 0..NAMES.len());
    let flags =
        prop_oneof![4 => Just(0), 1 => Just(libc::RENAME_NOREPLACE), 1 => Just(libc::RENAME_EXCHANGE)];
    let handle = 0..HANDLES_MAX;
    prop_oneof![
        4 => (at(), any::<bool>()).prop_map(|(at, exclusive)| Op::Create { at, exclusive }),
        3 => at().prop_map(|at| Op::Mkdir { at }),
        1 => at().prop_map(|at| Op::Symlink { at }),
        2 => (at(), at()).prop_map(|(from, to)| Op::Link { from, to }),
        2 => at().prop_map(|at| Op::Unlink { at }),
        1 => at().prop_map(|at| Op::Rmdir { at }),
        4 => (at(), at(), flags).prop_map(|(from, to, flags)| Op::Rename { from, to, flags }),
        3 => (at(), any::<bool>()).prop_map(|(at, truncate)| Op::Open { at, truncate }),
        6 => (handle.clone(), 0..FILE_MAX / 2, 1..5000usize, any::<u8>(), any::<bool>()).prop_map(
            |(handle, offset, len, byte, append)| Op::Write { handle, offset, len, byte, append }
        ),
        2 => handle.clone().prop_map(|handle| Op::Close { handle }),
        2 => (at(), 0..FILE_MAX).prop_map(|(at, size)| Op::Truncate { at, size }),
        1 => (at(), 0..0o100u32).prop_map(|(at, mode)| Op::Chmod { at, mode: mode | 0o700 }),
        1 => (at(), any::<u8>()).prop_map(|(at, value)| Op::SetXattr { at, value }),
        1 => at().prop_map(|at| Op::RemoveXattr { at }),
        1 => (handle.clone(), handle, 0..FILE_MAX / 4, 1..5000usize)
            .prop_map(|(from, to, offset, len)| Op::Copy { from, to, offset, len }),
        1 => Just(Op::Forget),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Clone, Debug)]
struct Node {
    body: Body,
    mode: u32,
    xattr: Option<u8>,
}

#[derive(Clone, Debug)]
enum Body {
    File(Vec<u8>),
    Symlink,
    Dir(BTreeMap<&'static str, usize>),
}

/// The tree as it should be. Node 0 is the root; nodes are never removed, only unlinked.
struct Model {
    nodes: Vec<Node>,
}

/// A directory of the model and the way to it.
type Place = (usize, Vec<&'static str>);

impl Model {
    fn new() -> Model {
        let mut model = Model { nodes: Vec::new() };
        model.add(Body::Dir(BTreeMap::new()), 0o755);
        model
    }

    fn add(&mut self, body: Body, mode: u32) -> usize {
        self.nodes.push(Node {
            body,
            mode,
            xattr: None,
        });
        self.nodes.len() - 1
    }

    fn entries(&self, dir: usize) -> &BTreeMap<&'static str, usize> {
        let Body::Dir(entries) = &self.nodes[dir].body else {
            unreachable!("only directories are asked")
        };
        entries
    }

    fn entries_mut(&mut self, dir: usize) -> &mut BTreeMap<&'static str, usize> {
        let Body::Dir(entries) = &mut self.nodes[dir].body else {
            unreachable!("only directories are asked")
        };
        entries
    }

    fn content_mut(&mut self, node: usize) -> &mut Vec<u8> {
        let Body::File(content) = &mut self.nodes[node].body else {
            unreachable!("only files are asked")
        };
        content
    }

    fn is_dir(&self, node: usize) -> bool {
        matches!(self.nodes[node].body, Body::Dir(_))
    }

    /// Reachable directories, in a fixed order.
    fn dirs(&self) -> Vec<Place> {
        let mut all: Vec<Place> = vec![(0, vec![])];
        let mut at = 0;
        while at < all.len() {
            let (dir, path) = all[at].clone();
            for (name, node) in self.entries(dir).iter().filter(|(_, node)| self.is_dir(**node)) {
                all.push((*node, [&path[..], &[name]].concat()));
            }
            at += 1;
        }
        all
    }

    fn links(&self, node: usize) -> u32 {
        let in_dir = |dir: usize| self.entries(dir).values().filter(|n| **n == node).count() as u32;
        self.dirs().iter().map(|(dir, _)| in_dir(*dir)).sum()
    }

    fn is_below(&self, node: usize, ancestor: usize) -> bool {
        node == ancestor
            || self.is_dir(ancestor) && self.entries(ancestor).values().any(|n| self.is_below(node, *n))
    }

    /// rename(2), in the order in which the kernel checks.
    fn rename(
        &mut self,
        from: (usize, &'static str),
        to: (usize, &'static str),
        flags: u32,
    ) -> Result<(), i32> {
        let source = *self.entries(from.0).get(from.1).ok_or(libc::ENOENT)?;
        let target = self.entries(to.0).get(to.1).copied();
        let exchange = flags == libc::RENAME_EXCHANGE;
        if flags == libc::RENAME_NOREPLACE && target.is_some() {
            return Err(libc::EEXIST);
        }
        if exchange && target.is_none() {
            return Err(libc::ENOENT);
        }
        if self.is_below(to.0, source) {
            return Err(libc::EINVAL);
        }
        if let Some(target) = target {
            if self.is_below(from.0, target) {
                return Err(if exchange { libc::EINVAL } else { libc::ENOTEMPTY });
            }
            if target == source {
                return Ok(());
            }
            match (self.is_dir(source), self.is_dir(target)) {
                _ if exchange => {}
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.entries(target).is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
        }
        self.entries_mut(from.0).remove(from.1);
        self.entries_mut(to.0).insert(to.1, source);
        if let (true, Some(target)) = (exchange, target) {
            self.entries_mut(from.0).insert(from.1, target);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Recorder {
    maybe: Mutex<Vec<NodeKey>>,
    changes: Mutex<Vec<Change>>,
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
struct Subject {
    backing: tempfile::TempDir,
    handles: bool,
    stack: Stack,
    changes: Arc<Recorder>,
    lookups: BTreeMap<Ino, u64>,
    open: Vec<OpenHandle>,
}

struct OpenHandle {
    ino: Ino,
    fh: u64,
    node: usize,
    wrote: bool,
}

impl Subject {
    fn new(handles: bool) -> Subject {
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

    fn count(&mut self, entry: &Entry) -> Ino {
        *self.lookups.entry(entry.attr.ino).or_default() += 1;
        entry.attr.ino
    }

    fn lookup(&mut self, parent: Ino, name: &str) -> Ino {
        let entry = self.stack.lookup(parent, OsStr::new(name)).unwrap();
        self.count(&entry)
    }

    fn walk(&mut self, path: &[&str]) -> Ino {
        path.iter().fold(Ino::ROOT, |dir, name| self.lookup(dir, name))
    }

    fn forget(&mut self) {
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

    fn close(&mut self, at: usize) {
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

    fn reopen(&mut self) {
        while !self.open.is_empty() {
            self.close(0);
        }
        self.lookups.clear();
        self.stack = mount(&self.backing, self.handles, self.changes.clone());
    }
}

fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: std::process::id(),
    }
}

fn mount(backing: &tempfile::TempDir, handles: bool, changes: Arc<Recorder>) -> Stack {
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

/// The outcome without its value.
fn outcome<T>(result: &Result<T, Error>) -> Result<(), i32> {
    result.as_ref().map(|_| ()).map_err(Error::errno)
}

/// Does one operation on both and compares its outcome.
fn step(model: &mut Model, subject: &mut Subject, op: &Op) {
    let dirs = model.dirs();
    let place = |(dir, name): At| (dirs[dir % dirs.len()].clone(), NAMES[name]);
    match *op {
        Op::Create { at, exclusive } => create(model, subject, place(at), exclusive),
        Op::Mkdir { at } => make(model, subject, place(at), true),
        Op::Symlink { at } => make(model, subject, place(at), false),
        Op::Link { from, to } => link(model, subject, place(from), place(to)),
        Op::Unlink { at } => remove(model, subject, place(at), false),
        Op::Rmdir { at } => remove(model, subject, place(at), true),
        Op::Rename { from, to, flags } => rename(model, subject, place(from), place(to), flags),
        Op::Open { at, truncate } => open(model, subject, place(at), truncate),
        Op::Write {
            handle,
            offset,
            len,
            byte,
            append,
        } => {
            let Some(handle) = subject.open.get_mut(handle) else {
                return;
            };
            let written = subject
                .stack
                .write(handle.ino, handle.fh, offset, &vec![byte; len], append)
                .unwrap();
            assert_eq!(written, len);
            handle.wrote = true;
            let content = model.content_mut(handle.node);
            let start = if append { content.len() } else { offset as usize };
            put(content, start, &vec![byte; len]);
        }
        Op::Close { handle } if handle < subject.open.len() => subject.close(handle),
        Op::Copy {
            from,
            to,
            offset,
            len,
        } if from.max(to) < subject.open.len() => {
            copy(model, subject, (from, to), offset, len);
        }
        Op::Close { .. } | Op::Copy { .. } => {}
        Op::Truncate { at, .. } | Op::Chmod { at, .. } | Op::SetXattr { at, .. } | Op::RemoveXattr { at } => {
            let ((dir, path), name) = place(at);
            let Some(node) = model.entries(dir).get(name).copied() else {
                return;
            };
            let parent = subject.walk(&path);
            let ino = subject.lookup(parent, name);
            attribute(model, subject, op, node, ino);
        }
        Op::Forget => subject.forget(),
        Op::Reopen => subject.reopen(),
    }
}

fn create(
    model: &mut Model,
    subject: &mut Subject,
    ((dir, path), name): (Place, &'static str),
    exclusive: bool,
) {
    let known = model.entries(dir).get(name).copied();
    let expected = match known.map(|node| &model.nodes[node].body) {
        Some(_) if exclusive => Err(libc::EEXIST),
        None | Some(Body::File(_)) => Ok(()),
        Some(Body::Dir(_)) => Err(libc::EISDIR),
        Some(Body::Symlink) => Err(libc::ELOOP),
    };
    let parent = subject.walk(&path);
    let flags = libc::O_RDWR | if exclusive { libc::O_EXCL } else { 0 };
    let made = subject.stack.create(
        &me(),
        parent,
        OsStr::new(name),
        (0o666, 0o022),
        flags,
        Reopen::Daemon,
    );
    assert_eq!(outcome(&made), expected);
    let Ok((entry, opened)) = made else { return };
    let node = known.unwrap_or_else(|| model.add(Body::File(Vec::new()), 0o644));
    model.entries_mut(dir).insert(name, node);
    let ino = subject.count(&entry);
    subject.open.push(OpenHandle {
        ino,
        fh: opened.fh,
        node,
        wrote: false,
    });
    if subject.open.len() > HANDLES_MAX {
        subject.close(HANDLES_MAX);
    }
}

fn make(model: &mut Model, subject: &mut Subject, ((dir, path), name): (Place, &'static str), is_dir: bool) {
    let expected = if model.entries(dir).contains_key(name) {
        Err(libc::EEXIST)
    } else {
        Ok(())
    };
    let parent = subject.walk(&path);
    let made = match is_dir {
        true => subject.stack.mkdir(&me(), parent, OsStr::new(name), 0o777, 0o022),
        false => subject
            .stack
            .symlink(&me(), parent, OsStr::new(name), OsStr::new(TARGET)),
    };
    assert_eq!(outcome(&made), expected);
    let Ok(entry) = made else { return };
    subject.count(&entry);
    let node = match is_dir {
        true => model.add(Body::Dir(BTreeMap::new()), 0o755),
        false => model.add(Body::Symlink, 0o777),
    };
    model.entries_mut(dir).insert(name, node);
}

fn link(model: &mut Model, subject: &mut Subject, from: (Place, &'static str), to: (Place, &'static str)) {
    let (((from, from_path), from_name), ((to, to_path), to_name)) = (from, to);
    let Some(node) = model.entries(from).get(from_name).copied() else {
        return;
    };
    let expected = match model.entries(to).contains_key(to_name) {
        true => Err(libc::EEXIST),
        false if model.is_dir(node) => Err(libc::EPERM),
        false => Ok(()),
    };
    let parent = subject.walk(&from_path);
    let ino = subject.lookup(parent, from_name);
    let parent = subject.walk(&to_path);
    let linked = subject.stack.link(ino, parent, OsStr::new(to_name));
    assert_eq!(outcome(&linked), expected);
    if let Ok(entry) = linked {
        assert_eq!(subject.count(&entry), ino, "a hard link is the same inode");
        model.entries_mut(to).insert(to_name, node);
    }
}

fn remove(
    model: &mut Model,
    subject: &mut Subject,
    ((dir, path), name): (Place, &'static str),
    is_rmdir: bool,
) {
    let expected = match model.entries(dir).get(name) {
        None => Err(libc::ENOENT),
        Some(node) => match (model.is_dir(*node), is_rmdir) {
            (true, false) => Err(libc::EISDIR),
            (false, true) => Err(libc::ENOTDIR),
            (true, true) if !model.entries(*node).is_empty() => Err(libc::ENOTEMPTY),
            _ => Ok(()),
        },
    };
    let parent = subject.walk(&path);
    let removed = match is_rmdir {
        true => subject.stack.rmdir(parent, OsStr::new(name)),
        false => subject.stack.unlink(parent, OsStr::new(name)),
    };
    assert_eq!(outcome(&removed), expected);
    if expected.is_ok() {
        model.entries_mut(dir).remove(name);
    }
}

fn rename(
    model: &mut Model,
    subject: &mut Subject,
    ((from, from_path), from_name): (Place, &'static str),
    ((to, to_path), to_name): (Place, &'static str),
    flags: u32,
) {
    let (parent, new_parent) = (subject.walk(&from_path), subject.walk(&to_path));
    let expected = model.rename((from, from_name), (to, to_name), flags);
    subject.changes.changes.lock().unwrap().clear();
    let renamed = subject.stack.rename(
        parent,
        OsStr::new(from_name),
        new_parent,
        OsStr::new(to_name),
        flags,
    );
    assert_eq!(outcome(&renamed), expected);
    if expected.is_ok() {
        let told: Vec<OsString> = subject
            .changes
            .changes
            .lock()
            .unwrap()
            .iter()
            .filter_map(name_of)
            .collect();
        assert_eq!(told, [to_name, from_name], "the new name first, then the old one");
    }
}

fn open(
    model: &mut Model,
    subject: &mut Subject,
    ((dir, path), name): (Place, &'static str),
    truncate: bool,
) {
    let Some(node) = model.entries(dir).get(name).copied() else {
        return;
    };
    if subject.open.len() == HANDLES_MAX {
        return;
    }
    let parent = subject.walk(&path);
    let ino = subject.lookup(parent, name);
    let expected = match &mut model.nodes[node].body {
        Body::File(content) => {
            if truncate {
                content.clear();
            }
            Ok(())
        }
        Body::Dir(_) => Err(libc::EISDIR),
        Body::Symlink => Err(libc::ENXIO),
    };
    let key = subject.stack.node_key(ino).unwrap();
    subject.changes.maybe.lock().unwrap().clear();
    let flags = libc::O_RDWR | if truncate { libc::O_TRUNC } else { 0 };
    let opened = subject.stack.open(&me(), ino, flags, Reopen::Daemon);
    assert_eq!(outcome(&opened), expected);
    if let Ok(opened) = opened {
        assert_eq!(
            *subject.changes.maybe.lock().unwrap(),
            [key],
            "marked before the reply"
        );
        subject.open.push(OpenHandle {
            ino,
            fh: opened.fh,
            node,
            wrote: truncate,
        });
    }
}

fn copy(model: &mut Model, subject: &mut Subject, (from, to): (usize, usize), offset: u64, len: usize) {
    let (source, target) = (&subject.open[from], &subject.open[to]);
    if source.node == target.node {
        return;
    }
    let bytes = model.content_mut(source.node).clone();
    let part = bytes
        .get(offset as usize..bytes.len().min(offset as usize + len))
        .unwrap_or_default();
    let copied = subject
        .stack
        .copy_file_range((source.ino, source.fh, offset), (target.ino, target.fh, 0), len)
        .unwrap();
    assert_eq!(copied, part.len());
    put(model.content_mut(target.node), 0, part);
    subject.open[to].wrote |= copied > 0;
}

/// Changes an attribute, or the length, of one file.
fn attribute(model: &mut Model, subject: &mut Subject, op: &Op, node: usize, ino: Ino) {
    let is_link = matches!(model.nodes[node].body, Body::Symlink);
    let name = OsStr::new("user.x");
    match *op {
        Op::Truncate { size, .. } => {
            let set = SetAttr {
                size: Some(size),
                ..SetAttr::default()
            };
            let done = subject.stack.setattr(&me(), ino, &set);
            let expected = match &mut model.nodes[node].body {
                Body::File(content) => {
                    content.resize(size as usize, 0);
                    Ok(())
                }
                Body::Dir(_) => Err(libc::EISDIR),
                Body::Symlink => Err(libc::EINVAL),
            };
            assert_eq!(outcome(&done), expected);
        }
        Op::Chmod { mode, .. } if !is_link => {
            let set = SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            };
            let attr = subject.stack.setattr(&me(), ino, &set).unwrap();
            assert_eq!(attr.mode & 0o7777, mode);
            model.nodes[node].mode = mode;
        }
        Op::SetXattr { value, .. } => {
            let set = subject.stack.setxattr(&me(), ino, name, &[value], 0);
            // User attributes belong to files and directories only.
            assert_eq!(outcome(&set), if is_link { Err(libc::EPERM) } else { Ok(()) });
            if !is_link {
                model.nodes[node].xattr = Some(value);
            }
        }
        Op::RemoveXattr { .. } => {
            let removed = subject.stack.removexattr(&me(), ino, name);
            let expected = match model.nodes[node].xattr.take() {
                _ if is_link => Err(libc::EPERM),
                Some(_) => Ok(()),
                None => Err(libc::ENODATA),
            };
            assert_eq!(outcome(&removed), expected);
        }
        _ => {}
    }
}

fn put(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    if !data.is_empty() && content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    content[at..at + data.len()].copy_from_slice(data);
}

fn name_of(change: &Change) -> Option<OsString> {
    match change {
        Change::Name { name, .. } => Some(name.clone()),
        _ => None,
    }
}

/// The whole tree, and the files that are only open.
fn compare(model: &Model, subject: &mut Subject) {
    let mut inos: BTreeMap<usize, Ino> = BTreeMap::new();
    for (dir, path) in model.dirs() {
        let dir_ino = subject.walk(&path);
        let expected: Vec<&str> = model.entries(dir).keys().copied().collect();
        assert_eq!(list(subject, dir_ino), expected, "names in {path:?}");
        for (name, node) in model.entries(dir) {
            let ino = subject.lookup(dir_ino, name);
            assert_eq!(
                *inos.entry(*node).or_insert(ino),
                ino,
                "names of one file lead to one inode"
            );
            compare_node(model, subject, *node, ino);
        }
    }
    for handle in &subject.open {
        let Body::File(content) = &model.nodes[handle.node].body else {
            unreachable!("only files are open")
        };
        let mut buffer = vec![0; content.len() + 1];
        let len = subject.stack.read(handle.ino, handle.fh, 0, &mut buffer).unwrap();
        assert!(&buffer[..len] == content, "an open file, maybe without a name");
        let attr = subject.stack.getattr(handle.ino, Some(handle.fh)).unwrap();
        assert_eq!(
            (attr.size, attr.nlink),
            (content.len() as u64, model.links(handle.node))
        );
        let asked_without_handle = subject.stack.getattr(handle.ino, None).unwrap();
        assert_eq!(
            (asked_without_handle.size, asked_without_handle.nlink),
            (attr.size, attr.nlink)
        );
    }
}

fn compare_node(model: &Model, subject: &Subject, node: usize, ino: Ino) {
    let attr = subject.stack.getattr(ino, None).unwrap();
    let expected = &model.nodes[node];
    assert_eq!(attr.mode & 0o7777, expected.mode);
    let mut value = [0; 8];
    let xattr = match subject.stack.getxattr(ino, OsStr::new("user.x"), &mut value) {
        Ok(len) => {
            assert_eq!(len, 1);
            Some(value[0])
        }
        Err(e) => {
            assert!([libc::ENODATA, libc::EPERM].contains(&e.errno()), "{e}");
            None
        }
    };
    assert_eq!(xattr, expected.xattr);
    match &expected.body {
        Body::File(content) => {
            assert_eq!(attr.mode & libc::S_IFMT, libc::S_IFREG);
            assert_eq!((attr.size, attr.nlink), (content.len() as u64, model.links(node)));
            let opened = subject
                .stack
                .open(&me(), ino, libc::O_RDONLY, Reopen::Daemon)
                .unwrap();
            let mut buffer = vec![0; content.len() + 1];
            let len = subject.stack.read(ino, opened.fh, 0, &mut buffer).unwrap();
            assert!(&buffer[..len] == content, "contents differ");
            subject.stack.release(ino, opened.fh).unwrap();
        }
        Body::Symlink => assert_eq!(subject.stack.readlink(ino).unwrap(), TARGET.as_bytes()),
        Body::Dir(_) => assert_eq!(attr.mode & libc::S_IFMT, libc::S_IFDIR),
    }
}

/// The names in a directory, listed three at a time with lookups, and at once without.
fn list(subject: &mut Subject, dir: Ino) -> Vec<String> {
    let fh = subject.stack.opendir(dir).unwrap();
    let (mut names, mut plain, mut offset) = (Vec::new(), Vec::new(), 0);
    loop {
        let mut found = Vec::new();
        let from = offset;
        let add = |entry: &vexfs_core::fs::DirEntry<'_>, looked_up: &Entry| {
            if found.len() == 3 {
                return true;
            }
            offset = entry.next_offset;
            found.push((entry.name.to_owned(), *looked_up));
            false
        };
        subject.stack.readdirplus(fh, from, add).unwrap();
        if found.is_empty() {
            break;
        }
        for (name, entry) in found {
            let name = name.into_string().unwrap();
            if name != "." && name != ".." {
                subject.count(&entry);
            }
            names.push(name);
        }
    }
    let add = |entry: &vexfs_core::fs::DirEntry<'_>| {
        plain.push(entry.name.to_str().unwrap().to_owned());
        false
    };
    subject.stack.readdir(fh, 0, add).unwrap();
    subject.stack.releasedir(fh);
    assert_eq!(plain, names, "both listings agree");
    names.retain(|n| n != "." && n != "..");
    names.sort();
    names
}

fn run(handles: bool, ops: &[Op]) {
    let (mut model, mut subject) = (Model::new(), Subject::new(handles));
    for op in ops {
        step(&mut model, &mut subject, op);
        compare(&model, &mut subject);
    }
    subject.reopen();
    compare(&model, &mut subject);
    subject.forget();
    assert_eq!(subject.stack.open_files(), 0, "nothing is left open");
    let may = rustix::thread::capabilities(None).unwrap().effective;
    let may = may.contains(rustix::thread::CapabilitySet::DAC_READ_SEARCH);
    assert_eq!(
        subject.stack.uses_handles(),
        handles && may,
        "the test ran in the wrong mode"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stack_is_a_filesystem_by_handle(ops in prop::collection::vec(op(), 1..60)) {
        run(true, &ops);
    }

    #[test]
    fn a_stack_is_a_filesystem_by_name(ops in prop::collection::vec(op(), 1..60)) {
        run(false, &ops);
    }
}
