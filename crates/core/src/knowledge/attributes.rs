//! `user.vexfs.*`: what is known and told of a file, under names of extended attributes.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Knowledge;
use super::vector_value;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::{FileId, NodeKey};
use crate::store::Tx;
use crate::store::file::FileRow;
use crate::store::relations::{Direction, Relation, Target};

/// The prefix of the names.
pub const PREFIX: &str = "user.vexfs.";
/// How long a question waits for the catalog to hear of what has happened.
const HEAR_WAIT: Duration = Duration::from_millis(500);
/// How long a file that was just made may take to enter the catalog.
const ENTER_WAIT: Duration = Duration::from_secs(5);
/// The limit of the kernel (XATTR_SIZE_MAX).
pub(super) const VALUE_BYTES_MAX: usize = 65_536;

/// The value of every tag.
pub(super) const TAGGED: &[u8] = b"1";

/// A name, taken apart.
pub(super) enum Name<'a> {
    Vec(&'a str),
    Tag(&'a str),
    Meta(&'a str),
    Rel(&'a str),
    State,
    Id,
    Generation,
    Hash,
}

impl<'a> Name<'a> {
    pub(super) fn read(name: &'a OsStr) -> Result<Name<'a>> {
        let text = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .ok_or(Error::NoAttribute)?;
        Ok(match text.split_once('.').unwrap_or((text, "")) {
            ("vec", space) => Name::Vec(space),
            ("tag", tag) if !tag.is_empty() => Name::Tag(tag),
            ("meta", key) if !key.is_empty() => Name::Meta(key),
            ("rel", kind) if !kind.is_empty() => Name::Rel(kind),
            ("state", "") => Name::State,
            ("id", "") => Name::Id,
            ("generation", "") => Name::Generation,
            ("hash", "") => Name::Hash,
            _ => return Err(Error::NoAttribute),
        })
    }
}

impl Knowledge {
    /// The value of an attribute of an inode, for a caller who may read it.
    pub fn xattr_get(&self, caller: &Caller, node: NodeKey, name: &OsStr) -> Result<Vec<u8>> {
        let file = match Name::read(name)? {
            Name::State => self.file_id(node)?,
            _ => self.heard_of(node)?,
        };
        match (file, Name::read(name)?) {
            // The file is there, its event is on the way.
            (None, Name::State) => Ok(b"pending".to_vec()),
            (None, _) => Err(Error::NoAttribute),
            (Some(file), name) => self.value(caller, file, &name),
        }
    }

    fn value(&self, caller: &Caller, file: FileId, name: &Name<'_>) -> Result<Vec<u8>> {
        let row = |take: fn(FileRow) -> Option<Vec<u8>>| -> Result<Vec<u8>> {
            self.store
                .read(|rows| rows.file(file))?
                .and_then(take)
                .ok_or(Error::NoAttribute)
        };
        match name {
            Name::Vec(space) => {
                let vector = self
                    .store
                    .read(|rows| rows.vector(file, space))?
                    .ok_or(Error::NoAttribute)?;
                Ok(vector.value.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
            Name::Tag(tag) => {
                let tags = self.store.read(|rows| rows.tags(file))?;
                tags.iter()
                    .any(|known| known == tag)
                    .then(|| TAGGED.to_vec())
                    .ok_or(Error::NoAttribute)
            }
            Name::Meta(key) => self
                .store
                .read(|rows| rows.metadata(file, key))?
                .ok_or(Error::NoAttribute),
            Name::Rel(kind) => self.targets(caller, file, kind),
            Name::State => row(|row| Some(row.state.to_string().into_bytes())),
            Name::Id => Ok(file.to_string().into_bytes()),
            Name::Generation => row(|row| Some(row.indexed.to_string().into_bytes())),
            Name::Hash => row(|row| {
                row.hash.map(|h| {
                    h.iter()
                        .map(|b| format!("{b:02x}"))
                        .collect::<String>()
                        .into_bytes()
                })
            }),
        }
    }

    /// Sets an attribute of an inode; durable when it returns. An error changes nothing.
    pub fn xattr_set(&self, caller: &Caller, node: NodeKey, name: &OsStr, value: &[u8]) -> Result<()> {
        let name = Name::read(name)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::Os(libc::E2BIG));
        }
        let file = self.entered(node)?;
        match name {
            Name::Vec(space) => {
                self.spaces.set(file, space, &vector_value::read(value)?)?;
            }
            Name::Tag(tag) => {
                self.store.write(|tx| tx.add_tag(file, tag))?;
            }
            Name::Meta(key) => {
                self.store.write(|tx| tx.set_metadata(file, key, value))?;
            }
            Name::Rel(kind) => self.relate_to(caller, file, kind, value)?,
            Name::State | Name::Id | Name::Generation | Name::Hash => {
                return Err(Error::NotPermitted("a read-only attribute"));
            }
        }
        Ok(())
    }

    /// Removes an attribute of an inode.
    pub fn xattr_remove(&self, node: NodeKey, name: &OsStr) -> Result<()> {
        let name = Name::read(name)?;
        let file = self.heard_of(node)?.ok_or(Error::NoAttribute)?;
        match name {
            Name::Vec(space) => {
                self.spaces.remove(file, space)?;
            }
            Name::Tag(tag) => {
                self.store.write(|tx| tx.remove_tag(file, tag))?;
            }
            Name::Meta(key) => {
                self.store.write(|tx| tx.remove_metadata(file, key))?;
            }
            Name::Rel(kind) => self.unrelate_all(file, kind)?,
            Name::State | Name::Id | Name::Generation | Name::Hash => {
                return Err(Error::NotPermitted("a read-only attribute"));
            }
        }
        Ok(())
    }

    /// The paths to which a file's told relations of a type lead, one a line: those that the caller may know of.
    fn targets(&self, caller: &Caller, file: FileId, kind: &str) -> Result<Vec<u8>> {
        let relations = self.relations_of(caller, file, Some(kind), Direction::Out)?;
        let paths: Vec<Vec<u8>> = relations
            .into_iter()
            .filter(|relation| !relation.derived)
            .map(|relation| relation.path.into_os_string().into_vec())
            .collect();
        match paths.is_empty() {
            true => Err(Error::NoAttribute),
            false => Ok(paths.join(&b'\n')),
        }
    }

    /// Makes a file's told relations of a type lead to these paths, one a line, below the root, and to no others. A
    /// relation that stays keeps its properties.
    fn relate_to(&self, caller: &Caller, file: FileId, kind: &str, paths: &[u8]) -> Result<()> {
        let lines = paths.split(|b| *b == b'\n').filter(|path| !path.is_empty());
        let targets = lines
            .map(|path| self.target_at(caller, Path::new(OsStr::from_bytes(path))))
            .collect::<Result<Vec<_>>>()?;
        self.store.write(|tx| {
            let present: Vec<_> = told(tx.rows().relations_from(file, Some(kind))?).collect();
            let links = targets.iter().map(|to| {
                let known = present.iter().find(|relation| relation.to == *to);
                (to.clone(), known.and_then(|relation| relation.properties.clone()))
            });
            retell(tx, file, kind, links.collect())
        })?;
        Ok(())
    }

    fn unrelate_all(&self, file: FileId, kind: &str) -> Result<()> {
        let (removed, _) = self.store.write(|tx| {
            let mut removed = false;
            for relation in told(tx.rows().relations_from(file, Some(kind))?) {
                removed |= tx.unrelate(file, kind, &relation.to)?;
            }
            Ok(removed)
        })?;
        if removed { Ok(()) } else { Err(Error::NoAttribute) }
    }

    /// The names of what was set on an inode.
    pub fn xattr_list(&self, node: NodeKey) -> Result<Vec<String>> {
        let Some(file) = self.heard_of(node)? else {
            return Ok(Vec::new());
        };
        self.store.read(|rows| {
            let vectors = rows
                .vector_spaces(file)?
                .into_iter()
                .map(|space| match space.as_str() {
                    "" => format!("{PREFIX}vec"),
                    space => format!("{PREFIX}vec.{space}"),
                });
            let tags = rows
                .tags(file)?
                .into_iter()
                .map(|tag| format!("{PREFIX}tag.{tag}"));
            let metadata = rows
                .metadata_all(file)?
                .into_iter()
                .map(|(key, _)| format!("{PREFIX}meta.{key}"));
            let mut kinds: Vec<_> = told(rows.relations_from(file, None)?).map(|r| r.kind).collect();
            kinds.dedup();
            let relations = kinds.into_iter().map(|kind| format!("{PREFIX}rel.{kind}"));
            Ok(vectors.chain(tags).chain(metadata).chain(relations).collect())
        })
    }

    /// As [`Knowledge::xattr_get`], by a path below the root, for a caller who may read the file.
    pub fn xattr_get_at(&self, caller: &Caller, path: &Path, name: &OsStr) -> Result<Vec<u8>> {
        self.xattr_get(caller, self.node_at(caller, path, false)?, name)
    }

    /// As [`Knowledge::xattr_set`], by a path below the root, for a caller who may write the file.
    pub fn xattr_set_at(&self, caller: &Caller, path: &Path, name: &OsStr, value: &[u8]) -> Result<()> {
        self.xattr_set(caller, self.node_at(caller, path, true)?, name, value)
    }

    /// As [`Knowledge::xattr_remove`], by a path below the root, for a caller who may write the file.
    pub fn xattr_remove_at(&self, caller: &Caller, path: &Path, name: &OsStr) -> Result<()> {
        self.xattr_remove(self.node_at(caller, path, true)?, name)
    }

    /// As [`Knowledge::xattr_list`], by a path below the root, for a caller who may read the file.
    pub fn xattr_list_at(&self, caller: &Caller, path: &Path) -> Result<Vec<String>> {
        self.xattr_list(self.node_at(caller, path, false)?)
    }

    /// The file that an inode is, as far as the catalog has heard. The number of a removed file is soon another's: until the
    /// catalog knows of that, what it has under the number is the removed one.
    pub(super) fn file_id(&self, node: NodeKey) -> Result<Option<FileId>> {
        let row = self.store.read(|rows| rows.file_of(node))?;
        let stack = self.mount.get().map(|mount| &mount.stack);
        let born = stack.and_then(|stack| stack.born(node));
        let same = |row: &FileRow| born.is_none_or(|born| row.facts.born == 0 || row.facts.born == born);
        Ok(row.filter(same).map(|row| row.id))
    }

    /// The same, where what has happened is first heard of: a file that was saved by a rename has a new inode, and what was
    /// told of it, at once.
    fn heard_of(&self, node: NodeKey) -> Result<Option<FileId>> {
        if let Some(file) = self.file_id(node)? {
            return Ok(Some(file));
        }
        self.indexer.wait_seen(HEAR_WAIT);
        self.file_id(node)
    }

    /// The file's id, waiting for its event where it was just made.
    pub(super) fn entered(&self, node: NodeKey) -> Result<FileId> {
        let deadline = Instant::now() + ENTER_WAIT;
        loop {
            if let Some(file) = self.file_id(node)? {
                return Ok(file);
            }
            if Instant::now() >= deadline {
                return Err(Error::Os(libc::EAGAIN));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Makes a file's told relations of a type lead to these targets, with these properties, and to no others.
pub(super) fn retell(
    tx: &mut Tx<'_>,
    file: FileId,
    kind: &str,
    links: Vec<(Target, Option<String>)>,
) -> Result<()> {
    let mut there = Vec::new();
    for relation in told(tx.rows().relations_from(file, Some(kind))?) {
        let link = (relation.to, relation.properties);
        if links.contains(&link) {
            there.push(link);
        } else if !links.iter().any(|(to, _)| *to == link.0) {
            tx.unrelate(file, kind, &link.0)?;
        }
    }
    for (to, properties) in links.into_iter().filter(|link| !there.contains(link)) {
        tx.relate(&Relation {
            from: file,
            kind: kind.to_owned(),
            to,
            properties,
            derived: false,
        })?;
    }
    Ok(())
}

pub(super) fn told(relations: Vec<Relation>) -> impl Iterator<Item = Relation> {
    relations.into_iter().filter(|relation| !relation.derived)
}

/// Whether the name belongs to us.
pub fn is_ours(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}
