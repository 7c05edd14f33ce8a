//! The real work whose takes and gives are recorded: programs that list, ask for attributes and read, on a mount that
//! threads of this process serve.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{XattrFlags, lgetxattr, lgetxattr_query, llistxattr, llistxattr_query, lsetxattr};
use vexfs_core::pool::trace::{self, Trace};
use vexfs_mount::options::MountOptions;

use crate::bench::{Result, Run, mount};
use crate::daemon;

/// Directories of the tree, and files in each.
const DIRECTORIES: usize = 24;
const FILES: usize = 60;

/// What a program reads at once.
const READ_BYTES: usize = 128 << 10;

/// Attributes and their lengths: a comment, a description, an embedding of 256 dimensions.
const ATTRIBUTES: [(&str, usize); 3] = [
    ("user.comment", 40),
    ("user.description", 600),
    ("user.embedding", 1024),
];

/// Something that a program does with a directory.
type Mix = fn(&Path) -> io::Result<()>;

/// Records each mix: two programs, each with half of the directories, all bytes through the daemon. Mounted anew for
/// each, so that nothing is answered from the kernel's cache.
pub(super) fn record(run: &Run) -> Result<Vec<(&'static str, Trace)>> {
    let (tree, mountpoint) = (run.work.join("pool"), run.work.join("pool-mount"));
    plant(&tree)?;
    fs::create_dir_all(&mountpoint)?;
    let options = MountOptions::parse([OsStr::new("passthrough=off,ctl=off")])?;
    let mixes: [(&'static str, Mix); 4] = [
        ("readdir", list),
        ("xattr", attributes),
        ("read", contents),
        ("mixed", everything),
    ];
    let mut traces = Vec::new();
    for (name, mix) in mixes {
        run.progress.set_message(format!("{name}, recording"));
        let recorded = mount::served(
            (&tree, &mountpoint),
            &options,
            |place| daemon::compose(place, &options, None),
            || recorded(&mountpoint, mix),
        )?;
        // A filesystem without user attributes has nothing to record of them.
        if !recorded.steps.is_empty() {
            traces.push((name, recorded));
        }
    }
    fs::remove_dir_all(&tree)?;
    Ok(traces)
}

fn recorded(root: &Path, mix: Mix) -> io::Result<Trace> {
    let directories = children(root)?;
    let (ours, theirs) = directories.split_at(directories.len() / 2);
    trace::start();
    let outcome = thread::scope(|scope| {
        let other = scope.spawn(|| theirs.iter().try_for_each(|dir| mix(dir)));
        let outcome = ours.iter().try_for_each(|dir| mix(dir));
        outcome.and(other.join().expect("does not panic"))
    });
    let recorded = trace::stop();
    outcome.map(|()| recorded)
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
            let path = dir.join(format!("a file with a name of ordinary length {f:03}.txt"));
            fs::write(&path, vec![b'x'; bytes])?;
            for (name, length) in &ATTRIBUTES[..f % (ATTRIBUTES.len() + 1)] {
                match lsetxattr(&path, *name, &vec![b'v'; *length], XattrFlags::empty()) {
                    Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSPC) => {}
                    other => other?,
                }
            }
        }
    }
    Ok(())
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

fn list(dir: &Path) -> io::Result<()> {
    children(dir).map(drop)
}

/// As `rsync -X` and `getfattr` do: the names, then of each the size and then the value.
fn attributes(dir: &Path) -> io::Result<()> {
    for path in children(dir)? {
        let mut names = vec![0; llistxattr_query(&path)?];
        let length = llistxattr(&path, &mut names[..])?;
        for name in names[..length]
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
        {
            let mut value = vec![0; lgetxattr_query(&path, name)?];
            lgetxattr(&path, name, &mut value[..])?;
        }
    }
    Ok(())
}

fn contents(dir: &Path) -> io::Result<()> {
    let mut piece = vec![0; READ_BYTES];
    for path in children(dir)? {
        let mut file = File::open(path)?;
        while file.read(&mut piece)? > 0 {}
    }
    Ok(())
}

fn everything(dir: &Path) -> io::Result<()> {
    list(dir)?;
    attributes(dir)?;
    contents(dir)
}
