//! Which embedder makes the vectors of passages, and going over to another one while questions are answered.
//!
//! The new space is filled beside the old one from the passages as the index of words keeps them; no file is read again.
//! What is indexed meanwhile is found by its generation and filled in rounds. The last round is made while nothing can be
//! committed, and ends in the commit that names the new embedder: before it every question is answered from the old
//! vectors, after it from the new ones. A daemon that ends on the way begins anew when it is started again.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use serde_json::{Value, json};
use vexfs_vector::{Batch, Space};

use super::passage_vectors::PassageVectors;
use super::{Knowledge, passage_space};
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::{FileId, Generation, PassageId};
use crate::query::model::Model;
use crate::query::search::vector_error;
use crate::semantic::embed::{Embedder, Endpoint, NoEmbedder, Profile, StaticModel};
use crate::semantic::passages::embedded;
use crate::store::Store;

/// The name of the built-in embedder where a profile's could stand.
pub const BUILT_IN: &str = "built-in";
/// Kind and names of the rows that say which embedder the store has, and which it goes over to.
const KIND: &str = "index";
const CHOSEN: &[u8] = b"embedder";
const TARGET: &[u8] = b"migrate";
/// Passages that are embedded and written at once.
const PASSAGES: usize = 1_024;
/// Files indexed meanwhile that are left to the last round, which keeps others from being committed.
const LAST_FILES: usize = 64;
/// Rounds at most before the last: files may be indexed faster than they can be embedded.
const ROUNDS_MAX: usize = 100;

/// Which embedder a tree is opened with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EmbedChoice {
    /// That of the last migration; the built-in one where there was none.
    #[default]
    Recorded,
    /// None: files are found by their words.
    Off,
    /// That of a profile.
    Profile(String),
}

impl EmbedChoice {
    /// The embedder. A profile that is missing or wrong is an error that says so.
    pub(super) fn embedder(&self, store: &Store) -> Result<Arc<dyn Embedder>> {
        match self {
            EmbedChoice::Off => Ok(Arc::new(NoEmbedder)),
            EmbedChoice::Profile(name) => named(name),
            EmbedChoice::Recorded => match store.read(|rows| rows.saved(KIND, CHOSEN))? {
                Some(name) => named(&String::from_utf8_lossy(&name)),
                None => named(BUILT_IN),
            },
        }
    }
}

fn named(name: &str) -> Result<Arc<dyn Embedder>> {
    if name == BUILT_IN {
        return Ok(Arc::new(StaticModel::built_in()));
    }
    Ok(Arc::new(Endpoint::new(Profile::find(name)?)))
}

/// The migration that is going on, or was the last.
#[derive(Default)]
pub(super) struct Migration {
    progress: Mutex<Progress>,
    stopping: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Default)]
struct Progress {
    to: Option<String>,
    running: bool,
    done: u64,
    all: u64,
    error: Option<String>,
}

impl Migration {
    /// As it stands in the status; none when there was none.
    pub(super) fn json(&self) -> Option<Value> {
        let progress = self.progress.lock().clone();
        let to = progress.to?;
        Some(json!({
            "to": to,
            "running": progress.running,
            "done": progress.done,
            "all": progress.all,
            "error": progress.error,
        }))
    }

    /// Ends it; it begins anew when the tree is opened again.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().take() {
            // A thread that panicked has said so on standard error already.
            let _ = thread.join();
        }
    }

    fn begin(&self, to: &str) -> Result<()> {
        let mut progress = self.progress.lock();
        if progress.running {
            let to = progress.to.as_deref().unwrap_or_default();
            return Err(Error::Exists(format!("a migration to {to:?}")));
        }
        *progress = Progress {
            to: Some(to.to_owned()),
            running: true,
            ..Progress::default()
        };
        Ok(())
    }

    fn end(&self, result: &Result<()>) {
        let mut progress = self.progress.lock();
        progress.running = false;
        progress.error = result.as_ref().err().map(ToString::to_string);
    }
}

impl Knowledge {
    /// Goes over to another embedder, `built-in` or the name of a profile, in the background; the status tells how far
    /// it is. Only the daemon's user may. One that has all vectors already is no error.
    pub fn migrate(self: &Arc<Knowledge>, caller: &Caller, to: &str) -> Result<()> {
        self.owner_only(caller)?;
        let embedder = named(to)?;
        // What cannot be reached is said here, and not in the background.
        embedder.embed(&["search"], &mut vec![0.0; embedder.dim()])?;
        self.migration.begin(to)?;
        let begun = self
            .store
            .write(|tx| tx.save(KIND, TARGET, Some(to.as_bytes())))
            .and_then(|_| self.migrate_in_background(to.to_owned(), embedder));
        if begun.is_err() {
            self.migration.end(&begun);
        }
        begun
    }

    /// Begins a migration anew that a daemon's end interrupted.
    pub(super) fn resume_migration(self: &Arc<Knowledge>) -> Result<()> {
        let Some(to) = self.store.read(|rows| rows.saved(KIND, TARGET))? else {
            return Ok(());
        };
        let to = String::from_utf8_lossy(&to).into_owned();
        self.migration.begin(&to)?;
        let begun = named(&to).and_then(|embedder| self.migrate_in_background(to, embedder));
        if let Err(error) = &begun {
            tracing::warn!(%error, "the migration does not go on");
            self.migration.end(&begun);
        }
        Ok(())
    }

    fn migrate_in_background(self: &Arc<Knowledge>, to: String, embedder: Arc<dyn Embedder>) -> Result<()> {
        let knowledge = Arc::downgrade(self);
        let migration = Arc::clone(&self.migration);
        let run = move || {
            let Some(knowledge) = knowledge.upgrade() else {
                return;
            };
            let result = knowledge.fill_and_switch(&to, embedder);
            if let Err(error) = &result {
                tracing::error!(%error, to, "the migration failed");
            }
            migration.end(&result);
        };
        let thread = std::thread::Builder::new().name("migrate".into()).spawn(run)?;
        *self.migration.thread.lock() = Some(thread);
        Ok(())
    }

    fn fill_and_switch(&self, to: &str, embedder: Arc<dyn Embedder>) -> Result<()> {
        let before = self.searcher.model.load_full();
        let record = |tx: &mut crate::store::Tx<'_>| {
            tx.save(KIND, CHOSEN, Some(to.as_bytes()))?;
            tx.save(KIND, TARGET, None)
        };
        if before.embedder.id() == embedder.id() {
            self.store.write(record)?;
            return Ok(());
        }
        let space = passage_space(&self.vectors, &*embedder)?;
        let mut clear = Batch::new();
        clear.delete_range(0..u64::MAX);
        space.apply(&clear).map_err(vector_error)?;
        let fill = Fill {
            knowledge: self,
            embedder: &*embedder,
            space: &space,
        };
        let mut since = Generation(0);
        for _ in 0..ROUNDS_MAX {
            let now = self.store.generation();
            let files = self.store.read(|rows| rows.indexed_since(since))?;
            if since > Generation(0) && files.len() <= LAST_FILES {
                break;
            }
            self.migration.progress.lock().all += files.len() as u64;
            fill.files(&files)?;
            since = now;
        }
        let model = Arc::new(Model {
            embedder: Arc::clone(&embedder),
            passages: Arc::clone(&space),
        });
        let vectors = Arc::new(PassageVectors::new(Arc::clone(&space)));
        self.indexer.switch(
            embedder.clone(),
            vectors,
            |tag| {
                fill.files(&self.store.read(|rows| rows.indexed_since(since))?)?;
                fill.forget_gone(tag)
            },
            record,
            || self.searcher.set_model(model),
        )?;
        let old = super::passage_space_name(&*before.embedder);
        if let Err(error) = self.vectors.drop_space(&old) {
            tracing::warn!(%error, old, "the vectors of the embedder before stay behind");
        }
        tracing::info!(to, "gone over to another embedder");
        Ok(())
    }
}

/// Fills a space.
struct Fill<'a> {
    knowledge: &'a Knowledge,
    embedder: &'a dyn Embedder,
    space: &'a Space,
}

impl Fill<'_> {
    /// Embeds the passages of files, in place of what the space has of them.
    fn files(&self, files: &[FileId]) -> Result<()> {
        let (mut batch, mut ids, mut texts) = (Batch::new(), Vec::new(), Vec::new());
        for (number, &file) in files.iter().enumerate() {
            if self.knowledge.migration.stopping.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            batch.delete_range(PassageId::new(file, 0).0..PassageId::new(FileId(file.0 + 1), 0).0);
            self.passages(file, &mut ids, &mut texts)?;
            if texts.len() >= PASSAGES || number + 1 == files.len() {
                self.write(std::mem::take(&mut batch), &ids, &texts)?;
                ids.clear();
                texts.clear();
            }
            self.knowledge.migration.progress.lock().done += 1;
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

    fn write(&self, mut batch: Batch, ids: &[PassageId], texts: &[String]) -> Result<()> {
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
        self.space.apply(&batch).map_err(vector_error)?;
        Ok(())
    }

    /// Removes the vectors of files that have no passages any more, and tags the space.
    fn forget_gone(&self, tag: u64) -> Result<()> {
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
