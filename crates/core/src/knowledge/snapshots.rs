//! Snapshots: a generation gets a name, and what has changed since, in the tree and in what was told, can be listed.

mod differences;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Knowledge;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::store::past::Moment;
use crate::store::snapshots::SnapshotRow;

/// How long a snapshot waits until everything that has happened in the tree is in the catalog: a scan, mostly.
const SETTLE_WAIT: Duration = Duration::from_secs(30);

/// How often it looks whether a scan is over.
const SCAN_LOOK: Duration = Duration::from_millis(10);

/// The word for the present, where a snapshot may be named.
pub const NOW: &str = "now";

impl Knowledge {
    /// Names the present generation; only the daemon's user may. What has happened in the tree before this is called is
    /// in it.
    ///
    /// # Errors
    /// [`Error::Exists`] and [`Error::Invalid`] for the name, [`Error::NotFresh`] when the catalog does not catch up
    /// with the tree in half a minute.
    pub fn snapshot_create(&self, caller: &Caller, name: &str) -> Result<Value> {
        self.owner_only(caller)?;
        self.follow_tree(SETTLE_WAIT)?;
        let created = crate::store::naming::now_ns();
        let (row, _) = self.store.write(|tx| tx.make_snapshot(name, created))?;
        Ok(json_of(&row))
    }

    /// The snapshots, the oldest first.
    pub fn snapshot_list(&self) -> Result<Value> {
        let rows = self.store.read(|rows| rows.snapshots())?;
        let snapshots: Vec<_> = rows.iter().map(json_of).collect();
        Ok(json!({ "snapshots": snapshots }))
    }

    /// Drops a snapshot, with all that was kept for it alone; only the daemon's user may.
    pub fn snapshot_drop(&self, caller: &Caller, name: &str) -> Result<()> {
        self.owner_only(caller)?;
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
            self.follow_tree(SETTLE_WAIT)?;
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
            let pairs = differences::pairs(rows, begin.moment, end)?;
            let told = differences::told(rows, &pairs, begin.moment, end)?;
            Ok(json!({
                "from": from,
                "to": to,
                "generation": rows.generation()?.0,
                "files": pairs.iter().flat_map(differences::Pair::json).collect::<Vec<_>>(),
                "told": told.iter().map(differences::ToldChange::json).collect::<Vec<_>>(),
            }))
        })
    }

    /// Waits until everything that has happened in the tree so far is in the catalog.
    fn follow_tree(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while self.indexer.status().scanning && Instant::now() < deadline {
            std::thread::sleep(SCAN_LOOK);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let status = self.indexer.status();
        match !status.scanning && self.indexer.wait_seen(left) {
            true => Ok(()),
            false => Err(Error::NotFresh {
                pending: status.pending.max(1),
            }),
        }
    }
}

fn json_of(row: &SnapshotRow) -> Value {
    json!({
        "name": row.name,
        "generation": row.generation.0,
        "created_ns": row.created,
    })
}
