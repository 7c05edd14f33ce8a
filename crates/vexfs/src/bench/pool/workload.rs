//! The real work whose takes and gives are recorded.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::lgetxattr;
use vexfs_core::pool::trace::{self, Trace};
use vexfs_core::pool::{self, Buffer};

use crate::bench::{Result, Run};

/// Directories of the tree, and files in each.
const DIRECTORIES: usize = 24;
const FILES: usize = 60;

/// A piece of a file on its way to the hash or the kernel.
const READ_BYTES: usize = 128 << 10;

/// A mix of operations below a directory.
type Mix = fn(&Path) -> io::Result<()>;

/// Records each mix, on two threads that each do the whole tree.
pub(super) fn record(run: &Run) -> Result<Vec<(&'static str, Trace)>> {
    let tree = run.work.join("pool");
    plant(&tree)?;
    let mixes: [(&'static str, Mix); 4] = [
        ("readdir", list),
        ("xattr", attributes),
        ("read", contents),
        ("mixed", everything),
    ];
    let mut traces = Vec::new();
    for (name, mix) in mixes {
        run.progress.set_message(format!("{name}, recording"));
        trace::start();
        let outcome = thread::scope(|scope| {
            let other = scope.spawn(|| mix(&tree));
            mix(&tree).and(other.join().expect("does not panic"))
        });
        let recorded = trace::stop();
        outcome?;
        traces.push((name, recorded));
    }
    fs::remove_dir_all(&tree)?;
    Ok(traces)
}

/// A tree with the sizes of a source tree: most files of a few KiB, some of 100 KiB and more.
fn plant(tree: &Path) -> io::Result<()> {
    for d in 0..DIRECTORIES {
        let dir = tree.join(format!("dir{d}"));
        fs::create_dir_all(&dir)?;
        for f in 0..FILES {
            let bytes = match f % 20 {
                0 => 300_000,
                1..=4 => 24_000,
                _ => 500 + 211 * f,
            };
            fs::write(
                dir.join(format!("a file with a name of ordinary length {f:03}.txt")),
                vec![b'x'; bytes],
            )?;
        }
    }
    Ok(())
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

/// Replies of readdir: a buffer of what the kernel asks, filled with records of the names.
fn list(tree: &Path) -> io::Result<()> {
    for dir in children(tree)? {
        let mut reply = pool::take(4096);
        let mut at = 0;
        for path in children(&dir)? {
            let name = path.file_name().map_or(&[][..], OsStrExt::as_bytes);
            // A record of fuse_dirent: 24 bytes and the name, to the next 8.
            let record = (24 + name.len()).next_multiple_of(8);
            if at + record > reply.len() {
                reply = pool::take(4096);
                at = 0;
            }
            reply[at + 24..at + 24 + name.len()].copy_from_slice(name);
            at += record;
        }
    }
    Ok(())
}

/// Values of attributes: first a small buffer for the size, then one of that size.
fn attributes(tree: &Path) -> io::Result<()> {
    for dir in children(tree)? {
        for path in children(&dir)? {
            for name in ["security.capability", "user.comment", "system.posix_acl_access"] {
                let mut value = pool::take(256);
                let length = lgetxattr(&path, name, &mut value[..]).unwrap_or(0);
                value.truncate(length);
            }
        }
    }
    Ok(())
}

/// Contents: pieces of 128 KiB, or as long as the file.
fn contents(tree: &Path) -> io::Result<()> {
    for dir in children(tree)? {
        for path in children(&dir)? {
            read_all(&path)?;
        }
    }
    Ok(())
}

fn read_all(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len() as usize;
    let mut piece: Buffer = pool::take(length.clamp(1, READ_BYTES));
    let mut total = 0;
    loop {
        let n = file.read(&mut piece)?;
        total += n as u64;
        if n == 0 {
            return Ok(total);
        }
    }
}

fn everything(tree: &Path) -> io::Result<()> {
    list(tree)?;
    for dir in children(tree)? {
        attributes_and_contents(&dir)?;
    }
    Ok(())
}

/// What an indexer does with a file: its attributes, its contents, while the list of the directory is held.
fn attributes_and_contents(dir: &Path) -> io::Result<()> {
    let _listing = pool::take(4096);
    for path in children(dir)? {
        let mut value = pool::take(1000);
        let length = lgetxattr(&path, "user.vexfs.state", &mut value[..]).unwrap_or(0);
        value.truncate(length);
        read_all(&path)?;
    }
    Ok(())
}
