//! What differs between two moments of the store.
//!
//! Files are followed by their ids, so a renamed one is one file, and of a renamed folder only its own name differs. A
//! file that took the name of one that went counts as the same one changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::Result;
use crate::ids::FileId;
use crate::query::answer::{exact_path, path_text};
use crate::store::Rows;
use crate::store::file::ROOT;
use crate::store::mirror::Name;
use crate::store::past::{Moment, Told, Version};
use crate::store::relations::Target;

/// A file under a name at one moment.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) file: FileId,
    pub(super) name: Option<Name>,
    pub(super) path: PathBuf,
    pub(super) version: Version,
}

/// What a name, or a file, was and is. One of the two at least is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Pair {
    pub(super) before: Option<Found>,
    pub(super) after: Option<Found>,
    /// A further name of a file that another pair stands for.
    pub(super) link: bool,
}

/// How something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Removed,
    Renamed,
    Changed,
    Attributes,
}

impl Change {
    fn word(self) -> &'static str {
        match self {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Renamed => "renamed",
            Change::Changed => "changed",
            Change::Attributes => "attributes",
        }
    }
}

impl Pair {
    /// Where it is, or was.
    pub(super) fn path(&self) -> &Path {
        let found = self.after.as_ref().or(self.before.as_ref());
        found.map_or(Path::new(""), |found| &found.path)
    }

    /// How the two differ: not at all, or in up to two ways.
    pub(super) fn changes(&self) -> Vec<Change> {
        let (before, after) = match (&self.before, &self.after) {
            (Some(before), Some(after)) => (before, after),
            (Some(_), None) => return vec![Change::Removed],
            (None, _) => return vec![Change::Added],
        };
        let mut changes = Vec::new();
        if before.name != after.name {
            changes.push(Change::Renamed);
        }
        if self.link {
            return changes;
        }
        if !before.version.same_content(&after.version) {
            changes.push(Change::Changed);
        } else if !before.version.same_attributes(&after.version) {
            changes.push(Change::Attributes);
        }
        changes
    }

    /// Whether what was under the name before may be found in its place no more.
    pub(super) fn loses_content(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => {
                before.file != after.file || !before.version.same_content(&after.version)
            }
            (before, _) => before.is_some(),
        }
    }

    pub(super) fn json(&self) -> Vec<(Change, Value)> {
        let object = |change: Change| {
            let mut object = json!({ "change": change.word(), "path": path_text(self.path()) });
            exact_path(&mut object, self.path());
            if let (Change::Renamed, Some(before)) = (change, &self.before) {
                object["from"] = json!(path_text(&before.path));
            }
            if let Some(found) = self.after.as_ref().or(self.before.as_ref()) {
                object["kind"] = json!(found.version.kind.word());
            }
            (change, object)
        };
        self.changes().into_iter().map(object).collect()
    }
}

/// Everything that may differ between two moments, in the order of paths.
pub(super) fn pairs(rows: &Rows<'_>, from: Moment, to: Moment) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for file in rows.touched_between(from, to)? {
        let before = found(rows, file, from)?;
        let after = found(rows, file, to)?;
        pair_names(before, after, &mut pairs);
    }
    join_replaced(&mut pairs);
    pairs.sort_by(|one, other| one.path().cmp(other.path()));
    Ok(pairs)
}

/// Files that occur in several pairs, as what was or what is.
pub(super) fn linked(pairs: &[Pair]) -> HashSet<FileId> {
    let (mut seen, mut linked) = (HashSet::new(), HashSet::new());
    for pair in pairs {
        let before = pair.before.as_ref().map(|found| found.file);
        let after = pair.after.as_ref().map(|found| found.file);
        let files = [before, after.filter(|after| Some(*after) != before)];
        linked.extend(files.into_iter().flatten().filter(|file| !seen.insert(*file)));
    }
    linked
}

/// A file under each name that it had.
fn found(rows: &Rows<'_>, file: FileId, at: Moment) -> Result<Vec<Found>> {
    let Some(version) = rows.version_at(file, at)? else {
        return Ok(Vec::new());
    };
    if file == ROOT {
        let (name, path) = (None, PathBuf::new());
        return Ok(vec![Found {
            file,
            name,
            path,
            version,
        }]);
    }
    let mut found = Vec::new();
    for name in rows.names_at(file, at)? {
        if let Some(path) = rows.path_of_name_at(&name, at)? {
            let (name, version) = (Some(name), version.clone());
            found.push(Found {
                file,
                name,
                path,
                version,
            });
        }
    }
    Ok(found)
}

/// Names that stayed are pairs, then one that went with one that came; the rest stand alone.
fn pair_names(before: Vec<Found>, after: Vec<Found>, pairs: &mut Vec<Pair>) {
    let (mut gone, mut came) = (Vec::new(), after);
    let mut own = Vec::new();
    for before in before {
        match came.iter().position(|after| after.name == before.name) {
            Some(at) => own.push((Some(before), Some(came.remove(at)))),
            None => gone.push(before),
        }
    }
    let both = gone.len().min(came.len());
    let moved = gone.drain(..both).zip(came.drain(..both));
    own.extend(moved.map(|(before, after)| (Some(before), Some(after))));
    own.extend(gone.into_iter().map(|before| (Some(before), None)));
    own.extend(came.into_iter().map(|after| (None, Some(after))));
    for (index, (before, after)) in own.into_iter().enumerate() {
        let link = index > 0;
        pairs.push(Pair { before, after, link });
    }
}

/// A file that went and another that came under its name.
fn join_replaced(pairs: &mut Vec<Pair>) {
    let lone = |pair: &Pair| pair.before.is_none() != pair.after.is_none();
    let mut came: BTreeMap<Name, Found> = BTreeMap::new();
    let gone: BTreeSet<Name> = pairs
        .iter()
        .filter(|pair| lone(pair))
        .filter_map(|pair| pair.before.as_ref()?.name.clone())
        .collect();
    pairs.retain(|pair| {
        let name = pair.after.as_ref().and_then(|after| after.name.clone());
        match (name, lone(pair)) {
            (Some(name), true) if gone.contains(&name) => {
                came.extend(pair.after.clone().map(|after| (name, after)));
                false
            }
            _ => true,
        }
    });
    for pair in pairs.iter_mut().filter(|pair| lone(pair)) {
        let name = pair.before.as_ref().and_then(|before| before.name.as_ref());
        if let Some(after) = name.and_then(|name| came.remove(name)) {
            // Whatever each of them was besides, under this name they are compared.
            (pair.after, pair.link) = (Some(after), false);
        }
    }
}

/// Something told that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ToldChange {
    pub(super) path: PathBuf,
    /// The attribute's name; see [`crate::knowledge::XATTR_PREFIX`].
    pub(super) name: String,
    /// Of a relation, where it leads.
    pub(super) target: Option<PathBuf>,
    change: &'static str,
}

impl ToldChange {
    pub(super) fn json(&self) -> Value {
        let mut object = json!({ "change": self.change, "path": path_text(&self.path), "name": self.name });
        exact_path(&mut object, &self.path);
        if let Some(target) = &self.target {
            object["target"] = json!(path_text(target));
        }
        object
    }
}

/// The items that were told of a file, by name and target.
pub(super) type Items = BTreeMap<(String, Option<PathBuf>), Vec<u8>>;

/// What was told otherwise, in the order of paths.
pub(super) fn told(rows: &Rows<'_>, pairs: &[Pair], from: Moment, to: Moment) -> Result<Vec<ToldChange>> {
    let mut changes = Vec::new();
    for pair in pairs.iter().filter(|pair| !pair.link) {
        let before = items(rows, pair.before.as_ref(), from)?;
        let after = items(rows, pair.after.as_ref(), to)?;
        let mut put = |(name, target): &(String, Option<PathBuf>), change| {
            changes.push(ToldChange {
                path: pair.path().to_owned(),
                name: name.clone(),
                target: target.clone(),
                change,
            });
        };
        for (key, value) in &before {
            match after.get(key) {
                None => put(key, "removed"),
                Some(now) if now != value => put(key, "changed"),
                Some(_) => {}
            }
        }
        for key in after.keys().filter(|key| !before.contains_key(key)) {
            put(key, "added");
        }
    }
    changes.sort();
    Ok(changes)
}

/// What was told of a file at a moment, under the names of attributes.
pub(super) fn items(rows: &Rows<'_>, found: Option<&Found>, at: Moment) -> Result<Items> {
    let Some(found) = found else {
        return Ok(Items::new());
    };
    let Told {
        vectors,
        tags,
        metadata,
        relations,
    } = rows.told_at(found.file, at)?;
    let prefix = super::super::XATTR_PREFIX;
    let mut items = Items::new();
    for (space, value) in vectors {
        let name = match space.as_str() {
            "" => format!("{prefix}vec"),
            space => format!("{prefix}vec.{space}"),
        };
        items.insert((name, None), value);
    }
    items.extend(
        tags.into_iter()
            .map(|(tag, value)| ((format!("{prefix}tag.{tag}"), None), value)),
    );
    items.extend(
        metadata
            .into_iter()
            .map(|(key, value)| ((format!("{prefix}meta.{key}"), None), value)),
    );
    for ((kind, to), properties) in relations {
        // What leads to a path and what leads to the file there are the same.
        let target = match to {
            Target::Path(path) => Some(path),
            Target::File(file) => rows.path_at(file, at)?,
        };
        if target.is_some() {
            let value = properties.unwrap_or_default().into_bytes();
            items.insert((format!("{prefix}rel.{kind}"), target), value);
        }
    }
    Ok(items)
}
