//! The store as it was: files, names and what was told of them at a snapshot or at present, and which of them differ
//! between two moments. See [`super::snapshots`] for how the past is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, params};

use super::Rows;
use super::file::{Kind, ROOT, State};
use super::mirror::Name;
use super::relations::Target;
use crate::error::Result;
use crate::ids::{FileId, NodeKey};

/// Folders above a file that are followed: more than a path has names.
const DEPTH_MAX: usize = 2048;

/// A snapshot, by its place among the others, or the present, which comes after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// The present.
    pub const NOW: Moment = Moment(i64::MAX);

    /// The snapshot of this number.
    pub fn numbered(number: i64) -> Moment {
        Moment(number)
    }

    /// The snapshot's number.
    pub fn number(self) -> i64 {
        self.0
    }
}

/// A file as it was. Times are nanoseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Which inode it was.
    pub key: NodeKey,
    /// Time of birth of the inode, 0 where the filesystem has none.
    pub born: i64,
    /// What sort of inode it was.
    pub kind: Kind,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: i64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// blake3 of the content, if it was indexed.
    pub hash: Option<[u8; 32]>,
}

impl Version {
    /// Whether both have the same content: by hash where both are known, else by inode, size and time.
    pub fn same_content(&self, other: &Version) -> bool {
        if self.kind != other.kind {
            return false;
        }
        let inode = |version: &Version| (version.key, version.born);
        match (self.kind, &self.hash, &other.hash) {
            (Kind::Directory, ..) => true,
            (_, Some(one), Some(other)) => one == other,
            (Kind::File, ..) => {
                let stamp = |version: &Version| (inode(version), version.size, version.mtime);
                stamp(self) == stamp(other)
            }
            // A link's target and a device's number never change.
            _ => inode(self) == inode(other),
        }
    }

    /// Whether both have the same mode, owner and, of files, time.
    pub fn same_attributes(&self, other: &Version) -> bool {
        (self.mode, self.uid, self.gid) == (other.mode, other.uid, other.gid)
            && (self.kind != Kind::File || self.mtime == other.mtime)
    }
}

/// What was told of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Vectors by space: little-endian f32 numbers.
    pub vectors: BTreeMap<String, Vec<u8>>,
    /// Tags, with nothing.
    pub tags: BTreeMap<String, Vec<u8>>,
    /// Metadata by key.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// Properties by type and target of a relation.
    pub relations: BTreeMap<(String, Target), Option<String>>,
}

impl Rows<'_> {
    /// Files of which something may differ between two moments, the earlier one first: candidates, since a change may
    /// have been taken back.
    pub fn touched_between(&self, from: Moment, to: Moment) -> Result<BTreeSet<FileId>> {
        let mut files = BTreeSet::new();
        let mut statement = self.0.prepare_cached(
            "SELECT id FROM past_file WHERE snapshot >= ?1 AND snapshot < ?2
             UNION SELECT file FROM past_name WHERE snapshot >= ?1 AND snapshot < ?2 AND file IS NOT NULL
             UNION SELECT file FROM past_vector WHERE snapshot >= ?1 AND snapshot < ?2
             UNION SELECT file FROM past_tag WHERE snapshot >= ?1 AND snapshot < ?2
             UNION SELECT file FROM past_metadata WHERE snapshot >= ?1 AND snapshot < ?2
             UNION SELECT src FROM past_relation WHERE snapshot >= ?1 AND snapshot < ?2",
        )?;
        for file in statement.query_map([from.0, to.0], |row| row.get::<_, i64>(0))? {
            files.insert(FileId(file? as u64));
        }
        let mut statement = self.0.prepare_cached(
            "SELECT DISTINCT parent, name FROM past_name WHERE snapshot >= ?1 AND snapshot < ?2",
        )?;
        let mut names = statement.query([from.0, to.0])?;
        while let Some(row) = names.next()? {
            let parent = FileId(row.get::<_, i64>(0)? as u64);
            let name = OsStr::from_bytes(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?);
            files.extend(self.child_at(parent, name, to)?);
        }
        Ok(files)
    }

    /// Whether an inode is or was a file that the catalog knows.
    pub fn knew(&self, key: NodeKey) -> Result<bool> {
        let mut statement = self.0.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM file WHERE dev = ?1 AND ino = ?2)
             OR EXISTS (SELECT 1 FROM past_file WHERE dev = ?1 AND ino = ?2)",
        )?;
        Ok(statement.query_row([key.dev as i64, key.ino as i64], |row| row.get(0))?)
    }

    /// The file that a name meant.
    pub fn child_at(&self, parent: FileId, name: &OsStr, at: Moment) -> Result<Option<FileId>> {
        let mut statement = self.0.prepare_cached(
            "SELECT file FROM past_name WHERE parent = ? AND name = ? AND snapshot >= ? ORDER BY snapshot LIMIT 1",
        )?;
        let past = statement
            .query_row(params![parent.0 as i64, name.as_bytes(), at.0], |row| {
                row.get::<_, Option<i64>>(0)
            })
            .optional()?;
        match past {
            Some(file) => Ok(file.map(|file| FileId(file as u64))),
            None => self.child(parent, name),
        }
    }

    /// The names that a file had, in their order.
    pub fn names_at(&self, file: FileId, at: Moment) -> Result<Vec<Name>> {
        let mut statement = self.0.prepare_cached(
            "SELECT parent, name FROM past_name AS p WHERE file = ?1 AND snapshot =
                 (SELECT min(snapshot) FROM past_name WHERE parent = p.parent AND name = p.name AND snapshot >= ?2)
             UNION ALL SELECT parent, name FROM name AS n WHERE file = ?1 AND NOT EXISTS
                 (SELECT 1 FROM past_name WHERE parent = n.parent AND name = n.name AND snapshot >= ?2)
             ORDER BY parent, name",
        )?;
        let rows = statement.query_map(params![file.0 as i64, at.0], |row| {
            Ok(Name {
                parent: FileId(row.get::<_, i64>(0)? as u64),
                name: row.get_ref(1)?.as_blob()?.into(),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The path that a name had, relative to the root; `None` if a folder above was not there.
    pub fn path_of_name_at(&self, name: &Name, at: Moment) -> Result<Option<PathBuf>> {
        let mut parts = vec![name.name.clone()];
        let mut folder = name.parent;
        while folder != ROOT {
            let Some(above) = self.names_at(folder, at)?.into_iter().next() else {
                return Ok(None);
            };
            parts.push(above.name);
            folder = above.parent;
            if parts.len() > DEPTH_MAX {
                return Ok(None);
            }
        }
        parts.reverse();
        Ok(Some(PathBuf::from(OsStr::from_bytes(&parts.join(&b'/')))))
    }

    /// The path under which a file was found, relative to the root: of several the first. The root's is empty.
    pub fn path_at(&self, file: FileId, at: Moment) -> Result<Option<PathBuf>> {
        if file == ROOT {
            return Ok(Some(PathBuf::new()));
        }
        match self.names_at(file, at)?.first() {
            Some(name) => self.path_of_name_at(name, at),
            None => Ok(None),
        }
    }

    /// What a file was; `None` if it is not known any more.
    pub fn version_at(&self, file: FileId, at: Moment) -> Result<Option<Version>> {
        const COLUMNS: &str = "dev, ino, born, kind, size, mtime, mode, uid, gid, state, hash";
        let mut past = self.0.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM past_file WHERE id = ? AND snapshot >= ? AND present ORDER BY snapshot LIMIT 1"
        ))?;
        let found = past.query_row(params![file.0 as i64, at.0], version).optional()?;
        if found.is_some() {
            return Ok(found);
        }
        let mut present = self
            .0
            .prepare_cached(&format!("SELECT {COLUMNS} FROM file WHERE id = ?"))?;
        Ok(present.query_row([file.0 as i64], version).optional()?)
    }

    /// What was told of a file.
    pub fn told_at(&self, file: FileId, at: Moment) -> Result<Told> {
        Ok(Told {
            vectors: self.values_at("vector", "space", "value", file, at)?,
            tags: self.values_at("tag", "tag", "x''", file, at)?,
            metadata: self.values_at("metadata", "key", "value", file, at)?,
            relations: self.relations_from_at(file, at)?,
        })
    }

    fn values_at(
        &self,
        table: &str,
        key: &str,
        value: &str,
        file: FileId,
        at: Moment,
    ) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut statement = self.0.prepare_cached(&format!(
            "SELECT {key}, {value} FROM past_{table} AS p WHERE file = ?1 AND present AND snapshot =
                 (SELECT min(snapshot) FROM past_{table} WHERE file = ?1 AND {key} = p.{key} AND snapshot >= ?2)
             UNION ALL SELECT {key}, {value} FROM {table} AS t WHERE file = ?1 AND NOT EXISTS
                 (SELECT 1 FROM past_{table} WHERE file = ?1 AND {key} = t.{key} AND snapshot >= ?2)"
        ))?;
        let rows = statement.query_map(params![file.0 as i64, at.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn relations_from_at(
        &self,
        file: FileId,
        at: Moment,
    ) -> Result<BTreeMap<(String, Target), Option<String>>> {
        let mut kept: BTreeMap<(String, Target), (bool, Option<String>)> = BTreeMap::new();
        let mut statement = self.0.prepare_cached(
            "SELECT type, dst, path, present, properties FROM past_relation WHERE src = ? AND snapshot >= ?
             ORDER BY snapshot",
        )?;
        let mut rows = statement.query(params![file.0 as i64, at.0])?;
        while let Some(row) = rows.next()? {
            let to = match row.get::<_, Option<i64>>(1)? {
                Some(file) => Target::File(FileId(file as u64)),
                None => Target::Path(Path::new(OsStr::from_bytes(&row.get::<_, Vec<u8>>(2)?)).into()),
            };
            kept.entry((row.get(0)?, to))
                .or_insert((row.get(3)?, row.get(4)?));
        }
        let mut found = BTreeMap::new();
        for relation in self.relations_from(file, None)? {
            if !relation.derived {
                found.insert((relation.kind, relation.to), relation.properties);
            }
        }
        for (end, (present, properties)) in kept {
            match present {
                true => found.insert(end, properties),
                false => found.remove(&end),
            };
        }
        Ok(found)
    }
}

fn version(row: &rusqlite::Row<'_>) -> rusqlite::Result<Version> {
    let number = |column: usize| row.get::<_, i64>(column).map(|number| number as u64);
    let ready = State::from_number(row.get(9)?, None) == State::Ready;
    let hash: Option<[u8; 32]> = row.get(10)?;
    Ok(Version {
        key: NodeKey {
            dev: number(0)?,
            ino: number(1)?,
        },
        born: row.get(2)?,
        kind: Kind::from_number(row.get(3)?),
        size: number(4)?,
        mtime: row.get(5)?,
        mode: row.get(6)?,
        uid: row.get(7)?,
        gid: row.get(8)?,
        // Else it is that of an older content.
        hash: hash.filter(|_| ready),
    })
}
