//! Relations between files: told ones and derived ones, in two tables of one shape.
//!
//! Both ends are files, so relations follow renames. A target that is not there is kept as a path and shown as such;
//! when a file appears under that path the relation leads to it. Derived relations of a file are replaced together
//! ([`Tx::set_derived`]) in the commit that makes its new content searchable.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, params};

use super::mirror::Name;
use super::sketch::{RESEMBLANCE_MIN, Sketch};
use super::{Rows, Tx};
use crate::error::{Error, Result};
use crate::ids::FileId;

/// Duplicates and near-duplicates kept for one file: in a crowd of equal files each leads to a few, and all are
/// reached by following them.
const ALIKE_MAX: usize = 8;

/// Files of one band that are compared with a new sketch.
const BAND_FILES_MAX: usize = 32;

/// Files of one name among which a wiki link chooses.
const SAME_NAME_MAX: usize = 64;

/// Files of the same bytes.
pub const DUPLICATES: &str = "duplicates";
/// Files that share most of their text.
pub const RESEMBLES: &str = "resembles";

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

/// The other end of a relation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A file of the catalog; follows its renames.
    File(FileId),
    /// A path that names no file yet, or something outside of the tree.
    Path(PathBuf),
}

/// A typed relation from one file to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Where it starts.
    pub from: FileId,
    /// Its type, such as `cites`.
    pub kind: String,
    /// Where it leads.
    pub to: Target,
    /// A JSON object of its properties, if it has any.
    pub properties: Option<String>,
    /// Whether it follows from the content of the files, and changes with it.
    pub derived: bool,
}

/// Which way relations are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a file to what it leads to.
    Out,
    /// To a file from what leads to it.
    In,
    /// Both.
    Both,
}

/// A step of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The file at the other end.
    pub file: FileId,
    /// The type of the relation.
    pub kind: String,
    /// Whether the relation leads to that file, not from it.
    pub outward: bool,
}

impl Rows<'_> {
    /// Relations that start at a file, dangling ones included; with `kind`, of this type. Told ones come first.
    pub fn relations_from(&self, id: FileId, kind: Option<&str>) -> Result<Vec<Relation>> {
        self.relations("src", id, kind)
    }

    /// Relations that lead to a file; with `kind`, of this type. Told ones come first.
    pub fn relations_to(&self, id: FileId, kind: Option<&str>) -> Result<Vec<Relation>> {
        self.relations("dst", id, kind)
    }

    fn relations(&self, end: &str, id: FileId, kind: Option<&str>) -> Result<Vec<Relation>> {
        let mut found = Vec::new();
        for (table, derived) in [("relation", false), ("derived", true)] {
            let of_type = if kind.is_some() {
                "AND type = ?2"
            } else {
                "AND ?2 IS NULL"
            };
            let mut statement = self.0.prepare_cached(&format!(
                "SELECT src, type, dst, path, properties FROM {table} WHERE {end} = ?1 {of_type}
                 ORDER BY type, rowid"
            ))?;
            let rows = statement.query_map(params![id.0 as i64, kind], |row| {
                Ok(Relation {
                    from: FileId(row.get::<_, i64>(0)? as u64),
                    kind: row.get(1)?,
                    to: target(row.get(2)?, row.get(3)?),
                    properties: row.get(4)?,
                    derived,
                })
            })?;
            for relation in rows {
                found.push(relation?);
            }
        }
        Ok(found)
    }

    /// Files one relation away, at most `limit` in each direction. A file that is related in several ways is given
    /// several times.
    pub fn edges(
        &self,
        id: FileId,
        kind: Option<&str>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Edge>> {
        let mut edges = Vec::new();
        if direction != Direction::In {
            self.edges_one_way(id, kind, true, limit, &mut edges)?;
        }
        if direction != Direction::Out {
            self.edges_one_way(id, kind, false, limit, &mut edges)?;
        }
        Ok(edges)
    }

    fn edges_one_way(
        &self,
        id: FileId,
        kind: Option<&str>,
        outward: bool,
        limit: usize,
        edges: &mut Vec<Edge>,
    ) -> Result<()> {
        // Each half is answered by one index alone.
        let (here, there) = if outward { ("src", "dst") } else { ("dst", "src") };
        let which = match kind {
            Some(_) => format!("{here} = ?1 AND type = ?2 AND dst IS NOT NULL"),
            None => format!("{here} = ?1 AND ?2 IS NULL AND dst IS NOT NULL"),
        };
        let mut statement = self.0.prepare_cached(&format!(
            "SELECT {there}, type FROM relation WHERE {which}
             UNION ALL SELECT {there}, type FROM derived WHERE {which} LIMIT ?3"
        ))?;
        let mut rows = statement.query(params![id.0 as i64, kind, limit as i64])?;
        while let Some(row) = rows.next()? {
            edges.push(Edge {
                file: FileId(row.get::<_, i64>(0)? as u64),
                kind: row.get(1)?,
                outward,
            });
        }
        Ok(())
    }

    /// Files related to a file in either direction, each once, in the order of their ids: the filter `linked:`.
    pub fn linked(&self, id: FileId, kind: Option<&str>) -> Result<Vec<FileId>> {
        let edges = self.edges(id, kind, Direction::Both, i64::MAX as usize)?;
        let mut files: Vec<_> = edges.into_iter().map(|edge| edge.file).collect();
        files.sort_unstable();
        files.dedup();
        Ok(files)
    }

    /// The types of relations at a file, in either direction, by name.
    pub fn relation_kinds(&self, id: FileId) -> Result<Vec<String>> {
        let mut statement = self.0.prepare_cached(
            "SELECT type FROM relation WHERE src = ?1 UNION SELECT type FROM derived WHERE src = ?1
             UNION SELECT type FROM relation WHERE dst = ?1 UNION SELECT type FROM derived WHERE dst = ?1
             ORDER BY 1",
        )?;
        let kinds = statement.query_map([id.0 as i64], |row| row.get(0))?;
        Ok(kinds.collect::<rusqlite::Result<_>>()?)
    }

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
    /// Adds a relation, or replaces the properties of the one that leads the same way.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a type that cannot be a file name, a path with a zero byte and properties that are not a
    /// JSON object of scalars.
    pub fn relate(&mut self, relation: &Relation) -> Result<()> {
        check_kind(&relation.kind)?;
        if let Some(properties) = &relation.properties {
            check_properties(properties)?;
        }
        self.put_relation("relation", relation)
    }

    fn put_relation(&mut self, table: &str, relation: &Relation) -> Result<()> {
        let (dst, path) = columns(&relation.to);
        let end = if dst.is_some() { "dst" } else { "path" };
        self.sql
            .prepare_cached(&format!(
                "INSERT INTO {table} (src, type, dst, path, properties) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT (src, type, {end}) WHERE {end} IS NOT NULL
                 DO UPDATE SET properties = excluded.properties"
            ))?
            .execute(params![
                relation.from.0 as i64,
                relation.kind,
                dst,
                path,
                relation.properties
            ])?;
        Ok(())
    }

    /// Removes a told relation. Returns whether it was there.
    pub fn unrelate(&mut self, from: FileId, kind: &str, to: &Target) -> Result<bool> {
        let (dst, path) = columns(to);
        let end = if dst.is_some() { "dst = ?3" } else { "path = ?4" };
        let removed = self
            .sql
            .prepare_cached(&format!(
                "DELETE FROM relation WHERE src = ?1 AND type = ?2 AND {end} AND (?3 IS NULL OR ?4 IS NULL)"
            ))?
            .execute(params![from.0 as i64, kind, dst, path])?;
        Ok(removed > 0)
    }

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
    pub(super) fn detach_derived(&mut self, id: FileId, path: &Path) -> Result<()> {
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

    /// Relations that lead to the path of a new name lead to its file from now on.
    pub(super) fn attach_relations(&mut self, name: &Name, id: FileId) -> Result<()> {
        let dangling = self
            .sql
            .prepare_cached(
                "SELECT 1 WHERE EXISTS (SELECT 1 FROM relation WHERE path IS NOT NULL)
                 OR EXISTS (SELECT 1 FROM derived WHERE path IS NOT NULL)",
            )?
            .exists([])?;
        if !dangling {
            return Ok(());
        }
        let path = self.rows().path_of_name(name)?;
        for table in ["relation", "derived"] {
            self.sql
                .prepare_cached(&format!(
                    "UPDATE OR REPLACE {table} SET dst = ?, path = NULL WHERE path = ?"
                ))?
                .execute(params![id.0 as i64, path.as_os_str().as_bytes()])?;
        }
        Ok(())
    }

    /// Gives the told relations of one file to another, which keeps those that it has.
    pub(super) fn move_relations(&mut self, from: FileId, to: FileId) -> Result<()> {
        for end in ["src", "dst"] {
            self.sql
                .prepare_cached(&format!(
                    "UPDATE OR IGNORE relation SET {end} = ? WHERE {end} = ?"
                ))?
                .execute(params![to.0 as i64, from.0 as i64])?;
        }
        Ok(())
    }

    /// Forgets what was told to start at a file. What was told to lead to it dangles at its last path.
    pub(super) fn forget_relations(&mut self, id: FileId) -> Result<()> {
        let file = id.0 as i64;
        self.sql
            .prepare_cached("DELETE FROM relation WHERE src = ?")?
            .execute([file])?;
        let path = self
            .rows()
            .gone_path(id)?
            .filter(|path| !path.as_os_str().is_empty());
        match path {
            Some(path) => self
                .sql
                .prepare_cached("UPDATE OR REPLACE relation SET dst = NULL, path = ? WHERE dst = ?")?
                .execute(params![path.as_os_str().as_bytes(), file])?,
            None => self
                .sql
                .prepare_cached("DELETE FROM relation WHERE dst = ?")?
                .execute([file])?,
        };
        Ok(())
    }
}

/// A type is also the name of a directory.
fn check_kind(kind: &str) -> Result<()> {
    let fits = !kind.is_empty()
        && kind.len() <= 255
        && !kind.starts_with(['.', '@'])
        && !kind.chars().any(|c| c == '/' || c.is_control());
    if fits {
        Ok(())
    } else {
        Err(Error::Invalid(format!(
            "{kind:?} is no type of relation: expected 1 to 255 bytes without / and control characters, not beginning with . or @"
        )))
    }
}

fn check_properties(properties: &str) -> Result<()> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(properties)
        .map_err(|error| Error::Invalid(format!("properties of a relation are a JSON object: {error}")))?;
    match object
        .iter()
        .find(|(_, value)| value.is_array() || value.is_object())
    {
        Some((key, _)) => Err(Error::Invalid(format!(
            "property {key:?} of a relation is not a string, number, truth value or null"
        ))),
        None => Ok(()),
    }
}

fn target(dst: Option<i64>, path: Option<Vec<u8>>) -> Target {
    match dst {
        Some(file) => Target::File(FileId(file as u64)),
        None => Target::Path(OsStr::from_bytes(&path.unwrap_or_default()).into()),
    }
}

fn columns(target: &Target) -> (Option<i64>, Option<&[u8]>) {
    match target {
        Target::File(id) => (Some(id.0 as i64), None),
        Target::Path(path) => (None, Some(path.as_os_str().as_bytes())),
    }
}

/// One key for each band, which no other band can have.
fn band_keys(sketch: &Sketch) -> impl Iterator<Item = i64> {
    let bands = sketch.bands();
    (0..)
        .zip(bands)
        .map(|(band, number): (i64, u32)| (band << 32) | i64::from(number))
}
