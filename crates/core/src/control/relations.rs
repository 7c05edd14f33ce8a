//! `rel/<path>/<type>/`: the relations of a file as symbolic links. `ln -s` makes one, `rm` removes it.
//!
//! Every type that could be is a directory, as every query is: what is listed are the types that the file has. A link is
//! called as its target unless it was made under another name, which is kept as the property `name`. Links that are
//! derived from texts have the mode 0555 and cannot be removed.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;

use super::names::{escape, link_target};
use super::node::{Node, RelationPlace, Scope};
use super::tree::ControlTree;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::knowledge::relations::{Shown, Telling, plain};
use crate::query::answer::name_text;
use crate::store::relations::{Direction, check_kind};

/// The property under which a link's own name is kept.
const NAME: &str = "name";

/// Stands for the control directory in a path: no file has this name.
const CONTROL: &str = "/";

/// How long a list answers the lookups that follow: `ls -l` of a hub looks up each of its links.
const LIST_LIVES: Duration = Duration::from_secs(1);

/// Lists kept for that.
const LISTS_MAX: usize = 256;

/// The links of a directory, by their names.
pub(super) type Links = Vec<(OsString, Shown)>;

/// The lists that were made last, each for one caller.
#[derive(Default)]
pub(super) struct RelationLists {
    lists: Mutex<HashMap<(Arc<RelationPlace>, u32), Made>>,
}

/// When a list was made, and the list.
type Made = (Instant, Arc<Links>);

impl RelationLists {
    fn get(&self, place: &Arc<RelationPlace>, uid: u32) -> Option<Arc<Links>> {
        let lists = self.lists.lock();
        let (made, links) = lists.get(&(place.clone(), uid))?;
        (made.elapsed() < LIST_LIVES).then(|| links.clone())
    }

    fn put(&self, place: Arc<RelationPlace>, uid: u32, links: Arc<Links>) {
        let mut lists = self.lists.lock();
        if lists.len() >= LISTS_MAX {
            lists.retain(|_, (made, _)| made.elapsed() < LIST_LIVES);
        }
        if lists.len() < LISTS_MAX {
            lists.insert((place, uid), (Instant::now(), links));
        }
    }

    fn forget_all(&self) {
        self.lists.lock().clear();
    }
}

impl ControlTree {
    /// A directory on the way to a file leads further down, a file has relations.
    pub(super) fn relation_child(&self, caller: &Caller, scope: Scope, path: PathBuf) -> Result<Node> {
        let kind = self.file_type(caller, scope, &path)?;
        Ok(match kind {
            libc::S_IFDIR => Node::Related { scope, path },
            _ => Node::RelatedFile { scope, path },
        })
    }

    /// The type bits of the mode of what stands at a path below a scope.
    pub(super) fn file_type(&self, caller: &Caller, scope: Scope, path: &Path) -> Result<u32> {
        match scope.staged {
            Some(dir) => {
                let txn = self.txn_of(dir)?;
                let path = txn.place(dir)?.0.join(path);
                self.knowledge.inside(&txn, caller).file_type(&path)
            }
            None => self.knowledge.file_type(caller, scope.dir, path),
        }
    }

    /// The relations that lead away from the file at a path below the root.
    fn relations(
        &self,
        caller: &Caller,
        scope: Scope,
        path: &Path,
        kind: Option<&str>,
    ) -> Result<Vec<Shown>> {
        match scope.staged {
            Some(dir) => {
                let txn = self.txn_of(dir)?;
                self.knowledge
                    .inside(&txn, caller)
                    .relations(path, kind, Direction::Out)
            }
            None => self.knowledge.relations(caller, path, kind, Direction::Out),
        }
    }

    /// The directory of a type.
    pub(super) fn relation_type(&self, scope: Scope, path: PathBuf, name: &OsStr) -> Result<Node> {
        let kind = name.to_str().filter(|kind| check_kind(kind).is_ok());
        let kind = kind.ok_or_else(|| Error::NotFound(name_text(name)))?.to_owned();
        Ok(Node::Relations(Arc::new(RelationPlace { scope, path, kind })))
    }

    /// The types of the relations that lead away from a file.
    pub(super) fn relation_types(&self, caller: &Caller, scope: Scope, path: &Path) -> Result<Vec<String>> {
        let path = self.scope_path(scope)?.join(path);
        let relations = self.relations(caller, scope, &path, None)?;
        let mut kinds: Vec<String> = relations.into_iter().map(|relation| relation.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        Ok(kinds)
    }

    /// The links of a directory, as they are now.
    pub(super) fn relation_links(&self, caller: &Caller, place: &Arc<RelationPlace>) -> Result<Arc<Links>> {
        let path = self.file_of(place)?;
        let relations = self.relations(caller, place.scope, &path, Some(&place.kind))?;
        let links = Arc::new(name_links(relations));
        self.links.put(place.clone(), caller.uid, links.clone());
        Ok(links)
    }

    /// The relation behind a link.
    pub(super) fn relation_link(
        &self,
        caller: &Caller,
        place: &Arc<RelationPlace>,
        name: &OsStr,
    ) -> Result<Shown> {
        let recent = self.links.get(place, caller.uid);
        let find = |links: &Links| {
            links
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, r)| r.clone())
        };
        if let Some(found) = recent.and_then(|links| find(&links)) {
            return Ok(found);
        }
        find(&*self.relation_links(caller, place)?).ok_or_else(|| Error::NotFound(name_text(name)))
    }

    /// Where a link leads, from the directory in which it stands.
    pub(super) fn relation_target(&self, place: &RelationPlace, relation: &Shown) -> Result<Vec<u8>> {
        if relation.path.is_absolute() {
            return Ok(relation.path.as_os_str().as_bytes().to_owned());
        }
        let scope = self.scope_path(place.scope)?;
        // .vexfs/rel/<path>/<type>/
        let depth = 3 + place.path.components().count();
        Ok(match relation.path.strip_prefix(&scope) {
            Ok(below) => link_target(depth, below),
            Err(_) => link_target(depth + scope.components().count(), &relation.path),
        })
    }

    /// `ln -s`.
    pub(super) fn relation_make(
        &self,
        caller: &Caller,
        place: &Arc<RelationPlace>,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<()> {
        let (from, to) = (self.file_of(place)?, self.destination(place, Path::new(target))?);
        let there = self.relation_links(caller, place)?;
        let same = |(_, relation): &&(OsString, Shown)| relation.path == to && !relation.derived;
        if let Some((known, _)) = there.iter().find(same) {
            return Err(Error::Exists(format!("the relation, as {}", name_text(known))));
        }
        let properties = match to.file_name() == Some(name) {
            true => None,
            false => Some(named(name)?),
        };
        let telling = Telling {
            from,
            kind: place.kind.clone(),
            to,
            properties,
        };
        match place.scope.staged {
            Some(dir) => {
                let txn = self.txn_of(dir)?;
                self.knowledge.inside(&txn, caller).relate(&[telling])?;
            }
            None => drop(self.knowledge.relate(caller, &[telling])?),
        }
        self.links.forget_all();
        Ok(())
    }

    /// `rm`.
    pub(super) fn relation_remove(
        &self,
        caller: &Caller,
        place: &Arc<RelationPlace>,
        name: &OsStr,
    ) -> Result<()> {
        let relation = self.relation_link(caller, place, name)?;
        let path = self.file_of(place)?;
        match place.scope.staged {
            Some(dir) => {
                let txn = self.txn_of(dir)?;
                self.knowledge
                    .inside(&txn, caller)
                    .unrelate_shown(&path, &relation)?;
            }
            None => drop(self.knowledge.unrelate_shown(caller, &path, &relation)?),
        }
        self.links.forget_all();
        Ok(())
    }

    /// `rmdir`: a type is gone when its last relation is.
    pub(super) fn relation_remove_type(&self, caller: &Caller, place: &Arc<RelationPlace>) -> Result<()> {
        match self.relation_links(caller, place)?.is_empty() {
            true => Ok(()),
            false => Err(Error::Os(libc::ENOTEMPTY)),
        }
    }

    /// `mv`: another name, or another type.
    pub(super) fn relation_rename(
        &self,
        caller: &Caller,
        (from, name): (&Arc<RelationPlace>, &OsStr),
        (to, new_name): (&Arc<RelationPlace>, &OsStr),
    ) -> Result<()> {
        let path = self.file_of(from)?;
        if path != self.file_of(to)? {
            return Err(Error::Invalid(
                "a relation stays with its file: make another, then remove this one".into(),
            ));
        }
        if self.relation_link(caller, to, new_name).is_ok() {
            return Err(Error::Exists(name_text(new_name)));
        }
        let relation = self.relation_link(caller, from, name)?;
        let mut properties = relation.properties();
        properties.remove(NAME);
        if relation.path.file_name() != Some(new_name) {
            properties.extend(named(new_name)?);
        }
        match to.scope.staged {
            Some(dir) => {
                let txn = self.txn_of(dir)?;
                let inside = self.knowledge.inside(&txn, caller);
                inside.retell(&path, &relation, &to.kind, properties)?;
            }
            None => {
                self.knowledge
                    .retell(caller, &path, &relation, &to.kind, properties)?;
            }
        }
        self.links.forget_all();
        Ok(())
    }

    /// The file whose relations a directory shows, below the root.
    fn file_of(&self, place: &RelationPlace) -> Result<PathBuf> {
        Ok(self.scope_path(place.scope)?.join(&place.path))
    }

    /// What the target of a link means, below the root, or outside of the tree: where the link leads from the directory
    /// in which it stands. From there a target that stays inside the control directory leads nowhere; it is taken from
    /// the scope, so that `ln -s notes/b.md .vexfs/rel/notes/a.md/cites/` means what it seems to.
    fn destination(&self, place: &RelationPlace, target: &Path) -> Result<PathBuf> {
        let target = self.knowledge.below_root(target);
        if target.is_absolute() {
            return Ok(target);
        }
        if target.as_os_str().is_empty() {
            return Err(Error::Invalid(
                "a relation leads to a file: the target is empty".into(),
            ));
        }
        let scope = self.scope_path(place.scope)?;
        let stands: Vec<&OsStr> = scope
            .iter()
            .chain([OsStr::new(CONTROL), OsStr::new("rel")])
            .chain(place.path.iter())
            .chain([OsStr::new(&*place.kind)])
            .collect();
        match led(stands, &target) {
            Some(parts) if !parts.contains(&OsStr::new(CONTROL)) => Ok(parts.iter().collect()),
            _ => plain(&scope.join(&target)),
        }
    }
}

/// The components to which a target leads from a directory; none when it leads above the root.
fn led<'a>(mut at: Vec<&'a OsStr>, target: &'a Path) -> Option<Vec<&'a OsStr>> {
    for part in target.components() {
        match part {
            Component::Normal(name) => at.push(name),
            Component::ParentDir => {
                at.pop()?;
            }
            _ => {}
        }
    }
    Some(at)
}

/// Names for relations of one type: the name it was given, else the target's, else, where that is taken, its whole path
/// with `%2F` for `/`. Of a told and a derived relation that lead the same way the told one is shown.
fn name_links(relations: Vec<Shown>) -> Links {
    let (mut names, mut targets) = (HashSet::new(), HashSet::new());
    let mut links = Links::new();
    for relation in relations {
        if !targets.insert(relation.path.clone()) {
            continue;
        }
        let own = relation
            .properties()
            .get(NAME)
            .and_then(|name| Some(OsString::from(name.as_str()?)));
        let base = relation.path.file_name().unwrap_or(OsStr::new("root")).to_owned();
        let whole = OsString::from(escape(&name_text(relation.path.as_os_str())));
        let mut choices = own.into_iter().chain([base, whole]);
        let free = choices.find(|name| fits(name) && !names.contains(name));
        let name = free.unwrap_or_else(|| OsString::from(format!("{}", links.len() + 1)));
        names.insert(name.clone());
        links.push((name, relation));
    }
    links
}

/// Whether a link may be called so.
fn fits(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    (1..=255).contains(&bytes.len()) && !bytes.contains(&b'/') && name != "." && name != ".."
}

fn named(name: &OsStr) -> Result<serde_json::Map<String, serde_json::Value>> {
    let text = name.to_str().filter(|_| fits(name)).ok_or_else(|| {
        Error::Invalid(format!(
            "{} cannot be kept as a link's name: expected at most 255 bytes of UTF-8",
            name_text(name)
        ))
    })?;
    Ok([(NAME.to_owned(), json!(text))].into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led_to(from: &str, target: &str) -> Option<String> {
        let parts = led(Path::new(from).iter().collect(), Path::new(target))?;
        let path: PathBuf = parts.iter().collect();
        Some(path.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_target_leads_as_from_the_directory_of_the_link() {
        assert_eq!(led_to("a/b", "../c").as_deref(), Some("a/c"));
        assert_eq!(led_to("a/b", "./c/.././d").as_deref(), Some("a/b/d"));
        assert_eq!(led_to("a", "../../c"), None);
    }

    #[test]
    fn names_of_links_are_file_names() {
        for name in ["a.md", "übung", "a b"] {
            assert!(fits(OsStr::new(name)), "{name}");
        }
        for name in ["", ".", "..", "a/b", &"x".repeat(256)] {
            assert!(!fits(OsStr::new(name)), "{name}");
        }
        assert!(named(OsStr::from_bytes(b"\xff")).is_err());
    }
}
