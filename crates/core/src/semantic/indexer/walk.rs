//! Walkers: folders are compared with the catalog, and only what differs goes on to the reconciler.
//!
//! An unchanged file costs its share of getdents(2) and one statx(2). New folders come back from the reconciler as
//! folders to scan, because only it gives out ids.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

use super::Shared;
use super::below;
use super::inbox::Place;
use crate::error::Result;
use crate::ids::FileId;
use crate::semantic::scan::tree::{Found, is_gone};
use crate::store::file::{FileRow, Kind, State};
use crate::store::naming::{Trust, Want};

/// Entries that are looked at before their rows are compared.
const LOOK_MAX: usize = 1024;

/// Scans folders until the inbox is closed.
pub(super) fn run(shared: &Shared) {
    while let Some(folder) = shared.inbox.next_folder() {
        if let Err(error) = walk(shared, folder)
            && !is_gone(&error)
        {
            tracing::warn!(%error, %folder, "a folder cannot be scanned");
        }
        shared.walked_folders.fetch_add(1, Ordering::Relaxed);
        shared.inbox.walked();
    }
}

fn walk(shared: &Shared, folder: FileId) -> Result<()> {
    let Some((open, _)) = shared.open_folder(folder)? else {
        return Ok(());
    };
    // The files of rules may have changed unseen.
    let rules = shared.read_rules(folder, &open)?;
    if let Some(rule) = rules.excluded() {
        return below::exclude(shared, folder, rule);
    }
    // Rows first: a file that comes meanwhile is new to the listing, one that goes is looked at again before its
    // row is given up.
    let mut rows: HashMap<Box<[u8]>, FileId> = shared
        .store
        .read(|rows| rows.children(folder))?
        .into_iter()
        .collect();
    let mut entries: Vec<OsString> = Vec::new();
    shared
        .tree
        .list(open.as_fd(), |name| entries.push(name.to_owned()))?;
    let mut places = Vec::new();
    let mut folders = Vec::new();
    for part in entries.chunks(LOOK_MAX) {
        let mut found = Vec::with_capacity(part.len());
        for name in part {
            if let Some(there) = shared.tree.look(open.as_fd(), name)? {
                let want = shared.rules.verdict(&rules, name, &there);
                found.push((name, there, want, rows.remove(name.as_bytes())));
            }
        }
        shared
            .walked_entries
            .fetch_add(found.len() as u64, Ordering::Relaxed);
        shared.store.read(|catalog| {
            for (name, there, want, id) in found {
                let row = id.map_or(Ok(None), |id| catalog.file(id))?;
                let marked = shared.marks.contains(there.facts.key);
                let suspect = marked || shared.is_suspect(&there.facts);
                if suspect || !row.as_ref().is_some_and(|row| agrees(row, &there, &want)) {
                    let (name, trust) = (name.clone(), if suspect { Trust::Nothing } else { Trust::Ctime });
                    places.push(Place { folder, name, trust });
                }
                if let Some(row) = row
                    && there.facts.kind == Kind::Directory
                    && row.facts.same_inode(&there.facts)
                    && want == Want::Index
                    && is_in_place(&row)
                {
                    folders.push(row.id);
                }
            }
            Ok(())
        })?;
    }
    let lost = rows.into_keys().map(|name| Place {
        folder,
        name: OsStr::from_bytes(&name).to_owned(),
        trust: Trust::Ctime,
    });
    shared.inbox.push_late(lost);
    folders
        .into_iter()
        .for_each(|folder| shared.inbox.push_folder(folder));
    shared.inbox.push_places(places);
    Ok(())
}

/// Whether a folder was scanned before, so that it need not wait for the reconciler.
fn is_in_place(folder: &FileRow) -> bool {
    folder.state == State::Named
}

/// Whether a row says what was found.
fn agrees(row: &FileRow, there: &Found, want: &Want) -> bool {
    let (seen, facts) = (&row.facts, &there.facts);
    let attributes = (seen.mode, seen.uid, seen.gid) == (facts.mode, facts.uid, facts.gid);
    let content = match facts.kind {
        // A folder's size and times change with its entries, which are compared one by one.
        Kind::Directory => seen.same_inode(facts),
        Kind::File => facts.same_content(seen),
        _ => seen.same_inode(facts) && seen.ctime == facts.ctime,
    };
    let verdict = match (want, &row.state) {
        (Want::Exclude(rule), State::Excluded(present)) => rule == present,
        (Want::Exclude(_), _) | (Want::Index, State::Leaving | State::Orphan) => false,
        (Want::Index, State::Excluded(rule)) => rule.starts_with(crate::store::naming::CONTENT_RULE),
        (Want::Index, _) => true,
    };
    attributes && content && verdict
}
