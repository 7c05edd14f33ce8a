//! Relations as a caller tells them and sees them. Nobody learns of a relation whose other end they may not read.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Knowledge;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::{FileId, Generation, NodeKey};
use crate::query::access::refusals;
use crate::query::answer::{exact_path, path_text};
use crate::store::file::State;
use crate::store::relations::{Direction, Relation, Target, check_kind};
use crate::txn::End;

/// Relations of one file that are shown, in each direction. A hub of more is walked, not listed.
pub const SHOWN_MAX: usize = 10_000;

/// A relation to be made or removed. Paths are below the root; a target that begins with `/` lies outside of the tree.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Telling {
    /// The file in which it starts.
    pub from: PathBuf,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it leads.
    pub to: PathBuf,
    /// Its properties, scalars by name.
    #[serde(default)]
    pub properties: Option<Map<String, Value>>,
}

impl Telling {
    /// Whether a relation that is shown with this path is meant.
    pub(super) fn leads_to(&self, path: &Path) -> bool {
        plain(&self.to).map_or(self.to == path, |to| to == path)
    }
}

/// A relation as one end of it shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Its type.
    pub kind: String,
    /// The other end, below the root; or outside of the tree, beginning with `/`.
    pub path: PathBuf,
    /// Whether it leads to that path, not from it.
    pub outward: bool,
    /// Whether it follows from the contents of files.
    pub derived: bool,
    /// Whether nothing stands at the path.
    pub dangling: bool,
    /// Its properties, a JSON object.
    pub properties: Option<String>,
    /// Where it leads, as it is kept.
    pub(super) to: End,
}

impl Shown {
    pub(super) fn check_told(&self) -> Result<()> {
        match self.derived {
            false => Ok(()),
            true => Err(Error::Derived {
                kind: self.kind.clone(),
                to: path_text(&self.path),
            }),
        }
    }

    /// Where it leads in the store. One that a transaction has staged is not there.
    fn stored(&self) -> Result<&Target> {
        match &self.to {
            End::Stored(to) => Ok(to),
            End::Staged(_) => Err(Error::NotFound(path_text(&self.path))),
        }
    }

    /// Its properties by name.
    pub fn properties(&self) -> Map<String, Value> {
        let text = self.properties.as_deref().unwrap_or("{}");
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The relation as a JSON object.
    pub fn json(&self) -> Value {
        let mut object = json!({
            "path": path_text(&self.path),
            "type": self.kind,
            "direction": Way::of(self.outward),
            "derived": self.derived,
            "dangling": self.dangling,
            "properties": self.properties(),
        });
        exact_path(&mut object, &self.path);
        object
    }
}

/// The direction of a relation, as programs write it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Away from the file.
    Out,
    /// Towards it.
    In,
    /// Either.
    #[default]
    Both,
}

impl Way {
    pub(super) fn of(outward: bool) -> Way {
        if outward { Way::Out } else { Way::In }
    }

    /// The direction in which relations are followed.
    pub fn direction(self) -> Direction {
        match self {
            Way::Out => Direction::Out,
            Way::In => Direction::In,
            Way::Both => Direction::Both,
        }
    }
}

impl Knowledge {
    /// The relations of the file at a path that the caller may know of, told ones first. At most [`SHOWN_MAX`] of each
    /// direction.
    pub fn relations(
        &self,
        caller: &Caller,
        path: &Path,
        kind: Option<&str>,
        direction: Direction,
    ) -> Result<Vec<Shown>> {
        let node = self.node_at(caller, path, false)?;
        match self.file_id(node)? {
            Some(file) => self.relations_of(caller, file, kind, direction),
            // The file is there, its event is on the way.
            None => Ok(Vec::new()),
        }
    }

    /// As [`Knowledge::relations`], of a file that the caller may read.
    pub(super) fn relations_of(
        &self,
        caller: &Caller,
        file: FileId,
        kind: Option<&str>,
        direction: Direction,
    ) -> Result<Vec<Shown>> {
        let (mut ends, mut gone) = (Vec::new(), HashMap::new());
        self.store.read(|rows| {
            for outward in [true, false] {
                if direction == (if outward { Direction::In } else { Direction::Out }) {
                    continue;
                }
                for relation in rows.relations_at(file, outward, kind, SHOWN_MAX)? {
                    let end = match &relation.to {
                        _ if !outward => Some(relation.from),
                        Target::File(to) => Some(*to),
                        // A folder that was renamed may have brought the path into being.
                        Target::Path(path) if is_inside(path) => rows.resolve(path)?,
                        Target::Path(_) => None,
                    };
                    ends.push((relation, outward, end));
                }
            }
            let mirror = self.store.mirror();
            for end in ends.iter().filter_map(|(_, _, end)| *end) {
                if mirror.get(end).is_none_or(|node| node.names().next().is_none()) {
                    gone.insert(end, rows.gone_path(end)?);
                }
            }
            Ok(())
        })?;
        let mut sight = self.searcher.sight(caller);
        sight.look(ends.iter().filter_map(|(_, _, end)| *end));
        let mut shown = Vec::new();
        for (relation, outward, end) in ends {
            let there = end.and_then(|end| sight.path(end)).map(Path::to_owned);
            let (path, dangling) = match (there, end, &relation.to) {
                (Some(path), ..) => (path, false),
                (None, Some(end), _) => match gone.get(&end) {
                    Some(Some(path)) if outward => (path.clone(), true),
                    _ => continue,
                },
                (None, None, Target::Path(path)) => (path.clone(), true),
                (None, None, Target::File(_)) => continue,
            };
            shown.push(Shown {
                kind: relation.kind,
                path,
                outward,
                derived: relation.derived,
                dangling,
                properties: relation.properties,
                to: End::Stored(relation.to),
            });
        }
        self.hide_closed_places(caller, &mut shown);
        Ok(shown)
    }

    /// Of a path at which nothing stands the caller learns only what the kernel would tell them.
    fn hide_closed_places(&self, caller: &Caller, shown: &mut Vec<Shown>) {
        let asked = |relation: &Shown| relation.dangling && is_inside(&relation.path);
        let paths: Vec<PathBuf> = shown
            .iter()
            .filter(|r| asked(r))
            .map(|r| r.path.clone())
            .collect();
        let answers = refusals(self.root.as_fd(), caller, &paths, Access::EXISTS);
        let mut answers = answers.into_iter();
        shown.retain(|relation| !asked(relation) || answers.next().flatten() != Some(Errno::ACCESS));
        for relation in shown.iter_mut().filter(|relation| relation.dangling) {
            // What a rule keeps out of the catalog is there all the same.
            let there = rustix::fs::statat(self.root.as_fd(), &relation.path, AtFlags::SYMLINK_NOFOLLOW);
            relation.dangling = !is_inside(&relation.path) || there.is_err();
        }
    }

    /// Makes relations, all or none; durable when it returns. One that is there already gets the new properties.
    ///
    /// # Errors
    /// The caller must be able to write the files in which they start, and to read the targets that exist. A target
    /// that does not exist dangles until it does.
    pub fn relate(&self, caller: &Caller, tellings: &[Telling]) -> Result<Generation> {
        let mut sources = HashMap::new();
        let mut relations = Vec::with_capacity(tellings.len());
        let targets = self.targets_at(caller, tellings)?;
        for (telling, to) in tellings.iter().zip(targets) {
            check_kind(&telling.kind)?;
            let from = match sources.get(&telling.from) {
                Some(from) => *from,
                None => {
                    let from = self.known_at(self.node_at(caller, &telling.from, true)?, &telling.from)?;
                    sources.insert(&telling.from, from);
                    from
                }
            };
            relations.push(Relation {
                from,
                kind: telling.kind.clone(),
                to,
                properties: telling.properties.as_ref().map(|map| json!(map).to_string()),
                derived: false,
            });
        }
        let ((), generation) = self
            .store
            .write(|tx| relations.iter().try_for_each(|relation| tx.relate(relation)))?;
        Ok(generation)
    }

    /// The targets of relations: files where they exist and the caller may read them, else paths.
    fn targets_at(&self, caller: &Caller, tellings: &[Telling]) -> Result<Vec<Target>> {
        let mut known: HashMap<&Path, Target> = HashMap::new();
        for telling in tellings {
            if !known.contains_key(telling.to.as_path()) {
                let target = self.target_at(caller, &telling.to)?;
                known.insert(&telling.to, target);
            }
        }
        let targets = tellings.iter().map(|telling| known[telling.to.as_path()].clone());
        Ok(targets.collect())
    }

    pub(super) fn target_at(&self, caller: &Caller, path: &Path) -> Result<Target> {
        if path.as_os_str().is_empty() || path.as_os_str().as_encoded_bytes().contains(&0) {
            let what = "a target is a path below the root, or one that begins with /";
            return Err(Error::Invalid(what.into()));
        }
        if path.is_absolute() {
            return Ok(Target::Path(path.to_owned()));
        }
        let path = plain(path)?;
        match self.node_at(caller, &path, false) {
            Ok(node) => match self.known_at(node, &path) {
                Ok(file) => Ok(Target::File(file)),
                Err(Error::Excluded(_)) => Ok(Target::Path(path)),
                Err(error) => Err(error),
            },
            Err(Error::NotFound(_)) => Ok(Target::Path(path)),
            Err(error) => Err(error),
        }
    }

    /// The file at a path that is there. One that was just made is waited for.
    ///
    /// # Errors
    /// [`Error::Excluded`] where it will never have an id: below a folder that a rule keeps out.
    pub(super) fn known_at(&self, node: NodeKey, path: &Path) -> Result<FileId> {
        if let Some(file) = self.file_id(node)? {
            return Ok(file);
        }
        let above = self.store.read(|rows| {
            for folder in path.ancestors().skip(1) {
                if let Some(id) = rows.resolve(folder)? {
                    return rows.file(id);
                }
            }
            Ok(None)
        })?;
        match above.map(|folder| folder.state) {
            Some(State::Excluded(rule)) => Err(Error::Excluded(format!("{} ({rule})", path_text(path)))),
            _ => self.entered(node),
        }
    }

    /// Removes told relations, all or none; durable when it returns.
    ///
    /// # Errors
    /// A relation that is not there is [`Error::NotFound`]; a derived one is [`Error::Derived`]: it goes when the text
    /// goes that it follows from.
    pub fn unrelate(&self, caller: &Caller, tellings: &[Telling]) -> Result<Generation> {
        let mut found = Vec::with_capacity(tellings.len());
        for telling in tellings {
            let file = self.file_id(self.node_at(caller, &telling.from, true)?)?;
            let shown = match file {
                Some(file) => self.relations_of(caller, file, Some(&telling.kind), Direction::Out)?,
                None => Vec::new(),
            };
            // Told ones come first.
            let relation = shown
                .into_iter()
                .find(|relation| telling.leads_to(&relation.path));
            found.extend(file.zip(Some(relation.ok_or_else(|| missing(telling))?)));
        }
        self.remove(&found)
    }

    /// Removes a relation that was shown to a caller who may write the file in which it starts.
    pub fn unrelate_shown(&self, caller: &Caller, path: &Path, relation: &Shown) -> Result<Generation> {
        let file = self.known_at(self.node_at(caller, path, true)?, path)?;
        self.remove(&[(file, relation.clone())])
    }

    /// Gives a relation that was shown another type and other properties, for a caller who may write the file in which
    /// it starts.
    pub fn retell(
        &self,
        caller: &Caller,
        path: &Path,
        relation: &Shown,
        kind: &str,
        properties: Map<String, Value>,
    ) -> Result<Generation> {
        let from = self.known_at(self.node_at(caller, path, true)?, path)?;
        relation.check_told()?;
        let to = relation.stored()?;
        let told = Relation {
            from,
            kind: kind.to_owned(),
            to: to.clone(),
            properties: (!properties.is_empty()).then(|| json!(properties).to_string()),
            derived: false,
        };
        let ((), generation) = self.store.write(|tx| {
            tx.unrelate(from, &relation.kind, to)?;
            tx.relate(&told)
        })?;
        Ok(generation)
    }

    fn remove(&self, relations: &[(FileId, Shown)]) -> Result<Generation> {
        relations.iter().try_for_each(|(_, shown)| shown.check_told())?;
        let ((), generation) = self.store.write(|tx| {
            relations
                .iter()
                .try_for_each(|(file, shown)| tx.unrelate(*file, &shown.kind, shown.stored()?).map(|_| ()))
        })?;
        Ok(generation)
    }
}

pub(super) fn missing(telling: &Telling) -> Error {
    Error::NotFound(format!(
        "the relation {} -> {} of {}",
        telling.kind,
        path_text(&telling.to),
        path_text(&telling.from)
    ))
}

pub(super) fn is_inside(path: &Path) -> bool {
    !path.is_absolute()
}

impl Knowledge {
    /// A path as programs name it, below the root: what begins with the mount point is below it.
    pub fn below_root(&self, path: &Path) -> PathBuf {
        let mountpoint = self.options.mountpoint.as_deref();
        let below = mountpoint.and_then(|mountpoint| path.strip_prefix(mountpoint).ok());
        below.unwrap_or(path).to_owned()
    }
}

/// A path below the root with `.` and `..` worked out by name alone.
pub fn plain(path: &Path) -> Result<PathBuf> {
    let mut parts: Vec<OsString> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::CurDir => {}
            Component::ParentDir if parts.pop().is_some() => {}
            _ => {
                return Err(Error::Invalid(format!(
                    "{} leads above the root of the tree",
                    path_text(path)
                )));
            }
        }
    }
    Ok(parts.iter().collect())
}
