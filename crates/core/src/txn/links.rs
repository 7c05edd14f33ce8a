//! Relations that are told in a transaction. All of a type that lead away from a file are staged together, once one of
//! them is changed; they are what is compared at the commit.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::teller::Teller;
use super::told::{Said, Told};
use super::view::View;
use crate::ids::{FileId, Ino};
use crate::store::Tx;
use crate::store::relations::Target;
use crate::{Error, Result};

/// Where a relation leads that is told in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// To a file that the catalog knows, or to a path.
    Stored(Target),
    /// To a file that is new in the transaction.
    Staged(Ino),
}

/// A relation that leads away from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it leads.
    pub to: End,
    /// Its properties, a JSON object.
    pub properties: Option<String>,
}

/// The relations of a type that were told of a file.
pub struct StagedLinks {
    /// The file.
    pub from: Ino,
    /// The attribute that stands for them.
    pub name: OsString,
    /// They themselves.
    pub links: Vec<Link>,
}

impl View {
    /// Changes the told relations of a type that lead away from a file; `name` is the attribute that stands for them.
    pub fn relink(
        &self,
        teller: &dyn Teller,
        ino: Ino,
        name: &OsStr,
        change: impl FnOnce(&mut Vec<Link>) -> Result<()>,
    ) -> Result<()> {
        let before = self.version_before(teller, ino, name)?;
        let _still = self.still()?;
        let mut links = self.links(teller, ino, name)?;
        change(&mut links)?;
        self.stage_told(ino, name, before, Some(Said::Links(links)))
    }

    /// The told relations that lead away from a file, as the transaction has them.
    pub fn links(&self, teller: &dyn Teller, ino: Ino, name: &OsStr) -> Result<Vec<Link>> {
        let key = (ino.0, name.to_owned());
        if let Some(told) = self.state.lock().told.get(&key) {
            return Ok(told.links().to_vec());
        }
        match (self.base_key(ino), teller.relation(name)) {
            (Some(node), Some(kind)) => teller.links(node, kind),
            _ => Ok(Vec::new()),
        }
    }

    /// Whether the relations of a type that lead away from a file are those of the transaction.
    pub fn is_relinked(&self, ino: Ino, name: &OsStr) -> bool {
        self.state.lock().told.contains_key(&(ino.0, name.to_owned()))
    }

    /// All relations that were told of files that are still there.
    pub fn staged_links(&self) -> Vec<StagedLinks> {
        let state = self.state.lock();
        let told = state.told.iter().filter(|(_, told)| !told.links().is_empty());
        let staged = told.map(|((number, name), told)| StagedLinks {
            from: Ino(*number),
            name: name.clone(),
            links: told.links().to_vec(),
        });
        let staged: Vec<_> = staged.collect();
        drop(state);
        let there = staged.into_iter().filter(|staged| self.is_there(staged.from));
        there.collect()
    }

    /// Where the view shows a node; `None` when it is gone.
    pub fn path_of(&self, ino: Ino) -> Option<PathBuf> {
        self.is_there(ino).then(|| self.path(ino.0))
    }

    /// Whether a node still has a name, as far as this transaction goes.
    pub(super) fn is_there(&self, ino: Ino) -> bool {
        let Ok(node) = self.node(ino) else { return false };
        if node.gone {
            return false;
        }
        let linked = |upper| self.upper.getattr(upper, None).is_ok_and(|attr| attr.nlink > 0);
        node.upper.is_none_or(linked)
    }

    /// Where the view shows what the base has at a path; `None` when it is gone.
    pub fn shown_at(&self, base: &Path) -> Option<PathBuf> {
        let (mut dir, mut shown) = (self.root().0, PathBuf::new());
        let mut parts = base.iter();
        while let Some(name) = parts.next() {
            let touched = {
                let state = self.state.lock();
                state.touched.get(&(dir, name.to_owned())).copied()
            };
            let Some(before) = touched else {
                // Nothing below was touched: to touch a name, its directory comes into the stage.
                shown.push(name);
                shown.extend(parts);
                return Some(shown);
            };
            let lower = self.lower.ino_of(before?.key)?;
            let number = self.state.lock().by_lower.get(&lower).copied()?;
            let node = self.node(Ino(number)).ok()?;
            if node.upper.is_none() || !self.is_there(Ino(number)) {
                return None;
            }
            (dir, shown) = (number, self.path(number));
        }
        Some(shown)
    }

    /// Where relations lead at the commit. What the transaction made and removed again is a path where nothing stands.
    pub(super) fn settle_links(
        &self,
        tx: &mut Tx<'_>,
        links: &[Link],
    ) -> Result<Vec<(Target, Option<String>)>> {
        let settled = links.iter().map(|link| {
            let to = match &link.to {
                End::Stored(Target::Path(path)) => resolve(tx, path)?,
                End::Stored(to) => to.clone(),
                End::Staged(ino) if self.is_there(*ino) => Target::File(self.file_of(tx, ino.0)?),
                End::Staged(ino) => Target::Path(self.path(ino.0)),
            };
            Ok((to, link.properties.clone()))
        });
        settled.collect()
    }
}

impl Told {
    /// The relations that were told; none of another attribute.
    fn links(&self) -> &[Link] {
        match &self.value {
            Some(Said::Links(links)) => links,
            _ => &[],
        }
    }
}

/// What stands at a path by now. What comes into being by the same commit is found once it has its name.
fn resolve(tx: &Tx<'_>, path: &Path) -> Result<Target> {
    let known: Option<FileId> = match path.is_absolute() {
        true => None,
        false => tx.rows().resolve(path)?,
    };
    Ok(known.map_or_else(|| Target::Path(path.to_owned()), Target::File))
}

/// A place in the view, by its path: the nodes on the way, as far as it is there.
pub struct Way<'v> {
    view: &'v View,
    nodes: Vec<Ino>,
    missing: PathBuf,
}

impl View {
    /// Follows a path from the root, through no symbolic link.
    pub fn find(&self, path: &Path) -> Result<Way<'_>> {
        let mut way = Way {
            view: self,
            nodes: vec![self.root()],
            missing: PathBuf::new(),
        };
        let mut parts = path.iter();
        while let Some(name) = parts.next() {
            match self.lookup(way.end(), name) {
                Ok(found) => way.nodes.push(found.attr.ino),
                Err(Error::Os(libc::ENOENT | libc::ENOTDIR)) => {
                    way.missing.push(name);
                    way.missing.extend(parts);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(way)
    }
}

impl Way<'_> {
    /// What stands at the path; `None` if nothing does.
    pub fn ino(&self) -> Option<Ino> {
        self.missing.as_os_str().is_empty().then(|| self.end())
    }

    /// All nodes that are there, from the root on.
    pub fn nodes(&self) -> &[Ino] {
        &self.nodes
    }

    fn end(&self) -> Ino {
        self.nodes.last().copied().unwrap_or(self.view.root())
    }
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        // The root was not looked up.
        for ino in self.nodes.iter().skip(1) {
            self.view.forget(*ino, 1);
        }
    }
}
