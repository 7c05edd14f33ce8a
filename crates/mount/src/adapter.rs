//! The FUSE adapter: decodes a request, calls the engine, replies. It decides nothing but how the kernel may cache.
//!
//! After its reply nothing of a request is touched: the kernel may send the next one, which frees what this one
//! used, to another thread at once. Every handler is guarded: a panic costs its caller EIO, not a thread.

mod answers;
mod backings;
mod convert;
mod executor;
mod handshake;
mod kernel_cache;
mod setup;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use vexfs_core::engine::Engine;
use vexfs_core::fs::ops::SetAttr;
use vexfs_core::ids::Ino;

use self::answers::{Core, done, with_buffer};
use self::backings::Backings;
use self::convert::{attr_of, caller, errno, kind_of, time_set};
use self::executor::Executor;
pub use self::kernel_cache::KernelCache;
pub use self::setup::{AdapterOptions, stack_options};

/// The engine as a FUSE filesystem.
pub struct Adapter {
    core: Arc<Core>,
    executor: Executor,
    kernel_cache: Arc<KernelCache>,
    options: AdapterOptions,
}

impl Adapter {
    /// Adapts an engine, and tells it how to reach the kernel's caches.
    pub fn new(engine: Arc<Engine>, options: AdapterOptions) -> Adapter {
        let metrics = engine.metrics().clone();
        let kernel_cache = Arc::new(KernelCache::new(metrics.clone()));
        engine.stack().connect(kernel_cache.clone());
        if engine.stack().options().ttl.is_none()
            && let Err(e) = engine.stack().watch()
        {
            tracing::info!("changes behind the mount show after a second: {e}");
        }
        let backings = Backings::new(options.passthrough, metrics.clone());
        let executor = Executor::new(metrics);
        Adapter {
            core: Arc::new(Core {
                engine,
                backings,
                sync_index: options.sync_index,
            }),
            executor,
            kernel_cache,
            options,
        }
    }

    /// The kernel's caches; to be connected with the session's notifier once there is a session.
    pub fn kernel_cache(&self) -> Arc<KernelCache> {
        self.kernel_cache.clone()
    }

    /// Runs a handler here, or on a thread of its own if the engine says that it may wait.
    fn run(&self, may_wait: bool, handler: impl FnOnce(&Core) + Send + 'static) {
        if !may_wait {
            return self.core.guard(handler);
        }
        let core = self.core.clone();
        self.executor.run(move || core.guard(handler));
    }

    /// The same for a handler that needs a name, which is copied only if it has to wait.
    fn run_named(&self, may_wait: bool, name: &OsStr, handler: impl FnOnce(&Core, &OsStr) + Send + 'static) {
        if !may_wait {
            return self.core.guard(|core| handler(core, name));
        }
        let (core, name) = (self.core.clone(), name.to_owned());
        self.executor.run(move || core.guard(|core| handler(core, &name)));
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let trusted = self.core.engine.stack().is_trusted(Ino::ROOT);
        if !handshake::negotiate(config, &self.options, trusted) {
            self.core.backings.turn_off();
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let caller = caller(req);
        self.core
            .guard(|core| core.entry(core.engine.lookup(&caller, Ino(parent.0), name), reply));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.core.guard(|core| {
            core.backings.forget(Ino(ino.0));
            core.engine.forget(Ino(ino.0), nlookup);
        });
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let caller = caller(req);
        self.core
            .guard(|core| core.attr(core.engine.getattr(&caller, Ino(ino.0), fh.map(|fh| fh.0)), reply));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(time_set),
            mtime: mtime.map(time_set),
            fh: fh.map(|fh| fh.0),
        };
        self.run(self.core.engine.setattr_may_wait(ino, &set), move |core| {
            core.attr(core.engine.setattr(&caller, ino, &set), reply);
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        self.run(self.core.engine.look_may_wait(ino), move |core| {
            match core.engine.readlink(&caller, ino) {
                Ok(target) => reply.data(&target),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (caller, parent) = (caller(req), Ino(parent.0));
        self.run_named(self.core.engine.may_wait(parent), name, move |core, name| {
            let made = core
                .engine
                .mknod(&caller, parent, name, (mode, umask), u64::from(rdev));
            core.entry(made, reply);
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (caller, parent) = (caller(req), Ino(parent.0));
        self.run_named(self.core.engine.may_wait(parent), name, move |core, name| {
            core.entry(core.engine.mkdir(&caller, parent, name, mode, umask), reply);
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, parent) = (caller(req), Ino(parent.0));
        self.run_named(self.core.engine.may_wait(parent), name, move |core, name| {
            done(core.engine.unlink(&caller, parent, name), reply);
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, parent) = (caller(req), Ino(parent.0));
        self.run_named(self.core.engine.may_wait(parent), name, move |core, name| {
            done(core.engine.rmdir(&caller, parent, name), reply);
        });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (caller, parent) = (caller(req), Ino(parent.0));
        let target = target.as_os_str().to_owned();
        self.run_named(self.core.engine.may_wait(parent), name, move |core, name| {
            core.entry(core.engine.symlink(&caller, parent, name, &target), reply);
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (caller, parent, newparent) = (caller(req), Ino(parent.0), Ino(newparent.0));
        if !self.core.engine.may_wait(parent) {
            return self.core.guard(|core| {
                let renamed = core
                    .engine
                    .rename(&caller, parent, name, newparent, newname, flags.bits());
                done(renamed, reply);
            });
        }
        let newname = newname.to_owned();
        self.run_named(true, name, move |core, name| {
            done(
                core.engine
                    .rename(&caller, parent, name, newparent, &newname, flags.bits()),
                reply,
            );
        });
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (ino, parent) = (Ino(ino.0), Ino(newparent.0));
        self.run_named(self.core.engine.may_wait(parent), newname, move |core, name| {
            core.entry(core.engine.link(ino, parent, name), reply);
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        self.run(self.core.engine.open_may_wait(ino, flags.0), move |core| {
            core.open(&caller, ino, flags.0, reply)
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        self.run(self.core.engine.look_may_wait(ino), move |core| {
            with_buffer(size, |buffer| {
                match core.engine.read(&caller, ino, fh.0, offset, buffer) {
                    Ok(len) => reply.data(&buffer[..len]),
                    Err(e) => reply.error(errno(&e)),
                }
            });
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        // Pages of a mapping have their own offset, whatever file they come by.
        let append = flags.0 & libc::O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let write =
            move |core: &Core, data: &[u8]| match core.engine.write(&caller, ino, fh.0, offset, data, append)
            {
                Ok(len) => reply.written(len as u32),
                Err(e) => reply.error(errno(&e)),
            };
        if !self.core.engine.look_may_wait(ino) {
            return self.core.guard(|core| write(core, data));
        }
        let data = data.to_vec();
        self.run(true, move |core| write(core, &data));
    }

    fn flush(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        // Also from kernels that do not know FOPEN_NOFLUSH: nothing is held back that a close could lose.
        if !self.core.sync_index {
            return reply.ok();
        }
        self.run(true, move |core| {
            done(core.engine.make_searchable(Ino(ino.0), fh.0), reply)
        });
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let ino = Ino(ino.0);
        self.core.guard(|core| {
            core.backings.release(ino);
            done(core.engine.release(ino, fh.0), reply);
        });
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.run(self.core.sync_index, move |core| {
            let synced = core.engine.fsync(Ino(ino.0), fh.0, datasync);
            let found = match core.sync_index {
                true => core.engine.make_searchable(Ino(ino.0), fh.0),
                false => Ok(()),
            };
            done(synced.and(found), reply);
        });
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        self.run(self.core.engine.look_may_wait(ino), move |core| {
            match core.engine.opendir(&caller, ino) {
                Ok(fh) => {
                    let flags = match (core.engine.keeps_lists(ino), core.engine.stack().is_trusted(ino)) {
                        // A generated list is new each time.
                        (false, _) => FopenFlags::empty(),
                        // The kernel drops its list when the directory's mtime changes.
                        (true, true) => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
                        (true, false) => FopenFlags::FOPEN_CACHE_DIR,
                    };
                    reply.opened(FileHandle(fh), flags);
                }
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        self.run(self.core.engine.look_may_wait(ino), move |core| {
            let listed = core.engine.readdir(&caller, ino, fh.0, offset, |entry| {
                let kind = kind_of(u32::from(entry.kind) << 12);
                reply.add(INodeNo(entry.ino.0), entry.next_offset, kind, entry.name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        self.run(self.core.engine.look_may_wait(ino), move |core| {
            let listed = core
                .engine
                .readdirplus(&caller, ino, fh.0, offset, |entry, found| {
                    let number = INodeNo(found.attr.ino.0);
                    let (attr, generation) = (attr_of(&found.attr), Generation(found.generation));
                    reply.add(
                        number,
                        entry.next_offset,
                        entry.name,
                        &found.entry_ttl,
                        &attr,
                        generation,
                    )
                });
            match listed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn releasedir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.core
            .guard(|core| done(core.engine.releasedir(Ino(ino.0), fh.0), reply));
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.core
            .guard(|core| done(core.engine.fsyncdir(Ino(ino.0), fh.0, datasync), reply));
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.core.guard(|core| match core.engine.statfs(Ino(ino.0)) {
            Ok(s) => {
                reply.statfs(
                    s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize,
                );
            }
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        let value = value.to_vec();
        self.run_named(
            self.core.engine.xattr_may_wait(ino, name),
            name,
            move |core, name| {
                done(core.engine.setxattr(&caller, ino, name, &value, flags), reply);
            },
        );
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        self.run_named(
            self.core.engine.getxattr_may_wait(ino, name),
            name,
            move |core, name| {
                with_buffer(size, |buffer| {
                    match core.engine.getxattr(&caller, ino, name, buffer) {
                        Ok(len) if size == 0 => reply.size(len as u32),
                        Ok(len) => reply.data(&buffer[..len]),
                        Err(e) => reply.error(errno(&e)),
                    }
                });
            },
        );
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        self.run(self.core.engine.look_may_wait(ino), move |core| {
            match core.engine.listxattr(&caller, ino) {
                Ok(list) if size == 0 => reply.size(list.len() as u32),
                Ok(list) if list.len() > size as usize => reply.error(fuser::Errno::ERANGE),
                Ok(list) => reply.data(&list),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, ino) = (caller(req), Ino(ino.0));
        self.run_named(
            self.core.engine.xattr_may_wait(ino, name),
            name,
            move |core, name| {
                done(core.engine.removexattr(&caller, ino, name), reply);
            },
        );
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let caller = caller(req);
        self.core
            .guard(|core| done(core.engine.access(&caller, Ino(ino.0), mask.bits()), reply));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, parent) = (caller(req), Ino(parent.0));
        self.run_named(self.core.engine.may_wait(parent), name, move |core, name| {
            core.create(&caller, parent, name, (mode, umask), flags, reply);
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.core.guard(|core| {
            done(
                core.engine.fallocate(Ino(ino.0), fh.0, mode, offset, length),
                reply,
            )
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.core
            .guard(|core| match core.engine.lseek(Ino(ino.0), fh.0, offset, whence) {
                Ok(at) => reply.offset(at as i64),
                Err(e) => reply.error(errno(&e)),
            });
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The reply has 32 bits for the length; whole pages keep the rest aligned.
        let len = len.min(u64::from(u32::MAX) & !4095) as usize;
        self.core.guard(|core| {
            let from = (Ino(ino_in.0), fh_in.0, offset_in);
            let to = (Ino(ino_out.0), fh_out.0, offset_out);
            match core.engine.copy_file_range(from, to, len) {
                Ok(copied) => reply.written(copied as u32),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }
}
