//! What is told of files within a transaction: `user.vexfs.*` attributes, which become rows of the store in the commit
//! that writes the steps down, so that files and what is said of them change together.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::links::Link;
use super::teller::Teller;
use super::view::{Node, View};
use crate::fs::ops::Caller;
use crate::ids::{FileId, Ino, NodeKey};
use crate::semantic::scan::tree::Tree;
use crate::store::Tx;
use crate::store::file::{Facts, Kind, ROOT};
use crate::store::mirror::Name;
use crate::store::naming::{Trust, Want};
use crate::{Error, Result};

/// Why a folder that enters the catalog with a commit is not searched, until the indexer has looked into it a moment later.
const NOT_LOOKED_INTO: &str = "not looked into yet";

/// What was said of a file under the name of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A value, as it is shown.
    Value(Vec<u8>),
    /// Where its relations of a type lead.
    Links(Vec<Link>),
}

/// An attribute that was set or removed in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// What the base file had when it was set first.
    before: Option<Vec<u8>>,
    pub(super) value: Option<Said>,
}

impl Told {
    /// Whether somebody else has come to the same.
    fn is(&self, present: Option<&[u8]>) -> bool {
        match &self.value {
            None => present.is_none(),
            Some(Said::Value(value)) => present == Some(value),
            // Versions of relations are not what was said: they name files that may be known to one side only.
            Some(Said::Links(_)) => false,
        }
    }
}

/// Attributes by node and name.
pub(super) type AllTold = BTreeMap<(u64, OsString), Told>;

impl View {
    /// The value of an attribute as the transaction sees it; `None` if it has none.
    pub fn told(
        &self,
        teller: &dyn Teller,
        caller: &Caller,
        ino: Ino,
        name: &OsStr,
    ) -> Result<Option<Vec<u8>>> {
        if teller.relation(name).is_some() {
            return teller.lines(caller, self, &self.links(teller, ino, name)?);
        }
        let key = (ino.0, name.to_owned());
        if let Some(told) = self.state.lock().told.get(&key) {
            return Ok(match &told.value {
                Some(Said::Value(value)) => Some(value.clone()),
                _ => None,
            });
        }
        match self.base_key(ino) {
            Some(node) => teller.shown(caller, node, name),
            None => Ok(None),
        }
    }

    /// Sets an attribute, or removes it. Relations that stay keep their properties.
    pub fn tell(
        &self,
        teller: &dyn Teller,
        caller: &Caller,
        ino: Ino,
        name: &OsStr,
        value: Option<&[u8]>,
    ) -> Result<()> {
        let said = match value {
            Some(value) => Some(teller.read(caller, self, name, value)?),
            None => {
                teller.may_remove(name)?;
                if self.told(teller, caller, ino, name)?.is_none() {
                    return Err(Error::NoAttribute);
                }
                None
            }
        };
        if teller.relation(name).is_some() {
            let wanted = match said {
                Some(Said::Links(links)) => links,
                _ => Vec::new(),
            };
            return self.relink(teller, ino, name, |links| {
                let present = std::mem::replace(links, wanted);
                for link in links.iter_mut() {
                    let same = present.iter().find(|known| known.to == link.to);
                    link.properties = same.and_then(|known| known.properties.clone());
                }
                Ok(())
            });
        }
        let before = self.version_before(teller, ino, name)?;
        let _still = self.still()?;
        if teller.is_of_content(name) {
            // Other content would not be what it was made for.
            let node = self.node(ino)?;
            if ino != self.root() && node.lower.is_some() && !node.gone && !node.copied {
                self.touch(Ino(node.parent), &node.name)?;
            }
        }
        self.stage_told(ino, name, before, said)
    }

    /// The names of attributes that were set or removed of a node, and whether it has them now.
    pub fn told_names(&self, ino: Ino) -> Vec<(OsString, bool)> {
        let state = self.state.lock();
        let told = state.told.range((ino.0, OsString::new())..);
        let told = told.take_while(|((number, _), _)| *number == ino.0);
        told.map(|((_, name), told)| (name.clone(), told.value.is_some()))
            .collect()
    }

    /// What somebody else has said of a base file by now, once its name is known.
    pub(super) fn version_before(
        &self,
        teller: &dyn Teller,
        ino: Ino,
        name: &OsStr,
    ) -> Result<Option<Vec<u8>>> {
        match self.base_key(ino) {
            Some(node) => {
                self.settle(teller, ino, node)?;
                teller.version(node, name)
            }
            None => Ok(None),
        }
    }

    /// Notes what was said, and what had been said before the first time. The caller holds the view still.
    pub(super) fn stage_told(
        &self,
        ino: Ino,
        name: &OsStr,
        before: Option<Vec<u8>>,
        value: Option<Said>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let node = state.nodes.get_mut(&ino.0).ok_or(Error::Os(libc::ESTALE))?;
        node.told = true;
        state
            .told
            .entry((ino.0, name.to_owned()))
            .and_modify(|told| told.value = value.clone())
            .or_insert(Told { before, value });
        Ok(())
    }

    /// See [`Teller::settle`].
    fn settle(&self, teller: &dyn Teller, ino: Ino, key: NodeKey) -> Result<()> {
        let node = self.node(ino)?;
        let (dir, name) = node.origin.unwrap_or((node.parent, node.name));
        if ino != self.root()
            && let Some(dir) = self.base_key(Ino(dir))
        {
            teller.settle(key, dir, &name);
        }
        Ok(())
    }

    /// Attributes that somebody else has set since: paths with `#` and the attribute. Of files that are gone, paths.
    pub(super) fn told_conflicts(&self, teller: &dyn Teller) -> Result<Vec<PathBuf>> {
        let told = self.state.lock().told.clone();
        let mut found = Vec::new();
        for ((number, name), told) in told {
            if self.is_base_gone(Ino(number))? {
                found.push(self.path(number));
                continue;
            }
            let present = match self.base_key(Ino(number)) {
                Some(node) => teller.version(node, &name)?,
                None => None,
            };
            if present != told.before {
                let mut path = self.path(number).into_os_string();
                path.push("#");
                path.push(&name);
                found.push(path.into());
            }
        }
        Ok(found)
    }

    /// What others told since counts as known where both told the same, or, with `all`, everywhere.
    pub(super) fn accept_told(&self, teller: &dyn Teller, all: bool) -> Result<()> {
        let told = self.state.lock().told.clone();
        for ((number, name), told) in told {
            let Some(node) = self.base_key(Ino(number)) else {
                continue;
            };
            let present = teller.version(node, &name)?;
            if present != told.before && (all || told.is(present.as_deref())) {
                let mut state = self.state.lock();
                if let Some(told) = state.told.get_mut(&(number, name)) {
                    told.before = present;
                }
            }
        }
        Ok(())
    }

    /// Whether somebody has removed the base file of a node that is shown as it is.
    fn is_base_gone(&self, ino: Ino) -> Result<bool> {
        let node = self.node(ino)?;
        let (Some(lower), false) = (node.lower, node.gone) else {
            return Ok(false);
        };
        match self.lower.getattr(lower, None) {
            Ok(attr) => Ok(attr.nlink == 0),
            Err(Error::Os(libc::ESTALE | libc::ENOENT)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Writes what was told into the store's transaction, and which inodes are the next versions of known files. New
    /// files enter the catalog under the names that they are about to get. Gives what was told of which file.
    pub(super) fn write_told(&self, teller: &dyn Teller, tx: &mut Tx<'_>) -> Result<Vec<(FileId, OsString)>> {
        let told = self.state.lock().told.clone();
        let mut written = Vec::with_capacity(told.len());
        for ((number, name), told) in told {
            if !self.is_there(Ino(number)) {
                continue;
            }
            let node = self.node(Ino(number))?;
            let file = self.file_of(tx, number)?;
            match (teller.relation(&name), &told.value) {
                (Some(kind), Some(Said::Links(links))) => {
                    let links = self.settle_links(tx, links)?;
                    teller.relate(tx, file, kind, links)?;
                }
                (_, Some(Said::Value(value))) => teller.tell(tx, file, &name, Some(value))?,
                // It was set and removed again.
                (_, _) if told.before.is_none() => {}
                (_, _) => teller.tell(tx, file, &name, None)?,
            }
            if node.copied {
                // They were set for the content that comes with them, whose hash is not known yet.
                tx.unbind_vectors(file)?;
            }
            written.push((file, name));
        }
        self.write_successors(tx)?;
        Ok(written)
    }

    /// A staged file that replaces a base file, under whatever name, is that file.
    fn write_successors(&self, tx: &mut Tx<'_>) -> Result<()> {
        let copies: Vec<Node> = {
            let state = self.state.lock();
            let copies = state.nodes.values().filter(|node| {
                node.copied && node.lower.is_some() && !node.gone && node.base_links == 1 && !node.is_dir()
            });
            copies.cloned().collect()
        };
        for node in copies {
            let key = node.lower.and_then(|lower| self.lower.node_key(lower));
            let Some(row) = key.map(|key| tx.rows().file_of(key)).transpose()?.flatten() else {
                continue;
            };
            if let Some(facts) = self.staged_facts(&node)? {
                tx.succeed(row.id, &facts)?;
            }
        }
        Ok(())
    }

    /// The file that a node is. One that the catalog has not heard of yet is entered, with the folders above: a base
    /// file where the base has it, a new one where it is staged.
    pub(super) fn file_of(&self, tx: &mut Tx<'_>, number: u64) -> Result<FileId> {
        if number == self.root().0 {
            return Ok(ROOT);
        }
        let node = self.node(Ino(number))?;
        let (parent, name, facts) = match node.lower {
            Some(lower) => {
                let key = self.lower.node_key(lower).ok_or(Error::Os(libc::ESTALE))?;
                if let Some(row) = tx.rows().file_of(key)? {
                    return Ok(row.id);
                }
                let (parent, name) = node.origin.clone().unwrap_or((node.parent, node.name.clone()));
                let above = self.node(Ino(parent))?.lower.ok_or(Error::Os(libc::ESTALE))?;
                let facts = facts(&self.lower.place_fd(above)?, &name)?;
                (parent, name, facts)
            }
            None => (node.parent, node.name.clone(), self.staged_facts(&node)?),
        };
        let at = Name {
            parent: self.file_of(tx, parent)?,
            name: name.as_bytes().into(),
        };
        let facts = facts.ok_or(Error::Os(libc::ESTALE))?;
        let want = match facts.kind {
            // Entered here as one that is taken in, it would pass for one whose entries are all known.
            Kind::Directory => Want::Exclude(NOT_LOOKED_INTO.to_owned()),
            _ => Want::Index,
        };
        Ok(tx.bind(&at, &facts, &want, Trust::Nothing)?.0)
    }

    /// The facts of a staged inode where it stands in the stage.
    fn staged_facts(&self, node: &Node) -> Result<Option<Facts>> {
        match self.node(Ino(node.parent))?.upper {
            Some(above) => facts(&self.upper.place_fd(above)?, &node.name),
            None => Ok(None),
        }
    }
}

/// What stands at a name. The rename that may come changes the ctime: the file will be looked at again.
fn facts(dir: &OwnedFd, name: &OsStr) -> Result<Option<Facts>> {
    let tree = Tree::new(rustix::io::fcntl_dupfd_cloexec(dir, 0)?);
    let found = tree.look(dir.as_fd(), name)?;
    Ok(found.map(|found| Facts {
        ctime: 0,
        ..found.facts
    }))
}
