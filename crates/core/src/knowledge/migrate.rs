//! Which embedder makes the vectors of passages, and going over to another one while questions are answered.
//!
//! The new space is filled beside the old one from the passages as the index of words keeps them; no file is read again.
//! What is indexed meanwhile is found by its generation and filled in rounds. The last round is made while nothing can be
//! committed, and ends in the commit that names the new embedder: before it every question is answered from the old
//! vectors, after it from the new ones. A daemon that ends on the way begins anew when it is started again.

mod fill;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::passage_vectors::PassageVectors;
use super::{Knowledge, PASSAGES, passage_space, passage_space_name};
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::query::model::Model;
use crate::semantic::embed::{Embedder, Endpoint, NoEmbedder, Profile, StaticModel};
use crate::store::{Store, Tx};
use fill::Fill;

/// The name of the built-in embedder where a profile's could stand.
pub const BUILT_IN: &str = "built-in";
/// Kind and names of the rows that say which embedder the store has, and which it goes over to.
const KIND: &str = "index";
const CHOSEN: &[u8] = b"embedder";
const TARGET: &[u8] = b"migrate";
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

impl Progress {
    fn refuse_another(&self) -> Result<()> {
        match (self.running, self.to.as_deref()) {
            (true, to) => Err(Error::Exists(format!(
                "a migration to {:?}",
                to.unwrap_or_default()
            ))),
            (false, _) => Ok(()),
        }
    }
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

    /// Ends it; it goes on when the tree is opened again.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().take() {
            // A thread that panicked has said so on standard error already.
            let _ = thread.join();
        }
    }

    /// There is one at a time.
    fn refuse_another(&self) -> Result<()> {
        self.progress.lock().refuse_another()
    }

    fn begin(&self, to: &str) -> Result<()> {
        let mut progress = self.progress.lock();
        progress.refuse_another()?;
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
        self.migration.refuse_another()?;
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

    /// Goes on with a migration that a daemon's end interrupted.
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
        let record = |tx: &mut Tx<'_>| {
            tx.save(KIND, CHOSEN, Some(to.as_bytes()))?;
            tx.save(KIND, TARGET, None)?;
            fill::forget(tx)
        };
        if before.embedder.id() == embedder.id() {
            self.store.write(record)?;
            return Ok(());
        }
        let space = passage_space(&self.vectors, &*embedder)?;
        self.drop_spaces_but([&*before.embedder, &*embedder]);
        let mut fill = Fill::open(self, &*embedder, &space)?;
        self.migration.progress.lock().done = fill.done()?;
        for round in 0..ROUNDS_MAX {
            let files = fill.missing()?;
            if round > 0 && files.len() <= LAST_FILES {
                break;
            }
            let mut progress = self.migration.progress.lock();
            progress.all = progress.done + files.len() as u64;
            drop(progress);
            fill.files(&files)?;
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
                fill.files(&fill.missing()?)?;
                fill.forget_gone(tag)
            },
            record,
            || self.searcher.set_model(model),
        )?;
        self.drop_spaces_but([&*embedder; 2]);
        tracing::info!(to, "gone over to another embedder");
        Ok(())
    }

    /// Drops the vectors of passages that no embedder in use made: of the one before, or of a migration given up.
    fn drop_spaces_but(&self, used: [&dyn Embedder; 2]) {
        let used = used.map(passage_space_name);
        for info in self.vectors.spaces() {
            if info.name.starts_with(PASSAGES)
                && !used.contains(&info.name)
                && let Err(error) = self.vectors.drop_space(&info.name)
            {
                tracing::warn!(%error, space = info.name, "vectors that nobody uses stay behind");
            }
        }
    }
}
