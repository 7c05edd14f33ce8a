//! What requests work with on whatever thread, and the answers that more than one request has.

use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fuser::{FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, ReplyOpen};
use vexfs_core::Result;
use vexfs_core::engine::Engine;
use vexfs_core::fs::ops::{Attr, Caller, Entry};
use vexfs_core::fs::{Opened, Reopen, SHARED_FH};
use vexfs_core::ids::Ino;
use vexfs_core::pool;

use super::backings::Backings;
use super::convert::{attr_of, errno};
use super::handshake::TRANSFER_MAX;

/// Most values of attributes are shorter: an ACL of a few entries, a capability, a comment.
const ON_STACK_MAX: usize = 256;

/// The engine, and what the kernel reads and writes itself.
pub(super) struct Core {
    pub(super) engine: Arc<Engine>,
    pub(super) backings: Backings,
    pub(super) sync_index: bool,
}

impl Core {
    /// A panic in a handler drops the reply, which answers EIO.
    pub(super) fn guard(&self, handler: impl FnOnce(&Core)) {
        if catch_unwind(AssertUnwindSafe(|| handler(self))).is_err() {
            self.engine.metrics().panics.add_one();
        }
    }

    pub(super) fn open(&self, caller: &Caller, ino: Ino, flags: i32, reply: ReplyOpen) {
        if ino.is_control() {
            return match self.engine.open(caller, ino, flags, Reopen::Daemon) {
                Ok(opened) => reply.opened(FileHandle(opened.fh), FopenFlags::FOPEN_DIRECT_IO),
                Err(e) => reply.error(errno(&e)),
            };
        }
        let how = self.how(ino);
        let mut opened = match self.engine.open(caller, ino, flags, how) {
            Ok(opened) => opened,
            Err(e) => return reply.error(errno(&e)),
        };
        if how == Reopen::Passthrough {
            let id = self
                .backings
                .acquire(ino, opened.generation, || match &opened.file {
                    Some(file) => reply.open_backing(file),
                    None => reply.open_backing(&*self.engine.passthrough_fd(ino).map_err(backing_error)?),
                });
            if let Some(id) = id {
                return reply.opened_passthrough(FileHandle(opened.fh), self.at_close(flags), &id);
            }
            if opened.fh == SHARED_FH {
                opened = match self.engine.open(caller, ino, flags, Reopen::Daemon) {
                    Ok(opened) => opened,
                    Err(e) => {
                        self.backings.release(ino);
                        return reply.error(errno(&e));
                    }
                };
            }
        }
        reply.opened(
            FileHandle(opened.fh),
            self.at_close(flags) | cached_flags(&opened),
        );
    }

    pub(super) fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        modes: (u32, u32),
        flags: i32,
        reply: ReplyCreate,
    ) {
        let how = self.how(parent);
        let (entry, opened) = match self.engine.create(caller, parent, name, modes, flags, how) {
            Ok(created) => created,
            Err(e) => return reply.error(errno(&e)),
        };
        let (attr, generation, fh) = (
            attr_of(&entry.attr),
            Generation(entry.generation),
            FileHandle(opened.fh),
        );
        if entry.attr.ino.is_control() {
            return reply.created(
                &entry.entry_ttl,
                &attr,
                generation,
                fh,
                FopenFlags::FOPEN_DIRECT_IO,
            );
        }
        if how == Reopen::Passthrough
            && let Some(file) = &opened.file
            && let Some(id) = self
                .backings
                .acquire(entry.attr.ino, opened.generation, || reply.open_backing(file))
        {
            let flags = self.at_close(flags);
            return reply.created_passthrough(&entry.entry_ttl, &attr, generation, fh, flags, &id);
        }
        let flags = self.at_close(flags) | cached_flags(&opened);
        reply.created(&entry.entry_ttl, &attr, generation, fh, flags);
    }

    /// A close waits for us only where it promises something: nothing else is held back that it could lose.
    fn at_close(&self, flags: i32) -> FopenFlags {
        match self.sync_index && flags & libc::O_ACCMODE != libc::O_RDONLY {
            true => FopenFlags::empty(),
            false => FopenFlags::FOPEN_NOFLUSH,
        }
    }

    pub(super) fn entry(&self, made: Result<Entry>, reply: ReplyEntry) {
        match made {
            Ok(entry) => reply.entry_with_ttls(
                &entry.attr_ttl,
                &entry.entry_ttl,
                &attr_of(&entry.attr),
                Generation(entry.generation),
            ),
            Err(e) => reply.error(errno(&e)),
        }
    }

    pub(super) fn attr(&self, attr: Result<Attr>, reply: ReplyAttr) {
        match attr {
            Ok(attr) => reply.attr(&self.engine.attr_ttl(&attr), &attr_of(&attr)),
            Err(e) => reply.error(errno(&e)),
        }
    }

    /// Who moves the data of an inode. What is staged may change from one backing file to another while it is open.
    fn how(&self, ino: Ino) -> Reopen {
        match ino.is_staged() {
            true => Reopen::Daemon,
            false => self.backings.how(),
        }
    }
}

/// How the kernel may cache a file that we read and write for it.
fn cached_flags(opened: &Opened) -> FopenFlags {
    match opened.keep_cache {
        true => FopenFlags::FOPEN_KEEP_CACHE,
        false => FopenFlags::empty(),
    }
}

/// Answers a request that only succeeds or fails.
pub(super) fn done(result: vexfs_core::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    }
}

/// Calls `f` with `size` bytes of a buffer: on the stack where clearing it costs less than a take, else from the pool.
pub(super) fn with_buffer<T>(size: u32, f: impl FnOnce(&mut [u8]) -> T) -> T {
    let size = size.min(TRANSFER_MAX) as usize;
    match size {
        ..=ON_STACK_MAX => f(&mut [0; ON_STACK_MAX][..size]),
        _ => f(&mut pool::take(size)),
    }
}

fn backing_error(error: vexfs_core::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
