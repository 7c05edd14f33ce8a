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
        let mut known = self.rows().file_of(facts.key)?;
        if let Some(former) = known.take_if(|row| !row.facts.same_inode(facts))
            && here.as_ref().is_none_or(|here| here.id != former.id)
        {
            // Its inode number belongs to another file now, so it is gone from wherever it was seen.
            for name in self.rows().names(former.id)? {
                self.unbind(&name)?;
            }
        }
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
            let mut statement = self
                .sql
                .prepare("UPDATE file SET dev = ? WHERE dev = ? AND id <> 1 RETURNING id")?;
            let moved = statement
                .query_map([new.dev as i64, old.dev as i64], |row| row.get::<_, i64>(0))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            drop(statement);
            for id in moved {
                if let Some(row) = self.rows().file(FileId(id as u64))? {
                    self.put(&row)?;
                }
            }
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
            if orphan.get::<_, i64>(1)? == row.facts.mtime
                || names.iter().any(|name| Some(name.as_os_str()) == last)
            {
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
mod tests {
    use super::*;
    use crate::ids::NodeKey;
    use crate::store::Store;
    use crate::store::catalog::Indexed;
    use crate::store::passages::PassageRow;
    use crate::store::relations::{Relation, Target};

    /// A store in a temporary directory, and short words for what happens to it.
    struct Case {
        _dir: tempfile::TempDir,
        store: Store,
    }

    fn inode(ino: u64, kind: Kind) -> Facts {
        Facts {
            key: NodeKey { dev: 1, ino },
            born: 100 + ino as i64,
            kind,
            size: 10,
            mtime: 5,
            ctime: 6,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
        }
    }

    fn file(ino: u64) -> Facts {
        inode(ino, Kind::File)
    }

    fn at(parent: FileId, name: &str) -> Name {
        Name {
            parent,
            name: name.as_bytes().into(),
        }
    }

    impl Case {
        fn new() -> Case {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("store.db")).unwrap();
            Case { _dir: dir, store }
        }

        fn bind(&self, parent: FileId, name: &str, facts: &Facts) -> (FileId, News) {
            let bound = self
                .store
                .write(|tx| tx.bind(&at(parent, name), facts, &Want::Index, Trust::Mtime));
            let result = bound.unwrap().0;
            self.sound();
            result
        }

        fn unbind(&self, parent: FileId, name: &str) {
            self.store.write(|tx| tx.unbind(&at(parent, name))).unwrap();
            self.sound();
        }

        fn tag(&self, id: FileId, tag: &str) {
            self.store.write(|tx| tx.add_tag(id, tag)).unwrap();
        }

        fn index(&self, id: FileId, facts: &Facts, hash: u8) {
            let row = PassageRow {
                bytes: 0..10,
                lines: (1, 1),
                slot: 0,
                hash: [hash; 16],
            };
            let indexed = Indexed {
                facts: *facts,
                hash: Some([hash; 32]),
                passages: Passages::Known {
                    name: name_hash(b"x"),
                    rows: vec![row],
                },
                state: State::Ready,
            };
            self.store.write(|tx| tx.set_indexed(id, indexed, false)).unwrap();
        }

        fn tags_at(&self, path: &str) -> Vec<String> {
            let tags = self.store.read(|rows| match rows.resolve(Path::new(path))? {
                Some(id) => rows.tags(id),
                None => Ok(vec!["missing".into()]),
            });
            tags.unwrap()
        }

        fn state(&self, id: FileId) -> Option<State> {
            let row = self.store.read(|rows| rows.file(id)).unwrap();
            let mirrored = self.store.mirror().get(id).map(|node| node.state.clone());
            let state = row.map(|row| row.state);
            assert_eq!(state, mirrored);
            state
        }

        /// The mirror equals one that is loaded anew, and no row contradicts another.
        fn sound(&self) {
            assert_eq!(self.store.check().unwrap(), Vec::<String>::new());
            let fresh = self.store.read(crate::store::mirror::Mirror::load).unwrap();
            let mirror = self.store.mirror();
            assert_eq!(mirror.counts(), fresh.counts());
            for (id, node) in fresh.iter() {
                assert_eq!(mirror.get(id), Some(node));
                assert_eq!(mirror.paths(id), fresh.paths(id));
            }
            assert_eq!(mirror.iter().count(), fresh.iter().count());
        }
    }

    #[test]
    fn a_renamed_folder_takes_everything_below_along_in_one_row() {
        let case = Case::new();
        let (folder, _) = case.bind(ROOT, "a", &inode(10, Kind::Directory));
        let (below, _) = case.bind(folder, "x", &file(11));
        let (_, news) = case.bind(ROOT, "b", &inode(10, Kind::Directory));
        assert_eq!(news, News::Moved);
        assert_eq!(case.store.mirror().path(below).unwrap(), Path::new("b/x"));
        assert_eq!(
            case.store.read(|rows| rows.resolve(Path::new("a"))).unwrap(),
            None
        );
    }

    #[test]
    fn hard_links_are_one_file_until_the_last_goes() {
        let case = Case::new();
        let two = Facts { nlink: 2, ..file(10) };
        let (id, _) = case.bind(ROOT, "a", &two);
        assert_eq!(case.bind(ROOT, "b", &two).0, id);
        assert_eq!(case.store.mirror().paths(id).len(), 2);
        case.unbind(ROOT, "a");
        assert_eq!(case.store.mirror().path(id).unwrap(), Path::new("b"));
        case.unbind(ROOT, "b");
        assert_eq!(case.state(id), Some(State::Leaving));
        case.store.write(|tx| tx.set_removed(id)).unwrap();
        assert_eq!(case.state(id), None);
    }

    #[test]
    fn an_editors_replacement_keeps_id_and_tags() {
        let case = Case::new();
        let (id, _) = case.bind(ROOT, "a", &file(10));
        case.tag(id, "mine");
        let (temporary, _) = case.bind(ROOT, "a.tmp", &file(11));
        let (after, _) = case.bind(ROOT, "a", &file(11));
        assert_eq!(after, id);
        assert_eq!(case.tags_at("a"), ["mine"]);
        assert_eq!(case.store.mirror().id_of(file(11).key), Some(id));
        assert_eq!(case.state(temporary), Some(State::Leaving));
    }

    #[test]
    fn a_file_with_tags_of_its_own_keeps_them_when_it_replaces_another() {
        let case = Case::new();
        let (a, _) = case.bind(ROOT, "a", &file(10));
        let (b, _) = case.bind(ROOT, "b", &file(11));
        case.tag(a, "of a");
        case.tag(b, "of b");
        assert_eq!(case.bind(ROOT, "a", &file(11)).0, b);
        assert_eq!(case.tags_at("a"), ["of b"]);
        assert_eq!(case.tags_at("b"), ["missing"]);
    }

    #[test]
    fn a_restored_tree_keeps_what_was_told() {
        let case = Case::new();
        let (folder, _) = case.bind(ROOT, "d", &inode(10, Kind::Directory));
        let (id, _) = case.bind(folder, "x", &file(11));
        case.tag(id, "mine");
        case.store
            .write(|tx| tx.set_vector(id, "s", &[1.0, 2.0]))
            .unwrap();
        // Another inode for each name, as after a copy; contents are compared, nothing else changes.
        assert_eq!(case.bind(ROOT, "d", &inode(20, Kind::Directory)).0, folder);
        assert_eq!(case.bind(folder, "x", &file(21)).0, id);
        assert_eq!(case.tags_at("d/x"), ["mine"]);
        // Removed altogether, and brought back later with the same times.
        case.unbind(ROOT, "d");
        case.store.write(|tx| tx.set_removed(id)).unwrap();
        assert_eq!(case.state(id), Some(State::Orphan));
        let (folder, _) = case.bind(ROOT, "d", &inode(30, Kind::Directory));
        assert_eq!(case.bind(folder, "x", &file(31)).0, id);
        let vector = case.store.read(|rows| rows.vector(id, "s")).unwrap().unwrap();
        assert_eq!(vector.value, [1.0, 2.0]);
    }

    #[test]
    fn the_same_content_under_the_same_name_elsewhere_gets_the_orphans_tags() {
        let case = Case::new();
        let (id, _) = case.bind(ROOT, "x", &file(10));
        case.tag(id, "mine");
        case.index(id, &file(10), 7);
        case.unbind(ROOT, "x");
        case.store.write(|tx| tx.set_removed(id)).unwrap();
        let (folder, _) = case.bind(ROOT, "d", &inode(11, Kind::Directory));
        let (other, _) = case.bind(
            folder,
            "x",
            &Facts {
                mtime: 99,
                ..file(12)
            },
        );
        assert_ne!(other, id);
        let adopted = |hash: u8| {
            case.store
                .write(|tx| tx.adopt_orphan(other, &[hash; 32]))
                .unwrap()
                .0
        };
        assert!(!adopted(8));
        assert!(adopted(7));
        assert_eq!(case.tags_at("d/x"), ["mine"]);
    }

    #[test]
    fn purged_orphans_are_gone_for_good() {
        let case = Case::new();
        let (id, _) = case.bind(ROOT, "x", &file(10));
        case.tag(id, "mine");
        case.unbind(ROOT, "x");
        case.store.write(|tx| tx.set_removed(id)).unwrap();
        assert_eq!(
            case.store.write(|tx| tx.purge_orphans(now_ns() + 1)).unwrap().0,
            1
        );
        case.bind(ROOT, "x", &file(10));
        assert_eq!(case.tags_at("x"), Vec::<String>::new());
    }

    #[test]
    fn an_inode_number_used_again_is_another_file() {
        let case = Case::new();
        let (old, _) = case.bind(ROOT, "a", &file(10));
        let (new, _) = case.bind(
            ROOT,
            "b",
            &Facts {
                born: 999,
                ..file(10)
            },
        );
        assert_ne!(old, new);
        assert_eq!(case.tags_at("a"), ["missing"]);
    }

    #[test]
    fn a_file_that_is_found_moved_after_its_loss_is_the_same() {
        let case = Case::new();
        let (id, _) = case.bind(ROOT, "a", &file(10));
        case.index(id, &file(10), 1);
        case.unbind(ROOT, "a");
        assert_eq!(case.state(id), Some(State::Leaving));
        assert_eq!(case.bind(ROOT, "b", &file(10)).0, id);
        assert_eq!(case.state(id), Some(State::Stale));
    }

    #[test]
    fn only_a_change_of_size_or_times_makes_a_ready_file_stale() {
        let case = Case::new();
        let (id, _) = case.bind(ROOT, "a", &file(10));
        case.index(id, &file(10), 1);
        assert_eq!(
            case.bind(
                ROOT,
                "a",
                &Facts {
                    ctime: 9,
                    mode: 0o600,
                    ..file(10)
                }
            ),
            (id, News::Adjusted)
        );
        assert_eq!(case.state(id), Some(State::Ready));
        assert_eq!(
            case.bind(
                ROOT,
                "a",
                &Facts {
                    ctime: 9,
                    mode: 0o600,
                    ..file(10)
                }
            ),
            (id, News::Same)
        );
        assert_eq!(
            case.bind(ROOT, "a", &Facts { size: 11, ..file(10) }),
            (id, News::Changed)
        );
        assert_eq!(case.state(id), Some(State::Stale));
    }

    #[test]
    fn relations_follow_files_and_wait_for_paths() {
        let case = Case::new();
        let (from, _) = case.bind(ROOT, "a", &file(10));
        let relation = Relation {
            from,
            kind: "cites".into(),
            to: Target::Path("b".into()),
            properties: Some("{\"page\":3}".into()),
            derived: false,
        };
        case.store.write(|tx| tx.relate(&relation)).unwrap();
        let (to, _) = case.bind(ROOT, "b", &file(11));
        case.bind(ROOT, "c", &file(11));
        let found = case
            .store
            .read(|rows| rows.relations_to(to, Some("cites")))
            .unwrap();
        assert_eq!(
            found,
            [Relation {
                to: Target::File(to),
                ..relation
            }]
        );
        assert_eq!(
            case.store
                .read(|rows| rows.relations_from(from, Some("other")))
                .unwrap(),
            []
        );
    }

    #[test]
    fn ids_are_never_used_again() {
        let case = Case::new();
        let excluded = Want::Exclude("hidden".into());
        let mut last = ROOT;
        for ino in 10..20 {
            let (id, _) = case
                .store
                .write(|tx| tx.bind(&at(ROOT, "a"), &file(ino), &excluded, Trust::Mtime))
                .unwrap()
                .0;
            assert!(id > last);
            last = id;
            case.unbind(ROOT, "a");
            assert_eq!(case.state(id), None);
        }
    }

    #[test]
    fn a_tree_on_another_device_number_stays_the_same() {
        let case = Case::new();
        let root = |dev| Facts {
            key: NodeKey { dev, ino: 2 },
            ..inode(2, Kind::Directory)
        };
        case.store.write(|tx| tx.bind_root(&root(1))).unwrap();
        let (id, _) = case.bind(ROOT, "a", &file(10));
        case.store.write(|tx| tx.bind_root(&root(9))).unwrap();
        assert_eq!(case.store.mirror().id_of(NodeKey { dev: 9, ino: 10 }), Some(id));
        assert_eq!(case.store.mirror().id_of(NodeKey { dev: 1, ino: 10 }), None);
        case.sound();
    }
}
