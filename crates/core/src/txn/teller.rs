//! What a transaction asks about attributes whose meaning it does not know, and about relations.

use std::ffi::{OsStr, OsString};

use super::links::Link;
use super::told::Said;
use super::view::View;
use crate::Result;
use crate::fs::ops::Caller;
use crate::ids::{FileId, Generation, NodeKey};
use crate::store::Tx;
use crate::store::relations::Target;

/// Writes rows, and says what was told of which file.
pub type Work<'w> = dyn FnMut(&mut Tx<'_>) -> Result<Vec<(FileId, OsString)>> + 'w;

/// Knows what the attributes mean.
pub trait Teller: Send + Sync {
    /// The present value of an attribute of a base file as a caller sees it, `None` if it has none. Not asked of
    /// relations.
    fn shown(&self, caller: &Caller, node: NodeKey, name: &OsStr) -> Result<Option<Vec<u8>>>;
    /// Waits until a base file is known under the name at which it stands in `dir`. What is said of a name that was
    /// given to another file only just now is still said of the one before.
    fn settle(&self, node: NodeKey, dir: NodeKey, name: &OsStr);
    /// What is compared to see whether somebody else has set it: the same whoever asks.
    fn version(&self, node: NodeKey, name: &OsStr) -> Result<Option<Vec<u8>>>;
    /// What a caller says by setting an attribute in the tree of a view, as it will be shown.
    fn read(&self, caller: &Caller, view: &View, name: &OsStr, value: &[u8]) -> Result<Said>;
    /// Refuses to remove what nobody can set.
    fn may_remove(&self, name: &OsStr) -> Result<()>;
    /// Whether it was made for the content that the file has.
    fn is_of_content(&self, name: &OsStr) -> bool;
    /// The type of relations that an attribute stands for, if it stands for relations.
    fn relation<'n>(&self, name: &'n OsStr) -> Option<&'n str>;
    /// The told relations of a type that lead away from a base file.
    fn links(&self, node: NodeKey, kind: &str) -> Result<Vec<Link>>;
    /// Where they lead in the tree of a view, as the value of an attribute; `None` if a caller may know of none.
    fn lines(&self, caller: &Caller, view: &View, links: &[Link]) -> Result<Option<Vec<u8>>>;
    /// What a file of this name and content is about, as a vector of unit length; `None` if it has no text.
    fn meaning(&self, name: &OsStr, content: &[u8]) -> Result<Option<Vec<f32>>>;
    /// Sets or removes an attribute in a transaction of the store. Not asked of relations.
    fn tell(&self, tx: &mut Tx<'_>, file: FileId, name: &OsStr, value: Option<&[u8]>) -> Result<()>;
    /// Makes a file's told relations of a type lead there, with these properties, and nowhere else.
    fn relate(
        &self,
        tx: &mut Tx<'_>,
        file: FileId,
        kind: &str,
        links: Vec<(Target, Option<String>)>,
    ) -> Result<()>;
    /// Commits what `work` writes, which lists the files and attributes that it told; what is derived from them follows.
    fn commit(&self, work: &mut Work<'_>) -> Result<Generation>;
}
