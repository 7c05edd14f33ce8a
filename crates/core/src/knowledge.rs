//! What is known of the files of one backing directory: the catalog, the derived indexes, the indexer that keeps them
//! up, and the verbs over them. The control directory, the API and the command line all call these verbs.

mod attributes;
pub mod export;
mod feed;
mod freshness;
pub mod grep;
pub mod inside;
pub mod migrate;
mod passage_vectors;
mod places;
pub mod related;
pub mod relations;
pub mod saved;
pub mod snapshots;
mod staged;
mod status;
mod vector_value;
pub mod vectors;
pub mod verify;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use vexfs_vector::{Database, Measure, Options as VectorOptions, Space, SpaceConfig};

use crate::change::ChangeSink;
use crate::error::{Error, Result};
use crate::fs::Stack;
use crate::fs::keep::Keeper;
use crate::fs::ops::Caller;
use crate::metrics::Metrics;
use crate::query::answer::path_text;
use crate::query::model::Model;
use crate::query::search::{Searcher, vector_error};
use crate::query::spaces::ToldSpaces;
use crate::relation;
use crate::semantic::embed::Embedder;
use crate::semantic::indexer::{Consequence, Indexer, IndexerOptions, IndexerParts};
use crate::semantic::lexical::LexicalIndex;
use crate::store::Store;
use crate::txn::Desk;
pub use attributes::{PREFIX as XATTR_PREFIX, is_ours as is_our_xattr};
pub use feed::Feed;
use migrate::Migration;
pub use migrate::{BUILT_IN, EmbedChoice};
use passage_vectors::PassageVectors;
pub use status::Status;

/// With `index=sync`, how long a close waits at most.
const SYNC_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a search in a directory that was just made waits for the catalog to hear of it.
const NEW_DIRECTORY_WAIT: Duration = Duration::from_millis(500);

/// How long a manual index may take to catch up before it is held again.
const MANUAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Where things lie, and how the index is kept.
#[derive(Clone, Debug, Default)]
pub struct KnowledgeOptions {
    /// The backing directory, for people to read.
    pub source: PathBuf,
    /// The store directory, by a path that works whatever is mounted over it.
    pub store: PathBuf,
    /// The store directory, for people to read.
    pub store_location: PathBuf,
    /// Where the tree is mounted, if it is.
    pub mountpoint: Option<PathBuf>,
    /// Where the API is served, if it is.
    pub socket: Option<PathBuf>,
    /// When files are indexed.
    pub index: IndexMode,
    /// What makes the vectors of passages.
    pub embed: EmbedChoice,
    /// Processors that indexing may take; all that others leave when absent.
    pub cpus_max: Option<f32>,
}

/// When files are indexed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexMode {
    /// In the background, after they are closed; with `index=sync` the close waits.
    #[default]
    OnClose,
    /// On demand.
    Manual,
}

/// The mount that the store belongs to.
struct Mount {
    metrics: Arc<Metrics>,
    stack: Arc<Stack>,
}

/// What is known of the files of one backing directory.
pub struct Knowledge {
    options: KnowledgeOptions,
    store: Arc<Store>,
    searcher: Searcher,
    indexer: Arc<Indexer>,
    spaces: Arc<ToldSpaces>,
    vectors: Arc<Database>,
    migration: Arc<Migration>,
    root: OwnedFd,
    started: Instant,
    mount: OnceLock<Mount>,
    scanned: Arc<AtomicBool>,
    keeper: OnceLock<Arc<Keeper>>,
    /// The transactions over the tree. They hold this, which they tell through.
    desk: OnceLock<Weak<Desk>>,
}

/// The relations that follow from a file's text.
fn relate(path: &Path, text: &str) -> Consequence {
    let derived = relation::derive(path, text, text);
    Box::new(move |tx, id| tx.set_derived(id, &derived))
}

impl Knowledge {
    /// Opens the store of a backing directory and starts its indexer. The caller holds the store's lock.
    pub fn open(root: OwnedFd, options: KnowledgeOptions) -> Result<Arc<Knowledge>> {
        let store = Arc::new(Store::open(&options.store.join("catalog.sqlite"))?);
        let derived = options.store.join("derived");
        std::fs::create_dir_all(&derived)?;
        let embedder = options.embed.embedder(&store)?;
        let vectors = Arc::new(
            Database::open(&derived.join("vectors"), VectorOptions::default()).map_err(vector_error)?,
        );
        let passages = passage_space(&vectors, &*embedder)?;
        let words = Arc::new(open_words(&derived.join("words"))?);
        let spaces = Arc::new(ToldSpaces::open(store.clone(), vectors.clone())?);
        let indexer = Indexer::start(IndexerParts {
            store: store.clone(),
            vectors: Arc::new(PassageVectors::new(passages.clone())),
            words: words.clone(),
            embedder: embedder.clone(),
            root: root.try_clone()?,
            options: IndexerOptions {
                manual: options.index == IndexMode::Manual,
                cpus_max: options.cpus_max,
                follow: Some(Arc::new(relate)),
                ..IndexerOptions::new(&options.store.join("marks"))
            },
        })?;
        let searcher = Searcher {
            store: store.clone(),
            model: ArcSwap::from_pointee(Model { embedder, passages }),
            spaces: spaces.clone(),
            words,
            root: root.try_clone()?,
            remembered: Default::default(),
            answered: Default::default(),
        };
        let knowledge = Arc::new(Knowledge {
            options,
            store,
            searcher,
            indexer,
            spaces,
            vectors,
            migration: Arc::default(),
            root,
            started: Instant::now(),
            mount: OnceLock::new(),
            scanned: Arc::default(),
            keeper: OnceLock::new(),
            desk: OnceLock::new(),
        });
        knowledge.resume_migration()?;
        Ok(knowledge)
    }

    /// The store of the tree.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Where the filesystem reports changes.
    pub fn changes(&self) -> Arc<dyn ChangeSink> {
        self.indexer.sink()
    }

    /// The mount: its counters tell whether passthrough is on, its tree where a directory stands that the catalog
    /// does not know.
    pub fn set_mount(&self, metrics: Arc<Metrics>, stack: Arc<Stack>) {
        // There is one mount to a store.
        let _ = self.mount.set(Mount { metrics, stack });
    }

    /// From now on it answers in the trees of these transactions too.
    pub fn serve_transactions(&self, desk: &Arc<Desk>) {
        // There is one desk to a mount.
        let _ = self.desk.set(Arc::downgrade(desk));
    }

    /// The transactions over the tree; none without a mount that can have them.
    pub fn desk(&self) -> Option<Arc<Desk>> {
        self.desk.get()?.upgrade()
    }

    /// Why a file is searchable, or why not.
    pub fn why(&self, caller: &Caller, path: &Path) -> Result<Value> {
        self.node_at(caller, path, false)?;
        let why = self.indexer.why(path)?;
        Ok(json!({
            "path": path_text(path),
            "state": why.state.to_string(),
            "file": why.file.map(|file| file.0),
            "passages": why.passages,
            "generation": why.indexed.0,
        }))
    }

    /// Makes the derived indexes anew; only the daemon's user may.
    pub fn rebuild(&self, caller: &Caller) -> Result<()> {
        self.owner_only(caller)?;
        for space in self.store.read(|rows| rows.spaces())? {
            self.spaces.rebuild(&space.name)?;
        }
        self.indexer.rebuild()?;
        if self.options.index == IndexMode::Manual {
            self.index_once()?;
        }
        Ok(())
    }

    /// Lets a manual index catch up, then holds it again.
    fn index_once(&self) -> Result<()> {
        self.indexer.pause(false);
        let indexer = self.indexer.clone();
        std::thread::Builder::new()
            .name("vexfs-once".into())
            .spawn(move || {
                indexer.wait_idle(MANUAL_MAX);
                indexer.pause(true);
            })?;
        Ok(())
    }

    fn owner_only(&self, caller: &Caller) -> Result<()> {
        let owner = rustix::process::geteuid().as_raw();
        if caller.uid == owner || caller.uid == 0 {
            Ok(())
        } else {
            Err(Error::Denied)
        }
    }

    /// Ends the indexer: what it has begun is committed, what waits is found again at the next start.
    pub fn stop(&self) {
        self.migration.stop();
        self.indexer.stop();
    }
}

/// Before the id of an embedder, the name of its space of passages: another embedder has another space.
const PASSAGES: &str = "passages.";

fn passage_space_name(embedder: &dyn Embedder) -> String {
    format!("{PASSAGES}{}", embedder.id())
}

fn passage_space(vectors: &Database, embedder: &dyn Embedder) -> Result<Arc<Space>> {
    let name = passage_space_name(embedder);
    match vectors.space(&name) {
        Ok(space) => Ok(space),
        Err(vexfs_vector::Error::UnknownSpace(_)) => vectors
            .create_space(&name, SpaceConfig::new(embedder.dim(), Measure::Cosine))
            .map_err(vector_error),
        Err(error) => {
            // Derived: what cannot be opened is made anew, and the indexer fills it.
            tracing::warn!(%error, "the vectors of passages are made anew");
            vectors.drop_space(&name).map_err(vector_error)?;
            vectors
                .create_space(&name, SpaceConfig::new(embedder.dim(), Measure::Cosine))
                .map_err(vector_error)
        }
    }
}

/// Opens the lexical index, made anew where it cannot be opened.
fn open_words(dir: &Path) -> Result<LexicalIndex> {
    match LexicalIndex::open(dir, 1) {
        Err(error @ Error::Corrupt { .. }) => {
            tracing::warn!(%error, "the index of words is made anew");
            std::fs::remove_dir_all(dir)?;
            LexicalIndex::open(dir, 1)
        }
        opened => opened,
    }
}
