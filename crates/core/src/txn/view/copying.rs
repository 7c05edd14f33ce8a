//! Copies into the stage, made before the first change. All of this is called with `changing` held.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::{Base, KEPT, View};
use crate::fs::Reopen;
use crate::fs::copy::copy_content;
use crate::fs::ops::{Attr, SetAttr, TimeSet};
use crate::ids::Ino;
use crate::{Error, Result};

/// How often a file that changes while it is copied is copied again.
const COPY_TRIES: u32 = 8;

impl View {
    /// The staged inode of a node, with the base's attributes, and with its content if `content`. Folders above are
    /// copied first. When this fails, nothing of the view has changed but folders that were copied.
    pub(super) fn copy_up(&self, ino: Ino, content: bool) -> Result<Ino> {
        let node = self.node(ino)?;
        if let Some(upper) = node.upper.filter(|_| node.copied) {
            return Ok(upper);
        }
        let lower = node.lower.ok_or(Error::Os(libc::ESTALE))?;
        let attr = self.lower.getattr(lower, None)?;
        if let Some(placeholder) = node.upper {
            self.fill(lower, placeholder, &attr, content)?;
            self.copied(ino, placeholder, &attr)?;
            return Ok(placeholder);
        }
        if node.gone {
            return self.copy_nameless(ino, lower, &attr, content);
        }
        let parent = self.copy_up(Ino(node.parent), true)?;
        self.touch(Ino(node.parent), &node.name)?;
        let upper = self.unnoticed(parent, || {
            let upper = self.placeholder(parent, &node.name, &attr, lower)?;
            let filled = match node.is_dir() {
                true => self.copy_attributes(lower, upper),
                false => self.fill(lower, upper, &attr, content),
            };
            if let Err(e) = filled {
                let removed = match node.is_dir() {
                    true => self.upper.rmdir(parent, &node.name),
                    false => self.upper.unlink(parent, &node.name),
                };
                // What cannot be removed would hide the base: better to know.
                removed?;
                return Err(e);
            }
            Ok(upper)
        })?;
        self.copied(ino, upper, &attr)?;
        Ok(upper)
    }

    /// The copy of a file that is open though it has no name any more.
    fn copy_nameless(&self, ino: Ino, lower: Ino, attr: &Attr, content: bool) -> Result<Ino> {
        let kept = self.upper.lookup(Ino::ROOT, OsStr::new(KEPT))?.attr.ino;
        let upper = self.placeholder(kept, OsStr::new(&format!("gone-{}", ino.0)), attr, lower);
        self.upper.forget(kept, 1);
        let upper = upper?;
        self.fill(lower, upper, attr, content)?;
        self.update(ino, |node| {
            node.upper = Some(upper);
            node.copied = true;
        })?;
        Ok(upper)
    }

    /// An empty staged inode of the type of a base inode. A symbolic link is complete from the start.
    pub(super) fn placeholder(&self, parent: Ino, name: &OsStr, attr: &Attr, lower: Ino) -> Result<Ino> {
        let made = match attr.mode & libc::S_IFMT {
            libc::S_IFDIR => self.upper.mkdir(&self.daemon, parent, name, 0o700, 0)?,
            libc::S_IFLNK => {
                let target = self.lower.readlink(lower)?;
                self.upper
                    .symlink(&self.daemon, parent, name, OsStr::from_bytes(&target))?
            }
            kind => {
                let modes = (kind | 0o600, 0);
                self.upper.mknod(&self.daemon, parent, name, modes, attr.rdev)?
            }
        };
        Ok(made.attr.ino)
    }

    /// Notes that a node is served by the stage from now on. A copy of a file with further links also gets a name
    /// outside of the tree: it serves those links as well, and outlives its own name.
    fn copied(&self, ino: Ino, upper: Ino, attr: &Attr) -> Result<()> {
        let linked = attr.mode & libc::S_IFMT == libc::S_IFREG && attr.nlink > 1;
        if linked {
            self.keep_for_links(ino, upper)?;
        }
        let mut state = self.state.lock();
        state.by_upper.insert(upper, ino.0);
        let node = state.nodes.get_mut(&ino.0).ok_or(Error::Os(libc::ESTALE))?;
        node.upper = Some(upper);
        node.copied = true;
        node.base_links = if linked { attr.nlink } else { 1 };
        node.before = Some(*attr);
        // Pages that the kernel has of an older state of the base are not those of the copy.
        node.outdated = node
            .seen
            .is_some_and(|seen| seen != (attr.size, attr.mtime, attr.ctime));
        let here = (node.parent, node.name.clone());
        node.origin.get_or_insert(here);
        Ok(())
    }

    /// Gives a copy its name outside of the tree.
    pub(in crate::txn) fn keep_for_links(&self, ino: Ino, upper: Ino) -> Result<()> {
        let kept = self.upper.lookup(Ino::ROOT, OsStr::new(KEPT))?;
        let linked = self
            .upper
            .link(upper, kept.attr.ino, OsStr::new(&ino.0.to_string()));
        self.upper.forget(kept.attr.ino, 1);
        self.upper.forget(linked?.attr.ino, 1);
        Ok(())
    }

    /// Content and attributes of a base file. EBUSY when somebody goes on writing it: a copy of something in between is
    /// of no use.
    fn fill(&self, lower: Ino, upper: Ino, attr: &Attr, content: bool) -> Result<()> {
        if attr.mode & libc::S_IFMT == libc::S_IFREG && content {
            self.reserve(attr.size)?;
            let mut before = *attr;
            for tries in 1.. {
                self.fill_content(lower, upper, before.size)?;
                let now = self.lower.getattr(lower, None)?;
                if (now.size, now.mtime, now.ctime) == (before.size, before.mtime, before.ctime) {
                    break;
                }
                if tries == COPY_TRIES {
                    return Err(Error::Os(libc::EBUSY));
                }
                before = now;
            }
        }
        self.copy_attributes(lower, upper)
    }

    fn fill_content(&self, lower: Ino, upper: Ino, size: u64) -> Result<()> {
        let from = self.lower.backing_fd(lower)?;
        let opened = self.upper.open(upper, libc::O_RDWR, Reopen::Daemon)?;
        let copied = match &opened.file {
            Some(to) => rustix::fs::ftruncate(to, 0)
                .map_err(Error::from)
                .and_then(|()| copy_content(from.as_fd(), to.as_fd(), size)),
            None => Err(Error::Os(libc::EBADF)),
        };
        self.upper.release(upper, opened.fh)?;
        copied
    }

    /// Owner, mode, extended attributes and ACLs, times: in this order, since each may change those before.
    pub(super) fn copy_attributes(&self, lower: Ino, upper: Ino) -> Result<()> {
        let attr = self.lower.getattr(lower, None)?;
        let link = attr.mode & libc::S_IFMT == libc::S_IFLNK;
        let set = SetAttr {
            uid: Some(attr.uid),
            gid: Some(attr.gid),
            mode: (!link).then_some(attr.mode & 0o7777),
            ..SetAttr::default()
        };
        self.upper.setattr(&self.daemon, upper, &set)?;
        if !link {
            self.copy_xattrs(lower, upper)?;
        }
        self.set_times(upper, &attr)
    }

    fn copy_xattrs(&self, lower: Ino, upper: Ino) -> Result<()> {
        let names = match self.lower.listxattr(lower) {
            Err(Error::Os(libc::EOPNOTSUPP)) => return Ok(()),
            other => other?,
        };
        let wanted: Vec<&[u8]> = names.split(|b| *b == 0).filter(|name| !name.is_empty()).collect();
        // An ACL that the folder gives to what is made in it.
        for name in self
            .upper
            .listxattr(upper)?
            .split(|b| *b == 0)
            .filter(|name| !name.is_empty())
        {
            if !wanted.contains(&name) && !name.starts_with(b"security.") {
                self.upper
                    .removexattr(&self.daemon, upper, OsStr::from_bytes(name))?;
            }
        }
        for name in wanted {
            let name = OsStr::from_bytes(name);
            let mut value = vec![0; self.lower.getxattr(lower, name, &mut [])?];
            let len = match value.is_empty() {
                true => 0,
                false => self.lower.getxattr(lower, name, &mut value)?,
            };
            match self.upper.setxattr(&self.daemon, upper, name, &value[..len], 0) {
                // Labels that the system gives by itself, and that it lets nobody else give.
                Err(Error::Os(libc::EPERM | libc::EOPNOTSUPP))
                    if name.as_bytes().starts_with(b"security.") => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn set_times(&self, upper: Ino, attr: &Attr) -> Result<()> {
        let set = SetAttr {
            atime: Some(TimeSet::At(attr.atime)),
            mtime: Some(TimeSet::At(attr.mtime)),
            ..SetAttr::default()
        };
        self.upper.setattr(&self.daemon, upper, &set)?;
        Ok(())
    }

    /// Does something in a staged directory that is no change of it, and so leaves its times.
    pub(super) fn unnoticed<T>(&self, dir: Ino, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.upper.getattr(dir, None)?;
        let result = f();
        self.set_times(dir, &before)?;
        result
    }

    /// Remembers what stands at a name of a base directory before it is changed for the first time.
    pub(in crate::txn) fn touch(&self, parent: Ino, name: &OsStr) -> Result<()> {
        let Some(dir) = self.node(parent)?.lower else {
            return Ok(());
        };
        let key = (parent.0, name.to_owned());
        if self.state.lock().touched.contains_key(&key) {
            return Ok(());
        }
        let base = match self.lower.lookup(dir, name) {
            Ok(found) => {
                let key = self.lower.node_key(found.attr.ino);
                if let Some(key) = key {
                    self.keep_before(key, found.attr.ino, &found.attr);
                }
                self.lower.forget(found.attr.ino, 1);
                Some(Base::of(key.ok_or(Error::Os(libc::ESTALE))?, &found.attr))
            }
            Err(Error::Os(libc::ENOENT)) => None,
            Err(e) => return Err(e),
        };
        self.state.lock().touched.insert(key, base);
        Ok(())
    }
}
