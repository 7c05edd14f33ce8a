//! Which tree a request is about: the committed one, or with the header `X-Vexfs-Txn: NAME` that of a transaction.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use vexfs_core::fs::ops::Caller;
use vexfs_core::knowledge::Knowledge;
use vexfs_core::txn::Txn;
use vexfs_core::{Error, Result};

use super::{refusal, unescaped};

/// The header that names a transaction, `%XX` for bytes that cannot stand in a header.
const HEADER: &str = "x-vexfs-txn";

/// The tree that a request is about.
pub(super) struct Tree {
    knowledge: Arc<Knowledge>,
    name: Option<OsString>,
}

impl FromRequestParts<Arc<Knowledge>> for Tree {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        knowledge: &Arc<Knowledge>,
    ) -> std::result::Result<Tree, Response> {
        let bad = || {
            refusal(&Error::Invalid(
                "X-Vexfs-Txn: expected a name, %XX for odd bytes".into(),
            ))
        };
        let name = match parts.headers.get(HEADER) {
            Some(value) => Some(value.to_str().ok().and_then(unescaped).ok_or_else(bad)?),
            None => None,
        };
        Ok(Tree {
            knowledge: knowledge.clone(),
            name,
        })
    }
}

impl Tree {
    /// The knowledge of the mount.
    pub(super) fn knowledge(&self) -> &Knowledge {
        &self.knowledge
    }

    /// The transaction, if one is named, which the caller must be able to enter.
    pub(super) fn txn(&self, caller: &Caller) -> Result<Option<Arc<Txn>>> {
        let name = self.name.as_deref();
        name.map(|name| open(&self.knowledge, caller, name)).transpose()
    }
}

/// An open transaction that the caller may enter.
pub(super) fn open(knowledge: &Knowledge, caller: &Caller, name: &OsStr) -> Result<Arc<Txn>> {
    let txn = knowledge.desk().and_then(|desk| desk.get(name));
    let txn = txn.ok_or_else(|| Error::NotFound(format!("transaction {}", name.display())))?;
    match txn.admits(caller) {
        true => Ok(txn),
        false => Err(Error::Denied),
    }
}

/// Refuses the header where a request is about what is committed, whatever the caller stands in.
pub(super) async fn committed_only(request: Request, next: Next) -> Response {
    match request.headers().contains_key(HEADER) {
        true => refusal(&Error::Invalid(format!(
            "{} is about what is committed: expected no header X-Vexfs-Txn, and a path outside of the transaction",
            request.uri().path()
        ))),
        false => next.run(request).await,
    }
}
