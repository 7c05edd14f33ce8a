//! What transactions ask of the backing tree beyond the filesystem's operations.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change::Change;
use super::lookup::proc_path;
use super::{Invalidate, Stack};
use crate::ids::{Ino, NodeKey};
use crate::{Error, Result};

impl Stack {
    /// Where a directory is, relative to the root. ESTALE if it is gone, or outside of the root.
    pub(crate) fn path_of_dir(&self, ino: Ino) -> Result<PathBuf> {
        let place = |ino| -> Result<PathBuf> {
            let fd = self.fd(&self.node(ino)?)?;
            Ok(std::fs::read_link(proc_path(fd.as_fd()))?)
        };
        let (root, dir) = (place(Ino::ROOT)?, place(ino)?);
        let below = dir.strip_prefix(&root).map_err(|_| Error::Os(libc::ESTALE))?;
        // The kernel marks the path of a removed directory; one may also be called so, which is as good as gone.
        match below.to_string_lossy().ends_with(" (deleted)") {
            true => Err(Error::Os(libc::ESTALE)),
            false => Ok(below.to_owned()),
        }
    }

    /// Refuses a name that could not be made in a directory, or in one that is still to come: reserved, or the place of
    /// our own mount.
    pub(crate) fn check_name_to_come(&self, dir: Option<Ino>, name: &OsStr) -> Result<()> {
        match dir {
            Some(dir) => {
                let node = self.node(dir)?;
                self.check_new_name(&node, name)
            }
            None if self.is_reserved(name) => Err(Error::Os(libc::EPERM)),
            None => Ok(()),
        }
    }

    /// A descriptor that names an inode: a directory, for looking at its names, or anything else.
    pub(crate) fn place_fd(&self, ino: Ino) -> Result<OwnedFd> {
        let fd = self.fd(&self.node(ino)?)?;
        Ok(rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 0)?)
    }

    /// Whether somebody has the file open for writing.
    pub(crate) fn is_being_written(&self, ino: Ino) -> bool {
        self.table.get(ino).is_some_and(|node| node.is_being_written())
    }

    /// Keeps what a file contains for the latest snapshot: it is about to be changed, not through this stack.
    pub(crate) fn keep_content_of(&self, key: NodeKey) -> Result<()> {
        let node = self.ino_of(key).and_then(|ino| self.table.get(ino));
        node.map_or(Ok(()), |node| self.keep_content(&node))
    }

    /// The way to the kernel's caches, if there is a kernel.
    pub(crate) fn kernel_caches(&self) -> Option<Arc<dyn Invalidate>> {
        self.kernel().cloned()
    }

    /// A name was changed in the backing directory by ourselves, but not through this stack.
    pub(crate) fn name_was_changed(&self, parent: NodeKey, name: &Path) {
        self.changes.changed(Change::Name {
            parent,
            name: name.as_os_str().to_owned(),
        });
    }

    /// More was changed than can be said.
    pub(crate) fn everything_was_changed(&self) {
        self.changes.changed(Change::Everything);
    }

    /// Attributes or content of an inode were changed in place by ourselves, but not through this stack.
    pub(crate) fn inode_was_changed(&self, ino: Ino) {
        let Some(node) = self.table.get(ino) else { return };
        node.forget_absent();
        let key = self.key(&node);
        self.changes.changed(Change::Attributes { node: key });
        if node.is_file() {
            self.changes.changed(Change::Content { node: key });
        }
    }
}
