//! Names come and go: which file does a name mean after the backing tree was looked at?
//!
//! Identity is the inode (device, number, time of birth). A name that leads to another inode than before is a
//! replacement, as editors do when they write a temporary file and rename it: then what we were told stays with the
//! name. A file whose last name goes is forgotten, but what we were told about it is kept as an *orphan*, until a
//! file with the same path and times, or with the same content, returns (a restored copy, another branch checked
//! out and back), or until it is purged.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{OptionalExtension, params};

use super::Tx;
use super::file::{Facts, FileRow, Kind, ROOT, State};
use super::mirror::{Name, Touch};
use super::passages::{Passages, name_hash};
use crate::error::{Error, Result};
use crate::ids::FileId;

/// How long after its unlink a file that is made under the same path counts as the same, whatever it contains: some
/// programs save by removing and writing anew.
const RETURN_MAX: Duration = Duration::from_secs(60);

/// What the rules want for a file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Its content shall be searchable.
    Index,
    /// A rule keeps it out.
    Exclude(String),
}

/// What an unchanged row proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Equal size and mtime: the content is the same. For events that change the ctime alone: rename, link, chmod.
    Mtime,
    /// Equal size, mtime and ctime. For what happened unseen.
    Ctime,
    /// Nothing: compare the content.
    Nothing,
}

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    Same,
    /// A file not known before.
    New,
    /// A known file has this name now.
    Moved,
    /// The content may have changed.
    Changed,
    /// Only attributes changed, or the rule that applies.
    Adjusted,
}

impl Tx<'_> {
    /// Writes down what stands at a name. Returns the file that it means and what is new about it.
    pub fn bind(&mut self, at: &Name, facts: &Facts, want: &Want, trust: Trust) -> Result<(FileId, News)> {
        let here = match self.rows().child(at.parent, at.as_os_str())? {
            Some(id) => self.rows().file(id)?,
            None => None,
        };
        let known = self.file_of_inode(facts, here.as_ref().map(|here| here.id))?;
        match (here, known) {
            (Some(here), Some(known)) if here.id == known.id => self.refresh(here, facts, want, trust),
            (Some(here), None) if self.is_successor(&here, facts)? => {
                self.refresh(here, facts, want, Trust::Nothing)
            }
            (Some(here), Some(known)) if self.takes_over(&here, &known)? => {
                self.merge(&here, &known)?;
                self.refresh(here, facts, want, Trust::Nothing)
            }
            (here, known) => {
                if here.is_some() {
                    self.unbind(at)?;
                }
                match known {
                    Some(known) => self.move_to(at, known, facts, want, trust),
                    None => self.arrive(at, facts, want),
                }
            }
        }
    }

    /// The file that an inode is. Another that had the number before is gone from wherever it was seen, unless it is
    /// `here`, whose next version this is.
    fn file_of_inode(&mut self, facts: &Facts, here: Option<FileId>) -> Result<Option<FileRow>> {
        let mut known = self.rows().file_of(facts.key)?;
        if let Some(former) = known.take_if(|row| !row.facts.same_inode(facts))
            && here != Some(former.id)
        {
            for name in self.rows().names(former.id)? {
                self.unbind(&name)?;
            }
        }
        Ok(known)
    }

    /// A file's next version is another inode, which is about to stand where the file is or where it goes. What an
    /// event says of the new place then means this file.
    pub fn succeed(&mut self, id: FileId, facts: &Facts) -> Result<()> {
        let Some(row) = self.rows().file(id)? else {
            return Ok(());
        };
        if !row.state.is_live() || self.file_of_inode(facts, Some(id))?.is_some() {
            return Ok(());
        }
        let want = match &row.state {
            State::Excluded(rule) => Want::Exclude(rule.clone()),
            _ => Want::Index,
        };
        self.refresh(row, facts, &want, Trust::Nothing).map(|_| ())
    }

    /// Removes a name. A file without another name leaves; a folder leaves with everything below.
    /// Returns the file that the name meant.
    pub fn unbind(&mut self, at: &Name) -> Result<Option<FileId>> {
        let Some(id) = self.rows().child(at.parent, at.as_os_str())? else {
            return Ok(None);
        };
        let mut leaving = vec![(at.clone(), id, self.rows().path_of_name(at)?)];
        while let Some((name, id, path)) = leaving.pop() {
            self.unname(id, &name)?;
            if !self.rows().names(id)?.is_empty() {
                self.check_title(id)?;
                continue;
            }
            for (child, child_id) in self.rows().children(id)? {
                let child_path = path.join(OsStr::from_bytes(&child));
                leaving.push((
                    Name {
                        parent: id,
                        name: child,
                    },
                    child_id,
                    child_path,
                ));
            }
            self.depart(id, &path)?;
        }
        Ok(Some(id))
    }

    /// Writes down the root folder. When the whole tree comes from another device now (a device number is given anew
    /// at each mount), all rows follow.
    pub fn bind_root(&mut self, facts: &Facts) -> Result<()> {
        let Some(mut root) = self.rows().file(ROOT)? else {
            return Err(Error::Corrupt {
                what: "the store".into(),
                at: "the root folder".into(),
            });
        };
        let (old, new) = (root.facts.key, facts.key);
        if old.ino == new.ino && root.facts.born == facts.born && old.dev != new.dev {
            self.sql.execute(
                "UPDATE file SET dev = ? WHERE dev = ? AND id <> 1",
                [new.dev as i64, old.dev as i64],
            )?;
        }
        if root.facts != *facts {
            root.facts = *facts;
            self.put(&root)?;
        }
        Ok(())
    }

    /// What we were told about an orphan goes to a file that has the same content and the same last name or mtime.
    /// Called when the content of a file has become known.
    pub fn adopt_orphan(&mut self, id: FileId, hash: &[u8; 32]) -> Result<bool> {
        let Some(row) = self.rows().file(id)? else {
            return Ok(false);
        };
        // Many files are empty; that says nothing about their identity.
        if row.facts.size == 0 || self.rows().is_told(id)? {
            return Ok(false);
        }
        let names = self.rows().names(id)?;
        let mut statement = self
            .sql
            .prepare_cached("SELECT id, mtime, gone_path FROM file WHERE state = 7 AND hash = ? LIMIT 64")?;
        let mut orphans = statement.query([hash.as_slice()])?;
        let mut found = None;
        while let Some(orphan) = orphans.next()? {
            let path: Vec<u8> = orphan.get::<_, Option<Vec<u8>>>(2)?.unwrap_or_default();
            let last = Path::new(OsStr::from_bytes(&path)).file_name();
            let is_like = orphan.get::<_, i64>(1)? == row.facts.mtime
                || names.iter().any(|name| Some(name.as_os_str()) == last);
            // What stands at its place again is that file, even if what was told of it was told anew.
            if is_like && !self.is_taken(Path::new(OsStr::from_bytes(&path)), &row)? {
                found = Some(FileId(orphan.get::<_, i64>(0)? as u64));
                break;
            }
        }
        drop(orphans);
        drop(statement);
        let Some(orphan) = found else { return Ok(false) };
        self.move_told(orphan, id)?;
        self.delete(orphan)?;
        Ok(true)
    }

    /// Whether another file of the same size stands at a path.
    fn is_taken(&self, path: &Path, by_other_than: &FileRow) -> Result<bool> {
        let Some(id) = self.rows().resolve(path)?.filter(|id| *id != by_other_than.id) else {
            return Ok(false);
        };
        let there = self.rows().file(id)?;
        Ok(there.is_some_and(|there| there.facts.size == by_other_than.facts.size))
    }

    /// Forgets orphans that lost their name before the given time (nanoseconds since the epoch). Returns how many.
    pub fn purge_orphans(&mut self, before: i64) -> Result<usize> {
        let mut statement = self
            .sql
            .prepare("SELECT id FROM file WHERE state = 7 AND gone_at < ?")?;
        let ids = statement
            .query_map([before], |row| row.get::<_, i64>(0))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        drop(statement);
        for id in &ids {
            self.forget_told(FileId(*id as u64))?;
            self.delete(FileId(*id as u64))?;
        }
        Ok(ids.len())
    }

    /// Brings the row of a file up to what was seen.
    fn refresh(
        &mut self,
        mut row: FileRow,
        facts: &Facts,
        want: &Want,
        trust: Trust,
    ) -> Result<(FileId, News)> {
        let before = row.clone();
        let same = match trust {
            Trust::Mtime => {
                row.facts.ctime != 0
                    && row.facts.same_inode(facts)
                    && (row.facts.size, row.facts.mtime) == (facts.size, facts.mtime)
            }
            Trust::Ctime => facts.same_content(&row.facts),
            Trust::Nothing => false,
        };
        row.facts = *facts;
        row.state = self.state_for(&row, want, same)?;
        if row == before {
            return Ok((row.id, News::Same));
        }
        self.put(&row)?;
        let news = if !same && row.state.is_awaiting() {
            News::Changed
        } else {
            News::Adjusted
        };
        Ok((row.id, news))
    }

    /// The state of a live file after a look at it.
    fn state_for(&self, row: &FileRow, want: &Want, same: bool) -> Result<State> {
        let is_file = row.facts.kind == Kind::File;
        Ok(match (want, &row.state) {
            (Want::Exclude(rule), _) if !is_file => State::Excluded(rule.clone()),
            (Want::Index, _) if !is_file => State::Named,
            (Want::Exclude(rule), _) => match self.awaiting_state(row.id)? {
                State::Pending => State::Excluded(rule.clone()),
                stale => stale,
            },
            (Want::Index, State::Ready | State::Failed(_) | State::Pending | State::Stale) if same => {
                row.state.clone()
            }
            (Want::Index, State::Excluded(rule)) if same && rule.starts_with(CONTENT_RULE) => {
                row.state.clone()
            }
            (Want::Index, _) => self.awaiting_state(row.id)?,
        })
    }

    /// Whether an unknown inode at the name of a known file is the file's next version, or a copy restored in its place.
    fn is_successor(&self, here: &FileRow, facts: &Facts) -> Result<bool> {
        Ok(here.facts.kind == facts.kind && self.rows().names(here.id)?.len() == 1)
    }

    /// Whether a known file that was renamed over another takes the other's place in what we were told.
    fn takes_over(&self, here: &FileRow, known: &FileRow) -> Result<bool> {
        Ok(here.facts.kind == Kind::File
            && known.facts.kind == Kind::File
            && self.rows().is_told(here.id)?
            && !self.rows().is_told(known.id)?
            && self.rows().names(here.id)?.len() == 1)
    }

    /// Gives the names of `known` to `here`, which becomes its inode; `known` leaves.
    fn merge(&mut self, here: &FileRow, known: &FileRow) -> Result<()> {
        for name in self.rows().names(known.id)? {
            self.unname(known.id, &name)?;
            if known.facts.nlink > 1 {
                self.give_name(here.id, &name)?;
            }
        }
        self.depart(known.id, Path::new(""))
    }

    /// A known file has one more name, or, when the backing filesystem counts one link, this one only.
    fn move_to(
        &mut self,
        at: &Name,
        mut known: FileRow,
        facts: &Facts,
        want: &Want,
        trust: Trust,
    ) -> Result<(FileId, News)> {
        if facts.nlink == 1 || facts.kind == Kind::Directory {
            for old in self.rows().names(known.id)? {
                self.unname(known.id, &old)?;
            }
        }
        let id = known.id;
        if !known.state.is_live() {
            known.state = self.awaiting_state(id)?;
            self.put(&known)?;
            self.come_back(id)?;
        }
        self.give_name(id, at)?;
        let (_, news) = self.refresh(known, facts, want, trust)?;
        self.check_title(id)?;
        Ok((id, if news == News::Changed { news } else { News::Moved }))
    }

    /// A file that no row knows, unless it is an orphan's return.
    fn arrive(&mut self, at: &Name, facts: &Facts, want: &Want) -> Result<(FileId, News)> {
        if let Some(orphan) = self.orphan_at(at, facts)? {
            let id = orphan.id;
            self.come_back(id)?;
            self.give_name(id, at)?;
            self.refresh(orphan, facts, want, Trust::Nothing)?;
            return Ok((id, News::New));
        }
        let state = match (want, facts.kind) {
            (Want::Exclude(rule), _) => State::Excluded(rule.clone()),
            (Want::Index, Kind::File) => State::Pending,
            (Want::Index, _) => State::Named,
        };
        let id = self.insert(facts, state)?;
        self.give_name(id, at)?;
        Ok((id, News::New))
    }

    /// The orphan that was last seen at this path with this size and mtime, or that left it only just now.
    fn orphan_at(&self, at: &Name, facts: &Facts) -> Result<Option<FileRow>> {
        let any = self
            .sql
            .prepare_cached("SELECT 1 FROM file WHERE state = 7 LIMIT 1")?
            .exists([])?;
        if !any {
            return Ok(None);
        }
        let path = self.rows().path_of_name(at)?;
        let recent = now_ns() - RETURN_MAX.as_nanos() as i64;
        let id = self
            .sql
            .prepare_cached(
                "SELECT id FROM file WHERE state = 7 AND gone_path = ?1 AND kind = ?2
                 AND (kind = 2 OR gone_at > ?3 OR (size = ?4 AND mtime = ?5)) ORDER BY gone_at DESC LIMIT 1",
            )?
            .query_row(
                params![
                    path.as_os_str().as_bytes(),
                    facts.kind as u8,
                    recent,
                    facts.size as i64,
                    facts.mtime
                ],
                |row| row.get::<_, i64>(0),
            )
            .optional()?;
        match id {
            Some(id) => self.rows().file(FileId(id as u64)),
            None => Ok(None),
        }
    }

    /// A file lost its last name.
    fn depart(&mut self, id: FileId, path: &Path) -> Result<()> {
        let Some(mut row) = self.rows().file(id)? else {
            return Ok(());
        };
        self.detach_derived(id, path)?;
        // The indexer may be at work with an awaiting file: only it may end that.
        let derived = row.state.is_awaiting() || self.awaiting_state(id)? == State::Stale;
        row.state = match derived {
            true => State::Leaving,
            false if self.rows().is_told(id)? => State::Orphan,
            false => return self.delete(id),
        };
        self.put(&row)?;
        if derived {
            self.awaiting.push(id);
        }
        self.sql
            .prepare_cached("UPDATE file SET gone_path = ?, gone_at = ? WHERE id = ?")?
            .execute(params![path.as_os_str().as_bytes(), now_ns(), id.0 as i64])?;
        Ok(())
    }

    /// Files are found by their name too: one that is called otherwise now waits to be indexed with its new name.
    fn check_title(&mut self, id: FileId) -> Result<()> {
        let Some(mut row) = self.rows().file(id)? else {
            return Ok(());
        };
        if row.state == State::Ready
            && let Passages::Known { name, .. } = self.rows().passages(id)?
            && title(&self.rows().names(id)?).map(name_hash) != Some(name)
        {
            row.state = State::Stale;
            self.put(&row)?;
            self.awaiting.push(id);
        }
        Ok(())
    }

    fn come_back(&mut self, id: FileId) -> Result<()> {
        self.sql
            .prepare_cached("UPDATE file SET gone_path = NULL, gone_at = NULL WHERE id = ?")?
            .execute([id.0 as i64])?;
        Ok(())
    }

    fn give_name(&mut self, id: FileId, name: &Name) -> Result<()> {
        self.sql
            .prepare_cached("INSERT INTO name VALUES (?, ?, ?)")?
            .execute(params![name.parent.0 as i64, &*name.name, id.0 as i64])?;
        self.touches.push(Touch::Named {
            id,
            name: name.clone(),
        });
        self.attach_relations(name, id)
    }

    fn unname(&mut self, id: FileId, name: &Name) -> Result<()> {
        self.sql
            .prepare_cached("DELETE FROM name WHERE parent = ? AND name = ?")?
            .execute(params![name.parent.0 as i64, &*name.name])?;
        self.touches.push(Touch::Unnamed {
            id,
            name: name.clone(),
        });
        Ok(())
    }
}

/// Rules that begin so were found by reading the content, not by the name: they hold until the content changes.
pub const CONTENT_RULE: &str = "content:";

/// The name under which a file is found: of several names the first in the order of their bytes.
pub fn title(names: &[Name]) -> Option<&[u8]> {
    names.iter().map(|name| &*name.name).min()
}

/// The present in nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl super::Rows<'_> {
    /// Where an orphan stood when it lost its last name.
    pub fn gone_path(&self, id: FileId) -> Result<Option<PathBuf>> {
        let mut statement = self.0.prepare_cached("SELECT gone_path FROM file WHERE id = ?")?;
        let path = statement
            .query_row([id.0 as i64], |row| row.get::<_, Option<Vec<u8>>>(0))
            .optional()?;
        Ok(path
            .flatten()
            .map(|bytes| PathBuf::from(OsStr::from_bytes(&bytes))))
    }
}

#[cfg(test)]
mod tests;
