//! Searches inside a transaction.

use std::ffi::OsStr;
use std::path::Path;

use rustix::fs::Access;

use super::Inside;
use crate::error::Result;
use crate::fs::ops::{Attr, Caller};
use crate::ids::Ino;
use crate::knowledge::attributes::PREFIX;
use crate::query::answer::{Answer, path_text};
use crate::query::options::Options;
use crate::query::overlay::{Overlay, Staged, nothing};
use crate::query::search::{Request, What};
use crate::txn::Teller;

impl Inside<'_> {
    /// Answers a request about the tree that the transaction shows, below the directory at a path.
    pub fn search_at(&self, dir: &Path, request: &Request<'_>) -> Result<Answer> {
        let (_way, dir) = self.place(dir, Access::EXEC_OK)?;
        self.search(dir, request)
    }

    /// The same below a directory that the caller has entered. The request's scope says nothing.
    pub fn search(&self, dir: Ino, request: &Request<'_>) -> Result<Answer> {
        let What::Like(like) = &request.what else {
            return self.search_as_it_is(dir, request);
        };
        let like = self.txn.place(dir)?.0.join(like);
        let Some(vector) = self.meaning_of(&like, request.options.space.as_deref())? else {
            return Ok(nothing(request, self.knowledge.store().generation()));
        };
        let space = request.options.space.clone();
        let options = Options {
            k: request.options.k + 1,
            ..request.options.clone()
        };
        let request = Request {
            what: What::Vector { space, vector },
            options: &options,
            ..*request
        };
        let mut answer = self.search_as_it_is(dir, &request)?;
        answer.query = format!("like:{}", path_text(&like));
        answer.hits.retain(|hit| hit.path != like);
        answer.hits.truncate(options.k - 1);
        Ok(answer)
    }

    /// What a file of the transaction is about: what is known of it, or for a staged one what its text says.
    fn meaning_of(&self, path: &Path, space: Option<&str>) -> Result<Option<Vec<f32>>> {
        let (_way, ino) = self.place(path, Access::READ_OK)?;
        if let Some(space) = space {
            let name = format!("{PREFIX}vec.{space}");
            let told = self
                .view()
                .told(self.knowledge, self.caller, ino, OsStr::new(&name))?;
            return Ok(told.map(|told| numbers(&told)));
        }
        match self.txn.staged_size(ino)? {
            Some(size) => {
                let name = path.file_name().unwrap_or_default();
                self.knowledge.meaning(name, &self.txn.content(ino, size)?)
            }
            None => match self.view().base_key(ino) {
                Some(node) => {
                    let file = self.knowledge.known_at(node, path)?;
                    self.knowledge.searcher.meaning_of(file, None)
                }
                None => Ok(None),
            },
        }
    }

    fn search_as_it_is(&self, dir: Ino, request: &Request<'_>) -> Result<Answer> {
        let (path, base) = self.txn.place(dir)?;
        let layers = self.txn.layers()?;
        let staged = layers.staged.into_iter();
        let staged = staged
            .filter(|(.., attr)| may_read(self.caller, attr))
            .map(|(path, number, attr)| Staged {
                path,
                number: number.0,
                size: attr.size,
                mtime: attr.mtime.secs,
            });
        let overlay = Overlay {
            dir: path,
            base,
            moved: layers.moved,
            staged: staged.collect(),
            read: &|file| self.txn.content(Ino(file.number), file.size),
            told: &|file, attribute| {
                let (ino, attribute) = (Ino(file.number), OsStr::new(attribute));
                let told = self.view().told(self.knowledge, self.caller, ino, attribute);
                told.ok().flatten()
            },
        };
        self.knowledge.search_overlaid(request, &overlay)
    }
}

/// A vector as an attribute has it.
fn numbers(value: &[u8]) -> Vec<f32> {
    let (numbers, _) = value.as_chunks::<4>();
    numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Whether the mode lets a caller read. Who is in the transaction at all has passed its directory.
fn may_read(caller: &Caller, attr: &Attr) -> bool {
    let bit = match (caller.uid == attr.uid, caller.gid == attr.gid) {
        (true, _) => 0o400,
        (_, true) => 0o040,
        _ => 0o004,
    };
    caller.uid == 0 || attr.mode & bit != 0
}
