//! A teller for tests: tags are all that can be told.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::fs::ops::Caller;
use crate::ids::{FileId, Generation, NodeKey};
use crate::store::relations::Target;
use crate::store::{Store, Tx};
use crate::txn::{Link, Said, Teller, View, Work};
use crate::{Error, Result};

pub(super) struct Tags(pub(super) Arc<Store>);

impl Teller for Tags {
    fn shown(&self, _caller: &Caller, node: NodeKey, name: &OsStr) -> Result<Option<Vec<u8>>> {
        self.version(node, name)
    }

    fn meaning(&self, _name: &OsStr, _content: &[u8]) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }

    fn settle(&self, _node: NodeKey, _dir: NodeKey, _name: &OsStr) {}

    fn is_of_content(&self, _name: &OsStr) -> bool {
        false
    }

    fn version(&self, node: NodeKey, name: &OsStr) -> Result<Option<Vec<u8>>> {
        let tagged = self.0.read(|rows| {
            let row = rows.file_of(node)?;
            let tags = row.map(|row| rows.tags(row.id)).transpose()?;
            Ok(tags.is_some_and(|tags| tags.iter().any(|tag| name == tag.as_str())))
        })?;
        Ok(tagged.then(Vec::new))
    }

    fn read(&self, _caller: &Caller, _view: &View, name: &OsStr, value: &[u8]) -> Result<Said> {
        self.may_remove(name)?;
        Ok(Said::Value(value.to_vec()))
    }

    fn may_remove(&self, name: &OsStr) -> Result<()> {
        if name.is_empty() {
            Err(Error::NoAttribute)
        } else {
            Ok(())
        }
    }

    fn relation<'n>(&self, _name: &'n OsStr) -> Option<&'n str> {
        None
    }

    fn links(&self, _node: NodeKey, _kind: &str) -> Result<Vec<Link>> {
        Ok(Vec::new())
    }

    fn lines(&self, _caller: &Caller, _view: &View, _links: &[Link]) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn tell(&self, tx: &mut Tx<'_>, file: FileId, name: &OsStr, value: Option<&[u8]>) -> Result<()> {
        let tag = name.to_str().unwrap();
        match value {
            Some(_) => tx.add_tag(file, tag),
            None => tx.remove_tag(file, tag),
        }
    }

    fn relate(
        &self,
        _tx: &mut Tx<'_>,
        _file: FileId,
        kind: &str,
        _links: Vec<(Target, Option<String>)>,
    ) -> Result<()> {
        Err(Error::Invalid(format!("{kind}: only tags")))
    }

    fn commit(&self, work: &mut Work<'_>) -> Result<Generation> {
        Ok(self.0.write(|tx| work(tx).map(|_| ()))?.1)
    }
}
