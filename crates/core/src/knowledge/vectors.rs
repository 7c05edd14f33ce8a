//! Spaces of vectors that programs set, and many vectors at once.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Knowledge;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::Generation;
use crate::query::answer::{exact_path, path_text};
use crate::store::told::SpaceRow;

/// Vectors of a page at most.
pub const PAGE_MAX: usize = 1_000;

/// A file's vector.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FileVector {
    /// The file, below the root.
    pub path: PathBuf,
    /// Its numbers.
    pub vector: Vec<f32>,
}

impl Knowledge {
    /// The spaces, that of the embedder first, each a JSON object.
    pub fn spaces(&self) -> Result<Vec<Value>> {
        let model = self.searcher.model.load();
        let embedder = &model.embedder;
        let mut spaces = vec![json!({
            "name": embedder.id(),
            "dim": embedder.dim(),
            "measure": "cosine",
            "vectors": model.passages.len(),
            "derived": true,
        })];
        let told = self.store.read(|rows| {
            let counted = |row: SpaceRow| -> Result<_> { Ok((rows.vectors_in(&row.name)?, row)) };
            rows.spaces()?
                .into_iter()
                .map(counted)
                .collect::<Result<Vec<_>>>()
        })?;
        spaces.extend(told.into_iter().map(|(vectors, row)| {
            json!({
                "name": row.name,
                "dim": row.dim,
                "measure": row.measure,
                "vectors": vectors,
                "generation": row.generation.0,
                "derived": false,
            })
        }));
        Ok(spaces)
    }

    /// Makes a space of vectors of `dim` numbers, compared by `cosine`, `dot` or `l2`. One that is there already, of
    /// the same terms, stays.
    pub fn space_create(&self, name: &str, dim: u32, measure: &str) -> Result<()> {
        self.spaces.create(name, dim, measure)
    }

    /// Removes a space with all its vectors; only the daemon's user may.
    pub fn space_drop(&self, caller: &Caller, name: &str) -> Result<()> {
        self.owner_only(caller)?;
        self.spaces.drop_space(name)
    }

    /// Sets the vectors of files that the caller may write: all or none, durable when it returns.
    pub fn vectors_set(&self, caller: &Caller, space: &str, vectors: &[FileVector]) -> Result<Generation> {
        let mut files = Vec::with_capacity(vectors.len());
        for one in vectors {
            let node = self.node_at(caller, &one.path, true);
            let file = node.and_then(|node| self.entered(node));
            let file = file.map_err(|error| match error {
                Error::Denied => Error::Denied,
                error => Error::Invalid(format!("{}: {error}", path_text(&one.path))),
            })?;
            files.push((file, one.vector.as_slice()));
        }
        self.spaces.set_all(space, &files)
    }

    /// Vectors of a space behind `after`, of files that the caller may read, each a JSON object, and where the next
    /// page begins.
    pub fn vectors_page(
        &self,
        caller: &Caller,
        space: &str,
        after: i64,
        limit: usize,
    ) -> Result<(Vec<Value>, Option<i64>)> {
        let limit = limit.clamp(1, PAGE_MAX);
        let rows = self.store.read(|rows| match rows.space(space)? {
            Some(_) => rows.vectors_after(space, after, limit),
            None => Err(Error::NotFound(format!("space {space:?}"))),
        })?;
        let next = (rows.len() == limit)
            .then(|| rows.last().map(|(row, ..)| *row))
            .flatten();
        let mut sight = self.searcher.sight(caller);
        sight.look(rows.iter().map(|(_, file, _)| *file));
        let readable = rows.into_iter().filter_map(|(_, file, vector)| {
            let path = sight.path(file)?;
            let mut object = json!({ "path": path_text(path), "vector": vector });
            exact_path(&mut object, path);
            Some(object)
        });
        Ok((readable.collect(), next))
    }
}
