//! What transactions tell of files: checked when it is said, written with the files when they are committed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::Knowledge;
use super::attributes::{Name, TAGGED, VALUE_BYTES_MAX, retell, told};
use super::vector_value;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::{FileId, Generation, NodeKey};
use crate::semantic::embed::StaticModel;
use crate::semantic::extract::{Limits, Outcome, Workers, extract};
use crate::store::Tx;
use crate::store::relations::Target;
use crate::txn::{End, Link, Said, Teller, View, Work};

/// How long a program that says something of a file waits for what happened to its name before.
const SETTLE_WAIT: Duration = Duration::from_secs(5);

impl Teller for Knowledge {
    fn shown(&self, caller: &Caller, node: NodeKey, name: &OsStr) -> Result<Option<Vec<u8>>> {
        match self.xattr_get(caller, node, name) {
            Ok(value) => Ok(Some(value)),
            Err(Error::NoAttribute) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn settle(&self, node: NodeKey, dir: NodeKey, name: &OsStr) {
        let known = self.store.read(|rows| match rows.id_of(dir)? {
            Some(dir) => {
                let there = rows.child(dir, name)?;
                Ok(there.is_some() && there == rows.id_of(node)?)
            }
            None => Ok(false),
        });
        // What cannot be read is waited for, and the one who asked next hears of it.
        if !known.unwrap_or(false) {
            self.indexer.wait_seen(SETTLE_WAIT);
        }
    }

    fn version(&self, node: NodeKey, name: &OsStr) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file_id(node)? else {
            return Ok(None);
        };
        match Name::read(name)? {
            Name::Rel(kind) => {
                let relations = self.store.read(|rows| rows.relations_from(file, Some(kind)))?;
                let mut ends: Vec<_> = told(relations)
                    .map(|relation| format!("{:?} {:?}", relation.to, relation.properties))
                    .collect();
                ends.sort();
                Ok((!ends.is_empty()).then(|| ends.join("\n").into_bytes()))
            }
            // All others are the same for everybody.
            _ => self.shown(&self.itself(), node, name),
        }
    }

    fn read(&self, caller: &Caller, view: &View, name: &OsStr, value: &[u8]) -> Result<Said> {
        let name = Name::read(name)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::Os(libc::E2BIG));
        }
        Ok(Said::Value(match name {
            Name::State | Name::Id | Name::Generation | Name::Hash => {
                return Err(Error::NotPermitted("a read-only attribute"));
            }
            Name::Vec(_) => {
                let vector = vector_value::read(value)?;
                vector.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            Name::Tag(_) => TAGGED.to_vec(),
            Name::Meta(_) => value.to_vec(),
            Name::Rel(_) => {
                let links = lines(value).map(|path| {
                    Ok(Link {
                        to: self.end_inside(caller, view, path)?,
                        properties: None,
                    })
                });
                return Ok(Said::Links(links.collect::<Result<_>>()?));
            }
        }))
    }

    fn may_remove(&self, name: &OsStr) -> Result<()> {
        match Name::read(name)? {
            Name::State | Name::Id | Name::Generation | Name::Hash => {
                Err(Error::NotPermitted("a read-only attribute"))
            }
            _ => Ok(()),
        }
    }

    fn relation<'n>(&self, name: &'n OsStr) -> Option<&'n str> {
        match Name::read(name) {
            Ok(Name::Rel(kind)) => Some(kind),
            _ => None,
        }
    }

    fn links(&self, node: NodeKey, kind: &str) -> Result<Vec<Link>> {
        let Some(file) = self.file_id(node)? else {
            return Ok(Vec::new());
        };
        let relations = self.store.read(|rows| rows.relations_from(file, Some(kind)))?;
        let links = told(relations).map(|relation| Link {
            to: End::Stored(relation.to),
            properties: relation.properties,
        });
        Ok(links.collect())
    }

    fn lines(&self, caller: &Caller, view: &View, links: &[Link]) -> Result<Option<Vec<u8>>> {
        let shown = self.ends_inside(caller, view, links)?;
        let paths: Vec<_> = shown.into_iter().flatten().map(|(path, _)| path).collect();
        let lines: Vec<_> = paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
        Ok((!lines.is_empty()).then(|| lines.join(&b'\n')))
    }

    fn is_of_content(&self, name: &OsStr) -> bool {
        matches!(Name::read(name), Ok(Name::Vec(_)))
    }

    fn meaning(&self, name: &OsStr, content: &[u8]) -> Result<Option<Vec<f32>>> {
        let workers = Workers::if_declared(Limits::default());
        let Outcome::Text(extracted) = extract(name, content, &workers) else {
            return Ok(None);
        };
        let text = &extracted.text;
        let cut = extracted.passages(StaticModel::built_in().tokenizer());
        let inputs: Vec<_> = cut.iter().map(|passage| passage.embedded(text)).collect();
        let inputs: Vec<&str> = inputs.iter().map(|input| &**input).collect();
        let embedder = &self.searcher.model.load().embedder;
        let mut rows = vec![0.0; inputs.len() * embedder.dim()];
        embedder.embed(&inputs, &mut rows)?;
        let mut sum = vec![0.0; embedder.dim()];
        for row in rows.chunks(embedder.dim()) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
        sum.iter_mut().for_each(|x| *x /= length);
        Ok((length > 0.0).then_some(sum))
    }

    fn tell(&self, tx: &mut Tx<'_>, file: FileId, name: &OsStr, value: Option<&[u8]>) -> Result<()> {
        match (Name::read(name)?, value) {
            (Name::Vec(space), Some(value)) => tx.set_vector(file, space, &vector_value::read(value)?),
            (Name::Vec(space), None) => tx.remove_vector(file, space),
            (Name::Tag(tag), Some(_)) => tx.add_tag(file, tag),
            (Name::Tag(tag), None) => tx.remove_tag(file, tag),
            (Name::Meta(key), Some(value)) => tx.set_metadata(file, key, value),
            (Name::Meta(key), None) => tx.remove_metadata(file, key),
            (Name::Rel(_) | Name::State | Name::Id | Name::Generation | Name::Hash, _) => {
                Err(Error::NotPermitted("a read-only attribute"))
            }
        }
    }

    fn relate(
        &self,
        tx: &mut Tx<'_>,
        file: FileId,
        kind: &str,
        links: Vec<(Target, Option<String>)>,
    ) -> Result<()> {
        retell(tx, file, kind, links)
    }

    fn commit(&self, work: &mut Work<'_>) -> Result<Generation> {
        self.spaces.commit(|tx| {
            let told = work(tx)?;
            let vectors = told.iter().filter_map(|(file, name)| match Name::read(name) {
                Ok(Name::Vec(space)) => Some((space.to_owned(), *file)),
                _ => None,
            });
            Ok(vectors.collect())
        })
    }
}

impl Knowledge {
    /// The daemon as a caller.
    fn itself(&self) -> Caller {
        Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: 0,
        }
    }
}

/// The paths of a value of relations.
fn lines(value: &[u8]) -> impl Iterator<Item = &Path> {
    let lines = value.split(|b| *b == b'\n').filter(|path| !path.is_empty());
    lines.map(|path| Path::new(OsStr::from_bytes(path)))
}
