//! `.vexfs/txn/` of the tree's root: transactions as directories. mkdir begins one, a rename to `@committed/` commits it,
//! rmdir gives it up.
//!
//! It stands before another control directory and adds this one name to its root; everything else goes on to that.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::{AddEntry, ControlDirectory};
use crate::fs::ops::{Attr, Caller, Entry, SetAttr, Timestamp};
use crate::ids::{Ino, NodeKey};
use crate::txn::{Desk, How, Txn, VIEW_TTL};
use crate::{Error, Result};
use reports::Report;

mod reports;

/// The name under the control directory's root.
const NAME: &str = "txn";
/// The directory into which a transaction is moved to commit it.
const COMMITTED: &str = "@committed";

/// Numbers of these nodes; the other control directory counts its own up from 0.
const OURS: u64 = Ino::CONTROL_BIT | 1 << 61;
const DIR: Ino = Ino(OURS | 1);
const DONE: Ino = Ino(OURS | 2);
/// From here on, for each transaction its directory and its files.
const TXN_SHIFT: u32 = 8;

/// Where our name comes in the listing of the root: after everything else.
const LAST_OFFSET: u64 = i64::MAX as u64;

/// What one of our numbers stands for.
enum Node {
    Dir,
    Done,
    Txn(Arc<Txn>),
    Report(Arc<Txn>, Report),
}

/// See the module.
pub struct TxnControl {
    desk: Arc<Desk>,
    inner: Arc<dyn ControlDirectory>,
    /// The directory in whose control directory transactions stand: the root of the tree.
    root: NodeKey,
    /// The number of its control directory, when it has been looked up.
    above: AtomicU64,
    /// What open files contain, from the first read on.
    texts: Mutex<HashMap<u64, Arc<Vec<u8>>>>,
    last_handle: AtomicU64,
    /// The kernel is being told that what was committed does not stand in [`DONE`].
    leaving: Mutex<HashMap<OsString, JoinHandle<()>>>,
    owner: (u32, u32),
}

impl TxnControl {
    /// Puts the transactions of `desk` before `inner`. `root` is the tree's root.
    pub fn new(desk: Arc<Desk>, inner: Arc<dyn ControlDirectory>, root: NodeKey) -> TxnControl {
        TxnControl {
            desk,
            inner,
            root,
            above: AtomicU64::new(0),
            texts: Mutex::default(),
            last_handle: AtomicU64::new(0),
            leaving: Mutex::default(),
            owner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
        }
    }

    fn is_above(&self, ino: Ino) -> bool {
        self.above.load(Ordering::Relaxed) == ino.0
    }

    fn node(&self, ino: Ino) -> Result<Node> {
        match ino {
            DIR => return Ok(Node::Dir),
            DONE => return Ok(Node::Done),
            _ => {}
        }
        let number = (ino.0 & !OURS) >> TXN_SHIFT;
        let txns = self.desk.list();
        let txn = txns.into_iter().find(|txn| u64::from(txn.index()) + 1 == number);
        let txn = txn.ok_or(Error::Os(libc::ENOENT))?;
        let which = ino.0 & ((1 << TXN_SHIFT) - 1);
        if which == 1 {
            return Ok(Node::Txn(txn));
        }
        let report = Report::ALL.iter().find(|(report, _)| *report as u64 == which);
        report
            .map(|(report, _)| Node::Report(txn, *report))
            .ok_or(Error::Os(libc::ENOENT))
    }

    fn attr(&self, ino: Ino, node: &Node) -> Attr {
        let (mode, owner, time) = match node {
            Node::Dir | Node::Done => (libc::S_IFDIR | 0o1777, self.owner, Timestamp::default()),
            Node::Txn(txn) => (
                libc::S_IFDIR | txn.mode(),
                (txn.owner(), self.owner.1),
                txn.begun(),
            ),
            Node::Report(txn, _) => (libc::S_IFREG | 0o444, (txn.owner(), self.owner.1), txn.begun()),
        };
        Attr {
            ino,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            mode,
            nlink: 1,
            uid: owner.0,
            gid: owner.1,
            rdev: 0,
            blksize: 4096,
        }
    }

    /// The kernel may keep these for a moment: whoever works in a transaction by absolute paths passes them with every
    /// call.
    fn entry(&self, ino: Ino) -> Result<Entry> {
        Ok(Entry {
            attr: self.attr(ino, &self.node(ino)?),
            generation: 0,
            entry_ttl: VIEW_TTL,
            attr_ttl: VIEW_TTL,
        })
    }

    /// Begins a transaction. One of this name that was committed has left the kernel's cache by then: mv(1) would find
    /// a directory where it wants to move this one to.
    fn begin(&self, caller: &Caller, name: &OsStr) -> Result<Entry> {
        let leaving = self.leaving.lock().remove(name);
        if let Some(leaving) = leaving {
            // It only tells the kernel.
            let _ = leaving.join();
        }
        self.entry(txn_ino(&*self.desk.begin(caller, name)?))
    }

    /// Commits. The kernel then takes the directory for one in [`DONE`], and is told otherwise; on a thread, since it
    /// listens only when it has the answer to the rename.
    fn commit(&self, caller: &Caller, name: &OsStr) -> Result<()> {
        self.desk.commit(caller, name)?;
        let Some(kernel) = self.desk.kernel_caches() else {
            return Ok(());
        };
        let told = name.to_owned();
        let leaving = std::thread::spawn(move || kernel.entry(DONE, &told));
        let mut all = self.leaving.lock();
        all.retain(|_, leaving| !leaving.is_finished());
        all.insert(name.to_owned(), leaving);
        Ok(())
    }

    /// Names in one of our directories, with what they lead to.
    fn names(&self, node: &Node) -> Result<Vec<(Ino, u8, String)>> {
        Ok(match node {
            Node::Dir => {
                let txns = self.desk.list();
                let listed = txns.iter().map(|txn| {
                    (
                        txn_ino(txn),
                        libc::DT_DIR,
                        txn.name().to_string_lossy().into_owned(),
                    )
                });
                listed
                    .chain([(DONE, libc::DT_DIR, COMMITTED.to_owned())])
                    .collect()
            }
            Node::Done => Vec::new(),
            Node::Txn(txn) => {
                let reports = Report::ALL.iter();
                let listed = reports
                    .map(|(report, name)| (report_ino(txn, *report), libc::DT_REG, (*name).to_owned()));
                [(txn.view().root(), libc::DT_DIR, "root".to_owned())]
                    .into_iter()
                    .chain(listed)
                    .collect()
            }
            Node::Report(..) => return Err(Error::Os(libc::ENOTDIR)),
        })
    }
}

fn is_ours(ino: Ino) -> bool {
    ino.0 & OURS == OURS
}

fn txn_ino(txn: &Txn) -> Ino {
    Ino(OURS | (u64::from(txn.index()) + 1) << TXN_SHIFT | 1)
}

fn report_ino(txn: &Txn, report: Report) -> Ino {
    Ino(OURS | (u64::from(txn.index()) + 1) << TXN_SHIFT | report as u64)
}

/// How long whoever ends a transaction waits for the kernel to forget it. It takes the kernel some microseconds for each
/// file that was looked at in the transaction; what takes longer goes on alone.
const FORGET_WAIT: Duration = Duration::from_millis(2);

/// Tells the kernel that a transaction has ended that did not end through the mount: its directory is not there, whatever
/// the kernel has cached.
pub fn forget_transaction(desk: &Desk, name: &OsStr) {
    let Some(kernel) = desk.kernel_caches() else {
        return;
    };
    let (name, (done, forgotten)) = (name.to_owned(), mpsc::channel());
    std::thread::spawn(move || {
        kernel.entry(DIR, &name);
        // Nobody may be waiting any more.
        let _ = done.send(());
    });
    let _ = forgotten.recv_timeout(FORGET_WAIT);
}

/// Attributes of a transaction's directory.
const STRICT: &[u8] = b"user.vexfs.strict";
const QUOTA: &[u8] = b"user.vexfs.quota";
const EXPIRES: &[u8] = b"user.vexfs.expires";
/// Set to `merge` or `ours`, it rebases.
const REBASE: &[u8] = b"user.vexfs.rebase";

/// Sets an attribute of a transaction: a decimal number.
fn set(txn: &Txn, name: &OsStr, value: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(value);
    let number = |most: u64, what: &str| match text.trim().parse::<u64>() {
        Ok(number) if number <= most => Ok(number),
        _ => Err(Error::Invalid(format!("{text:?} is not {what}"))),
    };
    match name.as_bytes() {
        STRICT => txn.view().set_strict(number(1, "0 or 1")? == 1),
        QUOTA => txn.view().set_quota(number(u64::MAX, "a number of bytes")?),
        EXPIRES => txn.expire_in(number(u64::from(u32::MAX), "a number of seconds from now")? as u32),
        _ => return Err(Error::NotPermitted(DIRECTORY)),
    }
    Ok(())
}

const DIRECTORY: &str = "the directory of transactions";

impl ControlDirectory for TxnControl {
    fn lookup_root(&self, caller: &Caller, dir: NodeKey) -> Result<Entry> {
        let entry = self.inner.lookup_root(caller, dir)?;
        if dir == self.root {
            self.above.store(entry.attr.ino.0, Ordering::Relaxed);
        }
        Ok(entry)
    }

    fn lookup_staged(&self, caller: &Caller, dir: Ino) -> Result<Entry> {
        self.inner.lookup_staged(caller, dir)
    }

    fn lookup(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<Entry> {
        if !is_ours(parent) {
            return match self.is_above(parent) && name == NAME {
                true => self.entry(DIR),
                false => self.inner.lookup(caller, parent, name),
            };
        }
        match self.node(parent)? {
            Node::Dir if name == COMMITTED => self.entry(DONE),
            Node::Dir => match self.desk.get(name) {
                Some(txn) => self.entry(txn_ino(&txn)),
                None => Err(Error::Os(libc::ENOENT)),
            },
            Node::Txn(txn) if name == "root" => txn.view().lookup_root(),
            Node::Txn(txn) => {
                let report = Report::ALL.iter().find(|(_, known)| name == *known);
                let (report, _) = report.ok_or(Error::Os(libc::ENOENT))?;
                self.entry(report_ino(&txn, *report))
            }
            Node::Done | Node::Report(..) => Err(Error::Os(libc::ENOENT)),
        }
    }

    fn forget(&self, ino: Ino, count: u64) {
        if !is_ours(ino) {
            self.inner.forget(ino, count);
        }
    }

    fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attr> {
        match is_ours(ino) {
            true => Ok(self.attr(ino, &self.node(ino)?)),
            false => self.inner.getattr(caller, ino),
        }
    }

    fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr> {
        if !is_ours(ino) {
            return self.inner.setattr(caller, ino, set);
        }
        let node = self.node(ino)?;
        match (&node, set.mode) {
            (Node::Txn(txn), Some(mode)) if caller.uid == txn.owner() || caller.uid == 0 => txn.share(mode),
            _ => return Err(Error::NotPermitted(DIRECTORY)),
        }
        Ok(self.attr(ino, &node))
    }

    fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        match is_ours(ino) {
            true => Err(Error::Os(libc::EINVAL)),
            false => self.inner.readlink(caller, ino),
        }
    }

    fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<u64> {
        if !is_ours(ino) {
            return self.inner.open(caller, ino, flags);
        }
        match self.node(ino)? {
            Node::Report(..) if flags & libc::O_ACCMODE == libc::O_RDONLY => {
                Ok(self.last_handle.fetch_add(1, Ordering::Relaxed) + 1)
            }
            Node::Report(..) => Err(Error::ReadOnly),
            _ => Err(Error::Os(libc::EISDIR)),
        }
    }

    /// Made anew at each read from the beginning; a reader that goes on gets what follows.
    fn read(&self, caller: &Caller, ino: Ino, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        if !is_ours(ino) {
            return self.inner.read(caller, ino, fh, offset, size);
        }
        let Node::Report(txn, report) = self.node(ino)? else {
            return Err(Error::Os(libc::EISDIR));
        };
        let known = self.texts.lock().get(&fh).filter(|_| offset > 0).cloned();
        let text = match known {
            Some(text) => text,
            None => {
                let text = Arc::new(report.render(&txn, self.desk.teller())?);
                self.texts.lock().insert(fh, text.clone());
                text
            }
        };
        let from = text.len().min(offset as usize);
        let to = text.len().min(from + size as usize);
        Ok(text[from..to].to_vec())
    }

    fn write(&self, caller: &Caller, ino: Ino, fh: u64, offset: u64, data: &[u8]) -> Result<u32> {
        match is_ours(ino) {
            true => Err(Error::ReadOnly),
            false => self.inner.write(caller, ino, fh, offset, data),
        }
    }

    fn release(&self, ino: Ino, fh: u64) {
        match is_ours(ino) {
            true => drop(self.texts.lock().remove(&fh)),
            false => self.inner.release(ino, fh),
        }
    }

    fn opendir(&self, caller: &Caller, ino: Ino) -> Result<u64> {
        if !is_ours(ino) {
            return self.inner.opendir(caller, ino);
        }
        match self.node(ino)? {
            Node::Report(..) => Err(Error::Os(libc::ENOTDIR)),
            _ => Ok(1),
        }
    }

    fn readdir(&self, caller: &Caller, ino: Ino, fh: u64, offset: u64, add: &mut AddEntry<'_>) -> Result<()> {
        if is_ours(ino) {
            let names = self.names(&self.node(ino)?)?;
            for (at, (ino, kind, name)) in names.iter().enumerate().skip(offset as usize) {
                if add(*ino, at as u64 + 1, *kind, OsStr::new(name)) {
                    break;
                }
            }
            return Ok(());
        }
        let mut full = false;
        if offset != LAST_OFFSET {
            let mut pass = |ino, next, kind, name: &OsStr| {
                full = add(ino, next, kind, name);
                full
            };
            self.inner.readdir(caller, ino, fh, offset, &mut pass)?;
        }
        if !full && offset != LAST_OFFSET && self.is_above(ino) {
            add(DIR, LAST_OFFSET, libc::DT_DIR, OsStr::new(NAME));
        }
        Ok(())
    }

    fn releasedir(&self, ino: Ino, fh: u64) {
        if !is_ours(ino) {
            self.inner.releasedir(ino, fh);
        }
    }

    fn mkdir(&self, caller: &Caller, parent: Ino, name: &OsStr, mode: u32) -> Result<Entry> {
        if !is_ours(parent) {
            return self.inner.mkdir(caller, parent, name, mode);
        }
        match self.node(parent)? {
            Node::Dir => self.begin(caller, name),
            _ => Err(Error::NotPermitted(DIRECTORY)),
        }
    }

    fn rmdir(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<()> {
        if !is_ours(parent) {
            return self.inner.rmdir(caller, parent, name);
        }
        match self.node(parent)? {
            Node::Dir => self.desk.abort(caller, name),
            _ => Err(Error::NotPermitted(DIRECTORY)),
        }
    }

    fn symlink(&self, caller: &Caller, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry> {
        match is_ours(parent) {
            true => Err(Error::NotPermitted(DIRECTORY)),
            false => self.inner.symlink(caller, parent, name, target),
        }
    }

    fn unlink(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<()> {
        match is_ours(parent) {
            true => Err(Error::NotPermitted(DIRECTORY)),
            false => self.inner.unlink(caller, parent, name),
        }
    }

    fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        match (is_ours(parent), is_ours(new_parent)) {
            (false, false) => self
                .inner
                .rename(caller, parent, name, new_parent, new_name, flags),
            (true, true) if parent == DIR && new_parent == DONE && name == new_name => {
                self.commit(caller, name)
            }
            // Anything but EXDEV, which would make mv(1) copy.
            _ => Err(Error::NotPermitted(DIRECTORY)),
        }
    }

    fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, u64)> {
        match is_ours(parent) {
            true => Err(Error::NotPermitted(DIRECTORY)),
            false => self.inner.create(caller, parent, name, mode, flags),
        }
    }

    fn getxattr(&self, caller: &Caller, ino: Ino, name: &OsStr) -> Result<Vec<u8>> {
        if !is_ours(ino) {
            return self.inner.getxattr(caller, ino, name);
        }
        let Node::Txn(txn) = self.node(ino)? else {
            return Err(Error::NoAttribute);
        };
        let number = match name.as_bytes() {
            STRICT => u64::from(txn.view().is_strict()),
            QUOTA => txn.view().quota(),
            EXPIRES => txn.expires().max(0) as u64,
            _ => return Err(Error::NoAttribute),
        };
        Ok(number.to_string().into_bytes())
    }

    fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        match is_ours(ino) {
            true => Ok(Vec::new()),
            false => self.inner.listxattr(caller, ino),
        }
    }

    fn setxattr(&self, caller: &Caller, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        if !is_ours(ino) {
            return self.inner.setxattr(caller, ino, name, value, flags);
        }
        match self.node(ino)? {
            Node::Txn(txn) if name.as_bytes() == REBASE => {
                let how = match value.trim_ascii() {
                    b"merge" => How::Merge,
                    b"ours" => How::Ours,
                    _ => return Err(Error::Invalid("expected merge or ours".into())),
                };
                self.desk.rebase(caller, txn.name(), how)
            }
            Node::Txn(txn) if caller.uid == txn.owner() || caller.uid == 0 => set(&txn, name, value),
            _ => Err(Error::NotPermitted(DIRECTORY)),
        }
    }

    fn removexattr(&self, caller: &Caller, ino: Ino, name: &OsStr) -> Result<()> {
        match is_ours(ino) {
            true => Err(Error::NoAttribute),
            false => self.inner.removexattr(caller, ino, name),
        }
    }

    fn get_own_xattr(&self, caller: &Caller, node: NodeKey, name: &OsStr) -> Result<Vec<u8>> {
        self.inner.get_own_xattr(caller, node, name)
    }

    fn set_own_xattr(
        &self,
        caller: &Caller,
        node: NodeKey,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        self.inner.set_own_xattr(caller, node, name, value, flags)
    }

    fn make_searchable(&self, node: NodeKey) {
        self.inner.make_searchable(node);
    }

    fn remove_own_xattr(&self, caller: &Caller, node: NodeKey, name: &OsStr) -> Result<()> {
        self.inner.remove_own_xattr(caller, node, name)
    }
}
