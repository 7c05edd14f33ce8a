//! Bringing a snapshot back: a transaction is staged that makes the tree, and what was told of it, what they were. It is
//! looked at and committed as any other.
//!
//! What differs is undone in this order: names that were not there lose their files; what was renamed goes to a place
//! of its own, so that no new name is in the way of another; folders that were not there go; everything gets the name
//! that it had, the folders first; contents, attributes and what was told follow, and the times of folders at last.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::differences::{Items, Pair};
use crate::fs::keep::open_kept;
use crate::fs::ops::{Caller, SetAttr, TimeSet, Timestamp};
use crate::ids::{FileId, Ino};
use crate::query::answer::path_text;
use crate::store::file::Kind;
use crate::store::past::Version;
use crate::txn::{Teller, View};
use crate::{Error, Result};

/// Where renamed files wait for the name that they had; only the transaction sees it, and not for long.
const WAITING: &str = ".vexfs-restoring-";

/// What a file was, and what differs of what was told of it.
pub(super) struct Undo {
    pub(super) pair: Pair,
    /// Where that is which it contained, or the link itself; `None` where that was not kept, or is there still.
    pub(super) content: Option<PathBuf>,
    /// What was told of it, and is now.
    pub(super) told: (Items, Items),
}

/// Stages what undoes the differences; `linked` are files of several names. Gives the paths whose content cannot be brought back.
pub(super) fn stage(
    view: &View,
    teller: &dyn Teller,
    caller: &Caller,
    undo: Vec<Undo>,
    linked: &HashSet<FileId>,
) -> Result<Vec<PathBuf>> {
    let mut stage = Stage {
        view,
        daemon: Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: 0,
        },
        held: Vec::new(),
        placed: HashMap::new(),
        missing: Vec::new(),
    };
    let result = stage.all(teller, caller, undo, linked);
    stage.held.iter().for_each(|ino| view.forget(*ino, 1));
    result.map(|()| stage.missing)
}

struct Stage<'v> {
    view: &'v View,
    daemon: Caller,
    /// Nodes that were looked up, once for each time.
    held: Vec<Ino>,
    /// Files that have been brought back under one of their names.
    placed: HashMap<FileId, Ino>,
    missing: Vec<PathBuf>,
}

/// A name in the view.
struct Place {
    dir: Ino,
    name: OsString,
}

/// What has to be done for one difference, with where it is now.
struct Work {
    undo: Undo,
    /// Where it is now; where it waits, once it has been moved away.
    now: Option<Place>,
    depth_now: usize,
    /// Something else stands where it was: that goes, and it is made or linked again.
    replaced: bool,
}

impl Work {
    fn moves(&self) -> bool {
        let (before, after) = (&self.undo.pair.before, &self.undo.pair.after);
        matches!((before, after), (Some(before), Some(after)) if before.name != after.name) && !self.replaced
    }

    fn goes(&self) -> bool {
        self.undo.pair.before.is_none() || self.replaced
    }

    fn is_dir_now(&self) -> bool {
        let after = self.undo.pair.after.as_ref();
        after.is_some_and(|after| after.version.kind == Kind::Directory)
    }
}

/// Whether what stands where something was has to go: it is of another sort, another link or device, or another file
/// while one of the two has further names.
fn is_replaced(pair: &Pair, linked: &HashSet<FileId>) -> bool {
    match (&pair.before, &pair.after) {
        (Some(before), Some(after)) => {
            let fixed = !matches!(before.version.kind, Kind::File | Kind::Directory);
            let has_more = |file| linked.contains(file);
            before.version.kind != after.version.kind
                || fixed && !before.version.same_content(&after.version)
                || before.file != after.file && (has_more(&before.file) || has_more(&after.file))
        }
        _ => false,
    }
}

impl Stage<'_> {
    fn all(
        &mut self,
        teller: &dyn Teller,
        caller: &Caller,
        undo: Vec<Undo>,
        linked: &HashSet<FileId>,
    ) -> Result<()> {
        let mut works = Vec::with_capacity(undo.len());
        for undo in undo {
            let after = undo.pair.after.as_ref().map(|found| found.path.clone());
            let now = match &after {
                Some(path) if !path.as_os_str().is_empty() => Some(self.place(path)?),
                _ => None,
            };
            let depth_now = after.map_or(0, |path| path.components().count());
            let replaced = is_replaced(&undo.pair, linked);
            if let (Some(now), Some(before), false) = (&now, &undo.pair.before, replaced)
                && before.version.kind != Kind::Directory
            {
                let ino = self.find(now)?;
                self.placed.insert(before.file, ino);
            }
            works.push(Work {
                undo,
                now,
                depth_now,
                replaced,
            });
        }
        self.clear(&mut works)?;
        works.sort_by_cached_key(|work| {
            let before = work.undo.pair.before.as_ref();
            before.map(|found| (found.path.components().count(), found.path.clone()))
        });
        let (mut folders, mut told) = (Vec::new(), Vec::new());
        for work in works {
            let Some(before) = work.undo.pair.before.clone() else {
                continue;
            };
            let made = work.undo.pair.after.is_none() || work.replaced;
            let at = path_text(&before.path);
            let Some(ino) = self.bring_back(&work).map_err(|error| named(&at, error))? else {
                continue;
            };
            if before.version.kind == Kind::Directory && made {
                folders.push((ino, before.version.clone()));
            }
            if !work.undo.pair.link {
                told.push((ino, work.undo.told, at));
            }
        }
        // Now that everything is there to which relations lead.
        for (ino, told, at) in &told {
            self.tell(teller, caller, *ino, told)
                .map_err(|error| named(at, error))?;
        }
        for (ino, version) in folders.iter().rev() {
            self.set_time(*ino, version)?;
        }
        Ok(())
    }

    /// Takes away what is not to be where it is.
    fn clear(&mut self, works: &mut [Work]) -> Result<()> {
        // From the deepest up: what is in a folder goes before the folder.
        works.sort_by_key(|work| std::cmp::Reverse(work.depth_now));
        for work in works.iter().filter(|work| work.goes() && !work.is_dir_now()) {
            if let Some(now) = &work.now {
                self.view.unlink(now.dir, &now.name)?;
            }
        }
        let root = self.view.root();
        for (number, work) in works.iter_mut().enumerate().filter(|(_, work)| work.moves()) {
            if let Some(now) = &work.now {
                let name = OsString::from(format!("{WAITING}{number}"));
                self.view
                    .rename(now.dir, &now.name, root, &name, libc::RENAME_NOREPLACE)?;
                work.now = Some(Place { dir: root, name });
            }
        }
        for work in works.iter().filter(|work| work.goes() && work.is_dir_now()) {
            if let Some(now) = &work.now {
                match self.view.rmdir(now.dir, &now.name) {
                    // There is something in it that no snapshot records.
                    Ok(()) | Err(Error::Os(libc::ENOTEMPTY)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Gives a file its name, content and attributes. Where what it contained is missing, content and attributes stay as
    /// they are, and what is gone stays so: then there is `None`.
    fn bring_back(&mut self, work: &Work) -> Result<Option<Ino>> {
        let Some(before) = &work.undo.pair.before else {
            return Ok(None);
        };
        let (root, version) = (self.view.root(), &before.version);
        if before.path.as_os_str().is_empty() {
            self.set_attributes(root, version)?;
            return Ok(Some(root));
        }
        let place = self.place(&before.path)?;
        let there = work.undo.pair.after.as_ref().filter(|_| !work.replaced);
        let Some(after) = there else {
            if let Some(other) = self.placed.get(&before.file).copied() {
                let entry = self.view.link(other, place.dir, &place.name)?;
                self.held.push(entry.attr.ino);
                return Ok(Some(entry.attr.ino));
            }
            let made = self.make(&place, work)?;
            match made {
                Some(ino) => {
                    self.set_attributes(ino, version)?;
                    self.placed.insert(before.file, ino);
                }
                None => self.missing.push(before.path.clone()),
            }
            return Ok(made);
        };
        if let Some(now) = work.now.as_ref().filter(|_| work.moves()) {
            let flags = libc::RENAME_NOREPLACE;
            self.view
                .rename(now.dir, &now.name, place.dir, &place.name, flags)?;
        }
        let ino = self.find(&place)?;
        let same = version.same_content(&after.version);
        if work.undo.pair.link || same && version.same_attributes(&after.version) {
            return Ok(Some(ino));
        }
        if !same {
            let Some(content) = &work.undo.content else {
                self.missing.push(before.path.clone());
                return Ok(Some(ino));
            };
            self.view
                .put_content(ino, open_kept(content)?.as_fd(), version.size)?;
        }
        self.set_attributes(ino, version)?;
        Ok(Some(ino))
    }

    /// Makes what is not there any more; `None` when what it was is missing.
    fn make(&mut self, place: &Place, work: &Work) -> Result<Option<Ino>> {
        let Some(before) = &work.undo.pair.before else {
            return Ok(None);
        };
        let (daemon, view, version) = (&self.daemon, self.view, &before.version);
        let entry = if version.kind == Kind::Directory {
            view.mkdir(daemon, place.dir, &place.name, 0o700, 0)?
        } else {
            let Some(content) = &work.undo.content else {
                return Ok(None);
            };
            let kept = open_kept(content)?;
            match version.kind {
                Kind::Symlink => {
                    let target = rustix::fs::readlinkat(&kept, c"", Vec::new())?;
                    let target = OsStr::from_bytes(target.as_bytes());
                    view.symlink(daemon, place.dir, &place.name, target)?
                }
                Kind::File => {
                    let modes = (libc::S_IFREG | 0o600, 0);
                    let made = view.mknod(daemon, place.dir, &place.name, modes, 0)?;
                    view.put_content(made.attr.ino, kept.as_fd(), version.size)?;
                    made
                }
                _ => {
                    let stat = rustix::fs::fstat(&kept)?;
                    view.mknod(daemon, place.dir, &place.name, (stat.st_mode, 0), stat.st_rdev)?
                }
            }
        };
        self.held.push(entry.attr.ino);
        Ok(Some(entry.attr.ino))
    }

    fn set_attributes(&self, ino: Ino, version: &Version) -> Result<()> {
        let link = version.kind == Kind::Symlink;
        let set = SetAttr {
            uid: Some(version.uid),
            gid: Some(version.gid),
            mode: (!link).then_some(version.mode & 0o7777),
            ..SetAttr::default()
        };
        self.view.setattr(&self.daemon, ino, &set)?;
        match version.kind {
            // Its entries are still to come.
            Kind::Directory => Ok(()),
            _ => self.set_time(ino, version),
        }
    }

    fn set_time(&self, ino: Ino, version: &Version) -> Result<()> {
        let mtime = Timestamp {
            secs: version.mtime.div_euclid(1_000_000_000),
            nanos: version.mtime.rem_euclid(1_000_000_000) as u32,
        };
        let set = SetAttr {
            mtime: Some(TimeSet::At(mtime)),
            ..SetAttr::default()
        };
        self.view.setattr(&self.daemon, ino, &set)?;
        Ok(())
    }

    /// Tells again what was told, and takes back what was not.
    fn tell(
        &self,
        teller: &dyn Teller,
        caller: &Caller,
        ino: Ino,
        (before, now): &(Items, Items),
    ) -> Result<()> {
        let mut names: Vec<&String> = before.keys().chain(now.keys()).map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        let of = |items: &Items, name: &String| -> Option<Vec<u8>> {
            let mut mine = items.iter().filter(|((other, _), _)| other == name).peekable();
            mine.peek()?;
            let mut value = Vec::new();
            for ((_, target), own) in mine {
                match target {
                    // Of a relation, its targets are the value.
                    Some(target) => {
                        value.extend_from_slice(target.as_os_str().as_bytes());
                        value.push(b'\n');
                    }
                    None => value.clone_from(own),
                }
            }
            Some(value)
        };
        for name in names {
            let (before, now) = (of(before, name), of(now, name));
            if before != now {
                match self
                    .view
                    .tell(teller, caller, ino, OsStr::new(name), before.as_deref())
                {
                    // It was told of the file that stood in its place.
                    Err(Error::NoAttribute) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// The folder of a path as the view shows it now, and the last name.
    fn place(&mut self, path: &Path) -> Result<Place> {
        let mut dir = self.view.root();
        for part in path.parent().unwrap_or(Path::new("")).components() {
            let entry = self
                .view
                .lookup(dir, part.as_os_str())
                .map_err(|error| named(&path_text(path), error))?;
            self.held.push(entry.attr.ino);
            dir = entry.attr.ino;
        }
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Place { dir, name })
    }

    fn find(&mut self, place: &Place) -> Result<Ino> {
        let entry = self.view.lookup(place.dir, &place.name)?;
        self.held.push(entry.attr.ino);
        Ok(entry.attr.ino)
    }
}

/// Says at which path something could not be done.
fn named(path: &str, error: Error) -> Error {
    match error {
        Error::Os(libc::EEXIST) => Error::Exists(format!("{path}: something that no snapshot records")),
        Error::Os(libc::ENOENT) => Error::NotFound(path.to_owned()),
        error => error,
    }
}
