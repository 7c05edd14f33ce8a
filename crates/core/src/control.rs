//! The control directory, as the filesystem sees it: what stands under the reserved name in every directory.

mod children;
mod handles;
mod lists;
mod names;
mod node;
mod relations;
mod saved;
mod tree;
mod txn;

use std::ffi::OsStr;

use crate::Result;
use crate::fs::ops::{Attr, Caller, Entry, SetAttr};
use crate::ids::{Ino, NodeKey};
pub use names::escape;
pub use tree::ControlTree;
pub use txn::{TxnControl, forget_transaction};

/// One entry of a control directory: number, where to go on after it, `DT_*`, name. True when there is no more room.
pub type AddEntry<'a> = dyn FnMut(Ino, u64, u8, &OsStr) -> bool + 'a;

/// A tree of generated nodes whose numbers all have [`Ino::CONTROL_BIT`]. Lookups count as in the filesystem. Files
/// are read and written past the kernel's page cache. What may take long is called from threads that wait for
/// nothing else; `lookup`, `getattr`, `forget` and the releases must not take long.
#[allow(missing_docs, reason = "each is the filesystem operation of that name")]
pub trait ControlDirectory: Send + Sync {
    /// The control directory of the directory `dir`.
    fn lookup_root(&self, caller: &Caller, dir: NodeKey) -> Result<Entry>;
    /// The control directory of a directory in the view of a transaction.
    fn lookup_staged(&self, caller: &Caller, dir: Ino) -> Result<Entry>;
    fn lookup(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<Entry>;
    fn forget(&self, ino: Ino, count: u64);
    fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attr>;
    fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr>;
    fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>>;
    fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<u64>;
    fn read(&self, caller: &Caller, ino: Ino, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>>;
    fn write(&self, caller: &Caller, ino: Ino, fh: u64, offset: u64, data: &[u8]) -> Result<u32>;
    fn release(&self, ino: Ino, fh: u64);
    fn opendir(&self, caller: &Caller, ino: Ino) -> Result<u64>;
    fn readdir(&self, caller: &Caller, ino: Ino, fh: u64, offset: u64, add: &mut AddEntry<'_>) -> Result<()>;
    fn releasedir(&self, ino: Ino, fh: u64);
    fn mkdir(&self, caller: &Caller, parent: Ino, name: &OsStr, mode: u32) -> Result<Entry>;
    fn rmdir(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<()>;
    fn symlink(&self, caller: &Caller, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry>;
    fn unlink(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<()>;
    fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<()>;
    /// A new file, open: its entry and file handle.
    fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<(Entry, u64)>;
    fn getxattr(&self, caller: &Caller, ino: Ino, name: &OsStr) -> Result<Vec<u8>>;
    fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>>;
    fn setxattr(&self, caller: &Caller, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> Result<()>;
    fn removexattr(&self, caller: &Caller, ino: Ino, name: &OsStr) -> Result<()>;
    /// Waits until a file that was just written can be found.
    fn make_searchable(&self, node: NodeKey);
    /// `user.vexfs.*` of an ordinary file or directory.
    fn get_own_xattr(&self, caller: &Caller, node: NodeKey, name: &OsStr) -> Result<Vec<u8>>;
    fn set_own_xattr(
        &self,
        caller: &Caller,
        node: NodeKey,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()>;
    fn remove_own_xattr(&self, caller: &Caller, node: NodeKey, name: &OsStr) -> Result<()>;
}
