//! The store: SQLite behind one writer, pooled readers and a generation number per commit.
//!
//! It holds the catalog of files ([`catalog`]), what programs and people told us ([`told`]) and the watermarks of the
//! derived indexes. The writer is held for the time of a transaction and never across a system call on the backing
//! tree, an extraction or an embedding: callers look first and commit what they found.
//!
//! Files and folders of the catalog are mirrored in memory ([`mirror`]), because every hit of a query asks for its path;
//! the mirror changes after the commit returned, never before.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::error::{Error, Result};
use crate::ids::{FileId, Generation};

pub mod catalog;
pub mod dir;
pub mod file;
mod interned;
pub mod mirror;
pub mod naming;
mod pages;
pub mod passages;
pub mod past;
pub mod relations;
mod schema;
pub mod sketch;
pub mod snapshots;
pub mod told;
mod vfs;

use mirror::{Mirror, Touch};

/// Idle reading connections that are kept. Each costs about 100 kB; more threads than this read at once rarely.
const READERS_IDLE_MAX: usize = 8;

/// Prepared statements kept by a connection: more than the catalog has.
const STATEMENTS_MAX: usize = 96;

/// A store, open for reading and writing by this process.
pub struct Store {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    mirror: RwLock<Mirror>,
    generation: AtomicU64,
    stopped: AtomicBool,
}

impl Store {
    /// Opens the database file, making or migrating it as needed, and loads the mirror.
    ///
    /// Whoever opens a store for writing holds the store directory's lock: two processes would each have a mirror.
    pub fn open(path: &Path) -> Result<Store> {
        let mut writer = connect(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        )?;
        writer.pragma_update(None, "synchronous", "FULL")?;
        schema::migrate(&mut writer)?;
        let generation = schema::generation(&writer)?;
        let mirror = Mirror::load(&Rows(&writer)).map_err(mark_corrupt)?;
        Ok(Store {
            path: path.to_owned(),
            writer: Mutex::new(writer),
            readers: Mutex::new(Vec::new()),
            mirror: RwLock::new(mirror),
            generation: AtomicU64::new(generation.0),
            stopped: AtomicBool::new(false),
        })
    }

    /// The number of the last commit.
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Whether a failed sync has ended all writing.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The catalog in memory, as of the last commit. Hold it for the time of a filter, not across a system call.
    pub fn mirror(&self) -> RwLockReadGuard<'_, Mirror> {
        self.mirror.read()
    }

    /// Runs `work` in a reading transaction: all it sees belongs to one commit.
    pub fn read<T>(&self, work: impl FnOnce(&Rows<'_>) -> Result<T>) -> Result<T> {
        let idle = self.readers.lock().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        };
        let transaction = connection.transaction()?;
        let result = work(&Rows(&transaction));
        transaction.finish()?;
        let mut readers = self.readers.lock();
        if readers.len() < READERS_IDLE_MAX {
            readers.push(connection);
        }
        result
    }

    /// Runs `work` in a writing transaction and commits it durably, all or nothing. Returns what `work` returned and
    /// the generation of the commit; work that changed nothing makes no commit and gets the present generation.
    ///
    /// An error leaves the store as it was. After an input or output error of a write nothing is written any more
    /// ([`Error::Stopped`]): the kernel may call pages clean that it could not write. A full disk is not such an error.
    pub fn write<T>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<(T, Generation)> {
        let mut connection = self.writer.lock();
        if self.is_stopped() {
            return Err(Error::Stopped);
        }
        let result = self.write_locked(&mut connection, work);
        if let Err(Error::Store(error)) = &result
            && error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure)
        {
            self.stopped.store(true, Ordering::Release);
            tracing::error!(%error, "the store stops writing");
        }
        result
    }

    fn write_locked<T>(
        &self,
        connection: &mut Connection,
        work: impl FnOnce(&mut Tx<'_>) -> Result<T>,
    ) -> Result<(T, Generation)> {
        let changes_before = connection.total_changes();
        let sql = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let next = Generation(self.generation.load(Ordering::Acquire) + 1);
        let mut tx = Tx {
            sql,
            generation: next,
            touches: Vec::new(),
            awaiting: Vec::new(),
        };
        let value = work(&mut tx)?;
        let Tx { sql, touches, .. } = tx;
        if sql.total_changes() == changes_before {
            sql.rollback()?;
            return Ok((value, self.generation()));
        }
        schema::set_generation(&sql, next)?;
        sql.commit()?;
        let mut mirror = self.mirror.write();
        touches.into_iter().for_each(|touch| mirror.apply(touch));
        self.generation.store(next.0, Ordering::Release);
        Ok((value, next))
    }

    /// Checks the database's pages and the catalog's invariants; gives each violation in words.
    pub fn check(&self) -> Result<Vec<String>> {
        self.read(|rows| {
            let mut faults = Vec::new();
            let mut statement = rows.0.prepare("PRAGMA integrity_check(20)")?;
            for line in statement.query_map([], |row| row.get::<_, String>(0))? {
                let line = line?;
                if line != "ok" {
                    faults.push(line);
                }
            }
            faults.extend(rows.catalog_faults()?);
            Ok(faults)
        })
    }
}

/// What a transaction sees. The methods stand with their subjects: [`catalog`], [`told`].
pub struct Rows<'c>(pub(super) &'c Connection);

/// A writing transaction.
pub struct Tx<'c> {
    pub(super) sql: Transaction<'c>,
    generation: Generation,
    touches: Vec<Touch>,
    awaiting: Vec<FileId>,
}

impl Tx<'_> {
    /// What this transaction sees, its own changes included.
    pub fn rows(&self) -> Rows<'_> {
        Rows(&self.sql)
    }

    /// The files that were made to wait for the indexer by what happened to names of theirs or of folders above them,
    /// since this was asked last.
    pub fn take_awaiting(&mut self) -> Vec<FileId> {
        std::mem::take(&mut self.awaiting)
    }

    /// The number that its commit will have.
    pub fn generation(&self) -> Generation {
        self.generation
    }
}

/// A new connection, through the path as it is given (see [`vfs`]).
fn connect(path: &Path, access: OpenFlags) -> Result<Connection> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags_and_vfs(path, flags, vfs::name()).map_err(corrupt_or_store)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .map_err(corrupt_or_store)?;
    connection.pragma_update(None, "cache_size", -8192)?; // KiB
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

/// Tells a damaged database from other failures.
fn corrupt_or_store(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::Corrupt {
            what: "the store".into(),
            at: error.to_string(),
        },
        _ => Error::Store(error),
    }
}

fn mark_corrupt(error: Error) -> Error {
    match error {
        Error::Store(error) => corrupt_or_store(error),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Store {
        Store::open(&dir.join("store.db")).unwrap()
    }

    #[test]
    fn a_commit_counts_one_generation_and_survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        assert_eq!(store.generation(), Generation(0));
        let ((), generation) = store.write(|tx| tx.save("query", b"a", Some(b"x"))).unwrap();
        assert_eq!((generation, store.generation()), (Generation(1), Generation(1)));
        drop(store);
        let store = open(dir.path());
        assert_eq!(store.generation(), Generation(1));
        assert_eq!(
            store.read(|rows| rows.saved("query", b"a")).unwrap(),
            Some(b"x".to_vec())
        );
    }

    #[test]
    fn work_that_changes_nothing_or_fails_makes_no_commit() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.write(|tx| tx.rows().generation()).unwrap();
        let failed = store.write(|tx| {
            tx.save("query", b"a", Some(b"x"))?;
            Err::<(), _>(Error::NoAttribute)
        });
        assert!(matches!(failed, Err(Error::NoAttribute)));
        assert_eq!(store.generation(), Generation(0));
        assert_eq!(store.read(|rows| rows.saved("query", b"a")).unwrap(), None);
    }

    #[test]
    fn the_path_is_opened_as_given_even_when_it_leads_through_a_descriptor() {
        use std::os::fd::AsRawFd;
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        std::fs::create_dir(&inside).unwrap();
        let handle = std::fs::File::open(&inside).unwrap();
        // The descriptor goes on to mean the directory when another stands under its name.
        std::fs::rename(&inside, &outside).unwrap();
        std::fs::create_dir(&inside).unwrap();
        let store = open(Path::new(&format!("/proc/self/fd/{}", handle.as_raw_fd())));
        store.write(|tx| tx.save("query", b"a", Some(b"x"))).unwrap();
        assert_eq!(
            store.read(|rows| rows.saved("query", b"a")).unwrap(),
            Some(b"x".to_vec())
        );
        assert!(outside.join("store.db").exists());
        assert!(!inside.join("store.db").exists());
    }

    #[test]
    fn a_damaged_store_is_called_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("store.db"),
            b"no database at all, but longer than a header",
        )
        .unwrap();
        assert!(matches!(
            Store::open(&dir.path().join("store.db")),
            Err(Error::Corrupt { .. })
        ));
    }

    #[test]
    fn readers_see_one_commit_while_writers_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store
            .read(|rows| {
                let before = rows.generation()?;
                store.write(|tx| tx.save("query", b"a", Some(b"x")))?;
                assert_eq!(rows.generation()?, before);
                Ok(())
            })
            .unwrap();
        assert_eq!(store.read(|rows| rows.generation()).unwrap(), Generation(1));
    }
}
