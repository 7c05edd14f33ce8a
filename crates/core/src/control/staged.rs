//! Searches in the tree of a transaction: the control directory below `.vexfs/txn/<name>/root`.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::fs::ops::{Attr, Caller};
use crate::ids::Ino;
use crate::knowledge::Knowledge;
use crate::query::answer::Answer;
use crate::query::overlay::{Overlay, Staged};
use crate::query::search::Request;
use crate::txn::Desk;
use crate::{Error, Result};

/// Where the directory of a search stands in the transaction's tree.
pub(super) fn path(desk: &Desk, dir: Ino) -> Result<PathBuf> {
    let txn = desk.of(dir).ok_or(Error::Os(libc::ESTALE))?;
    Ok(txn.place(dir)?.0)
}

/// Answers a request about the tree that a transaction shows; `dir` is the directory to search below.
pub(super) fn search(knowledge: &Knowledge, desk: &Desk, dir: Ino, request: &Request<'_>) -> Result<Answer> {
    let txn = desk.of(dir).ok_or(Error::Os(libc::ESTALE))?;
    let (path, base) = txn.place(dir)?;
    let layers = txn.layers()?;
    let caller = request.caller;
    let staged = layers.staged.into_iter();
    let staged = staged
        .filter(|(.., attr)| may_read(caller, attr))
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
        read: &|file| txn.content(Ino(file.number), file.size),
        told: &|file, attribute| {
            let told = txn
                .view()
                .told(desk.teller(), caller, Ino(file.number), OsStr::new(attribute));
            told.ok().flatten()
        },
    };
    knowledge.search_overlaid(request, &overlay)
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
