//! Which inode is which: numbers that are used again, by files of the same moment and later ones, behind the mount.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use vexfs_core::Error;
use vexfs_core::change::{Change, ChangeSink};
use vexfs_core::fs::{Reopen, Stack, StackOptions};
use vexfs_core::ids::{Ino, NodeKey};

/// Older than what may have a twin.
const AGE: Duration = Duration::from_millis(40);
/// Files that are made until one gets a number again. ext4 gives the lowest that is free.
const TRIES: usize = 2000;

struct Unheard;

impl ChangeSink for Unheard {
    fn maybe_changed(&self, _node: NodeKey) {}
    fn changed(&self, _change: Change) {}
}

struct Tree {
    dir: tempfile::TempDir,
    stack: Arc<Stack>,
}

impl Tree {
    fn new() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let stack = Stack::new(root.into(), StackOptions::default(), Arc::new(Unheard)).unwrap();
        Tree {
            dir,
            stack: Arc::new(stack),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn lookup(&self, name: &str) -> (Ino, u64) {
        let entry = self.stack.lookup(Ino::ROOT, OsStr::new(name)).unwrap();
        (entry.attr.ino, entry.generation)
    }

    fn read(&self, ino: Ino) -> Result<Vec<u8>, Error> {
        let opened = self.stack.open(ino, libc::O_RDONLY, Reopen::Daemon)?;
        let mut buffer = vec![0; 100];
        let len = self.stack.read(ino, opened.fh, 0, &mut buffer)?;
        self.stack.release(ino, opened.fh)?;
        buffer.truncate(len);
        Ok(buffer)
    }

    /// Makes inodes, behind the stack, until one gets the number; gives its name. None where numbers are not used again.
    fn take_number(&self, number: u64, make: impl Fn(&PathBuf)) -> Option<String> {
        (0..TRIES).map(|n| format!("later{n}")).find(|name| {
            let path = self.path(name);
            make(&path);
            fs::symlink_metadata(path).unwrap().ino() == number
        })
    }
}

fn errno<T>(result: Result<T, Error>) -> Option<i32> {
    result.err().map(|e| e.errno())
}

#[test]
fn an_old_file_is_found_by_its_birth_and_opened_whatever_it_is_called() {
    let tree = Tree::new();
    fs::write(tree.path("a"), b"content").unwrap();
    thread::sleep(AGE);
    let (ino, generation) = tree.lookup("a");
    fs::rename(tree.path("a"), tree.path("b")).unwrap();
    assert_eq!(tree.lookup("b"), (ino, generation), "one inode");
    if tree.stack.uses_handles() {
        fs::rename(tree.path("b"), tree.path("c")).unwrap();
    }
    assert_eq!(tree.read(ino).unwrap(), b"content");
    assert_eq!(tree.stack.getattr(ino, None).unwrap().size, 7);
    assert_eq!(tree.stack.inodes(), 2);
}

#[test]
fn a_dead_file_is_never_taken_for_the_one_that_got_its_number() {
    let tree = Tree::new();
    fs::write(tree.path("dead"), b"dead").unwrap();
    thread::sleep(AGE);
    let (ino, generation) = tree.lookup("dead");
    let number = fs::metadata(tree.path("dead")).unwrap().ino();
    fs::remove_file(tree.path("dead")).unwrap();
    let Some(name) = tree.take_number(number, |path| fs::write(path, b"another").unwrap()) else {
        return;
    };
    assert_eq!(errno(tree.read(ino)), Some(libc::ESTALE));
    assert_eq!(errno(tree.stack.getattr(ino, None)), Some(libc::ESTALE));
    let truncating = tree
        .stack
        .open(ino, libc::O_WRONLY | libc::O_TRUNC, Reopen::Passthrough);
    assert_eq!(errno(truncating), Some(libc::ESTALE));
    assert_eq!(
        fs::read(tree.path(&name)).unwrap(),
        b"another",
        "and it is not cut"
    );

    let (again, another) = tree.lookup(&name);
    assert_eq!(again, ino, "the number is the same");
    assert_ne!(
        another, generation,
        "and the kernel is told that the inode is not"
    );
    assert_eq!(tree.read(ino).unwrap(), b"another");
}

#[test]
fn a_pipe_that_got_the_number_keeps_nobody_waiting() {
    let tree = Tree::new();
    fs::write(tree.path("dead"), b"dead").unwrap();
    thread::sleep(AGE);
    let (ino, _) = tree.lookup("dead");
    let number = fs::metadata(tree.path("dead")).unwrap().ino();
    fs::remove_file(tree.path("dead")).unwrap();
    let pipe = |path: &PathBuf| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    if tree.take_number(number, pipe).is_none() {
        return;
    }
    let (done, waits) = mpsc::channel();
    let stack = tree.stack.clone();
    thread::spawn(move || {
        for flags in [libc::O_RDONLY, libc::O_WRONLY] {
            let opened = stack.open(ino, flags, Reopen::Daemon);
            done.send(errno(opened)).unwrap();
        }
    });
    for _ in 0..2 {
        let refused = waits.recv_timeout(Duration::from_secs(10)).unwrap();
        // Nobody reads the pipe, which is seen before what it is.
        assert!(matches!(refused, Some(libc::ESTALE | libc::ENXIO)), "{refused:?}");
    }
}

#[test]
fn twins_of_one_moment_are_told_apart() {
    let tree = Tree::new();
    let mut last = None;
    for round in 0..300 {
        let content = format!("round {round}");
        fs::write(tree.path("twin"), &content).unwrap();
        if round % 50 == 49 {
            thread::sleep(AGE);
        }
        let (ino, generation) = tree.lookup("twin");
        assert_eq!(tree.read(ino).unwrap(), content.as_bytes());
        if let Some((before, generation_before)) = last.replace((ino, generation))
            && before == ino
            && tree.stack.uses_handles()
        {
            assert_ne!(generation, generation_before, "round {round}");
        }
        fs::remove_file(tree.path("twin")).unwrap();
        assert_eq!(errno(tree.read(ino)), Some(libc::ESTALE));
    }
}

#[test]
fn an_inode_stays_one_while_it_grows_old() {
    let tree = Tree::new();
    fs::write(tree.path("a"), b"x").unwrap();
    let young = tree.lookup("a");
    let writer = tree.stack.open(young.0, libc::O_WRONLY, Reopen::Daemon).unwrap();
    thread::sleep(AGE);
    assert_eq!(tree.lookup("a"), young, "known by its handle since it was young");
    tree.stack.forget(young.0, 2);
    tree.stack.release(young.0, writer.fh).unwrap();
    assert_eq!(tree.stack.inodes(), 1);
    let old = tree.lookup("a");
    assert_eq!(tree.lookup("a"), old);
    assert_eq!(tree.stack.inodes(), 2);
}
