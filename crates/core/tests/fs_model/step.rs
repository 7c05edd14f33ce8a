//! One operation, done to both, with equal outcome.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use vexfs_core::Error;
use vexfs_core::fs::Reopen;
use vexfs_core::fs::change::Change;
use vexfs_core::fs::ops::SetAttr;
use vexfs_core::ids::Ino;

use super::model::{Body, Model, Place};
use super::operation::{At, HANDLES_MAX, NAMES, Op, TARGET};
use super::subject::{OpenHandle, Subject, me};

/// The outcome without its value.
fn outcome<T>(result: &Result<T, Error>) -> Result<(), i32> {
    result.as_ref().map(|_| ()).map_err(Error::errno)
}

/// Does one operation on both and compares its outcome.
pub(super) fn step(model: &mut Model, subject: &mut Subject, op: &Op) {
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
    let opened = subject.stack.open(ino, flags, Reopen::Daemon);
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
