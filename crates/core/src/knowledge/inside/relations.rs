//! Relations inside a transaction: those that are committed, led to where the transaction shows their files, and in
//! place of those that were told of a file in it, what it tells. Derived ones follow from what is committed.

use std::ffi::OsString;
use std::path::Path;

use rustix::fs::Access;
use serde_json::{Map, Value, json};

use super::{Inside, check};
use crate::error::{Error, Result};
use crate::ids::{FileId, Ino};
use crate::knowledge::attributes::PREFIX;
use crate::knowledge::relations::{Shown, Telling, missing};
use crate::store::relations::{Direction, Target, check_kind, check_properties};
use crate::txn::{End, Link, Teller};

/// The attribute that stands for the relations of a type.
fn attribute(kind: &str) -> OsString {
    format!("{PREFIX}rel.{kind}").into()
}

impl Inside<'_> {
    /// The relations of the file at a path that the caller may know of.
    pub fn relations(&self, path: &Path, kind: Option<&str>, direction: Direction) -> Result<Vec<Shown>> {
        let (_way, ino) = self.place(path, Access::READ_OK)?;
        let file = match self.view().base_key(ino) {
            Some(node) => self.knowledge.file_id(node)?,
            None => None,
        };
        let mut shown = Vec::new();
        if direction != Direction::In {
            self.leading_away(ino, file, kind, &mut shown)?;
        }
        if direction != Direction::Out {
            self.leading_here(path, ino, file, kind, &mut shown)?;
        }
        Ok(shown)
    }

    fn leading_away(
        &self,
        ino: Ino,
        file: Option<FileId>,
        kind: Option<&str>,
        shown: &mut Vec<Shown>,
    ) -> Result<()> {
        for (name, _) in self.view().told_names(ino) {
            let told = self.knowledge.relation(&name);
            if let Some(told) = told.filter(|told| kind.is_none_or(|kind| kind == *told)) {
                let links = self.view().links(self.knowledge, ino, &name)?;
                let ends = self.knowledge.ends_inside(self.caller, self.view(), &links)?;
                let ends = links.into_iter().zip(ends);
                shown.extend(ends.filter_map(|(link, end)| {
                    let (path, dangling) = end?;
                    Some(Shown {
                        kind: told.to_owned(),
                        path,
                        outward: true,
                        derived: false,
                        dangling,
                        properties: link.properties,
                        to: link.to,
                    })
                }));
            }
        }
        for mut relation in self.committed(file, kind, Direction::Out)? {
            if !relation.derived && self.view().is_relinked(ino, &attribute(&relation.kind)) {
                continue;
            }
            let path = self.view().shown_at(&relation.path);
            let path = path.unwrap_or_else(|| relation.path.clone());
            if let Some((path, dangling)) = self.knowledge.shown_inside(self.caller, self.view(), path)? {
                (relation.path, relation.dangling) = (path, dangling);
                shown.push(relation);
            }
        }
        Ok(())
    }

    fn leading_here(
        &self,
        path: &Path,
        ino: Ino,
        file: Option<FileId>,
        kind: Option<&str>,
        shown: &mut Vec<Shown>,
    ) -> Result<()> {
        let here = |link: &Link| match &link.to {
            End::Stored(Target::File(to)) => Some(*to) == file,
            End::Stored(Target::Path(to)) => to == path,
            End::Staged(to) => *to == ino,
        };
        for staged in self.view().staged_links() {
            let told = self.knowledge.relation(&staged.name);
            let Some(told) = told.filter(|told| kind.is_none_or(|kind| kind == *told)) else {
                continue;
            };
            let mut links = staged.links.into_iter().filter(here).peekable();
            let Some(from) = links.peek().and_then(|_| self.view().path_of(staged.from)) else {
                continue;
            };
            if self.may_read(&from)? {
                shown.extend(links.map(|link| Shown {
                    kind: told.to_owned(),
                    path: from.clone(),
                    outward: false,
                    derived: false,
                    dangling: false,
                    properties: link.properties,
                    to: link.to,
                }));
            }
        }
        for mut relation in self.committed(file, kind, Direction::In)? {
            let Some(from) = self.view().shown_at(&relation.path) else {
                continue;
            };
            let way = self.view().find(&from)?;
            let Some(source) = way.ino() else { continue };
            let retold = !relation.derived && self.view().is_relinked(source, &attribute(&relation.kind));
            if !retold && self.may_read(&from)? {
                relation.path = from;
                shown.push(relation);
            }
        }
        Ok(())
    }

    fn committed(
        &self,
        file: Option<FileId>,
        kind: Option<&str>,
        direction: Direction,
    ) -> Result<Vec<Shown>> {
        match file {
            Some(file) => self.knowledge.relations_of(self.caller, file, kind, direction),
            None => Ok(Vec::new()),
        }
    }

    fn may_read(&self, path: &Path) -> Result<bool> {
        let way = self.view().find(path)?;
        match check(self.caller, self.view(), &way, Access::READ_OK) {
            Err(Error::Denied) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Makes relations; they come into being with the commit. One that is there already gets the new properties.
    ///
    /// # Errors
    /// As outside; what is refused is refused before anything is staged.
    pub fn relate(&self, tellings: &[Telling]) -> Result<()> {
        let mut links = Vec::with_capacity(tellings.len());
        for telling in tellings {
            check_kind(&telling.kind)?;
            let properties = telling.properties.as_ref().map(|map| json!(map).to_string());
            if let Some(properties) = &properties {
                check_properties(properties)?;
            }
            let (way, ino) = self.place(&telling.from, Access::WRITE_OK)?;
            let to = self.knowledge.end_inside(self.caller, self.view(), &telling.to)?;
            links.push((way, ino, Link { to, properties }));
        }
        for (telling, (_way, ino, link)) in tellings.iter().zip(links) {
            self.put(ino, &telling.kind, link)?;
        }
        Ok(())
    }

    /// Removes told relations.
    ///
    /// # Errors
    /// As outside; what is refused is refused before anything is staged.
    pub fn unrelate(&self, tellings: &[Telling]) -> Result<()> {
        let mut found = Vec::with_capacity(tellings.len());
        for telling in tellings {
            self.place(&telling.from, Access::WRITE_OK)?;
            let shown = self.relations(&telling.from, Some(&telling.kind), Direction::Out)?;
            // Told ones come first.
            let relation = shown
                .into_iter()
                .find(|relation| telling.leads_to(&relation.path));
            let relation = relation.ok_or_else(|| missing(telling))?;
            relation.check_told()?;
            found.push(relation);
        }
        let mut found = tellings.iter().zip(&found);
        found.try_for_each(|(telling, relation)| self.unrelate_shown(&telling.from, relation))
    }

    /// Removes a relation that was shown to a caller who may write the file in which it starts.
    pub fn unrelate_shown(&self, path: &Path, relation: &Shown) -> Result<()> {
        relation.check_told()?;
        let (_way, ino) = self.place(path, Access::WRITE_OK)?;
        let name = attribute(&relation.kind);
        self.view().relink(self.knowledge, ino, &name, |links| {
            links.retain(|known| known.to != relation.to);
            Ok(())
        })
    }

    /// Gives a relation that was shown another type and other properties, for a caller who may write the file in which
    /// it starts.
    pub fn retell(
        &self,
        path: &Path,
        relation: &Shown,
        kind: &str,
        properties: Map<String, Value>,
    ) -> Result<()> {
        self.unrelate_shown(path, relation)?;
        let (_way, ino) = self.place(path, Access::WRITE_OK)?;
        let link = Link {
            to: relation.to.clone(),
            properties: (!properties.is_empty()).then(|| json!(properties).to_string()),
        };
        self.put(ino, kind, link)
    }

    fn put(&self, ino: Ino, kind: &str, link: Link) -> Result<()> {
        let name = attribute(kind);
        self.view().relink(self.knowledge, ino, &name, |links| {
            links.retain(|known| known.to != link.to);
            links.push(link);
            Ok(())
        })
    }
}
