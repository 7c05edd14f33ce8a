//! Tables, their versions, and the way from each version to the next.

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{Error, Result};
use crate::ids::Generation;

/// The statements that lead from version `i` to `i + 1`. Published entries are never edited; new ones are appended.
const MIGRATIONS: [&str; 2] = [V1, V2];

/// `application_id` of the file: "VexF".
const APPLICATION: i64 = 0x5665_7846;

const V1: &str = "
-- Counters and watermarks: generation, vectors, words, root.
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('generation', 0);

-- One row for each file, folder or other inode. AUTOINCREMENT: an id is never used again.
-- Times are nanoseconds since the epoch. A ctime of 0 means that the file must be looked at again.
CREATE TABLE file (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    dev        INTEGER NOT NULL,
    ino        INTEGER NOT NULL,
    born       INTEGER NOT NULL,
    kind       INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    mtime      INTEGER NOT NULL,
    ctime      INTEGER NOT NULL,
    mode       INTEGER NOT NULL,
    uid        INTEGER NOT NULL,
    gid        INTEGER NOT NULL,
    nlink      INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    why        TEXT,
    generation INTEGER NOT NULL DEFAULT 0,
    hash       BLOB,
    passages   BLOB,
    passage_count INTEGER NOT NULL DEFAULT 0,
    gone_path  BLOB,
    gone_at    INTEGER
);
CREATE INDEX file_by_key ON file(dev, ino);
CREATE INDEX file_by_hash ON file(hash) WHERE hash IS NOT NULL;
CREATE INDEX file_awaiting ON file(id) WHERE state IN (2, 3, 6);
CREATE INDEX file_orphan_path ON file(gone_path) WHERE state = 7;
CREATE INDEX file_orphan_hash ON file(hash) WHERE state = 7;

-- The names of files. A hard link is a second row of one file; renaming a folder changes one row.
CREATE TABLE name (
    parent INTEGER NOT NULL,
    name   BLOB NOT NULL,
    file   INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE INDEX name_by_file ON name(file);
CREATE INDEX name_by_name ON name(name);

-- What we were told. Nothing here can be rebuilt.
CREATE TABLE space (
    name       TEXT PRIMARY KEY,
    dim        INTEGER NOT NULL,
    measure    TEXT NOT NULL,
    generation INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE vector (
    file    INTEGER NOT NULL,
    space   TEXT NOT NULL,
    value   BLOB NOT NULL,
    content BLOB,
    PRIMARY KEY (file, space)
);
CREATE INDEX vector_by_space ON vector(space);
CREATE TABLE tag (
    file INTEGER NOT NULL,
    tag  TEXT NOT NULL,
    PRIMARY KEY (file, tag)
) WITHOUT ROWID;
CREATE INDEX tag_by_tag ON tag(tag);
CREATE TABLE metadata (
    file  INTEGER NOT NULL,
    key   TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (file, key)
) WITHOUT ROWID;
CREATE INDEX metadata_by_key ON metadata(key, value);
CREATE TABLE relation (
    src        INTEGER NOT NULL,
    type       TEXT NOT NULL,
    dst        INTEGER,
    path       BLOB,
    properties TEXT,
    CHECK ((dst IS NULL) <> (path IS NULL))
);
CREATE UNIQUE INDEX relation_forward ON relation(src, type, dst) WHERE dst IS NOT NULL;
CREATE UNIQUE INDEX relation_forward_dangling ON relation(src, type, path) WHERE path IS NOT NULL;
CREATE INDEX relation_backward ON relation(dst, type, src) WHERE dst IS NOT NULL;
CREATE INDEX relation_dangling ON relation(path) WHERE path IS NOT NULL;

-- Relations that follow from what files contain, and the sketches by which near-duplicates meet. Made anew whenever a
-- file is indexed.
CREATE TABLE derived (
    src        INTEGER NOT NULL,
    type       TEXT NOT NULL,
    dst        INTEGER,
    path       BLOB,
    properties TEXT,
    CHECK ((dst IS NULL) <> (path IS NULL))
);
CREATE UNIQUE INDEX derived_forward ON derived(src, type, dst) WHERE dst IS NOT NULL;
CREATE UNIQUE INDEX derived_forward_dangling ON derived(src, type, path) WHERE path IS NOT NULL;
CREATE INDEX derived_backward ON derived(dst, type, src) WHERE dst IS NOT NULL;
CREATE INDEX derived_dangling ON derived(path) WHERE path IS NOT NULL;
CREATE TABLE sketch (file INTEGER PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE sketch_band (
    band INTEGER NOT NULL,
    file INTEGER NOT NULL,
    PRIMARY KEY (band, file)
) WITHOUT ROWID;

-- Small named values of other parts: saved queries, settings of spaces.
CREATE TABLE saved (
    kind  TEXT NOT NULL,
    name  BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;

-- The root folder is file 1; its facts come with the first look.
INSERT INTO file (id, dev, ino, born, kind, size, mtime, ctime, mode, uid, gid, nlink, state)
VALUES (1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0);
";

/// Snapshots, and what rows were before they were changed first after one ([`super::snapshots`]).
const V2: &str = "
CREATE TABLE snapshot (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    generation INTEGER NOT NULL,
    created    INTEGER NOT NULL
);

-- Rows as they were at the snapshot, the last one at the time, for each of their keys once. present 0: there was none.
CREATE TABLE past_file (
    id       INTEGER NOT NULL,
    snapshot INTEGER NOT NULL,
    present  INTEGER NOT NULL,
    dev INTEGER, ino INTEGER, born INTEGER, kind INTEGER, size INTEGER, mtime INTEGER,
    mode INTEGER, uid INTEGER, gid INTEGER, state INTEGER, hash BLOB,
    PRIMARY KEY (id, snapshot)
) WITHOUT ROWID;
CREATE INDEX past_file_at ON past_file(snapshot);
CREATE INDEX past_file_by_key ON past_file(dev, ino);
CREATE TABLE past_name (
    parent   INTEGER NOT NULL,
    name     BLOB NOT NULL,
    snapshot INTEGER NOT NULL,
    present  INTEGER NOT NULL,
    file     INTEGER,
    PRIMARY KEY (parent, name, snapshot)
) WITHOUT ROWID;
CREATE INDEX past_name_at ON past_name(snapshot);
CREATE INDEX past_name_by_file ON past_name(file) WHERE file IS NOT NULL;
CREATE TABLE past_vector (
    file     INTEGER NOT NULL,
    space    TEXT NOT NULL,
    snapshot INTEGER NOT NULL,
    present  INTEGER NOT NULL,
    value    BLOB,
    PRIMARY KEY (file, space, snapshot)
) WITHOUT ROWID;
CREATE INDEX past_vector_at ON past_vector(snapshot);
CREATE TABLE past_tag (
    file     INTEGER NOT NULL,
    tag      TEXT NOT NULL,
    snapshot INTEGER NOT NULL,
    present  INTEGER NOT NULL,
    PRIMARY KEY (file, tag, snapshot)
) WITHOUT ROWID;
CREATE INDEX past_tag_at ON past_tag(snapshot);
CREATE TABLE past_metadata (
    file     INTEGER NOT NULL,
    key      TEXT NOT NULL,
    snapshot INTEGER NOT NULL,
    present  INTEGER NOT NULL,
    value    BLOB,
    PRIMARY KEY (file, key, snapshot)
) WITHOUT ROWID;
CREATE INDEX past_metadata_at ON past_metadata(snapshot);
CREATE TABLE past_relation (
    src        INTEGER NOT NULL,
    type       TEXT NOT NULL,
    dst        INTEGER,
    path       BLOB,
    snapshot   INTEGER NOT NULL,
    present    INTEGER NOT NULL,
    properties TEXT,
    CHECK ((dst IS NULL) <> (path IS NULL))
);
CREATE UNIQUE INDEX past_relation_file ON past_relation(src, type, dst, snapshot) WHERE dst IS NOT NULL;
CREATE UNIQUE INDEX past_relation_path ON past_relation(src, type, path, snapshot) WHERE path IS NOT NULL;
CREATE INDEX past_relation_from ON past_relation(src);
CREATE INDEX past_relation_at ON past_relation(snapshot);
";

/// Brings the tables to the newest version, one transaction a step. A store of a newer version, or a database that is
/// not a store, is refused and left as it is.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let version = version as usize;
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (version > 0 || tables > 0) && application != APPLICATION {
        return Err(Error::Invalid(
            "the database in the store directory is not a VexFS store".into(),
        ));
    }
    if version > MIGRATIONS.len() {
        return Err(Error::Invalid(format!(
            "the store has version {version}, this program knows versions up to {}",
            MIGRATIONS.len()
        )));
    }
    for (from, statements) in MIGRATIONS.iter().enumerate().skip(version) {
        let step = connection.transaction()?;
        step.execute_batch(statements)?;
        step.pragma_update(None, "application_id", APPLICATION)?;
        step.pragma_update(None, "user_version", from as i64 + 1)?;
        step.commit()?;
    }
    Ok(())
}

/// The number of the last commit.
pub(super) fn generation(connection: &Connection) -> Result<Generation> {
    Ok(Generation(meta(connection, "generation")?.unwrap_or(0)))
}

pub(super) fn set_generation(connection: &Connection, generation: Generation) -> Result<()> {
    set_meta(connection, "generation", generation.0)
}

/// A counter of the store.
pub(super) fn meta(connection: &Connection, key: &str) -> Result<Option<u64>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?")?;
    Ok(statement
        .query_row([key], |row| row.get::<_, i64>(0))
        .optional()?
        .map(|value| value as u64))
}

pub(super) fn set_meta(connection: &Connection, key: &str, value: u64) -> Result<()> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?, ?)")?;
    statement.execute(params![key, value as i64])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_or_foreign_database_is_refused() {
        let mut newer = Connection::open_in_memory().unwrap();
        migrate(&mut newer).unwrap();
        newer
            .pragma_update(None, "user_version", MIGRATIONS.len() as i64 + 1)
            .unwrap();
        assert!(matches!(migrate(&mut newer), Err(Error::Invalid(m)) if m.contains("version")));

        let mut foreign = Connection::open_in_memory().unwrap();
        foreign.execute_batch("CREATE TABLE mine (a)").unwrap();
        assert!(matches!(migrate(&mut foreign), Err(Error::Invalid(m)) if m.contains("not a VexFS store")));
    }

    #[test]
    fn migrating_twice_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        let before = connection.total_changes();
        migrate(&mut connection).unwrap();
        assert_eq!(connection.total_changes(), before);
    }
}
