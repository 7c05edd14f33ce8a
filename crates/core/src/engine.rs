//! The product's verbs. Each filesystem verb goes to the backing tree or, for numbers of the control directory, to
//! that; here stands which, and nothing else.

mod attributes;
#[cfg(feature = "bench")]
pub mod fault;
mod habits;
mod process;
mod transactions;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use self::habits::Habits;
use crate::control::ControlDirectory;
use crate::fs::ops::{Attr, Caller, Entry, SetAttr, Space};
use crate::fs::{DirEntry, Opened, Reopen, SHARED_FH, Stack};
use crate::ids::Ino;
use crate::metrics::table::single;
use crate::metrics::{Metrics, Operation};
use crate::txn::Desk;
use crate::{Error, Result};
use attributes::is_own;

/// Names of a control directory that are looked up for one request: about what fits into a reply of the kernel's
/// smallest size.
const CONTROL_BATCH: usize = 64;

/// Where a listing of the root goes on after the control directory: at its beginning. No filesystem uses this offset: those
/// of ext4, the largest, are hashes of names below it, and the one above it for the end.
const AFTER_CONTROL: u64 = i64::MAX as u64 - 1;

/// The offset in the backing directory.
fn in_backing(offset: u64) -> u64 {
    if offset == AFTER_CONTROL { 0 } else { offset }
}

/// Everything that a mount does.
pub struct Engine {
    stack: Arc<Stack>,
    control: Option<Arc<dyn ControlDirectory>>,
    metrics: Arc<Metrics>,
    desk: Option<Arc<Desk>>,
    habits: Habits,
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
            desk: None,
            habits: Habits::new(),
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
        self.metrics.prometheus(out);
        single(out, "vexfs_inodes", self.stack.inodes());
        single(out, "vexfs_open_files", self.stack.open_files());
        single(out, "vexfs_kept_descriptors", self.stack.kept_descriptors());
        process::prometheus(out);
    }

    /// Whether a change of this node may take long, so that it must not keep others waiting: in a transaction it may
    /// begin with a copy.
    pub fn may_wait(&self, ino: Ino) -> bool {
        ino.is_control() || ino.is_staged()
    }

    /// The same for a look at it.
    pub fn look_may_wait(&self, ino: Ino) -> bool {
        ino.is_control()
    }

    /// The same for opening it with these flags.
    pub fn open_may_wait(&self, ino: Ino, flags: i32) -> bool {
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        ino.is_control() || writes && (ino.is_staged() || self.stack.keeper().is_some())
    }

    /// The same for changing its attributes.
    pub fn setattr_may_wait(&self, ino: Ino, set: &SetAttr) -> bool {
        self.may_wait(ino) || set.size.is_some() && self.stack.keeper().is_some()
    }

    /// The same for an extended attribute of a file.
    pub fn xattr_may_wait(&self, ino: Ino, name: &OsStr) -> bool {
        self.may_wait(ino) || is_own(name)
    }

    /// The same for a look at one.
    pub fn getxattr_may_wait(&self, ino: Ino, name: &OsStr) -> bool {
        self.look_may_wait(ino) || is_own(name)
    }

    /// Finds a name; the answer counts as one lookup.
    pub fn lookup(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<Entry> {
        self.metrics.time(Operation::Lookup, || {
            if parent.is_control() {
                return self.control()?.lookup(caller, parent, name);
            }
            let _pass = self.pass();
            let is_control = self.stack.options().ctlname.as_deref() == Some(name);
            if parent.is_staged() {
                return match is_control {
                    true => self.control()?.lookup_staged(caller, parent),
                    false => self.staged(parent)?.view().lookup(parent, name),
                };
            }
            if is_control {
                let dir = self.stack.node_key(parent).ok_or(Error::Os(libc::ESTALE))?;
                return self.control()?.lookup_root(caller, dir);
            }
            self.habits.looked_up(caller.pid, parent);
            self.stack.lookup(parent, name).map(|entry| self.kept(entry))
        })
    }

    /// Takes lookups back.
    pub fn forget(&self, ino: Ino, count: u64) {
        if ino.is_staged() {
            // A transaction that has ended has forgotten everything.
            if let Ok(txn) = self.staged(ino) {
                txn.view().forget(ino, count);
            }
            return;
        }
        match &self.control {
            Some(control) if ino.is_control() => control.forget(ino, count),
            _ => self.stack.forget(ino, count),
        }
    }

    /// Attributes, through an open file if there is one.
    pub fn getattr(&self, caller: &Caller, ino: Ino, fh: Option<u64>) -> Result<Attr> {
        self.metrics.time(Operation::Getattr, || {
            #[cfg(feature = "bench")]
            fault::in_getattr();
            if ino.is_control() {
                return self.control()?.getattr(caller, ino);
            }
            let _pass = self.pass();
            match ino.is_staged() {
                true => self.staged(ino)?.view().getattr(ino, fh),
                false => self.stack.getattr(ino, fh),
            }
        })
    }

    /// Changes attributes.
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr> {
        self.metrics.time(Operation::Setattr, || {
            if ino.is_control() {
                return self.control()?.setattr(caller, ino, set);
            }
            if ino.is_staged() {
                return self.staged(ino)?.view().setattr(caller, ino, set);
            }
            let _pass = self.pass();
            self.stack.setattr(caller, ino, set)
        })
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        self.metrics.time(Operation::Readlink, || {
            if ino.is_control() {
                return self.control()?.readlink(caller, ino);
            }
            match ino.is_staged() {
                true => self.staged(ino)?.view().readlink(ino),
                false => self.stack.readlink(ino),
            }
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
        self.metrics.time(Operation::Mknod, || {
            if parent.is_control() {
                return Err(Error::NotPermitted("the control directory"));
            }
            let _pass = self.pass();
            match parent.is_staged() {
                true => self
                    .staged(parent)?
                    .view()
                    .mknod(caller, parent, name, modes, rdev),
                false => self
                    .stack
                    .mknod(caller, parent, name, modes, rdev)
                    .map(|entry| self.kept(entry)),
            }
        })
    }

    /// Makes a directory.
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &OsStr, mode: u32, umask: u32) -> Result<Entry> {
        self.metrics.time(Operation::Mkdir, || {
            if parent.is_control() {
                return self.control()?.mkdir(caller, parent, name, mode & !umask);
            }
            let _pass = self.pass();
            match parent.is_staged() {
                true => self
                    .staged(parent)?
                    .view()
                    .mkdir(caller, parent, name, mode, umask),
                false => self
                    .stack
                    .mkdir(caller, parent, name, mode, umask)
                    .map(|entry| self.kept(entry)),
            }
        })
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry> {
        self.metrics.time(Operation::Symlink, || {
            if parent.is_control() {
                return self.control()?.symlink(caller, parent, name, target);
            }
            let _pass = self.pass();
            match parent.is_staged() {
                true => self.staged(parent)?.view().symlink(caller, parent, name, target),
                false => self
                    .stack
                    .symlink(caller, parent, name, target)
                    .map(|entry| self.kept(entry)),
            }
        })
    }

    /// Gives a file another name. The control directory has no hard links.
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &OsStr) -> Result<Entry> {
        self.metrics.time(Operation::Link, || {
            if ino.is_control() || new_parent.is_control() {
                return Err(Error::NotPermitted("the control directory"));
            }
            if let Some(txn) = self.one_tree(ino, new_parent)? {
                return txn.view().link(ino, new_parent, new_name);
            }
            let _pass = self.pass();
            let made = self.stack.link(ino, new_parent, new_name)?;
            Ok(self.kept(made))
        })
    }

    /// Removes the name of a file.
    pub fn unlink(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<()> {
        self.metrics.time(Operation::Unlink, || {
            if parent.is_control() {
                return self.control()?.unlink(caller, parent, name);
            }
            let _pass = self.pass();
            match parent.is_staged() {
                true => self.staged(parent)?.view().unlink(parent, name),
                false => self.stack.unlink(parent, name),
            }
        })
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<()> {
        self.metrics.time(Operation::Rmdir, || {
            if parent.is_control() {
                return self.control()?.rmdir(caller, parent, name);
            }
            let _pass = self.pass();
            match parent.is_staged() {
                true => self.staged(parent)?.view().rmdir(parent, name),
                false => self.stack.rmdir(parent, name),
            }
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
                (false, false) => {
                    let _pass = self.pass();
                    match self.one_tree(parent, new_parent)? {
                        Some(txn) => txn.view().rename(parent, name, new_parent, new_name, flags),
                        None => self.stack.rename(parent, name, new_parent, new_name, flags),
                    }
                }
                _ => Err(Error::Os(libc::EXDEV)),
            }
        })
    }

    /// Opens a file.
    pub fn open(&self, caller: &Caller, ino: Ino, flags: i32, how: Reopen) -> Result<Opened> {
        self.metrics.time(Operation::Open, || {
            if ino.is_control() {
                return Ok(control_file(self.control()?.open(caller, ino, flags)?));
            }
            if ino.is_staged() {
                return self.staged(ino)?.view().open(ino, flags);
            }
            let _pass = self.pass();
            self.stack.open(ino, flags, how)
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
        self.metrics.time(Operation::Create, || {
            if parent.is_control() {
                let (mode, umask) = modes;
                let (entry, fh) = self
                    .control()?
                    .create(caller, parent, name, mode & !umask, flags)?;
                return Ok((entry, control_file(fh)));
            }
            let _pass = self.pass();
            if parent.is_staged() {
                return self
                    .staged(parent)?
                    .view()
                    .create(caller, parent, name, modes, flags);
            }
            let (entry, opened) = self.stack.create(caller, parent, name, modes, flags, how)?;
            Ok((self.kept(entry), opened))
        })
    }

    /// A descriptor for the kernel's passthrough.
    pub fn passthrough_fd(&self, ino: Ino) -> Result<Arc<OwnedFd>> {
        self.stack.passthrough_fd(ino)
    }

    /// Reads into `buffer`, and gives the number of bytes.
    pub fn read(&self, caller: &Caller, ino: Ino, fh: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.metrics.time(Operation::Read, || match ino.is_control() {
            _ if ino.is_staged() => self.staged(ino)?.view().read(ino, fh, offset, buffer),
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
            _ if ino.is_staged() => self.staged(ino)?.view().write(ino, fh, offset, data, append),
            true => Ok(self.control()?.write(caller, ino, fh, offset, data)? as usize),
            false => self.stack.write(ino, fh, offset, data, append),
        })
    }

    /// Closes a file.
    pub fn release(&self, ino: Ino, fh: u64) -> Result<()> {
        self.metrics.time(Operation::Release, || match ino.is_control() {
            // With a transaction its files end.
            _ if ino.is_staged() => self.staged(ino).map_or(Ok(()), |txn| txn.view().release(fh)),
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
            _ if ino.is_staged() => self.staged(ino)?.view().fsync(ino, fh, data),
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
            _ if ino.is_staged() => self.staged(ino)?.view().opendir(ino),
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
            _ if ino.is_staged() => self.staged(ino)?.view().readdir(fh, offset, add),
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
            false => {
                if self.lists_control(ino, offset) {
                    let found = self.control_root(caller)?;
                    self.forget(found.attr.ino, 1);
                    if add(&self.control_entry(found.attr.ino)) {
                        return Ok(());
                    }
                }
                self.stack.readdir(fh, in_backing(offset), add)
            }
        })
    }

    /// Lists a directory with attributes; each entry taken counts as looked up.
    pub fn readdirplus(
        &self,
        caller: &Caller,
        ino: Ino,
        fh: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>, &Entry) -> bool,
    ) -> Result<()> {
        self.metrics.time(Operation::Readdirplus, || {
            if ino.is_control() {
                return self.list_control(caller, ino, fh, offset, add);
            }
            let _pass = self.pass();
            if ino.is_staged() {
                return self.staged(ino)?.view().readdirplus(ino, fh, offset, add);
            }
            if self.lists_control(ino, offset) {
                let found = self.control_root(caller)?;
                if add(&self.control_entry(found.attr.ino), &found) {
                    self.forget(found.attr.ino, 1);
                    return Ok(());
                }
            }
            let offset = in_backing(offset);
            let mut room = self.habits.names(caller.pid, ino, offset);
            self.stack.readdirplus(fh, offset, |entry, found| {
                room == 0 || {
                    room -= 1;
                    add(entry, &self.kept(*found))
                }
            })
        })
    }

    /// Whether the control directory comes before the backing directory's names.
    fn lists_control(&self, dir: Ino, offset: u64) -> bool {
        dir == Ino::ROOT && offset == 0 && self.control.is_some() && self.stack.options().ctl_listed
    }

    /// The root's control directory; counts as one lookup.
    fn control_root(&self, caller: &Caller) -> Result<Entry> {
        let root = self.stack.node_key(Ino::ROOT).ok_or(Error::Os(libc::ESTALE))?;
        self.control()?.lookup_root(caller, root)
    }

    fn control_entry(&self, ino: Ino) -> DirEntry<'_> {
        DirEntry {
            ino,
            next_offset: AFTER_CONTROL,
            kind: libc::DT_DIR,
            name: self.stack.options().ctlname.as_deref().unwrap_or_default(),
        }
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
                _ if ino.is_staged() => {
                    if let Ok(txn) = self.staged(ino) {
                        txn.view().releasedir(fh);
                    }
                }
                true => self.control()?.releasedir(ino, fh),
                false => self.stack.releasedir(fh),
            }
            Ok(())
        })
    }

    /// Makes a directory's names durable.
    pub fn fsyncdir(&self, ino: Ino, fh: u64, data: bool) -> Result<()> {
        self.metrics.time(Operation::Fsyncdir, || match ino.is_control() {
            _ if ino.is_staged() => self.staged(ino).map(|_| ()),
            true => Ok(()),
            false => self.stack.fsyncdir(fh, data),
        })
    }

    /// Size and free space.
    pub fn statfs(&self, ino: Ino) -> Result<Space> {
        self.metrics.time(Operation::Statfs, || match ino.is_control() {
            _ if ino.is_staged() => self.staged(ino)?.view().statfs(),
            true => self.stack.statfs(Ino::ROOT),
            false => self.stack.statfs(ino),
        })
    }

    /// Whether the owner of the mount may do what `mask` says.
    pub fn access(&self, caller: &Caller, ino: Ino, mask: i32) -> Result<()> {
        self.metrics.time(Operation::Access, || match ino.is_control() {
            _ if ino.is_staged() => self.staged(ino)?.view().access(ino, mask),
            true => self.control()?.getattr(caller, ino).map(|_| ()),
            false => self.stack.access(ino, mask),
        })
    }

    /// Allocates, punches or zeroes a range of a file.
    pub fn fallocate(&self, ino: Ino, fh: u64, mode: i32, offset: u64, length: u64) -> Result<()> {
        self.metrics
            .time(Operation::Fallocate, || match ino.is_control() {
                _ if ino.is_staged() => self.staged(ino)?.view().fallocate(ino, fh, mode, offset, length),
                true => Err(Error::Os(libc::EOPNOTSUPP)),
                false => self.stack.fallocate(ino, fh, mode, offset, length),
            })
    }

    /// The next data or hole of a file.
    pub fn lseek(&self, ino: Ino, fh: u64, offset: i64, whence: i32) -> Result<u64> {
        self.metrics.time(Operation::Lseek, || match ino.is_control() {
            _ if ino.is_staged() => self.staged(ino)?.view().lseek(ino, fh, offset, whence),
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
            let inner = |ino: Ino| ino.is_control() || ino.is_staged();
            match inner(from.0) || inner(to.0) {
                // The kernel then copies by reading and writing.
                true => Err(Error::Os(libc::EOPNOTSUPP)),
                false => self.stack.copy_file_range(from, to, length),
            }
        })
    }

    fn control(&self) -> Result<&dyn ControlDirectory> {
        self.control.as_deref().ok_or(Error::Os(libc::ENOENT))
    }
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
