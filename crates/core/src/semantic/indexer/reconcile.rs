//! Places to look at become rows: the backing tree is looked at, then what was found is committed.
//!
//! One thread does this, so that looks and commits of the same place never overtake each other. Within a batch, names
//! that lead to known or new files come first, names that lead to another file than before second, names that are
//! gone last: a file that moved is found at its new name before its old one is given up.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use super::feed::{Event, What};
use super::inbox::{Batch, Place};
use super::marks::Seen;
use super::{Shared, Stage, below};
use crate::change::Change;
use crate::error::{Error, Result};
use crate::ids::{FileId, NodeKey};
use crate::semantic::scan::rules::{FolderRules, Rules};
use crate::semantic::scan::tree::{Found, is_gone};
use crate::store::Tx;
use crate::store::file::{Facts, Kind, ROOT, State};
use crate::store::mirror::{Mirror, Name, NameRef};
use crate::store::naming::{News, Trust, Want};

/// What was found at a place.
struct Look {
    at: Name,
    trust: Trust,
    found: Option<(Found, Want)>,
    marks: Vec<Seen>,
}

/// What a commit did.
#[derive(Default)]
struct Outcome {
    /// Places whose turn comes when the scan is over.
    late: Vec<Place>,
    /// Folders to be scanned.
    scan: Vec<FileId>,
    /// Folders that a rule keeps out from now on.
    excluded: Vec<(FileId, String)>,
    /// Names of folders that are gone with more below them than one commit takes.
    lost_large: Vec<Name>,
    /// Files that wait for the indexer now.
    awaiting: Vec<FileId>,
    moved_folder: bool,
    events: Vec<(Name, FileId, What)>,
}

/// When a place is settled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// As an event: at once and finally.
    Event,
    /// While a scan goes on: what might be explained by a later find is put off.
    Scan,
}

/// How long to wait after a failure before everything is looked at again; doubled at each further failure.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Settles batches until the inbox is closed. What could not be written down, because the disk is full for instance, is
/// found again by a scan.
pub(super) fn run(shared: &Shared) {
    let mut retry = RETRY_MIN;
    while let Some(batch) = shared.inbox.next() {
        match settle(shared, &batch) {
            Ok(()) => {
                shared.recovered(Stage::Names);
                retry = RETRY_MIN;
            }
            Err(error) => {
                tracing::error!(%error, "changes could not be written down; the tree will be scanned");
                shared.fail(Stage::Names, &error);
                shared.sleep(retry);
                retry = (retry * 2).min(RETRY_MAX);
                shared.inbox.push(Change::Everything);
            }
        }
        shared.inbox.settled(&batch);
        shared.queue.unpark();
    }
}

fn settle(shared: &Shared, batch: &Batch) -> Result<()> {
    let events = places_of(shared, &batch.events)?;
    commit(shared, events, When::Event)?;
    commit(shared, batch.places.clone(), When::Scan)?;
    commit(shared, batch.late.clone(), When::Event)
}

/// The places that events name.
fn places_of(shared: &Shared, events: &[Change]) -> Result<Vec<Place>> {
    if events.contains(&Change::Everything) {
        shared.scan_everything()?;
    }
    shared.store.read(|rows| {
        let first_place = |node: &NodeKey, trust| -> Result<Option<Place>> {
            let Some(id) = rows.id_of(*node)? else {
                return Ok(None);
            };
            let mirror = shared.store.mirror();
            let name = mirror.get(id).and_then(|node| node.names().next());
            Ok(name.map(|name| Place {
                folder: name.parent,
                name: name.as_os_str().to_owned(),
                trust,
            }))
        };
        let mut places = Vec::with_capacity(events.len());
        for event in events {
            places.extend(match event {
                // A folder that is not known yet will be scanned when it is.
                Change::Name { parent, name } => rows.id_of(*parent)?.map(|folder| Place {
                    folder,
                    name: name.clone(),
                    trust: Trust::Mtime,
                }),
                Change::Content { node } => first_place(node, Trust::Nothing)?,
                Change::Attributes { node } => first_place(node, Trust::Mtime)?,
                Change::Everything => None,
            });
        }
        Ok(places)
    })
}

/// Looks at the places and commits what was found.
fn commit(shared: &Shared, places: Vec<Place>, when: When) -> Result<()> {
    if places.is_empty() {
        return Ok(());
    }
    for place in &places {
        if Rules::is_rule_file(&place.name) {
            shared.rules.forget();
            shared.inbox.push_folder(place.folder);
        }
    }
    let looks = look(shared, places)?;
    let (outcome, generation) = shared.store.write(|tx| {
        let outcome = bind_all(tx, &looks, when)?;
        // Inside the transaction: whoever is at work with one of these files commits before or after it as a whole.
        shared.queue.touch(&outcome.awaiting);
        Ok(outcome)
    })?;
    looks
        .iter()
        .flat_map(|look| &look.marks)
        .for_each(|seen| shared.marks.clear(*seen));
    if outcome.moved_folder {
        shared.rules.forget();
    }
    shared.inbox.push_late(outcome.late);
    outcome
        .scan
        .into_iter()
        .for_each(|folder| shared.inbox.push_folder(folder));
    for (folder, rule) in outcome.excluded {
        below::exclude(shared, folder, &rule)?;
    }
    for folder in outcome.lost_large {
        below::forget(shared, &folder)?;
    }
    if let Some(lowest) = outcome.awaiting.iter().min() {
        let urgent = if when == When::Event {
            &outcome.awaiting[..]
        } else {
            &[]
        };
        shared.queue.notify(*lowest, urgent);
    }
    if shared.feed.is_heard() {
        let mirror = shared.store.mirror();
        let events = outcome.events.iter().filter_map(|(at, file, what)| {
            Some(Event {
                generation,
                file: *file,
                path: mirror.path_of_name(at)?,
                what: *what,
            })
        });
        let events: Vec<Event> = events.collect();
        drop(mirror);
        shared.feed.publish(&events);
    }
    Ok(())
}

/// Looks at each place, folder by folder. Places in folders that are not where the catalog has them are left out: the
/// folder itself is looked at again.
fn look(shared: &Shared, places: Vec<Place>) -> Result<Vec<Look>> {
    let mut by_folder: BTreeMap<FileId, Vec<Place>> = BTreeMap::new();
    for place in places {
        by_folder.entry(place.folder).or_default().push(place);
    }
    let mut looks = Vec::new();
    for (folder, places) in by_folder {
        let (open, rules) = match shared.open_folder(folder) {
            Ok(Some(folder)) => folder,
            Ok(None) => continue,
            Err(error @ (Error::Os(libc::EACCES) | Error::Io(_))) => {
                tracing::warn!(%error, %folder, "a folder cannot be looked at");
                continue;
            }
            Err(error) => return Err(error),
        };
        for Place { name, trust, .. } in places {
            let at = Name {
                parent: folder,
                name: name.as_bytes().into(),
            };
            let found = match shared.tree.look(open.as_fd(), &name) {
                Ok(found) => found,
                Err(error) if is_gone(&error) => None,
                Err(error) => {
                    tracing::warn!(%error, name = %name.display(), "cannot be looked at");
                    continue;
                }
            };
            let marks = found.map_or(Vec::new(), |found| shared.marks.seen(found.facts.key));
            let trust = if marks.is_empty() { trust } else { Trust::Nothing };
            let found = found.map(|found| (found, shared.rules.verdict(&rules, &name, &found)));
            looks.push(Look {
                at,
                trust,
                found,
                marks,
            });
        }
    }
    Ok(looks)
}

/// Writes the looks down: known and new files, then replaced names, then lost names.
fn bind_all(tx: &mut Tx<'_>, looks: &[Look], when: When) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let (mut replaced, mut lost) = (Vec::new(), Vec::new());
    for look in looks {
        match &look.found {
            None => lost.push(look),
            Some((found, want)) if !replaces(tx, &look.at, &found.facts)? => {
                bind(tx, look, found, want, &mut outcome)?;
            }
            Some(_) => replaced.push(look),
        }
    }
    let put_off = |look: &Look| Place {
        folder: look.at.parent,
        name: look.at.as_os_str().to_owned(),
        trust: look.trust,
    };
    if when == When::Scan {
        outcome.late.extend(replaced.into_iter().chain(lost).map(put_off));
        outcome.awaiting.append(&mut tx.take_awaiting());
        return Ok(outcome);
    }
    for look in replaced {
        if let Some((found, want)) = &look.found {
            bind(tx, look, found, want, &mut outcome)?;
        }
    }
    for look in lost {
        let folder = tx.rows().child(look.at.parent, look.at.as_os_str())?;
        if let Some(folder) = folder
            && below::is_large(&tx.rows(), folder)?
        {
            outcome.lost_large.push(look.at.clone());
            continue;
        }
        if let Some(id) = tx.unbind(&look.at)? {
            outcome.events.push((look.at.clone(), id, What::Removed));
        }
    }
    outcome.awaiting.append(&mut tx.take_awaiting());
    Ok(outcome)
}

/// Whether a file that no row knows stands at the name of a file that one does.
fn replaces(tx: &Tx<'_>, at: &Name, facts: &Facts) -> Result<bool> {
    let rows = tx.rows();
    let Some(here) = rows.child(at.parent, at.as_os_str())? else {
        return Ok(false);
    };
    let Some(here) = rows.file(here)? else {
        return Ok(false);
    };
    if here.facts.kind == Kind::Directory || here.facts.same_inode(facts) {
        return Ok(false);
    }
    Ok(!rows
        .file_of(facts.key)?
        .is_some_and(|row| row.facts.same_inode(facts)))
}

fn bind(tx: &mut Tx<'_>, look: &Look, found: &Found, want: &Want, outcome: &mut Outcome) -> Result<()> {
    let before = match tx.rows().child(look.at.parent, look.at.as_os_str())? {
        Some(id) => tx.rows().file(id)?,
        None => None,
    };
    let (id, news) = tx.bind(&look.at, &found.facts, want, look.trust)?;
    let state = tx.rows().file(id)?.map_or(State::Named, |row| row.state);
    if state.is_awaiting() && news != News::Same {
        outcome.awaiting.push(id);
    }
    if found.facts.kind == Kind::Directory {
        // What lies in a folder is known only of the very folder that was scanned.
        let was_scanned = before.is_some_and(|row| {
            row.state == State::Named && row.id == id && row.facts.same_inode(&found.facts)
        });
        outcome.moved_folder |= news == News::Moved;
        match want {
            Want::Exclude(_) if news == News::Same => {}
            Want::Exclude(rule) => outcome.excluded.push((id, rule.clone())),
            Want::Index if was_scanned => {}
            Want::Index => outcome.scan.push(id),
        }
    }
    let what = match news {
        News::Same | News::Adjusted => return Ok(()),
        News::New => What::Created,
        News::Moved => What::Moved,
        News::Changed => What::Changed,
    };
    outcome.events.push((look.at.clone(), id, what));
    Ok(())
}

/// The name under which a folder stands; the root has none.
fn first_name(mirror: &Mirror, folder: FileId) -> Option<Name> {
    mirror.get(folder)?.names().next().map(NameRef::to_name)
}

impl Shared {
    /// Opens a folder of the catalog and reads its rules. None when it is not where the catalog has it; then its own
    /// place is queued.
    pub(super) fn open_folder(&self, folder: FileId) -> Result<Option<(OwnedFd, Arc<FolderRules>)>> {
        let Some(row) = self.store.read(|rows| rows.file(folder))? else {
            return Ok(None);
        };
        let key = row.facts.key;
        let (path, at) = {
            let mirror = self.store.mirror();
            let Some(path) = mirror.path(folder) else {
                return Ok(None);
            };
            (path, first_name(&mirror, folder))
        };
        let open = match self.tree.open_folder(&path) {
            Ok(open) if folder == ROOT || self.tree.facts_of(&open)?.key == key => open,
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {
                let again = at.map(|at| Place {
                    folder: at.parent,
                    name: at.as_os_str().to_owned(),
                    trust: Trust::Mtime,
                });
                self.inbox.push_late(again);
                return Ok(None);
            }
        };
        let rules = match self.rules.remembered(folder) {
            Some(rules) => rules,
            None => self.read_rules(folder, &open)?,
        };
        Ok(Some((open, rules)))
    }

    /// Reads the rules of an open folder anew, those above it as far as they are not remembered.
    pub(super) fn read_rules(&self, folder: FileId, open: &OwnedFd) -> Result<Arc<FolderRules>> {
        let Some(at) = first_name(&self.store.mirror(), folder) else {
            return self.rules.read(&self.tree, folder, open.as_fd(), None);
        };
        let rules = match self.rules.remembered(at.parent) {
            Some(rules) => rules,
            None => {
                let path = self.store.mirror().path(at.parent).unwrap_or_default();
                let parent = self.tree.open_folder(&path)?;
                self.read_rules(at.parent, &parent)?
            }
        };
        self.rules.read(
            &self.tree,
            folder,
            open.as_fd(),
            Some((rules, OsStr::from_bytes(&at.name))),
        )
    }
}
