//! The verbs inside a transaction: what its tree shows, with what is staged, asked by paths below its root.

mod related;
mod relations;
mod search;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::Knowledge;
use super::attributes::PREFIX;
use super::relations::{is_inside, plain};
use super::vectors::FileVector;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::Ino;
use crate::query::access::{refusal_of, sees_all};
use crate::query::answer::path_text;
use crate::store::relations::Target;
use crate::txn::{End, Link, Teller, Txn, View, Way};

/// The knowledge of a transaction's tree, for one caller, who may enter it.
pub struct Inside<'a> {
    knowledge: &'a Knowledge,
    txn: &'a Txn,
    caller: &'a Caller,
}

impl Knowledge {
    /// What is known inside a transaction.
    pub fn inside<'a>(&'a self, txn: &'a Txn, caller: &'a Caller) -> Inside<'a> {
        Inside {
            knowledge: self,
            txn,
            caller,
        }
    }

    /// Where a relation leads that is told inside a transaction.
    pub(super) fn end_inside(&self, caller: &Caller, view: &View, path: &Path) -> Result<End> {
        if !is_inside(path) {
            return Ok(End::Stored(self.target_at(caller, path)?));
        }
        let path = plain(path)?;
        let way = view.find(&path)?;
        check(caller, view, &way, Access::READ_OK)?;
        let Some(ino) = way.ino() else {
            // Says what is no path at all, too.
            return match path.as_os_str().is_empty() || path.as_os_str().as_encoded_bytes().contains(&0) {
                true => self.target_at(caller, &path).map(End::Stored),
                false => Ok(End::Stored(Target::Path(path))),
            };
        };
        let Some(node) = view.base_key(ino) else {
            return Ok(End::Staged(ino));
        };
        Ok(End::Stored(match self.known_at(node, &path) {
            Err(Error::Excluded(_)) => Target::Path(path),
            known => Target::File(known?),
        }))
    }

    /// Where relations lead inside a transaction, and whether nothing stands there; `None` for what a caller may not
    /// know of.
    pub(super) fn ends_inside(
        &self,
        caller: &Caller,
        view: &View,
        links: &[Link],
    ) -> Result<Vec<Option<(PathBuf, bool)>>> {
        let file = |link: &Link| match &link.to {
            End::Stored(Target::File(file)) => Some(*file),
            _ => None,
        };
        let mut sight = self.searcher.sight(caller);
        sight.look(links.iter().filter_map(file));
        let mut ends = Vec::with_capacity(links.len());
        for link in links {
            let path = match &link.to {
                End::Stored(Target::File(file)) => match sight.path(*file) {
                    Some(path) => Some(view.shown_at(path).unwrap_or_else(|| path.to_owned())),
                    None => self.store.read(|rows| rows.gone_path(*file))?,
                },
                End::Stored(Target::Path(path)) => Some(path.clone()),
                End::Staged(ino) => Some(view.path_of(*ino).unwrap_or_default()),
            };
            ends.push(match path {
                Some(path) if !path.as_os_str().is_empty() => self.shown_inside(caller, view, path)?,
                _ => None,
            });
        }
        Ok(ends)
    }

    /// A path as a caller may know of it, and whether nothing stands there.
    fn shown_inside(&self, caller: &Caller, view: &View, path: PathBuf) -> Result<Option<(PathBuf, bool)>> {
        if !is_inside(&path) {
            return Ok(Some((path, true)));
        }
        let way = view.find(&path)?;
        match check(caller, view, &way, Access::READ_OK) {
            Ok(()) => Ok(Some((path, way.ino().is_none()))),
            Err(Error::Denied) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Inside<'_> {
    fn view(&self) -> &View {
        self.txn.view()
    }

    /// The type bits of the mode of what stands at a path.
    pub fn file_type(&self, path: &Path) -> Result<u32> {
        let way = self.view().find(path)?;
        check(self.caller, self.view(), &way, Access::EXISTS)?;
        let ino = way.ino().ok_or_else(|| Error::NotFound(path_text(path)))?;
        Ok(self.view().getattr(ino, None)?.mode & libc::S_IFMT)
    }

    /// The place of a file that is there, for a caller who may do this with it.
    fn place(&self, path: &Path, access: Access) -> Result<(Way<'_>, Ino)> {
        let way = self.view().find(path)?;
        check(self.caller, self.view(), &way, access)?;
        let ino = way.ino().ok_or_else(|| Error::NotFound(path_text(path)))?;
        Ok((way, ino))
    }

    /// An attribute of the file at a path, for a caller who may read it.
    pub fn xattr_get(&self, path: &Path, name: &OsStr) -> Result<Vec<u8>> {
        let (_way, ino) = self.place(path, Access::READ_OK)?;
        let value = self.view().told(self.knowledge, self.caller, ino, name)?;
        value.ok_or(Error::NoAttribute)
    }

    /// Sets it, or removes it, for a caller who may write the file.
    pub fn xattr_set(&self, path: &Path, name: &OsStr, value: Option<&[u8]>) -> Result<()> {
        let (_way, ino) = self.place(path, Access::WRITE_OK)?;
        self.view().tell(self.knowledge, self.caller, ino, name, value)
    }

    /// Sets the vectors of files in a space, for a caller who may write them all.
    pub fn vectors_set(&self, space: &str, vectors: &[FileVector]) -> Result<()> {
        let name = match space {
            "" => format!("{PREFIX}vec"),
            space => format!("{PREFIX}vec.{space}"),
        };
        for file in vectors {
            self.place(&file.path, Access::WRITE_OK)?;
        }
        for file in vectors {
            let value: Vec<u8> = file.vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.xattr_set(&file.path, OsStr::new(&name), Some(&value))?;
        }
        Ok(())
    }

    /// The names of what was set on the file at a path, for a caller who may read it.
    pub fn xattr_list(&self, path: &Path) -> Result<Vec<String>> {
        let (_way, ino) = self.place(path, Access::READ_OK)?;
        let mut names = match self.view().base_key(ino) {
            Some(node) => self.knowledge.xattr_list(node)?,
            None => Vec::new(),
        };
        for (name, _) in self.view().told_names(ino) {
            let Some(name) = name.to_str() else { continue };
            names.retain(|known| known != name);
            if self.has(ino, OsStr::new(name))? {
                names.push(name.to_owned());
            }
        }
        debug_assert!(names.iter().all(|name| name.starts_with(PREFIX)));
        Ok(names)
    }

    fn has(&self, ino: Ino, name: &OsStr) -> Result<bool> {
        Ok(match self.knowledge.relation(name) {
            Some(_) => !self.view().links(self.knowledge, ino, name)?.is_empty(),
            None => self
                .view()
                .told(self.knowledge, self.caller, ino, name)?
                .is_some(),
        })
    }
}

/// Refuses a caller who may not search the directories on the way, as far as they are there, or may not do this with
/// what stands at its end.
fn check(caller: &Caller, view: &View, way: &Way<'_>, access: Access) -> Result<()> {
    if sees_all(caller) {
        return Ok(());
    }
    let nodes = way.nodes();
    let mut asked = Vec::with_capacity(nodes.len());
    for (at, ino) in nodes.iter().enumerate() {
        let last = at + 1 == nodes.len();
        let access = match way.ino() {
            Some(_) if last => access,
            _ if view.getattr(*ino, None)?.mode & libc::S_IFMT == libc::S_IFDIR => Access::EXEC_OK,
            _ => Access::EXISTS,
        };
        asked.push((view.place_fd(*ino)?, access));
    }
    match refusal_of(&asked, caller) {
        None => Ok(()),
        Some(_) => Err(Error::Denied),
    }
}
