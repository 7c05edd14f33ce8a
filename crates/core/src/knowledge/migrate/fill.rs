//! Filling the space of another embedder, in an order in which it can be gone on with: files as they were indexed. What is
//! indexed anew meanwhile comes again at the end.
//!
//! How far it is stands in the store, written after each batch of vectors. A batch has a number, which is also the tag of
//! the space: one that has lost batches which the store knows of, or was made anew, is filled from the beginning.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::json;
use vexfs_vector::{Batch, Space};

use super::KIND;
use crate::error::{Error, Result};
use crate::ids::{FileId, Generation, PassageId};
use crate::knowledge::Knowledge;
use crate::query::search::vector_error;
use crate::semantic::embed::Embedder;
use crate::semantic::passages::embedded;
use crate::store::Tx;

/// The name of the row that says how far it is.
const FILLED: &[u8] = b"migrated";
/// Passages that are embedded and written at once. A killed daemon loses at most one such batch, for which a service may
/// have been paid.
const BATCH_PASSAGES: usize = 256;

/// Fills a space.
pub(super) struct Fill<'a> {
    knowledge: &'a Knowledge,
    embedder: &'a dyn Embedder,
    space: &'a Space,
    filled: Filled,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Filled {
    /// The embedder's id.
    embedder: String,
    /// The number of the last batch.
    batch: u64,
    /// The last file that is done: the generation at which it was indexed, and its id.
    generation: u64,
    file: u64,
}

/// Forgets how far the last migration came.
pub(super) fn forget(tx: &mut Tx<'_>) -> Result<()> {
    tx.save(KIND, FILLED, None)
}

impl<'a> Fill<'a> {
    /// Goes on with a space where the last fill of it ended, or empties it.
    pub(super) fn open(
        knowledge: &'a Knowledge,
        embedder: &'a dyn Embedder,
        space: &'a Space,
    ) -> Result<Fill<'a>> {
        let known = knowledge.store.read(|rows| rows.saved(KIND, FILLED))?;
        let filled = known.and_then(|known| serde_json::from_slice::<Filled>(&known).ok());
        let filled = filled.filter(|filled| {
            filled.embedder == embedder.id() && space.snapshot().committed_tag() >= Some(filled.batch)
        });
        if filled.is_none() {
            let mut clear = Batch::new();
            clear.delete_range(0..u64::MAX);
            clear.tag(0);
            space.apply(&clear).map_err(vector_error)?;
        }
        let anew = Filled {
            embedder: embedder.id().to_owned(),
            ..Filled::default()
        };
        Ok(Fill {
            knowledge,
            embedder,
            space,
            filled: filled.unwrap_or(anew),
        })
    }

    /// Files that are done.
    pub(super) fn done(&self) -> Result<u64> {
        let all = self
            .knowledge
            .store
            .read(|rows| rows.indexed_after((Generation(0), FileId(0))))?;
        Ok((all.len() - self.missing()?.len()) as u64)
    }

    /// Files that are not done, in the order in which they are to be.
    pub(super) fn missing(&self) -> Result<Vec<(Generation, FileId)>> {
        let last = (Generation(self.filled.generation), FileId(self.filled.file));
        self.knowledge.store.read(|rows| rows.indexed_after(last))
    }

    /// Embeds the passages of files, in place of what the space has of them.
    pub(super) fn files(&mut self, files: &[(Generation, FileId)]) -> Result<()> {
        let (mut batch, mut ids, mut texts) = (Batch::new(), Vec::new(), Vec::new());
        let mut in_batch = 0;
        for (number, &(generation, file)) in files.iter().enumerate() {
            if self.knowledge.migration.stopping.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            batch.delete_range(PassageId::new(file, 0).0..PassageId::new(FileId(file.0 + 1), 0).0);
            self.passages(file, &mut ids, &mut texts)?;
            in_batch += 1;
            if texts.len() >= BATCH_PASSAGES || number + 1 == files.len() {
                self.write(std::mem::take(&mut batch), &ids, &texts, (generation, file))?;
                self.knowledge.migration.progress.lock().done += in_batch;
                in_batch = 0;
                ids.clear();
                texts.clear();
            }
        }
        Ok(())
    }

    /// The passages of a file as they were embedded: the commit that names them also wrote their words.
    fn passages(&self, file: FileId, ids: &mut Vec<PassageId>, texts: &mut Vec<String>) -> Result<()> {
        let rows = self.knowledge.store.read(|rows| rows.passages(file))?;
        let words = self.knowledge.searcher.words.snapshot();
        for row in rows.known() {
            let id = PassageId::new(file, row.slot);
            // One that is gone was indexed anew since, and comes in the next round.
            if let Some(stored) = words.passage(id)? {
                let heading = stored.title.split_once(" > ").map_or("", |(_, heading)| heading);
                ids.push(id);
                texts.push(embedded(heading, &stored.text).into_owned());
            }
        }
        Ok(())
    }

    /// Writes a batch down: first the vectors, then that they are there.
    fn write(
        &mut self,
        mut batch: Batch,
        ids: &[PassageId],
        texts: &[String],
        last: (Generation, FileId),
    ) -> Result<()> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let dim = self.embedder.dim();
        let mut values = vec![0.0; texts.len() * dim];
        self.embedder.embed(&texts, &mut values)?;
        for (id, vector) in ids.iter().zip(values.chunks(dim)) {
            // Zeros stand for a text of unknown words; they are near to nothing.
            if vector.iter().any(|number| *number != 0.0) {
                batch.upsert(id.0, vector);
            }
        }
        let filled = Filled {
            batch: self.filled.batch + 1,
            generation: last.0.0,
            file: last.1.0,
            ..self.filled.clone()
        };
        batch.tag(filled.batch);
        self.space.apply(&batch).map_err(vector_error)?;
        let row = json!(filled).to_string();
        self.knowledge
            .store
            .write(|tx| tx.save(KIND, FILLED, Some(row.as_bytes())))?;
        self.filled = filled;
        Ok(())
    }

    /// Removes the vectors of files that have no passages any more, and tags the space.
    pub(super) fn forget_gone(&self, tag: u64) -> Result<()> {
        let there: HashSet<FileId> = {
            let mirror = self.knowledge.store.mirror();
            let with_passages = mirror.iter().filter(|(_, node)| node.passages() > 0);
            with_passages.map(|(file, _)| file).collect()
        };
        let mut batch = Batch::new();
        for id in self.space.snapshot().ids() {
            if !there.contains(&PassageId(id).file()) {
                batch.delete(id);
            }
        }
        batch.tag(tag);
        self.space.apply(&batch).map_err(vector_error)?;
        Ok(())
    }
}
