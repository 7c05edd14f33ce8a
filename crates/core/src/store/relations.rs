//! Relations between files: told ones and derived ones, in two tables of one shape.
//!
//! Both ends are files, so relations follow renames. A target that is not there is kept as a path and shown as such;
//! when a file appears under that path the relation leads to it. Derived relations of a file are replaced together
//! ([`Tx::set_derived`]) in the commit that makes its new content searchable.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::params;

mod derived;

use super::mirror::Name;
use super::{Rows, Tx};
use crate::error::{Error, Result};
use crate::ids::FileId;
pub use derived::{Derived, Reference};

/// Files of the same bytes.
pub const DUPLICATES: &str = "duplicates";
/// Files that share most of their text.
pub const RESEMBLES: &str = "resembles";

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

/// The files at the other end of relations. Each half is answered by one index alone.
macro_rules! edges {
    ($here:literal, $there:literal, $of_type:literal) => {
        concat!(
            edges!(half "relation", $here, $there, $of_type),
            " UNION ALL ",
            edges!(half "derived", $here, $there, $of_type),
            " LIMIT ?3"
        )
    };
    (half $table:literal, $here:literal, $there:literal, $of_type:literal) => {
        concat!(
            "SELECT ", $there, ", type FROM ", $table, " WHERE ", $here, " = ?1 AND ", $of_type,
            " AND dst IS NOT NULL"
        )
    };
}

impl Rows<'_> {
    /// Relations that start at a file, dangling ones included; with `kind`, of this type. Told ones come first.
    pub fn relations_from(&self, id: FileId, kind: Option<&str>) -> Result<Vec<Relation>> {
        self.relations_at(id, true, kind, usize::MAX)
    }

    /// Relations that lead to a file; with `kind`, of this type. Told ones come first.
    pub fn relations_to(&self, id: FileId, kind: Option<&str>) -> Result<Vec<Relation>> {
        self.relations_at(id, false, kind, usize::MAX)
    }

    /// At most `limit` relations that start at a file or, if not `outward`, lead to it.
    pub fn relations_at(
        &self,
        id: FileId,
        outward: bool,
        kind: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Relation>> {
        let end = if outward { "src" } else { "dst" };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut found = Vec::new();
        for (table, derived) in [("relation", false), ("derived", true)] {
            let of_type = if kind.is_some() {
                "AND type = ?2"
            } else {
                "AND ?2 IS NULL"
            };
            let mut statement = self.0.prepare_cached(&format!(
                "SELECT src, type, dst, path, properties FROM {table} WHERE {end} = ?1 {of_type}
                 ORDER BY type, rowid LIMIT ?3"
            ))?;
            let left = limit - found.len() as i64;
            let rows = statement.query_map(params![id.0 as i64, kind, left], |row| {
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
        let mut statement = self.0.prepare_cached(match (outward, kind.is_some()) {
            (true, false) => edges!("src", "dst", "?2 IS NULL"),
            (true, true) => edges!("src", "dst", "type = ?2"),
            (false, false) => edges!("dst", "src", "?2 IS NULL"),
            (false, true) => edges!("dst", "src", "type = ?2"),
        })?;
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

    /// How many relations there are, and those whose ends are not in the catalog, in words.
    pub fn relation_faults(&self) -> Result<(u64, Vec<String>)> {
        let (mut count, mut faults) = (0, Vec::new());
        for table in ["relation", "derived"] {
            let sql = format!("SELECT count(*) FROM {table}");
            count += self.0.query_row(&sql, [], |row| row.get::<_, i64>(0))? as u64;
            for (end, what) in [("src", "starts at"), ("dst", "leads to")] {
                let mut statement = self.0.prepare(&format!(
                    "SELECT {end}, type FROM {table} LEFT JOIN file ON file.id = {end}
                     WHERE {end} IS NOT NULL AND file.id IS NULL"
                ))?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let (file, kind): (i64, String) = (row.get(0)?, row.get(1)?);
                    faults.push(format!(
                        "a relation {kind:?} in {table} {what} file {file}, which is not there"
                    ));
                }
            }
        }
        Ok((count, faults))
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

    /// Relations that lead to the path of a new name, or below it, lead to the files there from now on.
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
        let path = path.as_os_str().as_bytes();
        self.attach_path(path, id)?;
        // A folder that moved brings what is below it along.
        let below = [path, b"/"].concat();
        let after = [path, b"0"].concat();
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        for table in ["relation", "derived"] {
            let mut statement = self.sql.prepare_cached(&format!(
                "SELECT DISTINCT path FROM {table} WHERE path > ? AND path < ?"
            ))?;
            for found in statement.query_map(params![below, after], |row| row.get(0))? {
                waiting.push(found?);
            }
        }
        for path in waiting {
            if let Some(file) = self.rows().resolve(Path::new(OsStr::from_bytes(&path)))? {
                self.attach_path(&path, file)?;
            }
        }
        Ok(())
    }

    fn attach_path(&mut self, path: &[u8], id: FileId) -> Result<()> {
        for table in ["relation", "derived"] {
            self.sql
                .prepare_cached(&format!(
                    "UPDATE OR REPLACE {table} SET dst = ?, path = NULL WHERE path = ?"
                ))?
                .execute(params![id.0 as i64, path])?;
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

/// Whether a relation may be of this type: it is also the name of a directory.
///
/// # Errors
/// [`Error::Invalid`] says what a type may be.
pub fn check_kind(kind: &str) -> Result<()> {
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

pub(crate) fn check_properties(properties: &str) -> Result<()> {
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
