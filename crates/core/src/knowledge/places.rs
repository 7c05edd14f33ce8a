//! Where things stand in the backing tree, as far as a caller may know.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Knowledge;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::NodeKey;
use crate::query::access::refusals;
use crate::query::answer::path_text;

/// How long a question waits for the catalog to hear of the rename of its directory.
const RENAME_WAIT: Duration = Duration::from_secs(1);

impl Knowledge {
    /// The path of a directory below the root, also of one that is kept out of the catalog or not in it yet.
    pub fn directory_path(&self, directory: NodeKey) -> Result<PathBuf> {
        let known = || {
            let id = self.store.read(|rows| rows.id_of(directory))?;
            Ok::<_, Error>(id.and_then(|id| self.store.mirror().path(id)))
        };
        let mut path = known()?;
        // The catalog hears of a rename a moment after it.
        if path.as_ref().is_some_and(|path| !self.stands_at(directory, path)) {
            self.indexer.wait_seen(RENAME_WAIT);
            path = known()?;
        }
        let asked = || self.mount.get()?.stack.path_of(directory);
        path.or_else(asked)
            .ok_or_else(|| Error::NotFound("the directory".into()))
    }

    fn stands_at(&self, node: NodeKey, path: &Path) -> bool {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let stat = rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (node.dev, node.ino))
    }

    /// The directory at a path below the root, for a caller who may search it.
    pub fn directory_at(&self, caller: &Caller, path: &Path) -> Result<NodeKey> {
        self.stat_at(caller, path, Access::EXEC_OK).map(|(node, _)| node)
    }

    /// The type bits of the mode of what stands at a path below a directory.
    pub fn file_type(&self, caller: &Caller, directory: NodeKey, path: &Path) -> Result<u32> {
        let path = self.directory_path(directory)?.join(path);
        self.stat_at(caller, &path, Access::EXISTS)
            .map(|(_, mode)| mode & libc::S_IFMT)
    }

    pub(super) fn node_at(&self, caller: &Caller, path: &Path, write: bool) -> Result<NodeKey> {
        let access = if write { Access::WRITE_OK } else { Access::READ_OK };
        self.stat_at(caller, path, access).map(|(node, _)| node)
    }

    fn stat_at(&self, caller: &Caller, path: &Path, access: Access) -> Result<(NodeKey, u32)> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let missing = |e: Errno| match e {
            Errno::NOENT | Errno::NOTDIR => Error::NotFound(path_text(path)),
            e => e.into(),
        };
        // The caller is refused first: whether a path in a closed directory exists is not theirs to know.
        let refused = refusals(self.root.as_fd(), caller, &[path.to_owned()], access);
        match refused.first() {
            // What a symbolic link leads to may be missing while it is there itself.
            Some(None | Some(Errno::NOENT | Errno::NOTDIR)) => {}
            _ => return Err(Error::Denied),
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file =
            rustix::fs::openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve).map_err(missing)?;
        let stat = rustix::fs::fstat(&file)?;
        Ok((
            NodeKey {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
            stat.st_mode,
        ))
    }
}
