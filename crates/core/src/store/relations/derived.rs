//! Relations that follow from what files contain: references in their texts, duplicates and near-duplicates.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, params};

use super::{DUPLICATES, RESEMBLES, Relation, Target};
use crate::error::Result;
use crate::ids::FileId;
use crate::store::mirror::Name;
use crate::store::sketch::{RESEMBLANCE_MIN, Sketch};
use crate::store::{Rows, Tx};

/// Duplicates and near-duplicates kept for one file: in a crowd of equal files each leads to a few, and all are
/// reached by following them.
const ALIKE_MAX: usize = 8;

/// Files of one band that are compared with a new sketch.
const BAND_FILES_MAX: usize = 32;

/// Files of one name among which a wiki link chooses.
const SAME_NAME_MAX: usize = 64;

/// Something that a file's text refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The type of the relation.
    pub kind: &'static str,
    /// Paths relative to the root that could be meant; the first that exists is.
    pub candidates: Vec<PathBuf>,
    /// A bare note name, to be looked for in the whole tree when no candidate exists.
    pub anywhere: Option<String>,
    /// Whether the reference is kept, leading to the first candidate, when nothing of that name exists. References
    /// that usually leave the tree (`import numpy`) are not.
    pub dangles: bool,
    /// Line in the text, from 1.
    pub line: u32,
}

/// What follows from a file's content alone. Made outside of any transaction; [`Tx::set_derived`] puts
/// it into the commit that makes the content searchable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derived {
    /// What the text refers to.
    pub references: Vec<Reference>,
    /// The text's sketch, if it is long enough to be compared.
    pub sketch: Option<Sketch>,
}

impl Rows<'_> {
    /// The file that a reference means: the first candidate that exists, else the file of that name nearest to the
    /// root, the first by path among equals.
    fn referent(&self, reference: &Reference) -> Result<Option<FileId>> {
        for candidate in &reference.candidates {
            if let Some(id) = self.resolve(candidate)? {
                return Ok(Some(id));
            }
        }
        let Some(name) = &reference.anywhere else {
            return Ok(None);
        };
        let mut statement = self
            .0
            .prepare_cached("SELECT file, parent FROM name WHERE name = ? LIMIT ?")?;
        let named = statement.query_map(params![name.as_bytes(), SAME_NAME_MAX as i64], |row| {
            Ok((
                FileId(row.get::<_, i64>(0)? as u64),
                FileId(row.get::<_, i64>(1)? as u64),
            ))
        })?;
        let mut best = None;
        for found in named {
            let (id, parent) = found?;
            let path = self.path_of_name(&Name {
                parent,
                name: name.as_bytes().into(),
            })?;
            let rank = (path.components().count(), path);
            if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                best = Some((rank, id));
            }
        }
        Ok(best.map(|(_, id)| id))
    }
}

impl Tx<'_> {
    /// Replaces what follows from a file's content. Call it in the transaction that calls `set_indexed`, after it:
    /// duplicates are found by the hash that is written there.
    pub fn set_derived(&mut self, id: FileId, derived: &Derived) -> Result<()> {
        self.clear_derived(id)?;
        for reference in &derived.references {
            let to = match self.rows().referent(reference)? {
                Some(found) if found == id => continue,
                Some(found) => Target::File(found),
                None if reference.dangles => Target::Path(reference.candidates[0].clone()),
                None => continue,
            };
            self.put_relation(
                "derived",
                &Relation {
                    from: id,
                    kind: reference.kind.to_owned(),
                    to,
                    properties: Some(format!("{{\"line\":{}}}", reference.line)),
                    derived: true,
                },
            )?;
        }
        let duplicates = self.duplicates(id)?;
        for to in &duplicates {
            self.put_alike(id, DUPLICATES, *to, None)?;
        }
        if let Some(sketch) = &derived.sketch {
            for (to, share) in self.near_duplicates(id, sketch)? {
                if !duplicates.contains(&to) {
                    self.put_alike(id, RESEMBLES, to, Some(share))?;
                }
            }
            self.put_sketch(id, sketch)?;
        }
        Ok(())
    }

    fn put_alike(&mut self, from: FileId, kind: &str, to: FileId, share: Option<f32>) -> Result<()> {
        self.put_relation(
            "derived",
            &Relation {
                from,
                kind: kind.to_owned(),
                to: Target::File(to),
                properties: share.map(|share| format!("{{\"share\":{share:.2}}}")),
                derived: true,
            },
        )
    }

    /// Other files of the same bytes.
    fn duplicates(&self, id: FileId) -> Result<Vec<FileId>> {
        let mut statement = self.sql.prepare_cached(
            "SELECT other.id FROM file JOIN file AS other ON other.hash = file.hash
             WHERE file.id = ?1 AND file.size > 0 AND other.id <> ?1 AND other.state < 6 LIMIT ?2",
        )?;
        let ids = statement.query_map(params![id.0 as i64, ALIKE_MAX as i64], |row| row.get::<_, i64>(0))?;
        ids.map(|id| Ok(FileId(id? as u64))).collect()
    }

    /// Other files whose sketch estimates a large share of common text, the most alike first.
    fn near_duplicates(&self, id: FileId, sketch: &Sketch) -> Result<Vec<(FileId, f32)>> {
        let mut files = Vec::new();
        for band in band_keys(sketch) {
            let mut statement = self
                .sql
                .prepare_cached("SELECT file FROM sketch_band WHERE band = ? AND file <> ? LIMIT ?")?;
            let found = statement.query_map(params![band, id.0 as i64, BAND_FILES_MAX as i64], |row| {
                row.get::<_, i64>(0)
            })?;
            for file in found {
                files.push(file?);
            }
        }
        files.sort_unstable();
        files.dedup();
        let mut alike = Vec::new();
        for file in files {
            let mut statement = self
                .sql
                .prepare_cached("SELECT value FROM sketch WHERE file = ?")?;
            let bytes: Option<Vec<u8>> = statement.query_row([file], |row| row.get(0)).optional()?;
            let share = bytes
                .and_then(|bytes| Sketch::from_bytes(&bytes))
                .map_or(0.0, |other| sketch.resemblance(&other));
            if share >= RESEMBLANCE_MIN {
                alike.push((FileId(file as u64), share));
            }
        }
        alike.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        alike.truncate(ALIKE_MAX);
        Ok(alike)
    }

    fn put_sketch(&mut self, id: FileId, sketch: &Sketch) -> Result<()> {
        self.sql
            .prepare_cached("INSERT INTO sketch VALUES (?, ?)")?
            .execute(params![id.0 as i64, sketch.to_bytes()])?;
        let mut statement = self
            .sql
            .prepare_cached("INSERT OR IGNORE INTO sketch_band VALUES (?, ?)")?;
        for band in band_keys(sketch) {
            statement.execute(params![band, id.0 as i64])?;
        }
        Ok(())
    }

    /// Removes what followed from a file's content, and the likenesses that others found with it.
    fn clear_derived(&mut self, id: FileId) -> Result<()> {
        let file = id.0 as i64;
        self.sql
            .prepare_cached("DELETE FROM derived WHERE src = ?")?
            .execute([file])?;
        self.sql
            .prepare_cached("DELETE FROM derived WHERE dst = ? AND type IN (?, ?)")?
            .execute(params![file, DUPLICATES, RESEMBLES])?;
        let bytes: Option<Vec<u8>> = self
            .sql
            .prepare_cached("DELETE FROM sketch WHERE file = ? RETURNING value")?
            .query_row([file], |row| row.get(0))
            .optional()?;
        if let Some(sketch) = bytes.and_then(|bytes| Sketch::from_bytes(&bytes)) {
            let mut statement = self
                .sql
                .prepare_cached("DELETE FROM sketch_band WHERE band = ? AND file = ?")?;
            for band in band_keys(&sketch) {
                statement.execute(params![band, file])?;
            }
        }
        Ok(())
    }

    /// A file lost its last name, which was `path`: what was derived from it goes, and references to it dangle.
    pub(in crate::store) fn detach_derived(&mut self, id: FileId, path: &Path) -> Result<()> {
        self.clear_derived(id)?;
        let file = id.0 as i64;
        if path.as_os_str().is_empty() {
            self.sql
                .prepare_cached("DELETE FROM derived WHERE dst = ?")?
                .execute([file])?;
        } else {
            self.sql
                .prepare_cached("UPDATE OR REPLACE derived SET dst = NULL, path = ? WHERE dst = ?")?
                .execute(params![path.as_os_str().as_bytes(), file])?;
        }
        Ok(())
    }
}

/// One key for each band, which no other band can have.
fn band_keys(sketch: &Sketch) -> impl Iterator<Item = i64> {
    let bands = sketch.bands();
    (0..)
        .zip(bands)
        .map(|(band, number): (i64, u32)| (band << 32) | i64::from(number))
}
