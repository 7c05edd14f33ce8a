//! Snapshots: names of generations. Making one writes a row and copies nothing; from then on the first change of a row
//! keeps what the row was, stamped with the latest snapshot. What was there at a snapshot is the earliest version that
//! was kept at it or at a later one, else the present row ([`super::past`]); so each snapshot costs what has changed
//! since, once, however many there are.
//!
//! Triggers of the database keep the versions: no way of changing a row passes them by. They are there only as long
//! as there is a snapshot.

use rusqlite::{OptionalExtension, Row, params};

use super::past::Moment;
use super::{Rows, Tx};
use crate::error::{Error, Result};
use crate::ids::Generation;

/// Bytes of a name at most, as of a file's.
const NAME_BYTES_MAX: usize = 255;

/// Snapshots at a time. Each is a row; this many are a mistake in a loop.
const SNAPSHOTS_MAX: i64 = 10_000;

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// When it was, among the others.
    pub moment: Moment,
    /// Its name.
    pub name: String,
    /// The last commit that it has.
    pub generation: Generation,
    /// When it was made, in nanoseconds since the epoch.
    pub created: i64,
}

/// A table whose past is kept.
struct Kept {
    table: &'static str,
    key: &'static [&'static str],
    values: &'static [&'static str],
    /// Which changes are kept: a condition over NEW and OLD of an UPDATE.
    when: &'static str,
    /// What is kept at all: a key column that must not be NULL.
    only: Option<&'static str>,
    inserts: bool,
}

const FILE_CHANGED: &str = "WHEN OLD.dev IS NOT NEW.dev OR OLD.ino IS NOT NEW.ino OR OLD.born IS NOT NEW.born \
     OR OLD.kind IS NOT NEW.kind OR OLD.size IS NOT NEW.size OR OLD.mtime IS NOT NEW.mtime \
     OR OLD.mode IS NOT NEW.mode OR OLD.uid IS NOT NEW.uid OR OLD.gid IS NOT NEW.gid";

/// That a file's row is new needs no note: it had no name. A relation's key is one of two.
const KEPT: [Kept; 7] = [
    Kept {
        table: "file",
        key: &["id"],
        values: &[
            "dev", "ino", "born", "kind", "size", "mtime", "mode", "uid", "gid", "state", "hash",
        ],
        when: FILE_CHANGED,
        only: None,
        inserts: false,
    },
    told("name", &["parent", "name"], &["file"]),
    told("vector", &["file", "space"], &["value"]),
    told("tag", &["file", "tag"], &[]),
    told("metadata", &["file", "key"], &["value"]),
    Kept {
        only: Some("dst"),
        ..told("relation", &["src", "type", "dst"], &["properties"])
    },
    Kept {
        only: Some("path"),
        ..told("relation", &["src", "type", "path"], &["properties"])
    },
];

const fn told(table: &'static str, key: &'static [&'static str], values: &'static [&'static str]) -> Kept {
    Kept {
        table,
        key,
        values,
        when: "",
        only: None,
        inserts: true,
    }
}

impl Kept {
    /// The names of its triggers and the statements that make them.
    fn triggers(&self) -> Vec<(String, String)> {
        let table = self.table;
        let end = self.only.unwrap_or("row");
        let trigger = |event: &str, when: &str, rows: &[&str]| {
            let name = format!("keep_{table}_{end}_{}", event.to_lowercase());
            let body: String = rows.iter().map(|row| self.keep(row)).collect();
            let sql = format!("CREATE TRIGGER {name} BEFORE {event} ON {table} {when} BEGIN {body} END");
            (name, sql)
        };
        let mut triggers = vec![
            trigger("UPDATE", self.when, &["OLD", "NEW"]),
            trigger("DELETE", "", &["OLD"]),
        ];
        if self.inserts {
            triggers.push(trigger("INSERT", "", &["NEW"]));
        }
        triggers
    }

    /// The statement that keeps what is under the key of `row`, unless that was done since the latest snapshot. It asks
    /// instead of ignoring a conflict: what a trigger says of conflicts counts less than what its cause says.
    fn keep(&self, row: &str) -> String {
        let Kept {
            table, key, values, ..
        } = self;
        let columns: String = key.iter().chain(*values).map(|c| format!("{c}, ")).collect();
        let keys: String = key.iter().map(|c| format!("{row}.{c}, ")).collect();
        let old: String = values.iter().map(|c| format!("t.{c}, ")).collect();
        let same = |of: &str| {
            let same = key.iter().map(|c| format!("{of}.{c} = {row}.{c}"));
            same.collect::<Vec<_>>().join(" AND ")
        };
        let only = self
            .only
            .map(|c| format!("AND {row}.{c} IS NOT NULL"))
            .unwrap_or_default();
        let (here, kept, first) = (same("t"), same("p"), key[0]);
        format!(
            "INSERT INTO past_{table} ({columns}snapshot, present)
             SELECT {keys}{old}s.id, t.{first} IS NOT NULL
             FROM (SELECT max(id) AS id FROM snapshot) AS s LEFT JOIN {table} AS t ON {here}
             WHERE NOT EXISTS (SELECT 1 FROM past_{table} AS p WHERE {kept} AND p.snapshot = s.id) {only};"
        )
    }
}

/// The tables whose past is kept, each once.
fn tables() -> impl Iterator<Item = &'static str> {
    KEPT.iter().map(|kept| kept.table).take(KEPT.len() - 1)
}

impl Rows<'_> {
    /// The snapshots, the oldest first.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRow>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT id, name, generation, created FROM snapshot ORDER BY id")?;
        let rows = statement.query_map([], snapshot_row)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// A snapshot.
    ///
    /// # Errors
    /// [`Error::NotFound`] when none has the name.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotRow> {
        let mut statement = self
            .0
            .prepare_cached("SELECT id, name, generation, created FROM snapshot WHERE name = ?")?;
        let row = statement.query_row([name], snapshot_row).optional()?;
        row.ok_or_else(|| Error::NotFound(format!("snapshot {name:?}")))
    }
}

impl Tx<'_> {
    /// Names the present generation.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken, [`Error::Invalid`] for what is no name, or when there are too many.
    pub fn make_snapshot(&mut self, name: &str, created: i64) -> Result<SnapshotRow> {
        check_name(name)?;
        match self.rows().snapshot(name) {
            Ok(_) => return Err(Error::Exists(format!("snapshot {name:?}"))),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        match self.snapshot_count()? {
            0 => self.keep_versions()?,
            count if count >= SNAPSHOTS_MAX => {
                return Err(Error::Invalid(format!("there are {count} snapshots already")));
            }
            _ => {}
        }
        let generation = self.generation().0 as i64;
        self.sql
            .prepare_cached("INSERT INTO snapshot (name, generation, created) VALUES (?, ?, ?)")?
            .execute(params![name, generation, created])?;
        self.rows().snapshot(name)
    }

    /// Drops a snapshot. What was kept at it goes over to the one before, which may need it, or goes.
    ///
    /// # Errors
    /// [`Error::NotFound`] when none has the name.
    pub fn drop_snapshot(&mut self, name: &str) -> Result<()> {
        let dropped = self.rows().snapshot(name)?.moment.number();
        let before: Option<i64> =
            self.sql
                .query_row("SELECT max(id) FROM snapshot WHERE id < ?", [dropped], |row| {
                    row.get(0)
                })?;
        for table in tables() {
            if let Some(before) = before {
                let sql = format!("UPDATE OR IGNORE past_{table} SET snapshot = ? WHERE snapshot = ?");
                self.sql.execute(&sql, [before, dropped])?;
            }
            let sql = format!("DELETE FROM past_{table} WHERE snapshot = ?");
            self.sql.execute(&sql, [dropped])?;
        }
        self.sql.execute("DELETE FROM snapshot WHERE id = ?", [dropped])?;
        match self.snapshot_count()? {
            0 => self.keep_no_versions(),
            _ => Ok(()),
        }
    }

    fn snapshot_count(&self) -> Result<i64> {
        Ok(self
            .sql
            .query_row("SELECT count(*) FROM snapshot", [], |row| row.get(0))?)
    }

    fn keep_versions(&mut self) -> Result<()> {
        for (_, sql) in KEPT.iter().flat_map(Kept::triggers) {
            self.sql.execute_batch(&sql)?;
        }
        Ok(())
    }

    fn keep_no_versions(&mut self) -> Result<()> {
        for (name, _) in KEPT.iter().flat_map(Kept::triggers) {
            self.sql.execute_batch(&format!("DROP TRIGGER {name}"))?;
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with(['.', '@'])
        && name != "now"
        && !name.chars().any(|c| c == '/' || c.is_control());
    match fits {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "{name:?} is no name of a snapshot: expected 1 to {NAME_BYTES_MAX} bytes without / and control characters, \
             not beginning with . or @, and not \"now\""
        ))),
    }
}

fn snapshot_row(row: &Row<'_>) -> rusqlite::Result<SnapshotRow> {
    Ok(SnapshotRow {
        moment: Moment::numbered(row.get(0)?),
        name: row.get(1)?,
        generation: Generation(row.get::<_, i64>(2)? as u64),
        created: row.get(3)?,
    })
}

#[cfg(test)]
mod tests;
