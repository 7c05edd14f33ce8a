//! Snapshots: a generation gets a name; what has changed since, in the tree and in what was told, can be listed, and
//! undone by a transaction.

mod differences;
mod restore;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::StatxFlags;
use serde_json::{Value, json};

use super::Knowledge;
use super::relations::plain;
use crate::error::{Error, Result};
use crate::fs::keep::{Keeper, Kept, open_kept};
use crate::fs::ops::Caller;
use crate::ids::FileId;
use crate::query::answer::path_text;
use crate::store::Rows;
use crate::store::file::Kind;
use crate::store::past::{Moment, Version};
use crate::store::snapshots::SnapshotRow;
use differences::{Change, Pair, items, pairs, told};
use restore::{Undo, stage};

/// How long a snapshot waits until everything that has happened in the tree is in the catalog: a scan, mostly.
const SETTLE_WAIT: Duration = Duration::from_secs(30);

/// How long it then holds up requests, to see the last of what happened before.
const QUIET_WAIT: Duration = Duration::from_secs(2);

/// How often it tries that on a tree that is changed very fast.
const QUIET_TRIES: u32 = 5;

/// How often it looks whether the first scan is over.
const SCAN_LOOK: Duration = Duration::from_millis(10);

/// The word for the present, where a snapshot may be named.
pub const NOW: &str = "now";

/// What is to be restored.
#[derive(Clone, Debug)]
pub struct Restore<'a> {
    /// The snapshot.
    pub name: &'a str,
    /// Only what was below this path; everything when it is empty.
    pub below: &'a Path,
    /// The name of the transaction; `restore-` and the snapshot's when absent.
    pub transaction: Option<&'a OsStr>,
}

impl Knowledge {
    /// Says who keeps what files were at snapshots, and has it begin.
    pub fn keep_with(&self, keeper: Arc<Keeper>) -> Result<()> {
        if let Some(latest) = self.store.read(|rows| rows.snapshots())?.last() {
            keeper.keep_for(latest.moment.number(), latest.created)?;
        }
        // There is one mount to a store.
        let _ = self.keeper.set(keeper);
        Ok(())
    }

    /// Names the present generation; only the daemon's user may. What has happened in the tree before this is called is
    /// in it.
    ///
    /// # Errors
    /// [`Error::Exists`] and [`Error::Invalid`] for the name, [`Error::NotFresh`] when the catalog does not catch up
    /// with the tree in half a minute.
    pub fn snapshot_create(&self, caller: &Caller, name: &str) -> Result<Value> {
        self.owner_only(caller)?;
        let desk = self.desk();
        let mut made = Err(Error::NotFresh { pending: 1 });
        for _ in 0..QUIET_TRIES {
            self.follow_tree(SETTLE_WAIT)?;
            made = match &desk {
                Some(desk) => desk.quiet(|| self.make_snapshot(name)),
                None => self.make_snapshot(name),
            };
            if !matches!(made, Err(Error::NotFresh { .. })) {
                break;
            }
        }
        let row = made?;
        if let Some(mount) = self.mount.get() {
            mount.stack.keep_open_files()?;
        }
        Ok(self.snapshot_json(&row))
    }

    fn make_snapshot(&self, name: &str) -> Result<SnapshotRow> {
        if let Some(mount) = self.mount.get() {
            mount.stack.settle_writers();
        }
        self.follow_tree(QUIET_WAIT)?;
        let created = crate::store::naming::now_ns();
        let (row, _) = self.store.write(|tx| tx.make_snapshot(name, created))?;
        if let Some(keeper) = self.keeper.get()
            && let Err(error) = keeper.keep_for(row.moment.number(), created)
        {
            self.store.write(|tx| tx.drop_snapshot(name))?;
            return Err(error);
        }
        Ok(row)
    }

    /// The snapshots, the oldest first.
    pub fn snapshot_list(&self) -> Result<Value> {
        let rows = self.store.read(|rows| rows.snapshots())?;
        let snapshots: Vec<_> = rows.iter().map(|row| self.snapshot_json(row)).collect();
        Ok(json!({ "snapshots": snapshots }))
    }

    fn snapshot_json(&self, row: &SnapshotRow) -> Value {
        let kept = self.keeper.get().map(|keeper| keeper.bytes(row.moment.number()));
        json!({
            "name": row.name,
            "generation": row.generation.0,
            "created_ns": row.created,
            "kept_bytes": kept,
        })
    }

    /// Drops a snapshot, with all that was kept for it alone; only the daemon's user may. Contents go first, since a full
    /// disk may be the reason: after an error the snapshot may be there without them.
    pub fn snapshot_drop(&self, caller: &Caller, name: &str) -> Result<()> {
        self.owner_only(caller)?;
        let dropped = self.store.read(|rows| rows.snapshot(name))?.moment;
        if let Some(keeper) = self.keeper.get() {
            let rows = self.store.read(|rows| rows.snapshots())?;
            let before = rows.iter().rev().find(|row| row.moment < dropped);
            let before = before.map(|row| (row.moment.number(), row.created));
            keeper.drop_snapshot(dropped.number(), before)?;
        }
        self.store.write(|tx| tx.drop_snapshot(name))?;
        Ok(())
    }

    /// What differs between two snapshots, or a snapshot and [`NOW`], the earlier one first: files, and what was told of
    /// them. Only the daemon's user may ask: it names files that others may not be able to see.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] when the second is the earlier one; [`Error::NotFresh`] as above.
    pub fn snapshot_diff(&self, caller: &Caller, from: &str, to: &str) -> Result<Value> {
        self.owner_only(caller)?;
        if to == NOW {
            self.follow_commits()?;
        }
        self.store.read(|rows| {
            let begin = rows.snapshot(from)?;
            let end = match to {
                NOW => Moment::NOW,
                name => rows.snapshot(name)?.moment,
            };
            if end < begin.moment {
                return Err(Error::Invalid(format!(
                    "snapshot {to:?} is older than {from:?}: expected the older one first"
                )));
            }
            let found = pairs(rows, begin.moment, end)?;
            let told = told(rows, &found, begin.moment, end)?;
            let mut files = Vec::new();
            for pair in &found {
                for (change, mut object) in pair.json() {
                    let lost = matches!(change, Change::Changed | Change::Removed);
                    if let Some(before) = pair.before.as_ref().filter(|_| lost && !pair.link) {
                        let kept = self.kept(rows, begin.moment, &before.version)?;
                        object["kept"] = json!(kept.is_some() || before.version.kind == Kind::Directory);
                    }
                    files.push(object);
                }
            }
            Ok(json!({
                "from": from,
                "to": to,
                "generation": rows.generation()?.0,
                "files": files,
                "told": told.iter().map(differences::ToldChange::json).collect::<Vec<_>>(),
            }))
        })
    }

    /// Stages a transaction that makes everything what it was at a snapshot; only the daemon's user may. Gives its name, how
    /// many files differ, and `missing`, the paths whose old content was not kept: those stay as they are.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Exists`] when the transaction's name is taken, or something that no snapshot records
    /// stands in the way; EOPNOTSUPP where there are no transactions. Nothing is left of the transaction then.
    pub fn snapshot_restore(&self, caller: &Caller, what: &Restore<'_>) -> Result<Value> {
        self.owner_only(caller)?;
        let desk = self.desk();
        let desk = desk.ok_or(Error::Os(libc::EOPNOTSUPP))?;
        let below = plain(what.below)?;
        self.follow_commits()?;
        let (undo, linked) = self.store.read(|rows| {
            let moment = rows.snapshot(what.name)?.moment;
            let pairs = pairs(rows, moment, Moment::NOW)?;
            let linked = differences::linked(&pairs);
            Ok((self.undo(rows, moment, &below, pairs, &linked)?, linked))
        })?;
        let differing = undo.iter().filter(|undo| !undo.pair.changes().is_empty()).count();
        let default = OsString::from(format!("restore-{}", what.name));
        let transaction = what.transaction.unwrap_or(&default);
        let txn = desk.begin(caller, transaction)?;
        match stage(txn.view(), desk.teller(), caller, undo, &linked) {
            Ok(missing) => Ok(json!({
                "transaction": transaction.to_string_lossy(),
                "differing": differing,
                "missing": missing.iter().map(|path| path_text(path)).collect::<Vec<_>>(),
            })),
            Err(error) => {
                drop(txn);
                desk.abort(caller, transaction)?;
                Err(error)
            }
        }
    }

    /// What differs from a moment, with the contents that there were: of what was below a path, and of what is there now
    /// and was nowhere.
    fn undo(
        &self,
        rows: &Rows<'_>,
        moment: Moment,
        below: &Path,
        pairs: Vec<Pair>,
        linked: &HashSet<FileId>,
    ) -> Result<Vec<Undo>> {
        let mut undo = Vec::new();
        for pair in pairs {
            let at = pair.before.as_ref().or(pair.after.as_ref());
            if !at.is_some_and(|found| found.path.starts_with(below)) {
                continue;
            }
            let told = (
                items(rows, pair.before.as_ref(), moment)?,
                items(rows, pair.after.as_ref(), Moment::NOW)?,
            );
            // Names that stayed tell where further ones belong to.
            let stays = at.is_some_and(|found| linked.contains(&found.file));
            if pair.changes().is_empty() && told.0 == told.1 && !stays {
                continue;
            }
            let content = match &pair.before {
                Some(before) if pair.loses_content() => self.kept(rows, moment, &before.version)?,
                _ => None,
            };
            undo.push(Undo { pair, content, told });
        }
        Ok(undo)
    }

    /// Where the content is that a file had at a moment, if it was kept and is that.
    fn kept(&self, rows: &Rows<'_>, moment: Moment, version: &Version) -> Result<Option<PathBuf>> {
        let Some(keeper) = self.keeper.get() else {
            return Ok(None);
        };
        let kept = Kept {
            key: version.key,
            born: version.born,
        };
        let later = rows.snapshots()?.into_iter().filter(|row| row.moment >= moment);
        let found = later
            .map(|row| keeper.find(row.moment.number(), kept))
            .find_map(|found| found);
        match found {
            Some(path) if is_of(&path, version)? => Ok(Some(path)),
            _ => Ok(None),
        }
    }

    /// Waits until everything that has happened in the tree so far is in the catalog, and what commits replaced is kept.
    fn follow_commits(&self) -> Result<()> {
        if let Some(desk) = self.desk() {
            desk.wait_settled();
        }
        // close(2) returns before the kernel has told us of it.
        self.look_at_writers();
        self.follow_tree(SETTLE_WAIT)
    }

    /// Waits until everything that has happened in the tree so far is in the catalog.
    fn follow_tree(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.is_scanned() && Instant::now() < deadline {
            std::thread::sleep(SCAN_LOOK);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match self.is_scanned() && self.indexer.wait_followed(left) {
            true => Ok(()),
            false => Err(Error::NotFresh {
                pending: self.indexer.pending().max(1),
            }),
        }
    }
}

/// Whether what was kept is what the catalog had: it may have been changed behind the mount before, or be cut short by a
/// power failure.
fn is_of(path: &Path, version: &Version) -> Result<bool> {
    let file = open_kept(path)?;
    if version.kind != Kind::File {
        return Ok(true);
    }
    let stat = rustix::fs::statx(
        &file,
        c"",
        rustix::fs::AtFlags::EMPTY_PATH,
        StatxFlags::BASIC_STATS,
    )?;
    let modified = stat.stx_mtime.tv_sec.saturating_mul(1_000_000_000) + i64::from(stat.stx_mtime.tv_nsec);
    if stat.stx_size != version.size {
        return Ok(false);
    }
    match version.hash {
        _ if modified == version.mtime => Ok(true),
        Some(hash) => {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(std::fs::File::from(file))?;
            Ok(*hasher.finalize().as_bytes() == hash)
        }
        None => Ok(false),
    }
}
