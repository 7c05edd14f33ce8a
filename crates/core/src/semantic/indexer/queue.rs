//! Which file is indexed next.
//!
//! The store's awaiting rows are the queue; here stands only what a row cannot say: which files someone is at work
//! with, which were touched meanwhile, and which were changed just now and go first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Result;
use crate::ids::FileId;
use crate::store::Store;

/// Rows that are fetched at once.
const FETCH: usize = 2_048;
/// Files that go first; more than these are found in their rows.
const URGENT_MAX: usize = 8_192;

/// Who waits so long without a file may rest.
const REST_AFTER: Duration = Duration::from_secs(2);

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    urgent: VecDeque<FileId>,
    fetched: VecDeque<FileId>,
    /// Rows up to this one were fetched.
    cursor: FileId,
    /// How often the cursor was set back: a fetch that overlaps with that proves nothing.
    searches: u64,
    /// No row waits beyond the cursor, unless someone said so since.
    exhausted: bool,
    fetching: bool,
    /// Files that are handed out, with the number of looks before that.
    working: HashMap<FileId, u64>,
    again: HashSet<FileId>,
    parked: HashSet<FileId>,
    /// How often parked files were looked for.
    looks: u64,
    paused: bool,
    closed: bool,
}

impl Queue {
    /// An empty queue that will look for awaiting rows first.
    pub(super) fn new(paused: bool) -> Queue {
        let state = State {
            urgent: VecDeque::new(),
            fetched: VecDeque::new(),
            cursor: FileId(0),
            searches: 0,
            exhausted: false,
            fetching: false,
            working: HashMap::new(),
            again: HashSet::new(),
            parked: HashSet::new(),
            looks: 0,
            paused,
            closed: false,
        };
        Queue {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The next file to index, to be given back by [`Queue::done`]. Waits for one, and calls `rest` when none has come
    /// for a while; none when the queue is closed.
    pub(super) fn next(&self, store: &Store, rest: impl Fn()) -> Result<Option<FileId>> {
        let mut state = self.state.lock();
        let mut rests = false;
        loop {
            if state.closed {
                return Ok(None);
            }
            if !state.paused {
                if let Some(id) = state.take() {
                    return Ok(Some(id));
                }
                if !state.exhausted && !state.fetching {
                    self.fetch(&mut state, store)?;
                    continue;
                }
            }
            if rests {
                self.changed.wait(&mut state);
                rests = false;
            } else if self.changed.wait_for(&mut state, REST_AFTER).timed_out() {
                parking_lot::MutexGuard::unlocked(&mut state, &rest);
                rests = true;
            }
        }
    }

    /// Fetches awaiting rows, the lock released meanwhile.
    fn fetch(&self, state: &mut parking_lot::MutexGuard<'_, State>, store: &Store) -> Result<()> {
        state.fetching = true;
        let (after, searches) = (state.cursor, state.searches);
        let rows =
            parking_lot::MutexGuard::unlocked(state, || store.read(|rows| rows.awaiting(after, FETCH)));
        state.fetching = false;
        self.changed.notify_all();
        let rows = rows?;
        if state.searches == searches {
            match rows.last() {
                Some(last) => state.cursor = *last,
                None => state.exhausted = true,
            }
        }
        state.fetched.extend(rows);
        Ok(())
    }

    /// Files are about to be made to wait, by the transaction that is going on: whoever is at work with one of them
    /// must not call it done.
    pub(super) fn touch(&self, ids: &[FileId]) {
        let mut state = self.state.lock();
        for id in ids {
            if state.working.contains_key(id) {
                state.again.insert(*id);
            }
            state.parked.remove(id);
        }
    }

    /// Files have been made to wait, the one with the `lowest` id and others. `urgent` ones go first.
    pub(super) fn notify(&self, lowest: FileId, urgent: &[FileId]) {
        let mut state = self.state.lock();
        state.search_from(lowest);
        let room = URGENT_MAX.saturating_sub(state.urgent.len());
        state.urgent.extend(urgent.iter().take(room));
        self.changed.notify_all();
    }

    /// Of these files, those that were touched since they were handed out. Called inside the transaction that
    /// writes down what was made of them.
    pub(super) fn touched(&self, ids: impl Iterator<Item = FileId>) -> HashSet<FileId> {
        let state = self.state.lock();
        ids.filter(|id| state.again.contains(id)).collect()
    }

    /// Work with these files is over. Those that were touched meanwhile come again.
    pub(super) fn done(&self, ids: impl Iterator<Item = FileId>) {
        let mut state = self.state.lock();
        for id in ids {
            state.working.remove(&id);
            if state.again.remove(&id) {
                state.urgent.push_back(id);
            }
        }
        self.changed.notify_all();
    }

    /// A file was not where its row says: leave it alone until it has been looked for.
    pub(super) fn park(&self, id: FileId) {
        let mut state = self.state.lock();
        let looks_before = state.working.remove(&id);
        if !state.again.remove(&id) {
            if looks_before == Some(state.looks) {
                state.parked.insert(id);
            } else {
                // It was looked for while it was worked at: nobody may look again.
                state.search_from(id);
            }
        }
        self.changed.notify_all();
    }

    /// Parked files were looked for.
    pub(super) fn unpark(&self) {
        let mut state = self.state.lock();
        state.looks += 1;
        if !state.parked.is_empty() {
            let parked = std::mem::take(&mut state.parked);
            let lowest = parked.into_iter().min().unwrap_or(FileId(0));
            state.search_from(lowest);
            self.changed.notify_all();
        }
    }

    /// Stops or goes on handing out files.
    pub(super) fn pause(&self, paused: bool) {
        self.state.lock().paused = paused;
        self.changed.notify_all();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state.lock().paused
    }

    /// Files that are handed out.
    pub(super) fn working(&self) -> usize {
        self.state.lock().working.len()
    }

    /// Waits until something in the queue changed.
    pub(super) fn wait_changed(&self, deadline: Instant) {
        let mut state = self.state.lock();
        if !state.closed {
            self.changed.wait_until(&mut state, deadline);
        }
    }

    /// Ends all waiting.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

impl State {
    fn take(&mut self) -> Option<FileId> {
        loop {
            let id = self.urgent.pop_front().or_else(|| self.fetched.pop_front())?;
            if !self.parked.contains(&id) && !self.working.contains_key(&id) {
                self.working.insert(id, self.looks);
                return Some(id);
            }
        }
    }

    /// Awaiting rows may be found from this one on.
    fn search_from(&mut self, lowest: FileId) {
        self.searches += 1;
        self.exhausted = false;
        if lowest <= self.cursor {
            self.cursor = FileId(lowest.0.saturating_sub(1));
            self.fetched.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeKey;
    use crate::store::file::{Facts, Kind, ROOT};
    use crate::store::mirror::Name;
    use crate::store::naming::Want;

    /// A store with one file that waits.
    fn store(dir: &std::path::Path) -> (Store, FileId) {
        let store = Store::open(&dir.join("store.db")).unwrap();
        let at = Name {
            parent: ROOT,
            name: (*b"a.txt").into(),
        };
        let facts = Facts {
            key: NodeKey { dev: 1, ino: 7 },
            born: 0,
            kind: Kind::File,
            size: 1,
            mtime: 1,
            ctime: 1,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            nlink: 1,
        };
        let ((id, _), _) = store
            .write(|tx| tx.bind(&at, &facts, &Want::Index, crate::store::naming::Trust::Nothing))
            .unwrap();
        (store, id)
    }

    #[test]
    fn a_file_that_was_looked_for_while_it_was_worked_at_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let (store, id) = store(dir.path());
        let queue = Queue::new(false);
        assert_eq!(queue.next(&store, || {}).unwrap(), Some(id));
        queue.unpark();
        queue.park(id);
        assert_eq!(queue.next(&store, || {}).unwrap(), Some(id));
        queue.park(id);
        assert!(queue.state.lock().parked.contains(&id), "nobody has looked since");
        queue.unpark();
        assert_eq!(queue.next(&store, || {}).unwrap(), Some(id));
    }
}
