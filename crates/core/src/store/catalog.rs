//! The catalog's rows: files by id, inode and name, and what the indexer writes into them.
//!
//! How names come and go, and which file a name then means, stands in [`super::naming`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rusqlite::{OptionalExtension, Row, params};

use super::file::{Facts, FileRow, Kind, ROOT, State};
use super::mirror::{Name, Touch};
use super::passages::Passages;
use super::{Rows, Tx, schema};
use crate::error::{Error, Result};
use crate::ids::{FileId, Generation, NodeKey};

/// The columns that [`file_row`] reads.
const FILE: &str =
    "id, dev, ino, born, kind, size, mtime, ctime, mode, uid, gid, nlink, state, why, generation, hash";

/// Which derived index a watermark belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derived {
    /// The vectors of passages.
    Vectors,
    /// The words of passages.
    Words,
}

impl Derived {
    fn key(self) -> &'static str {
        match self {
            Derived::Vectors => "vectors",
            Derived::Words => "words",
        }
    }
}

impl Rows<'_> {
    /// The generation that this transaction sees.
    pub fn generation(&self) -> Result<Generation> {
        schema::generation(self.0)
    }

    /// A file's row.
    pub fn file(&self, id: FileId) -> Result<Option<FileRow>> {
        let mut statement = self
            .0
            .prepare_cached(&format!("SELECT {FILE} FROM file WHERE id = ?"))?;
        Ok(statement.query_row([id.0 as i64], file_row).optional()?)
    }

    /// The row of an inode that has a name; when there is none, of one that lost its last name.
    pub fn file_of(&self, key: NodeKey) -> Result<Option<FileRow>> {
        let mut statement = self.0.prepare_cached(&format!(
            "SELECT {FILE} FROM file WHERE dev = ? AND ino = ? ORDER BY state >= 6, id DESC LIMIT 1"
        ))?;
        Ok(statement
            .query_row([key.dev as i64, key.ino as i64], file_row)
            .optional()?)
    }

    /// The file that an inode is, if it has a name.
    pub fn id_of(&self, key: NodeKey) -> Result<Option<FileId>> {
        let mut statement = self.0.prepare_cached(
            "SELECT id FROM file WHERE dev = ? AND ino = ? AND state < 6 ORDER BY id DESC LIMIT 1",
        )?;
        let id = statement.query_row([key.dev as i64, key.ino as i64], |row| row.get::<_, i64>(0));
        Ok(id.optional()?.map(|id| FileId(id as u64)))
    }

    /// The file that a name means.
    pub fn child(&self, parent: FileId, name: &OsStr) -> Result<Option<FileId>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT file FROM name WHERE parent = ? AND name = ?")?;
        let id = statement.query_row(params![parent.0 as i64, name.as_bytes()], |row| {
            row.get::<_, i64>(0)
        });
        Ok(id.optional()?.map(|id| FileId(id as u64)))
    }

    /// The names in a folder, in the order of their bytes.
    pub fn children(&self, parent: FileId) -> Result<Vec<(Box<[u8]>, FileId)>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT name, file FROM name WHERE parent = ? ORDER BY name")?;
        let rows = statement.query_map([parent.0 as i64], |row| {
            Ok((
                row.get_ref(0)?.as_blob()?.into(),
                FileId(row.get::<_, i64>(1)? as u64),
            ))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The names of a file.
    pub fn names(&self, id: FileId) -> Result<Vec<Name>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT parent, name FROM name WHERE file = ?")?;
        let rows = statement.query_map([id.0 as i64], |row| {
            let parent = FileId(row.get::<_, i64>(0)? as u64);
            Ok(Name {
                parent,
                name: row.get_ref(1)?.as_blob()?.into(),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The file at a path relative to the root. `.` and empty components are skipped; `..` is an error.
    pub fn resolve(&self, path: &Path) -> Result<Option<FileId>> {
        let mut at = ROOT;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::CurDir => continue,
                _ => {
                    return Err(Error::Invalid(format!(
                        "{} is not below the root",
                        path.display()
                    )));
                }
            };
            match self.child(at, name)? {
                Some(id) => at = id,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// At most `limit` files and folders with a name, behind `after`, in the order of their ids. The root is not one.
    pub fn live_ids(&self, after: FileId, limit: usize) -> Result<Vec<FileId>> {
        let mut statement = self.0.prepare_cached(
            "SELECT id FROM file WHERE id > ? AND id > 1 AND state < 6 ORDER BY id LIMIT ?",
        )?;
        let after = i64::try_from(after.0).unwrap_or(i64::MAX);
        let ids = statement.query_map([after, limit as i64], |row| row.get::<_, i64>(0))?;
        ids.map(|id| Ok(FileId(id? as u64))).collect()
    }

    /// The path of a name as this transaction sees it.
    pub fn path_of_name(&self, name: &Name) -> Result<PathBuf> {
        let mut parts = vec![name.name.clone()];
        let mut folder = name.parent;
        while folder != ROOT && parts.len() < 2048 {
            let Some(above) = self.names(folder)?.into_iter().next() else {
                break;
            };
            parts.push(above.name);
            folder = above.parent;
        }
        parts.reverse();
        Ok(PathBuf::from(OsStr::from_bytes(&parts.join(&b'/'))))
    }

    /// What the derived indexes hold about a file.
    pub fn passages(&self, id: FileId) -> Result<Passages> {
        let mut statement = self.0.prepare_cached("SELECT passages FROM file WHERE id = ?")?;
        let mut rows = statement.query([id.0 as i64])?;
        match rows.next()? {
            Some(row) => Passages::decode(row.get_ref(0)?.as_blob_or_null().map_err(rusqlite::Error::from)?),
            None => Ok(Passages::None),
        }
    }

    /// Files that wait for the indexer, in the order of their ids, after the given one.
    pub fn awaiting(&self, after: FileId, limit: usize) -> Result<Vec<FileId>> {
        let mut statement = self.0.prepare_cached(
            "SELECT id FROM file INDEXED BY file_awaiting WHERE state IN (2, 3, 6) AND id > ? ORDER BY id LIMIT ?",
        )?;
        let rows = statement.query_map([after.0 as i64, limit as i64], |row| row.get::<_, i64>(0))?;
        rows.map(|id| Ok(FileId(id? as u64))).collect()
    }

    /// Files with passages, in the order in which they were indexed, from behind one of them on.
    pub fn indexed_after(&self, last: (Generation, FileId)) -> Result<Vec<(Generation, FileId)>> {
        let mut statement = self.0.prepare_cached(
            "SELECT generation, id FROM file WHERE (generation, id) > (?, ?) AND passage_count > 0
             ORDER BY generation, id",
        )?;
        let last = [last.0.0 as i64, last.1.0 as i64];
        let rows = statement.query_map(last, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        rows.map(|row| {
            let (generation, id) = row?;
            Ok((Generation(generation as u64), FileId(id as u64)))
        })
        .collect()
    }

    /// The tag that a derived index had when the last commit named its content.
    pub fn watermark(&self, derived: Derived) -> Result<u64> {
        Ok(schema::meta(self.0, derived.key())?.unwrap_or(0))
    }

    /// A small named value of another part of the program.
    pub fn saved(&self, kind: &str, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT value FROM saved WHERE kind = ? AND name = ?")?;
        Ok(statement
            .query_row(params![kind, name], |row| row.get(0))
            .optional()?)
    }

    /// All small values of a kind, by name.
    pub fn saved_all(&self, kind: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT name, value FROM saved WHERE kind = ? ORDER BY name")?;
        let rows = statement.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Every file, as the mirror takes it in.
    pub(super) fn each_file(&self, mut take: impl FnMut(Touch)) -> Result<()> {
        let mut statement = self
            .0
            .prepare("SELECT id, kind, size, mtime, state, why, passage_count FROM file")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            take(Touch::File {
                id: FileId(row.get::<_, i64>(0)? as u64),
                kind: Kind::from_number(row.get(1)?),
                size: row.get::<_, i64>(2)? as u64,
                mtime: row.get(3)?,
                state: State::from_number(row.get(4)?, row.get(5)?),
                passages: row.get(6)?,
            });
        }
        Ok(())
    }

    /// Every name.
    pub(super) fn each_name(&self, mut take: impl FnMut(FileId, Name)) -> Result<()> {
        let mut statement = self.0.prepare("SELECT file, parent, name FROM name")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, parent) = (row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64);
            let name = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?.into();
            take(
                FileId(id),
                Name {
                    parent: FileId(parent),
                    name,
                },
            );
        }
        Ok(())
    }

    /// Rows that contradict each other, in words.
    pub(super) fn catalog_faults(&self) -> Result<Vec<String>> {
        const QUESTIONS: [(&str, &str); 5] = [
            (
                "name of a missing file",
                "SELECT name.file FROM name LEFT JOIN file ON id = file WHERE id IS NULL",
            ),
            (
                "name in something that is not a folder",
                "SELECT parent FROM name LEFT JOIN file ON id = parent WHERE kind IS NOT 2",
            ),
            (
                "file without a name",
                "SELECT id FROM file WHERE state < 6 AND id <> 1 AND id NOT IN (SELECT file FROM name)",
            ),
            (
                "gone file with a name",
                "SELECT id FROM file JOIN name ON name.file = id WHERE state >= 6",
            ),
            (
                "two files for one inode",
                "SELECT min(id) FROM file WHERE state < 6 AND ino <> 0 GROUP BY dev, ino HAVING count(*) > 1",
            ),
        ];
        let mut faults = Vec::new();
        for (fault, question) in QUESTIONS {
            let mut statement = self.0.prepare(question)?;
            for id in statement.query_map([], |row| row.get::<_, i64>(0))?.take(20) {
                faults.push(format!("{fault}: {}", id?));
            }
        }
        Ok(faults)
    }
}

/// What the indexer found out about a file.
#[derive(Clone, Debug)]
pub struct Indexed {
    /// What fstat(2) said before the content was read.
    pub facts: Facts,
    /// blake3 of the content, when it could be read.
    pub hash: Option<[u8; 32]>,
    /// What the derived indexes hold now.
    pub passages: Passages,
    /// The state if nothing has changed since.
    pub state: State,
}

impl Tx<'_> {
    /// Writes down what the indexer made of a file. `again` says that the file was touched meanwhile: then it goes on
    /// waiting. A file that lost its last name meanwhile goes on leaving.
    pub fn set_indexed(&mut self, id: FileId, indexed: Indexed, again: bool) -> Result<()> {
        let Some(mut row) = self.rows().file(id)? else {
            return Ok(());
        };
        if row.state != State::Leaving {
            row.state = match again {
                false => indexed.state,
                true if indexed.passages == Passages::None => State::Pending,
                true => State::Stale,
            };
        }
        // When it was touched meanwhile, what was seen then is newer.
        if !again && row.facts.same_inode(&indexed.facts) {
            row.facts = indexed.facts;
        }
        row.hash = indexed.hash.or(row.hash);
        row.indexed = self.generation();
        self.put_passages(id, &indexed.passages)?;
        self.put(&row)
    }

    /// The derived indexes hold nothing of a leaving file any more: its row goes, or is kept for what we were told.
    /// A file that came back meanwhile waits to be indexed anew.
    pub fn set_removed(&mut self, id: FileId) -> Result<()> {
        let Some(mut row) = self.rows().file(id)? else {
            return Ok(());
        };
        self.put_passages(id, &Passages::None)?;
        if row.state != State::Leaving {
            row.state = State::Pending;
        } else if self.rows().is_told(id)? {
            row.state = State::Orphan;
        } else {
            return self.delete(id);
        }
        self.put(&row)
    }

    /// Makes a file wait for the indexer. Folders and the like stay as they are.
    pub fn set_stale(&mut self, id: FileId) -> Result<()> {
        let Some(mut row) = self.rows().file(id)? else {
            return Ok(());
        };
        if row.facts.kind == Kind::File && row.state.is_live() {
            row.state = self.awaiting_state(id)?;
            self.put(&row)?;
        }
        Ok(())
    }

    /// Files that wait are cleaned before they are indexed again; with `everything`, all files are, and are indexed
    /// anew: the derived indexes were lost or shall be rebuilt. Returns the files.
    pub fn distrust_derived(&mut self, everything: bool) -> Result<Vec<FileId>> {
        let which = if everything {
            "passages IS NOT NULL OR state IN (2, 3, 6)"
        } else {
            "state IN (2, 3, 6)"
        };
        let mut statement = self.sql.prepare(&format!("SELECT id FROM file WHERE {which}"))?;
        let ids = statement.query_map([], |row| row.get::<_, i64>(0))?;
        let ids = ids.map(|id| Ok(FileId(id? as u64))).collect::<Result<Vec<_>>>()?;
        drop(statement);
        self.distrust(&ids)?;
        Ok(ids)
    }

    /// Nobody knows what the derived indexes hold about these files: they are cleaned and indexed anew.
    pub fn distrust(&mut self, ids: &[FileId]) -> Result<()> {
        for id in ids {
            let Some(mut row) = self.rows().file(*id)? else {
                continue;
            };
            self.put_passages(*id, &Passages::Unknown)?;
            if row.state.is_live() {
                row.state = State::Stale;
            }
            self.put(&row)?;
        }
        Ok(())
    }

    /// Names the tag of a derived index that belongs to this commit.
    pub fn set_watermark(&mut self, derived: Derived, tag: u64) -> Result<()> {
        schema::set_meta(&self.sql, derived.key(), tag)
    }

    /// Keeps a small named value; `None` removes it.
    pub fn save(&mut self, kind: &str, name: &[u8], value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(value) => self
                .sql
                .prepare_cached("INSERT OR REPLACE INTO saved VALUES (?, ?, ?)")?
                .execute(params![kind, name, value])?,
            None => self
                .sql
                .prepare_cached("DELETE FROM saved WHERE kind = ? AND name = ?")?
                .execute(params![kind, name])?,
        };
        Ok(())
    }

    /// The state of a live file that has to be indexed: stale when an older version can still be found.
    pub(super) fn awaiting_state(&self, id: FileId) -> Result<State> {
        Ok(if self.rows().passages(id)? == Passages::None {
            State::Pending
        } else {
            State::Stale
        })
    }

    /// A new row; it has no name yet.
    pub(super) fn insert(&mut self, facts: &Facts, state: State) -> Result<FileId> {
        self.sql
            .prepare_cached(
                "INSERT INTO file (dev, ino, born, kind, size, mtime, ctime, mode, uid, gid, nlink, state, why)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                facts.key.dev as i64,
                facts.key.ino as i64,
                facts.born,
                facts.kind as u8,
                facts.size as i64,
                facts.mtime,
                facts.ctime,
                facts.mode,
                facts.uid,
                facts.gid,
                facts.nlink,
                state.number(),
                state.why(),
            ])?;
        let id = FileId(self.sql.last_insert_rowid() as u64);
        self.touches.push(Touch::File {
            id,
            kind: facts.kind,
            size: facts.size,
            mtime: facts.mtime,
            state,
            passages: 0,
        });
        Ok(id)
    }

    /// Writes a row back.
    pub(super) fn put(&mut self, row: &FileRow) -> Result<()> {
        let FileRow { id, facts, state, .. } = row;
        let passages = self
            .sql
            .prepare_cached(
                "UPDATE file SET dev = ?, ino = ?, born = ?, kind = ?, size = ?, mtime = ?, ctime = ?, mode = ?,
                 uid = ?, gid = ?, nlink = ?, state = ?, why = ?, generation = ?, hash = ? WHERE id = ?
                 RETURNING passage_count",
            )?
            .query_row(
                params![
                    facts.key.dev as i64,
                    facts.key.ino as i64,
                    facts.born,
                    facts.kind as u8,
                    facts.size as i64,
                    facts.mtime,
                    facts.ctime,
                    facts.mode,
                    facts.uid,
                    facts.gid,
                    facts.nlink,
                    state.number(),
                    state.why(),
                    row.indexed.0 as i64,
                    row.hash,
                    id.0 as i64,
                ],
                |row| row.get(0),
            )?;
        self.touches.push(Touch::File {
            id: *id,
            kind: facts.kind,
            size: facts.size,
            mtime: facts.mtime,
            state: state.clone(),
            passages,
        });
        Ok(())
    }

    /// Removes a row that has neither a name nor anything that we were told.
    pub(super) fn delete(&mut self, id: FileId) -> Result<()> {
        self.sql
            .prepare_cached("DELETE FROM file WHERE id = ?")?
            .execute([id.0 as i64])?;
        self.touches.push(Touch::Dropped(id));
        Ok(())
    }

    fn put_passages(&mut self, id: FileId, passages: &Passages) -> Result<()> {
        self.sql
            .prepare_cached("UPDATE file SET passages = ?, passage_count = ? WHERE id = ?")?
            .execute(params![
                passages.encode(),
                passages.known().len() as i64,
                id.0 as i64
            ])?;
        Ok(())
    }
}

fn file_row(row: &Row<'_>) -> rusqlite::Result<FileRow> {
    let number = |column: usize| row.get::<_, i64>(column).map(|number| number as u64);
    Ok(FileRow {
        id: FileId(number(0)?),
        facts: Facts {
            key: NodeKey {
                dev: number(1)?,
                ino: number(2)?,
            },
            born: row.get(3)?,
            kind: Kind::from_number(row.get(4)?),
            size: number(5)?,
            mtime: row.get(6)?,
            ctime: row.get(7)?,
            mode: row.get(8)?,
            uid: row.get(9)?,
            gid: row.get(10)?,
            nlink: row.get(11)?,
        },
        state: State::from_number(row.get(12)?, row.get(13)?),
        indexed: Generation(number(14)?),
        hash: row.get(15)?,
    })
}
