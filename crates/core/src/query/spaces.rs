//! Spaces of vectors that programs set: their vectors are rows of the store, and an index over them is derived.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use vexfs_vector::{Batch, Database, Filter, Measure, SearchParams, Space, SpaceConfig};

use super::search::vector_error;
use crate::error::{Error, Result};
use crate::ids::{FileId, Generation};
use crate::store::{Store, Tx};

/// Before the name of a space in the vector database; the embedder's spaces have other names.
const PREFIX: &str = "told.";
/// Vectors that are written to a derived index at once.
const BATCH: usize = 1_024;

/// Numbers of a vector at most: what an attribute of 65,536 bytes holds.
const DIM_MAX: u32 = 16_384;
/// Bytes of the name of a space: it is also the end of an attribute's name, which has at most 255.
const NAME_MAX: usize = 200;

/// The spaces and their derived indexes.
pub struct ToldSpaces {
    store: Arc<Store>,
    vectors: Arc<Database>,
    /// One change of store and index at a time, so that the index gets them in the store's order.
    changing: Mutex<()>,
}

impl ToldSpaces {
    /// Opens the derived indexes and brings each up to its rows.
    pub fn open(store: Arc<Store>, vectors: Arc<Database>) -> Result<ToldSpaces> {
        let spaces = ToldSpaces {
            store,
            vectors,
            changing: Mutex::new(()),
        };
        let rows = spaces.store.read(|rows| rows.spaces())?;
        for info in spaces.vectors.spaces() {
            let told = info.name.strip_prefix(PREFIX);
            if told.is_some_and(|name| !rows.iter().any(|row| row.name == name)) {
                spaces.vectors.drop_space(&info.name).map_err(vector_error)?;
            }
        }
        for row in rows {
            let up_to_date = spaces
                .vectors
                .space(&derived_name(&row.name))
                .ok()
                .and_then(|space| space.snapshot().committed_tag());
            if up_to_date != Some(row.generation.0) {
                spaces.rebuild(&row.name)?;
            }
        }
        Ok(spaces)
    }

    /// Sets a file's vector: durable when it returns. The first vector of a space makes it. An error leaves the
    /// vector that was there. Where the index cannot follow, because the disk is full for instance, the vector is set all
    /// the same, and the index is made anew when it is asked next.
    pub fn set(&self, file: FileId, space: &str, vector: &[f32]) -> Result<Generation> {
        self.change(
            space,
            |tx| tx.set_vector(file, space, vector),
            |batch| {
                batch.upsert(file.0, vector);
            },
        )
    }

    /// Sets the vectors of several files: all or none, durable when it returns.
    pub fn set_all(&self, space: &str, vectors: &[(FileId, &[f32])]) -> Result<Generation> {
        self.change(
            space,
            |tx| {
                vectors
                    .iter()
                    .try_for_each(|(file, vector)| tx.set_vector(*file, space, vector))
            },
            |batch| {
                for (file, vector) in vectors {
                    batch.upsert(file.0, vector);
                }
            },
        )
    }

    /// Makes a space. One that is there of the same terms stays; of others it is [`Error::Exists`].
    pub fn create(&self, space: &str, dim: u32, measure: &str) -> Result<()> {
        if !(1..=DIM_MAX).contains(&dim) {
            return Err(Error::Invalid(format!(
                "a dimension of 1 to {DIM_MAX} is expected, not {dim}"
            )));
        }
        if !["cosine", "dot", "l2"].contains(&measure) {
            return Err(Error::Invalid(format!(
                "a measure is cosine, dot or l2, not {measure:?}"
            )));
        }
        if space.len() > NAME_MAX || space.chars().any(char::is_control) {
            return Err(Error::Invalid(format!(
                "the name of a space has at most {NAME_MAX} bytes and no control characters"
            )));
        }
        let _changing = self.changing.lock();
        self.store.write(|tx| tx.make_space(space, dim, measure))?;
        self.derived(space).map(|_| ())
    }

    /// Removes a space with all its vectors.
    pub fn drop_space(&self, space: &str) -> Result<()> {
        let _changing = self.changing.lock();
        self.store.write(|tx| tx.drop_space(space))?;
        let name = derived_name(space);
        if self.vectors.spaces().iter().any(|info| info.name == name) {
            // Rows decide: what stays behind after a failure is removed at the next start.
            self.vectors.drop_space(&name).map_err(vector_error)?;
        }
        Ok(())
    }

    /// The files whose vectors are in the derived index of a space.
    pub fn indexed(&self, space: &str) -> Result<HashSet<u64>> {
        Ok(self.derived(space)?.snapshot().ids().collect())
    }

    /// The derived indexes of all spaces.
    pub fn all(&self) -> Result<Vec<Arc<Space>>> {
        let rows = self.store.read(|rows| rows.spaces())?;
        rows.iter().map(|row| self.derived(&row.name)).collect()
    }

    /// Removes a file's vector.
    pub fn remove(&self, file: FileId, space: &str) -> Result<Generation> {
        self.change(
            space,
            |tx| tx.remove_vector(file, space),
            |batch| {
                batch.delete(file.0);
            },
        )
    }

    fn change(
        &self,
        space: &str,
        rows: impl FnOnce(&mut Tx<'_>) -> Result<()>,
        index: impl FnOnce(&mut Batch),
    ) -> Result<Generation> {
        let _changing = self.changing.lock();
        let before = self
            .store
            .read(|rows| rows.space(space))?
            .map(|row| row.generation.0);
        let ((), generation) = self.store.write(rows)?;
        if let Err(error) = self.follow(space, before, generation, index) {
            tracing::warn!(space, %error, "the index of a space does not follow");
        }
        Ok(generation)
    }

    /// Commits what `work` writes, and brings the derived indexes up to it. `work` lists the vectors that it set or
    /// removed. An error of `work` or of the store changes nothing.
    pub fn commit(
        &self,
        work: impl FnOnce(&mut Tx<'_>) -> Result<Vec<(String, FileId)>>,
    ) -> Result<Generation> {
        let _changing = self.changing.lock();
        let before = self.store.read(|rows| rows.spaces())?;
        let (changed, generation) = self.store.write(work)?;
        let mut by_space: BTreeMap<String, Vec<FileId>> = BTreeMap::new();
        for (space, file) in changed {
            by_space.entry(space).or_default().push(file);
        }
        for (space, files) in by_space {
            let before = before.iter().find(|row| row.name == space);
            let before = before.map(|row| row.generation.0);
            // The rows are the truth: what fails here is found by its tag at the next change or start.
            let followed = self.vectors_of(&space, &files).and_then(|vectors| {
                self.follow(&space, before, generation, |batch| {
                    for (file, vector) in &vectors {
                        match vector {
                            Some(vector) => batch.upsert(file.0, vector),
                            None => batch.delete(file.0),
                        };
                    }
                })
            });
            if let Err(error) = followed {
                tracing::warn!(space, %error, "the index of a space is behind");
            }
        }
        Ok(generation)
    }

    /// The present vectors of some files in a space; `None` where there is none.
    fn vectors_of(&self, space: &str, files: &[FileId]) -> Result<Vec<(FileId, Option<Vec<f32>>)>> {
        self.store.read(|rows| {
            let vector = |file: &FileId| Ok((*file, rows.vector(*file, space)?.map(|told| told.value)));
            files.iter().map(vector).collect()
        })
    }

    /// Brings the index from one generation of the space to the next by a change of it, or makes it anew.
    fn follow(
        &self,
        space: &str,
        before: Option<u64>,
        generation: Generation,
        index: impl FnOnce(&mut Batch),
    ) -> Result<()> {
        let derived = self.derived(space)?;
        // It missed an earlier change.
        if before.is_some() && derived.snapshot().committed_tag() != before {
            return self.rebuild(space);
        }
        let mut batch = Batch::new();
        index(&mut batch);
        batch.tag(generation.0);
        match derived.apply(&batch) {
            Ok(_) => Ok(()),
            Err(_) => self.rebuild(space),
        }
    }

    /// Makes the index of a space anew where it missed a change. Takes a lock that is held across commits: not to be
    /// called with the catalog in hand.
    pub fn catch_up(&self, space: &str) -> Result<()> {
        let outdated = || -> Result<bool> {
            let row = self.store.read(|rows| rows.space(space))?;
            let Some(row) = row else { return Ok(false) };
            Ok(self.derived(space)?.snapshot().committed_tag() != Some(row.generation.0))
        };
        if outdated()? {
            // Whoever held the lock may have brought it up.
            let _changing = self.changing.lock();
            if outdated()? {
                self.rebuild(space)?;
            }
        }
        Ok(())
    }

    /// The best `k` files by a space's vectors among those that `passes` lets pass, about `selectivity` of all, with
    /// their similarities.
    pub fn search(
        &self,
        space: &str,
        vector: &[f32],
        k: usize,
        passes: &(dyn Fn(FileId) -> bool + Sync),
        selectivity: f32,
    ) -> Result<Vec<(FileId, f32)>> {
        let row = self.store.read(|rows| rows.space(space))?;
        let row = row.ok_or_else(|| Error::NotFound(format!("space {space:?}")))?;
        if vector.len() != row.dim as usize {
            return Err(Error::Invalid(format!(
                "vector of {} components, space {space:?} has {}",
                vector.len(),
                row.dim
            )));
        }
        let test = |id: u64| passes(FileId(id));
        let params = SearchParams::new(k).filter(Filter::Predicate {
            test: &test,
            selectivity,
        });
        let found = self
            .derived(space)?
            .search(vector, &params)
            .map_err(vector_error)?;
        Ok(found
            .iter()
            .map(|near| (FileId(near.id), 1.0 - near.distance))
            .collect())
    }

    fn derived(&self, space: &str) -> Result<Arc<Space>> {
        let name = derived_name(space);
        if let Ok(space) = self.vectors.space(&name) {
            return Ok(space);
        }
        let row = self.store.read(|rows| rows.space(space))?;
        let row = row.ok_or_else(|| Error::NotFound(format!("space {space:?}")))?;
        let measure = match row.measure.as_str() {
            "dot" => Measure::Dot,
            "l2" => Measure::L2,
            _ => Measure::Cosine,
        };
        self.vectors
            .create_space(&name, SpaceConfig::new(row.dim as usize, measure))
            .map_err(vector_error)
    }

    /// Makes the derived index of a space anew from its rows.
    pub fn rebuild(&self, space: &str) -> Result<()> {
        let name = derived_name(space);
        if self.vectors.spaces().iter().any(|info| info.name == name) {
            self.vectors.drop_space(&name).map_err(vector_error)?;
        }
        let derived = self.derived(space)?;
        let (mut batch, mut waiting) = (Batch::new(), 0);
        let generation = self.store.read(|rows| {
            rows.each_vector(space, |file, vector| {
                batch.upsert(file.0, &vector);
                waiting += 1;
                if waiting == BATCH {
                    waiting = 0;
                    derived.apply(&std::mem::take(&mut batch)).map_err(vector_error)?;
                }
                Ok(())
            })?;
            Ok(rows.space(space)?.map_or(0, |row| row.generation.0))
        })?;
        batch.tag(generation);
        derived.apply(&batch).map_err(vector_error)?;
        Ok(())
    }
}

fn derived_name(space: &str) -> String {
    format!("{PREFIX}{space}")
}
