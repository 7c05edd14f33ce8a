//! Which transaction a request belongs to, and what it may do and say while another one is committed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLockReadGuard;

use super::Engine;
use crate::fs::ops::{Attr, Entry};
use crate::ids::Ino;
use crate::txn::{Desk, Teller, Txn, VIEW_TTL};
use crate::{Error, Result};

impl Engine {
    /// The same mount with transactions over its tree.
    pub fn with_transactions(self, desk: Arc<Desk>) -> Engine {
        Engine {
            desk: Some(desk),
            ..self
        }
    }

    /// Whether what was answered may be kept by the kernel, and for how long.
    pub fn attr_ttl(&self, attr: &Attr) -> Duration {
        let ino = attr.ino;
        match self.desk.as_ref().is_none_or(|desk| desk.gate().may_be_kept()) {
            true if ino.is_staged() => VIEW_TTL,
            true if !ino.is_control() => self.stack.attr_ttl(attr),
            // Generated nodes change on their own.
            _ => Duration::ZERO,
        }
    }

    /// Whether the kernel may keep the list of a directory that is opened now.
    pub fn keeps_lists(&self, ino: Ino) -> bool {
        let generated = ino.is_control() || ino.is_staged();
        !generated && self.desk.as_ref().is_none_or(|desk| desk.gate().may_be_kept())
    }

    /// Passes the gate that a commit closes for the moment of its switch. What may copy a file's content into a
    /// transaction does not: a commit would wait for it, and everybody for the commit.
    pub(super) fn pass(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.desk.as_ref().map(|desk| desk.gate().pass())
    }

    /// An answer, not to be kept while a commit goes on.
    pub(super) fn kept(&self, entry: Entry) -> Entry {
        match &self.desk {
            Some(desk) if !desk.gate().may_be_kept() => Entry {
                entry_ttl: Duration::ZERO,
                attr_ttl: Duration::ZERO,
                ..entry
            },
            _ => entry,
        }
    }

    /// The transaction that a node belongs to; ESTALE when it has ended.
    pub(super) fn staged(&self, ino: Ino) -> Result<Arc<Txn>> {
        self.desk
            .as_ref()
            .and_then(|desk| desk.of(ino))
            .ok_or(Error::Os(libc::ESTALE))
    }

    pub(super) fn teller(&self) -> Result<&dyn Teller> {
        let desk = self.desk.as_ref().ok_or(Error::Os(libc::ESTALE))?;
        Ok(desk.teller())
    }

    /// The transaction that both nodes belong to, or none for two nodes of the tree. Between trees nothing moves.
    pub(super) fn one_tree(&self, one: Ino, other: Ino) -> Result<Option<Arc<Txn>>> {
        if !one.is_staged() && !other.is_staged() {
            return Ok(None);
        }
        let (txn, same) = match one.is_staged() && other.is_staged() {
            true => (self.staged(one)?, self.staged(other)?),
            false => return Err(Error::Os(libc::EXDEV)),
        };
        match txn.index() == same.index() {
            true => Ok(Some(txn)),
            false => Err(Error::Os(libc::EXDEV)),
        }
    }
}
