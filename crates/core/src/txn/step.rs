//! The steps of a commit: renames between the stage and the tree, and what cannot be done by one.
//!
//! Each step names the inode that it moves, and sees by it whether it has been done already; so the whole list can be
//! carried out again from its beginning, after a crash at any place, with the same result. What a step replaces goes to
//! the stage, so that the freeing of its blocks holds nobody up.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::fs::copy::copy_content;
use crate::fs::ops::Timestamp;
use crate::ids::{Generation, NodeKey};
use crate::{Error, Result};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A base file gets the content and attributes of its staged copy, in place: other names lead to it.
    Rewrite,
    /// A base file gets a further name in the stage.
    HoldFile,
    /// A base directory moves into the stage.
    HoldDir,
    /// Something of the stage moves into the tree; what stands there changes places with it.
    Put,
    /// Something of the tree moves into the stage.
    Trash,
    /// A base directory gets the attributes of its staged counterpart but for its times.
    Adopt,
    /// A directory gets its times. They stand here, since moving its entries changes those of the staged one too.
    SetTimes(Times),
}

impl What {
    fn code(self) -> u8 {
        match self {
            What::Rewrite => 1,
            What::HoldFile => 2,
            What::HoldDir => 3,
            What::Put => 4,
            What::Trash => 5,
            What::Adopt => 6,
            What::SetTimes(_) => 7,
        }
    }
}

/// When something was read and changed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) accessed: Timestamp,
    pub(super) modified: Timestamp,
}

/// One step. Paths are relative: one to the stage, the other to the tree's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) what: What,
    /// The inode that is moved; of [`What::Rewrite`], [`What::Adopt`] and [`What::SetTimes`], the one that is changed.
    pub(super) key: NodeKey,
    /// Empty for [`What::SetTimes`].
    pub(super) stage: PathBuf,
    pub(super) tree: PathBuf,
}

/// The two directories between which steps move things.
pub(super) struct Places {
    pub(super) stage: OwnedFd,
    pub(super) tree: OwnedFd,
}

impl Places {
    /// Carries out the steps, or what is left of them. `before` is called before each with its number; when it fails,
    /// so does this. An error leaves the steps before it done.
    pub(super) fn carry_out(
        &self,
        steps: &[Step],
        mut before: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        for (number, step) in steps.iter().enumerate() {
            before(number)?;
            self.carry_out_one(step).map_err(|error| {
                tracing::error!(?step, %error, "a commit stopped");
                error
            })?;
        }
        Ok(())
    }

    fn carry_out_one(&self, step: &Step) -> Result<()> {
        if let What::SetTimes(times) = step.what {
            return self.set_times(step, times);
        }
        let Some((stage_dir, stage_name)) = parent(&self.stage, &step.stage)? else {
            return Err(missing(&step.stage));
        };
        if step.tree.as_os_str().is_empty() {
            // The root itself: only its attributes can change.
            return copy_modes(open(&stage_dir, stage_name)?.as_fd(), self.tree.as_fd());
        }
        // Something above may have been moved on by a later step already.
        let Some((tree_dir, tree_name)) = parent(&self.tree, &step.tree)? else {
            return Ok(());
        };
        let in_tree = key_at(&tree_dir, tree_name)?;
        match step.what {
            What::Put if in_tree == Some(step.key) => Ok(()),
            // It is in the tree, or was before somebody moved it on.
            What::Put if key_at(&stage_dir, stage_name)? != Some(step.key) => Ok(()),
            What::Put => {
                let flags = match in_tree {
                    Some(_) => RenameFlags::EXCHANGE,
                    None => RenameFlags::NOREPLACE,
                };
                rustix::fs::renameat_with(&stage_dir, stage_name, &tree_dir, tree_name, flags)?;
                if in_tree.is_some() && is_linked(&stage_dir, stage_name)? {
                    rustix::fs::unlinkat(&stage_dir, stage_name, AtFlags::empty())?;
                }
                Ok(())
            }
            _ if in_tree != Some(step.key) => Ok(()),
            What::Trash if is_linked(&tree_dir, tree_name)? => {
                Ok(rustix::fs::unlinkat(&tree_dir, tree_name, AtFlags::empty())?)
            }
            What::Trash | What::HoldDir => {
                let flags = RenameFlags::NOREPLACE;
                Ok(rustix::fs::renameat_with(
                    &tree_dir, tree_name, &stage_dir, stage_name, flags,
                )?)
            }
            What::HoldFile => {
                match rustix::fs::linkat(&tree_dir, tree_name, &stage_dir, stage_name, AtFlags::empty()) {
                    Err(Errno::EXIST) => Ok(()),
                    other => Ok(other?),
                }
            }
            What::Rewrite => rewrite(
                open(&stage_dir, stage_name)?.as_fd(),
                open_for_writing(&tree_dir, tree_name)?.as_fd(),
            ),
            What::Adopt => copy_modes(
                open(&stage_dir, stage_name)?.as_fd(),
                open(&tree_dir, tree_name)?.as_fd(),
            ),
            What::SetTimes(_) => unreachable!("see above"),
        }
    }

    fn set_times(&self, step: &Step, times: Times) -> Result<()> {
        if step.tree.as_os_str().is_empty() {
            return set_times(self.tree.as_fd(), times);
        }
        match parent(&self.tree, &step.tree)? {
            Some((dir, name)) if key_at(&dir, name)? == Some(step.key) => {
                set_times(open(&dir, name)?.as_fd(), times)
            }
            _ => Ok(()),
        }
    }
}

/// The directory in which a path ends, and its last name; `None` when the directory is not there. Nothing is followed:
/// somebody may put a symbolic link in the way.
fn parent<'p>(base: &OwnedFd, path: &'p Path) -> Result<Option<(OwnedFd, &'p OsStr)>> {
    let name = path.file_name().ok_or_else(|| missing(path))?;
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(base, above, flags, Mode::empty(), resolve) {
        Ok(dir) => Ok(Some((dir, name))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn missing(path: &Path) -> Error {
    Error::Corrupt {
        what: "a commit".into(),
        at: path.display().to_string(),
    }
}

/// Which inode a name leads to, if it is there.
fn key_at(dir: &OwnedFd, name: &OsStr) -> Result<Option<NodeKey>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(NodeKey {
            dev: stat.st_dev,
            ino: stat.st_ino,
        })),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether a file has other names too. One of those that goes is removed at once: a name in the stage would be counted
/// among its links until the commit is settled.
fn is_linked(dir: &OwnedFd, name: &OsStr) -> Result<bool> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(stat.st_mode & libc::S_IFMT != libc::S_IFDIR && stat.st_nlink > 1)
}

fn open(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

fn open_for_writing(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Makes a file the same as its copy, durably: steps after this one may take away the name by which it is found.
fn rewrite(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::ftruncate(to, 0)?;
    copy_content(from, to, rustix::fs::fstat(from)?.st_size as u64)?;
    copy_modes(from, to)?;
    copy_times(from, to)?;
    Ok(rustix::fs::fsync(to)?)
}

/// Owner, mode, extended attributes and ACLs.
fn copy_modes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let (wanted, present) = (rustix::fs::fstat(from)?, rustix::fs::fstat(to)?);
    if (wanted.st_uid, wanted.st_gid) != (present.st_uid, present.st_gid) {
        let (uid, gid) = (Uid::from_raw(wanted.st_uid), Gid::from_raw(wanted.st_gid));
        rustix::fs::fchown(to, Some(uid), Some(gid))?;
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(wanted.st_mode & 0o7777))?;
    copy_xattrs(from, to)
}

fn copy_times(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let wanted = rustix::fs::fstat(from)?;
    let time = |secs, nanos: u64| Timestamp {
        secs,
        nanos: nanos as u32,
    };
    let times = Times {
        accessed: time(wanted.st_atime, wanted.st_atime_nsec),
        modified: time(wanted.st_mtime, wanted.st_mtime_nsec),
    };
    set_times(to, times)
}

fn set_times(of: BorrowedFd<'_>, times: Times) -> Result<()> {
    let time = |time: Timestamp| rustix::fs::Timespec {
        tv_sec: time.secs,
        tv_nsec: time.nanos.into(),
    };
    let times = Timestamps {
        last_access: time(times.accessed),
        last_modification: time(times.modified),
    };
    Ok(rustix::fs::futimens(of, &times)?)
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let (Some(wanted), Some(present)) = (xattr_names(from)?, xattr_names(to)?) else {
        return Ok(());
    };
    for name in present.iter().filter(|name| !wanted.contains(name)) {
        accept_labels(name, rustix::fs::fremovexattr(to, name.as_os_str()))?;
    }
    for name in &wanted {
        let mut value = vec![0; 65_536];
        let len = rustix::fs::fgetxattr(from, name.as_os_str(), &mut value[..])?;
        accept_labels(
            name,
            rustix::fs::fsetxattr(to, name.as_os_str(), &value[..len], XattrFlags::empty()),
        )?;
    }
    Ok(())
}

/// Labels that the system gives by itself it may let nobody else give.
fn accept_labels(name: &OsStr, result: Result<(), Errno>) -> Result<()> {
    match result {
        Err(Errno::PERM | Errno::OPNOTSUPP) if name.as_bytes().starts_with(b"security.") => Ok(()),
        other => Ok(other?),
    }
}

/// `None` on a filesystem without extended attributes.
fn xattr_names(fd: BorrowedFd<'_>) -> Result<Option<Vec<OsString>>> {
    let mut list = vec![0u8; 65_536];
    let len = match rustix::fs::flistxattr(fd, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(None),
        other => other?,
    };
    let names = list[..len].split(|b| *b == 0).filter(|name| !name.is_empty());
    Ok(Some(
        names.map(|name| OsStr::from_bytes(name).to_owned()).collect(),
    ))
}

/// Version of the bytes below.
const VERSION: u8 = 2;

/// The steps as the store keeps them: a version, the generation of the store before (8 bytes), by which commits are
/// ordered, then for each step what (1 byte), device and inode (8 bytes each),
/// both paths (4 bytes of length, bytes), of [`What::SetTimes`] both times (8 bytes of seconds, 4 of nanoseconds each);
/// numbers are little-endian.
pub(super) fn encode(after: Generation, steps: &[Step]) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&after.0.to_le_bytes());
    for step in steps {
        out.push(step.what.code());
        out.extend_from_slice(&step.key.dev.to_le_bytes());
        out.extend_from_slice(&step.key.ino.to_le_bytes());
        for path in [&step.stage, &step.tree] {
            let bytes = path.as_os_str().as_bytes();
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        }
        if let What::SetTimes(times) = step.what {
            for time in [times.accessed, times.modified] {
                out.extend_from_slice(&time.secs.to_le_bytes());
                out.extend_from_slice(&time.nanos.to_le_bytes());
            }
        }
    }
    out
}

/// Reads the bytes of [`encode`].
pub(super) fn decode(bytes: &[u8]) -> Result<(Generation, Vec<Step>)> {
    let Some((&VERSION, mut rest)) = bytes.split_first() else {
        return Err(missing(Path::new("its version")));
    };
    let after = number(&mut rest).ok_or_else(|| missing(Path::new("its generation")))?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let step = decode_one(&mut rest).ok_or_else(|| missing(Path::new("its steps")))?;
        steps.push(step);
    }
    Ok((Generation(after), steps))
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(rest.split_off(..8)?.try_into().ok()?))
}

fn time(rest: &mut &[u8]) -> Option<Timestamp> {
    Some(Timestamp {
        secs: number(rest)? as i64,
        nanos: u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?),
    })
}

fn decode_one(rest: &mut &[u8]) -> Option<Step> {
    let code = *rest.split_off_first()?;
    let key = NodeKey {
        dev: number(rest)?,
        ino: number(rest)?,
    };
    let path = |rest: &mut &[u8]| {
        let len = u32::from_le_bytes(rest.split_off(..4)?.try_into().ok()?) as usize;
        let bytes = rest.split_off(..len)?;
        Some(PathBuf::from(OsString::from_vec(bytes.to_vec())))
    };
    let (stage, tree) = (path(rest)?, path(rest)?);
    let what = match code {
        1 => What::Rewrite,
        2 => What::HoldFile,
        3 => What::HoldDir,
        4 => What::Put,
        5 => What::Trash,
        6 => What::Adopt,
        7 => What::SetTimes(Times {
            accessed: time(rest)?,
            modified: time(rest)?,
        }),
        _ => return None,
    };
    Some(Step {
        what,
        key,
        stage,
        tree,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_step() -> impl Strategy<Value = Step> {
        let whats = [
            What::Rewrite,
            What::HoldFile,
            What::HoldDir,
            What::Put,
            What::Trash,
            What::Adopt,
            What::SetTimes(Times {
                accessed: Timestamp { secs: -3, nanos: 7 },
                modified: Timestamp {
                    secs: 1 << 40,
                    nanos: 999_999_999,
                },
            }),
        ];
        let path =
            || prop::collection::vec(any::<u8>(), 0..40).prop_map(|b| PathBuf::from(OsString::from_vec(b)));
        (
            prop::sample::select(whats.to_vec()),
            any::<(u64, u64)>(),
            path(),
            path(),
        )
            .prop_map(|(what, (dev, ino), stage, tree)| Step {
                what,
                key: NodeKey { dev, ino },
                stage,
                tree,
            })
    }

    proptest! {
        #[test]
        fn steps_are_read_as_they_were_written(steps in prop::collection::vec(any_step(), 0..20)) {
            let after = Generation(steps.len() as u64);
            prop_assert_eq!(decode(&encode(after, &steps)).unwrap(), (after, steps));
        }

        #[test]
        fn damaged_bytes_give_an_error_or_other_steps_but_no_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
