//! The product's verbs. Each filesystem verb goes to the backing tree or, for numbers of the control directory, to
//! that; here stands which, and nothing else.

mod process;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::control::ControlDirectory;
use crate::fs::ops::{Attr, Caller, Entry, SetAttr, Space};
use crate::fs::{DirEntry, OWN_PREFIX, Opened, Reopen, SHARED_FH, Stack};
use crate::ids::Ino;
use crate::metrics::{Metrics, Operation};
use crate::{Error, Result};

/// Names of a control directory that are looked up for one request: about what fits into a reply of the kernel's
/// smallest size.
const CONTROL_BATCH: usize = 64;

/// Everything that a mount does.
pub struct Engine {
    stack: Arc<Stack>,
    control: Option<Arc<dyn ControlDirectory>>,
    metrics: Arc<Metrics>,
}

impl Engine {
    /// A mount of `stack`; without `control` its name leads nowhere.
    pub fn new(
        stack: Arc<Stack>,
        control: Option<Arc<dyn ControlDirectory>>,
        metrics: Arc<Metrics>,
    ) -> Engine {
        Engine {
            stack,
            control,
            metrics,
        }
    }

    /// The backing tree.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Appends counters and sizes as Prometheus text.
    pub fn prometheus(&self, out: &mut String) {
        use std::fmt::Write;
        self.metrics.prometheus(out);
        for (name, help, value) in [
            (
                "inodes",
                "Inodes that the kernel has cached.",
                self.stack.inodes(),
            ),
            (
                "open_files",
                "Open files and directories with a descriptor.",
                self.stack.open_files(),
            ),
            (
                "kept_descriptors",
                "Descriptors kept for hot directories.",
                self.stack.kept_descriptors(),
            ),
        ] {
            let _ = writeln!(
                out,
                "# HELP vexfs_{name} {help}\n# TYPE vexfs_{name} gauge\nvexfs_{name} {value}"
            );
        }
        process::prometheus(out);
    }

    /// Whether an operation on this node may take long, so that it must not keep others waiting.
    pub fn may_wait(&self, ino: Ino) -> bool {
        ino.is_control()
    }

    /// The same for an extended attribute of a file.
    pub fn xattr_may_wait(&self, ino: Ino, name: &OsStr) -> bool {
        ino.is_control() || is_own(name)
    }

    /// Finds a name; the answer counts as one lookup.
    pub fn lookup(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<Entry> {
        self.metrics.time(Operation::Lookup, || {
            if parent.is_control() {
                return self.control()?.lookup(caller, parent, name);
            }
            if self.stack.options().ctlname.as_deref() == Some(name) {
                let dir = self.stack.node_key(parent).ok_or(Error::Os(libc::ESTALE))?;
                return self.control()?.lookup_root(caller, dir);
            }
            self.stack.lookup(parent, name)
        })
    }

    /// Takes lookups back.
    pub fn forget(&self, ino: Ino, count: u64) {
        match &self.control {
            Some(control) if ino.is_control() => control.forget(ino, count),
            _ => self.stack.forget(ino, count),
        }
    }

    /// Attributes, through an open file if there is one.
    pub fn getattr(&self, caller: &Caller, ino: Ino, fh: Option<u64>) -> Result<Attr> {
        self.metrics.time(Operation::Getattr, || match ino.is_control() {
            true => self.control()?.getattr(caller, ino),
            false => self.stack.getattr(ino, fh),
        })
    }

    /// Changes attributes.
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.metrics.time(Operation::Setattr, || match ino.is_control() {
            true => self.control()?.setattr(caller, ino, set),
            false => self.stack.setattr(caller, ino, set),
        })
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        self.metrics.time(Operation::Readlink, || match ino.is_control() {
            true => self.control()?.readlink(caller, ino),
            false => self.stack.readlink(ino),
        })
    }

    /// Makes a file, FIFO, socket or device; `mode` before the umask.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        modes: (u32, u32),
        rdev: u64,
    ) -> Result<Entry> {
        self.metrics.time(Operation::Mknod, || match parent.is_control() {
            true => Err(Error::NotPermitted("the control directory")),
            false => self.stack.mknod(caller, parent, name, modes, rdev),
        })
    }

    /// Makes a directory.
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &OsStr, mode: u32, umask: u32) -> Result<Entry> {
        self.metrics.time(Operation::Mkdir, || match parent.is_control() {
            true => self.control()?.mkdir(caller, parent, name, mode & !umask),
            false => self.stack.mkdir(caller, parent, name, mode, umask),
        })
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry> {
        self.metrics
            .time(Operation::Symlink, || match parent.is_control() {
                true => self.control()?.symlink(caller, parent, name, target),
                false => self.stack.symlink(caller, parent, name, target),
            })
    }

    /// Gives a file another name. The control directory has no hard links.
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &OsStr) -> Result<Entry> {
        self.metrics.time(Operation::Link, || {
            match ino.is_control() || new_parent.is_control() {
                true => Err(Error::NotPermitted("the control directory")),
                false => self.stack.link(ino, new_parent, new_name),
            }
        })
    }

    /// Removes the name of a file.
    pub fn unlink(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<()> {
        self.metrics
            .time(Operation::Unlink, || match parent.is_control() {
                true => self.control()?.unlink(caller, parent, name),
                false => self.stack.unlink(parent, name),
            })
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<()> {
        self.metrics.time(Operation::Rmdir, || match parent.is_control() {
            true => self.control()?.rmdir(caller, parent, name),
            false => self.stack.rmdir(parent, name),
        })
    }

    /// Renames. Nothing moves between the files and the control directory.
    pub fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        self.metrics.time(Operation::Rename, || {
            match (parent.is_control(), new_parent.is_control()) {
                (true, true) => self
                    .control()?
                    .rename(caller, parent, name, new_parent, new_name, flags),
                (false, false) => self.stack.rename(parent, name, new_parent, new_name, flags),
                _ => Err(Error::Os(libc::EXDEV)),
            }
        })
    }

    /// Opens a file.
    pub fn open(&self, caller: &Caller, ino: Ino, flags: i32, how: Reopen) -> Result<Opened> {
        self.metrics.time(Operation::Open, || match ino.is_control() {
            true => Ok(control_file(self.control()?.open(caller, ino, flags)?)),
            false => self.stack.open(caller, ino, flags, how),
        })
    }

    /// Creates a file and opens it.
    pub fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        modes: (u32, u32),
        flags: i32,
        how: Reopen,
    ) -> Result<(Entry, Opened)> {
        self.metrics
            .time(Operation::Create, || match parent.is_control() {
                true => {
                    let (mode, umask) = modes;
                    let (entry, fh) = self
                        .control()?
                        .create(caller, parent, name, mode & !umask, flags)?;
                    Ok((entry, control_file(fh)))
                }
                false => self.stack.create(caller, parent, name, modes, flags, how),
            })
    }

    /// A descriptor for the kernel's passthrough.
    pub fn backing_fd(&self, ino: Ino) -> Result<OwnedFd> {
        self.stack.backing_fd(ino)
    }

    /// Reads into `buffer`, and gives the number of bytes.
    pub fn read(&self, caller: &Caller, ino: Ino, fh: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.metrics.time(Operation::Read, || match ino.is_control() {
            true => {
                let data = self
                    .control()?
                    .read(caller, ino, fh, offset, buffer.len() as u32)?;
                let len = data.len().min(buffer.len());
                buffer[..len].copy_from_slice(&data[..len]);
                Ok(len)
            }
            false => self.stack.read(ino, fh, offset, buffer),
        })
    }

    /// Writes; `append` puts the data at the end of a file.
    pub fn write(
        &self,
        caller: &Caller,
        ino: Ino,
        fh: u64,
        offset: u64,
        data: &[u8],
        append: bool,
    ) -> Result<usize> {
        self.metrics.time(Operation::Write, || match ino.is_control() {
            true => Ok(self.control()?.write(caller, ino, fh, offset, data)? as usize),
            false => self.stack.write(ino, fh, offset, data, append),
        })
    }

    /// Closes a file.
    pub fn release(&self, ino: Ino, fh: u64) -> Result<()> {
        self.metrics.time(Operation::Release, || match ino.is_control() {
            true => {
                self.control()?.release(ino, fh);
                Ok(())
            }
            false => self.stack.release(ino, fh),
        })
    }

    /// Makes a file durable. What the control directory has accepted already is.
    pub fn fsync(&self, ino: Ino, fh: u64, data: bool) -> Result<()> {
        self.metrics.time(Operation::Fsync, || match ino.is_control() {
            true => Ok(()),
            false => self.stack.fsync(ino, fh, data),
        })
    }

    /// Waits until what was written through an open file can be found (`index=sync`).
    pub fn make_searchable(&self, ino: Ino, fh: u64) -> Result<()> {
        self.metrics.time(Operation::Flush, || {
            if !ino.is_control()
                && self.stack.flush(fh)?
                && let (Ok(control), Some(node)) = (self.control(), self.stack.node_key(ino))
            {
                control.make_searchable(node);
            }
            Ok(())
        })
    }

    /// Opens a directory for reading.
    pub fn opendir(&self, caller: &Caller, ino: Ino) -> Result<u64> {
        self.metrics.time(Operation::Opendir, || match ino.is_control() {
            true => self.control()?.opendir(caller, ino),
            false => self.stack.opendir(ino),
        })
    }

    /// Lists a directory until `add` says that it is full.
    pub fn readdir(
        &self,
        caller: &Caller,
        ino: Ino,
        fh: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        self.metrics.time(Operation::Readdir, || match ino.is_control() {
            true => {
                let mut add = |ino, next_offset, kind, name: &OsStr| {
                    add(&DirEntry {
                        ino,
                        next_offset,
                        kind,
                        name,
                    })
                };
                self.control()?.readdir(caller, ino, fh, offset, &mut add)
            }
            false => self.stack.readdir(fh, offset, add),
        })
    }

    /// Lists a directory with attributes; each entry taken counts as looked up.
    pub fn readdirplus(
        &self,
        caller: &Caller,
        ino: Ino,
        fh: u64,
        offset: u64,
        add: impl FnMut(&DirEntry<'_>, &Entry) -> bool,
    ) -> Result<()> {
        self.metrics
            .time(Operation::Readdirplus, || match ino.is_control() {
                true => self.list_control(caller, ino, fh, offset, add),
                false => self.stack.readdirplus(fh, offset, add),
            })
    }

    /// A part of a control directory, with a lookup of every name.
    fn list_control(
        &self,
        caller: &Caller,
        dir: Ino,
        fh: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>, &Entry) -> bool,
    ) -> Result<()> {
        // Looked up afterwards: the control directory may hold a lock while it lists.
        let mut names = Vec::new();
        self.control()?
            .readdir(caller, dir, fh, offset, &mut |ino, next_offset, kind, name| {
                names.push((ino, next_offset, kind, name.to_owned()));
                names.len() == CONTROL_BATCH
            })?;
        for (ino, next_offset, kind, name) in names {
            let entry = DirEntry {
                ino,
                next_offset,
                kind,
                name: &name,
            };
            let own = matches!(name.as_bytes(), b"." | b"..");
            let found = if own {
                Ok(self.stack.bare(&entry))
            } else {
                self.control()?.lookup(caller, dir, &name)
            };
            // What vanished in the meantime is left out.
            let Ok(found) = found else { continue };
            if add(&entry, &found) {
                if !own {
                    self.forget(found.attr.ino, 1);
                }
                break;
            }
        }
        Ok(())
    }

    /// Closes a directory.
    pub fn releasedir(&self, ino: Ino, fh: u64) -> Result<()> {
        self.metrics.time(Operation::Releasedir, || {
            match ino.is_control() {
                true => self.control()?.releasedir(ino, fh),
                false => self.stack.releasedir(fh),
            }
            Ok(())
        })
    }

    /// Makes a directory's names durable.
    pub fn fsyncdir(&self, ino: Ino, fh: u64, data: bool) -> Result<()> {
        self.metrics.time(Operation::Fsyncdir, || match ino.is_control() {
            true => Ok(()),
            false => self.stack.fsyncdir(fh, data),
        })
    }

    /// Size and free space.
    pub fn statfs(&self, ino: Ino) -> Result<Space> {
        self.metrics.time(Operation::Statfs, || match ino.is_control() {
            true => self.stack.statfs(Ino::ROOT),
            false => self.stack.statfs(ino),
        })
    }

    /// Whether the owner of the mount may do what `mask` says.
    pub fn access(&self, caller: &Caller, ino: Ino, mask: i32) -> Result<()> {
        self.metrics.time(Operation::Access, || match ino.is_control() {
            true => self.control()?.getattr(caller, ino).map(|_| ()),
            false => self.stack.access(ino, mask),
        })
    }

    /// Reads an extended attribute into `buffer`; an empty one asks for the length.
    pub fn getxattr(&self, caller: &Caller, ino: Ino, name: &OsStr, buffer: &mut [u8]) -> Result<usize> {
        self.metrics.time(Operation::Getxattr, || {
            let value = if ino.is_control() {
                self.control()?.getxattr(caller, ino, name)?
            } else if is_own(name) {
                let node = self.stack.node_key(ino).ok_or(Error::Os(libc::ESTALE))?;
                self.store_of_attributes()?.get_own_xattr(caller, node, name)?
            } else {
                return self.stack.getxattr(ino, name, buffer);
            };
            if buffer.is_empty() {
                return Ok(value.len());
            }
            let room = buffer.get_mut(..value.len()).ok_or(Error::Os(libc::ERANGE))?;
            room.copy_from_slice(&value);
            Ok(value.len())
        })
    }

    /// Names of extended attributes, each ended by a NUL. Ours of files are not among them.
    pub fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        self.metrics
            .time(Operation::Listxattr, || match ino.is_control() {
                true => self.control()?.listxattr(caller, ino),
                false => self.stack.listxattr(ino),
            })
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        self.metrics.time(Operation::Setxattr, || {
            if ino.is_control() {
                return self.control()?.setxattr(caller, ino, name, value, flags);
            }
            if is_own(name) {
                let node = self.stack.node_key(ino).ok_or(Error::Os(libc::ESTALE))?;
                return self
                    .store_of_attributes()?
                    .set_own_xattr(caller, node, name, value, flags);
            }
            self.stack.setxattr(caller, ino, name, value, flags)
        })
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &OsStr) -> Result<()> {
        self.metrics.time(Operation::Removexattr, || {
            if ino.is_control() {
                return self.control()?.removexattr(caller, ino, name);
            }
            if is_own(name) {
                let node = self.stack.node_key(ino).ok_or(Error::Os(libc::ESTALE))?;
                return self.store_of_attributes()?.remove_own_xattr(caller, node, name);
            }
            self.stack.removexattr(caller, ino, name)
        })
    }

    /// Allocates, punches or zeroes a range of a file.
    pub fn fallocate(&self, ino: Ino, fh: u64, mode: i32, offset: u64, length: u64) -> Result<()> {
        self.metrics
            .time(Operation::Fallocate, || match ino.is_control() {
                true => Err(Error::Os(libc::EOPNOTSUPP)),
                false => self.stack.fallocate(ino, fh, mode, offset, length),
            })
    }

    /// The next data or hole of a file.
    pub fn lseek(&self, ino: Ino, fh: u64, offset: i64, whence: i32) -> Result<u64> {
        self.metrics.time(Operation::Lseek, || match ino.is_control() {
            true => Err(Error::Os(libc::ESPIPE)),
            false => self.stack.lseek(ino, fh, offset, whence),
        })
    }

    /// Copies between files within the backing filesystem. (inode, handle, offset) of each.
    pub fn copy_file_range(
        &self,
        from: (Ino, u64, u64),
        to: (Ino, u64, u64),
        length: usize,
    ) -> Result<usize> {
        self.metrics.time(Operation::CopyFileRange, || {
            match from.0.is_control() || to.0.is_control() {
                // The kernel then copies by reading and writing.
                true => Err(Error::Os(libc::EOPNOTSUPP)),
                false => self.stack.copy_file_range(from, to, length),
            }
        })
    }

    fn control(&self) -> Result<&dyn ControlDirectory> {
        self.control.as_deref().ok_or(Error::Os(libc::ENOENT))
    }

    fn store_of_attributes(&self) -> Result<&dyn ControlDirectory> {
        self.control.as_deref().ok_or(Error::Os(libc::EOPNOTSUPP))
    }
}

/// Whether the attribute is one of ours, kept in the store.
fn is_own(name: &OsStr) -> bool {
    name.as_bytes().starts_with(OWN_PREFIX)
}

fn control_file(fh: u64) -> Opened {
    debug_assert!(
        fh != SHARED_FH,
        "file handles of the control directory begin with 1"
    );
    Opened {
        fh,
        generation: 0,
        keep_cache: false,
        file: None,
    }
}
