//! Everything that is known of files, a page at a time: to be kept, or to be read by other programs.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Knowledge;
use crate::error::Result;
use crate::fs::ops::Caller;
use crate::ids::FileId;
use crate::query::answer::{exact_path, path_text};
use crate::store::Rows;
use crate::store::file::{FileRow, State};
use crate::store::relations::Direction;

/// Files of a page at most.
pub const PAGE_MAX: usize = 1_000;

/// A page of the export.
#[derive(Clone, Debug)]
pub struct Page {
    /// What is known of each file, a JSON object.
    pub files: Vec<Value>,
    /// Where the next page begins; none at the end.
    pub next: Option<FileId>,
}

impl Knowledge {
    /// The files behind `after`, in the order of their ids: those below `directory` that the caller may read, with
    /// tags, metadata, vectors and relations.
    pub fn export(&self, caller: &Caller, directory: &Path, after: FileId, limit: usize) -> Result<Page> {
        let scope = self.file_id(self.node_at(caller, directory, false)?)?;
        let limit = limit.clamp(1, PAGE_MAX);
        let ids = self.store.read(|rows| rows.live_ids(after, limit))?;
        let next = (ids.len() == limit).then(|| ids.last().copied()).flatten();
        let mut sight = self.searcher.sight(caller);
        sight.look(ids.iter().copied());
        let within: Vec<FileId> = {
            let mirror = self.store.mirror();
            let inside = |id: &FileId| scope.is_some_and(|scope| mirror.is_within(*id, scope));
            ids.into_iter().filter(inside).collect()
        };
        let mut files = Vec::new();
        for id in within {
            let Some(path) = sight.path(id) else { continue };
            let known = self.store.read(|rows| match rows.file(id)? {
                // The store itself is a directory of the tree, and hidden in the mount.
                Some(row) if row.state != State::Excluded("store".into()) => Ok(Some(told(rows, &row)?)),
                _ => Ok(None),
            })?;
            if let Some(mut known) = known {
                known["path"] = json!(path_text(path));
                exact_path(&mut known, path);
                let relations = self.relations_of(caller, id, None, Direction::Out)?;
                known["relations"] = relations.iter().map(|relation| relation.json()).collect();
                files.push(known);
            }
        }
        Ok(Page { files, next })
    }
}

fn told(rows: &Rows<'_>, row: &FileRow) -> Result<Value> {
    let metadata: Map<String, Value> = rows
        .metadata_all(row.id)?
        .into_iter()
        .map(|(key, value)| (key, json!(String::from_utf8_lossy(&value))))
        .collect();
    let mut vectors = Map::new();
    for space in rows.vector_spaces(row.id)? {
        if let Some(vector) = rows.vector(row.id, &space)? {
            vectors.insert(space, json!(vector.value));
        }
    }
    Ok(json!({
        "id": row.id.0,
        "kind": row.facts.kind.word(),
        "size": row.facts.size,
        "mtime_ns": row.facts.mtime,
        "state": row.state.to_string(),
        "generation": row.indexed.0,
        "hash": row.hash.map(|hash| hash.iter().map(|b| format!("{b:02x}")).collect::<String>()),
        "tags": rows.tags(row.id)?,
        "metadata": metadata,
        "vectors": vectors,
    }))
}
