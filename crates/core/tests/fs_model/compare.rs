//! The whole tree beside the model.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use vexfs_core::fs::Reopen;
use vexfs_core::fs::ops::Entry;
use vexfs_core::ids::Ino;

use super::model::{Body, Model};
use super::operation::TARGET;
use super::subject::Subject;

/// The whole tree, and the files that are only open.
pub(super) fn compare(model: &Model, subject: &mut Subject) {
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
            let opened = subject.stack.open(ino, libc::O_RDONLY, Reopen::Daemon).unwrap();
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
