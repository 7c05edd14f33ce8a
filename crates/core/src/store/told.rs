//! What we were told about files: vectors, tags, metadata. (Relations, told and derived, stand in [`super::relations`].) It is the only truth about them, so a commit
//! that changes it is durable when it returns, and nothing of it is lost when a file goes and comes back.

use rusqlite::{OptionalExtension, params};

use super::{Rows, Tx};
use crate::error::{Error, Result};
use crate::ids::{FileId, Generation};

/// A space of vectors that programs set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceRow {
    /// Its name; the empty name is the space of `user.vexfs.vec`.
    pub name: String,
    /// Numbers in each vector.
    pub dim: u32,
    /// How vectors are compared: `cosine`, `dot` or `l2`.
    pub measure: String,
    /// The generation of the last change of the space or of a vector in it.
    pub generation: Generation,
}

/// A vector that a program set.
#[derive(Clone, Debug, PartialEq)]
pub struct ToldVector {
    /// The numbers.
    pub value: Vec<f32>,
    /// blake3 of the file's content at the time, when it was known: with another content the vector is stale.
    pub content: Option<[u8; 32]>,
}

impl Rows<'_> {
    /// Whether anything was told about a file, relations that lead to it included.
    pub fn is_told(&self, id: FileId) -> Result<bool> {
        let mut statement = self.0.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM vector WHERE file = ?1) OR EXISTS (SELECT 1 FROM tag WHERE file = ?1)
             OR EXISTS (SELECT 1 FROM metadata WHERE file = ?1) OR EXISTS (SELECT 1 FROM relation WHERE src = ?1)
             OR EXISTS (SELECT 1 FROM relation WHERE dst = ?1)",
        )?;
        Ok(statement.query_row([id.0 as i64], |row| row.get(0))?)
    }

    /// The spaces, by name.
    pub fn spaces(&self) -> Result<Vec<SpaceRow>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT name, dim, measure, generation FROM space ORDER BY name")?;
        let rows = statement.query_map([], space_row)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// A space.
    pub fn space(&self, name: &str) -> Result<Option<SpaceRow>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT name, dim, measure, generation FROM space WHERE name = ?")?;
        Ok(statement.query_row([name], space_row).optional()?)
    }

    /// A file's vector in a space.
    pub fn vector(&self, id: FileId, space: &str) -> Result<Option<ToldVector>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT value, content FROM vector WHERE file = ? AND space = ?")?;
        let found = statement
            .query_row(params![id.0 as i64, space], |row| {
                Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?))
            })
            .optional()?;
        found
            .map(|(bytes, content)| {
                Ok(ToldVector {
                    value: numbers(&bytes)?,
                    content,
                })
            })
            .transpose()
    }

    /// The spaces in which a file has a vector.
    pub fn vector_spaces(&self, id: FileId) -> Result<Vec<String>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT space FROM vector WHERE file = ? ORDER BY space")?;
        let rows = statement.query_map([id.0 as i64], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Hands every vector of a space to `take`, in the order in which they were set first.
    pub fn each_vector(
        &self,
        space: &str,
        mut take: impl FnMut(FileId, Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self
            .0
            .prepare_cached("SELECT file, value FROM vector WHERE space = ? ORDER BY rowid")?;
        let mut rows = statement.query([space])?;
        while let Some(row) = rows.next()? {
            let id = FileId(row.get::<_, i64>(0)? as u64);
            take(
                id,
                numbers(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)?,
            )?;
        }
        Ok(())
    }

    /// How many vectors a space has.
    pub fn vectors_in(&self, space: &str) -> Result<u64> {
        let mut statement = self
            .0
            .prepare_cached("SELECT count(*) FROM vector WHERE space = ?")?;
        Ok(statement.query_row([space], |row| row.get::<_, i64>(0))? as u64)
    }

    /// At most `limit` vectors of a space behind the row `after`, each with its row, in the order of rows.
    pub fn vectors_after(
        &self,
        space: &str,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(i64, FileId, Vec<f32>)>> {
        let mut statement = self.0.prepare_cached(
            "SELECT rowid, file, value FROM vector WHERE space = ? AND rowid > ? ORDER BY rowid LIMIT ?",
        )?;
        let mut rows = statement.query(params![space, after, limit as i64])?;
        let mut vectors = Vec::new();
        while let Some(row) = rows.next()? {
            let value = numbers(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)?;
            vectors.push((row.get(0)?, FileId(row.get::<_, i64>(1)? as u64), value));
        }
        Ok(vectors)
    }

    /// A file's tags.
    pub fn tags(&self, id: FileId) -> Result<Vec<String>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT tag FROM tag WHERE file = ? ORDER BY tag")?;
        let rows = statement.query_map([id.0 as i64], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The files that carry a tag.
    pub fn tagged(&self, tag: &str) -> Result<Vec<FileId>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT file FROM tag WHERE tag = ? ORDER BY file")?;
        let rows = statement.query_map([tag], |row| row.get::<_, i64>(0))?;
        rows.map(|id| Ok(FileId(id? as u64))).collect()
    }

    /// A value of a file's metadata.
    pub fn metadata(&self, id: FileId, key: &str) -> Result<Option<Vec<u8>>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT value FROM metadata WHERE file = ? AND key = ?")?;
        Ok(statement
            .query_row(params![id.0 as i64, key], |row| row.get(0))
            .optional()?)
    }

    /// A file's metadata, by key.
    pub fn metadata_all(&self, id: FileId) -> Result<Vec<(String, Vec<u8>)>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT key, value FROM metadata WHERE file = ? ORDER BY key")?;
        let rows = statement.query_map([id.0 as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The files that have a key, with its values.
    pub fn with_metadata(&self, key: &str) -> Result<Vec<(FileId, Vec<u8>)>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT file, value FROM metadata WHERE key = ? ORDER BY file")?;
        let rows = statement.query_map([key], |row| {
            Ok((FileId(row.get::<_, i64>(0)? as u64), row.get(1)?))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

impl Tx<'_> {
    /// Makes a space. One of that name and other terms is an error.
    pub fn make_space(&mut self, name: &str, dim: u32, measure: &str) -> Result<()> {
        if let Some(space) = self.rows().space(name)? {
            if (space.dim, space.measure.as_str()) == (dim, measure) {
                return Ok(());
            }
            return Err(Error::Exists(format!(
                "space {name:?} of {} numbers, {}",
                space.dim, space.measure
            )));
        }
        let generation = self.generation().0 as i64;
        self.sql
            .prepare_cached("INSERT INTO space VALUES (?, ?, ?, ?)")?
            .execute(params![name, dim, measure, generation])?;
        Ok(())
    }

    /// Removes a space with all its vectors.
    pub fn drop_space(&mut self, name: &str) -> Result<()> {
        self.sql
            .prepare_cached("DELETE FROM vector WHERE space = ?")?
            .execute([name])?;
        match self
            .sql
            .prepare_cached("DELETE FROM space WHERE name = ?")?
            .execute([name])?
        {
            0 => Err(Error::NotFound(format!("space {name:?}"))),
            _ => Ok(()),
        }
    }

    /// Sets a file's vector. The first vector of a space makes it, of this dimension, compared by cosine; another
    /// dimension later is an error, and so is a vector that is empty or not finite.
    pub fn set_vector(&mut self, id: FileId, space: &str, value: &[f32]) -> Result<()> {
        if value.is_empty() || !value.iter().all(|number| number.is_finite()) {
            return Err(Error::Invalid(
                "a vector has at least one number, and all are finite".into(),
            ));
        }
        match self.rows().space(space)? {
            None => self.make_space(space, value.len() as u32, "cosine")?,
            Some(row) if row.dim as usize != value.len() => {
                return Err(Error::Invalid(format!(
                    "space {space:?} has vectors of {} numbers, this one has {}",
                    row.dim,
                    value.len()
                )));
            }
            Some(_) => {}
        }
        let content = self.rows().file(id)?.and_then(|row| row.hash);
        let bytes: Vec<u8> = value.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.sql
            .prepare_cached(
                "INSERT INTO vector (file, space, value, content) VALUES (?, ?, ?, ?)
                 ON CONFLICT (file, space) DO UPDATE SET value = excluded.value, content = excluded.content",
            )?
            .execute(params![id.0 as i64, space, bytes, content])?;
        self.touch_space(space)
    }

    /// A file's vectors fit whatever content it has next: it is about to change with them.
    pub fn unbind_vectors(&mut self, id: FileId) -> Result<()> {
        self.sql
            .prepare_cached("UPDATE vector SET content = NULL WHERE file = ?")?
            .execute([id.0 as i64])?;
        Ok(())
    }

    /// Removes a file's vector; there being none is [`Error::NoAttribute`].
    pub fn remove_vector(&mut self, id: FileId, space: &str) -> Result<()> {
        let removed = self
            .sql
            .prepare_cached("DELETE FROM vector WHERE file = ? AND space = ?")?
            .execute(params![id.0 as i64, space])?;
        some_removed(removed)?;
        self.touch_space(space)
    }

    /// Gives a file a tag; it may carry it already.
    pub fn add_tag(&mut self, id: FileId, tag: &str) -> Result<()> {
        let mut statement = self
            .sql
            .prepare_cached("INSERT OR IGNORE INTO tag VALUES (?, ?)")?;
        statement.execute(params![id.0 as i64, tag])?;
        Ok(())
    }

    /// Takes a tag from a file.
    pub fn remove_tag(&mut self, id: FileId, tag: &str) -> Result<()> {
        let mut statement = self
            .sql
            .prepare_cached("DELETE FROM tag WHERE file = ? AND tag = ?")?;
        some_removed(statement.execute(params![id.0 as i64, tag])?)
    }

    /// Sets a value of a file's metadata.
    pub fn set_metadata(&mut self, id: FileId, key: &str, value: &[u8]) -> Result<()> {
        let mut statement = self
            .sql
            .prepare_cached("INSERT OR REPLACE INTO metadata VALUES (?, ?, ?)")?;
        statement.execute(params![id.0 as i64, key, value])?;
        Ok(())
    }

    /// Removes a value of a file's metadata.
    pub fn remove_metadata(&mut self, id: FileId, key: &str) -> Result<()> {
        let mut statement = self
            .sql
            .prepare_cached("DELETE FROM metadata WHERE file = ? AND key = ?")?;
        some_removed(statement.execute(params![id.0 as i64, key])?)
    }

    /// Gives to one file all that was told about another; what the receiver has already stays.
    pub(super) fn move_told(&mut self, from: FileId, to: FileId) -> Result<()> {
        for space in self.rows().vector_spaces(from)? {
            self.touch_space(&space)?;
        }
        let both = params![to.0 as i64, from.0 as i64];
        for table in ["vector", "tag", "metadata"] {
            self.sql.execute(
                &format!("UPDATE OR IGNORE {table} SET file = ? WHERE file = ?"),
                both,
            )?;
        }
        self.move_relations(from, to)?;
        self.forget_told(from)
    }

    /// Forgets all that was told about a file.
    pub(super) fn forget_told(&mut self, id: FileId) -> Result<()> {
        for space in self.rows().vector_spaces(id)? {
            self.touch_space(&space)?;
        }
        for table in ["vector", "tag", "metadata"] {
            self.sql
                .execute(&format!("DELETE FROM {table} WHERE file = ?"), [id.0 as i64])?;
        }
        self.forget_relations(id)
    }

    /// Notes that the vectors of a space changed, so that the index over them follows.
    fn touch_space(&mut self, space: &str) -> Result<()> {
        let generation = self.generation().0 as i64;
        let mut statement = self
            .sql
            .prepare_cached("UPDATE space SET generation = ? WHERE name = ?")?;
        statement.execute(params![generation, space])?;
        Ok(())
    }
}

fn some_removed(removed: usize) -> Result<()> {
    if removed == 0 {
        Err(Error::NoAttribute)
    } else {
        Ok(())
    }
}

fn space_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<SpaceRow> {
    let generation = Generation(row.get::<_, i64>(3)? as u64);
    Ok(SpaceRow {
        name: row.get(0)?,
        dim: row.get(1)?,
        measure: row.get(2)?,
        generation,
    })
}

/// Decodes little-endian f32 numbers.
fn numbers(bytes: &[u8]) -> Result<Vec<f32>> {
    let (numbers, []) = bytes.as_chunks::<4>() else {
        return Err(Error::Corrupt {
            what: "the store".into(),
            at: "a vector".into(),
        });
    };
    Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
