//! What is to be looked at: events of the filesystem, places that a scan found different, folders to scan.
//!
//! Bounded: events beyond the bound become one scan of everything, and walkers wait while too many of their places
//! are unsettled. An event that is queued already is not queued again, since it only names a place to look at.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::change::Change;
use crate::ids::FileId;
use crate::store::naming::Trust;

/// Events that wait; about 100 bytes each.
const EVENTS_MAX: usize = 65_536;
/// Places of a scan that wait before walkers pause.
const PLACES_MAX: usize = 16_384;
/// Events and places that are settled in one commit.
const BATCH_MAX: usize = 4_096;

/// How long events gather before they are settled, unless somebody waits for them: a program that makes files by the
/// thousand is not interrupted for each, and one commit serves them all. The first after a rest gathers for a moment only,
/// so that one file is found soon.
const GATHERED_FOR: Duration = Duration::from_millis(50);
const GATHERED_FIRST: Duration = Duration::from_millis(3);
/// A rest, from one batch to the next event.
const REST: Duration = Duration::from_millis(20);

/// A name to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The folder.
    pub folder: FileId,
    /// The name in it.
    pub name: OsString,
    /// What an unchanged row proves.
    pub trust: Trust,
}

/// What the reconciler does next.
#[derive(Debug, Default)]
pub struct Batch {
    /// Events, in the order in which they came.
    pub events: Vec<Change>,
    /// Places that a scan found different.
    pub places: Vec<Place>,
    /// Places at which a scan missed a name or found another file: settled when all else is, so that a file that
    /// was moved is found at its new place first.
    pub late: Vec<Place>,
    ticket: u64,
}

/// The queue.
#[derive(Default)]
pub struct Inbox {
    queue: Mutex<Queue>,
    /// For walkers, and for whoever waits until something is settled.
    changed: Condvar,
    /// For the reconciler: it is woken for the first event, not for each.
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<(u64, Change)>,
    queued: HashSet<Change>,
    places: VecDeque<Place>,
    late: VecDeque<Place>,
    folders: VecDeque<FileId>,
    walking: usize,
    /// Events and places in the batch that is being settled.
    settling: usize,
    received: u64,
    settled: u64,
    /// When the last batch was settled.
    settled_at: Option<Instant>,
    /// Threads that wait until something is settled.
    waiters: usize,
    closed: bool,
}

impl Queue {
    fn scan_is_over(&self) -> bool {
        self.folders.is_empty() && self.walking == 0 && self.places.is_empty()
    }

    /// Whether there is work for the reconciler.
    fn has_work(&self) -> bool {
        !self.events.is_empty() || !self.places.is_empty() || (self.scan_is_over() && !self.late.is_empty())
    }

    /// Whether it should not wait for more.
    fn is_urgent(&self) -> bool {
        self.closed || self.waiters > 0 || self.events.len() >= BATCH_MAX || !self.places.is_empty()
    }

    /// When what came by `now` is settled, if nobody waits for it.
    fn gathers_until(&self, now: Instant) -> Instant {
        let rested = self
            .settled_at
            .is_none_or(|at| now.saturating_duration_since(at) > REST);
        now + if rested { GATHERED_FIRST } else { GATHERED_FOR }
    }

    fn is_idle(&self) -> bool {
        self.scan_is_over() && self.events.is_empty() && self.late.is_empty() && self.settling == 0
    }
}

impl Inbox {
    /// Queues an event. Never waits for anything but the queue's own lock.
    pub fn push(&self, change: Change) {
        let mut queue = self.queue.lock();
        queue.received += 1;
        let everything = Change::Everything;
        let change = if queue.events.len() < EVENTS_MAX {
            change
        } else {
            everything
        };
        if queue.queued.insert(change.clone()) {
            let ticket = queue.received;
            queue.events.push_back((ticket, change));
            if matches!(queue.events.len(), 1 | BATCH_MAX) {
                self.work.notify_one();
            }
        }
    }

    /// Queues a folder to be scanned with everything below it.
    pub fn push_folder(&self, folder: FileId) {
        self.queue.lock().folders.push_back(folder);
        self.changed.notify_all();
    }

    /// Queues places found by a walker; waits while too many are unsettled.
    pub fn push_places(&self, places: Vec<Place>) {
        let mut queue = self.queue.lock();
        while queue.places.len() > PLACES_MAX && !queue.closed {
            self.changed.wait(&mut queue);
        }
        queue.places.extend(places);
        self.work.notify_one();
    }

    /// Queues places to be settled when the scan is over.
    pub fn push_late(&self, places: impl IntoIterator<Item = Place>) {
        self.queue.lock().late.extend(places);
        self.work.notify_one();
    }

    /// The next work of the reconciler; none when the inbox is closed.
    pub fn next(&self) -> Option<Batch> {
        let mut queue = self.queue.lock();
        while !queue.closed && !queue.has_work() {
            self.work.wait(&mut queue);
        }
        let gathered = queue.gathers_until(Instant::now());
        while !queue.is_urgent() && !self.work.wait_until(&mut queue, gathered).timed_out() {}
        if queue.closed {
            return None;
        }
        let mut batch = Batch::default();
        while batch.events.len() < BATCH_MAX
            && let Some((ticket, change)) = queue.events.pop_front()
        {
            queue.queued.remove(&change);
            batch.events.push(change);
            batch.ticket = ticket;
        }
        if queue.events.is_empty() {
            batch.ticket = queue.received;
        }
        let places = queue.places.len().min(BATCH_MAX);
        batch.places.extend(queue.places.drain(..places));
        if batch.events.is_empty() && queue.scan_is_over() && batch.places.is_empty() {
            let late = queue.late.len().min(BATCH_MAX);
            batch.late.extend(queue.late.drain(..late));
        }
        queue.settling = batch.events.len() + batch.places.len() + batch.late.len();
        Some(batch)
    }

    /// The batch was committed, or given up.
    pub fn settled(&self, batch: &Batch) {
        let mut queue = self.queue.lock();
        queue.settling = 0;
        queue.settled_at = Some(Instant::now());
        queue.settled = queue.settled.max(batch.ticket);
        self.changed.notify_all();
    }

    /// The next folder for a walker; none when the inbox is closed.
    pub fn next_folder(&self) -> Option<FileId> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            // The last folder first: the walk goes deep and the queue stays short.
            if let Some(folder) = queue.folders.pop_back() {
                queue.walking += 1;
                return Some(folder);
            }
            self.changed.wait(&mut queue);
        }
    }

    /// A walker has done its folder.
    pub fn walked(&self) {
        self.queue.lock().walking -= 1;
        self.changed.notify_all();
        self.work.notify_one();
    }

    /// Waits until every event received so far is settled. Returns whether it was in time.
    pub fn wait_settled(&self, deadline: Instant) -> bool {
        let mut queue = self.queue.lock();
        let ticket = queue.received;
        self.wait(&mut queue, deadline, |queue| queue.settled >= ticket)
    }

    /// Waits until no folder is walked and all that walks found is settled; events that come meanwhile may wait.
    pub fn wait_walked(&self, deadline: Instant) -> bool {
        let mut queue = self.queue.lock();
        let walked = |queue: &Queue| queue.scan_is_over() && queue.late.is_empty() && queue.settling == 0;
        self.wait(&mut queue, deadline, walked)
    }

    /// Waits until nothing is queued, walked or being settled.
    pub fn wait_idle(&self, deadline: Instant) -> bool {
        let mut queue = self.queue.lock();
        self.wait(&mut queue, deadline, Queue::is_idle)
    }

    fn wait(
        &self,
        queue: &mut parking_lot::MutexGuard<'_, Queue>,
        deadline: Instant,
        done: impl Fn(&Queue) -> bool,
    ) -> bool {
        queue.waiters += 1;
        self.work.notify_one();
        while !done(queue) && !queue.closed && !self.changed.wait_until(queue, deadline).timed_out() {}
        queue.waiters -= 1;
        done(queue)
    }

    /// Events and places that wait or are being settled. To add it to a count of rows that wait, ask for this first:
    /// a place becomes a row that waits before it stops to count here.
    pub fn waiting(&self) -> usize {
        let queue = self.queue.lock();
        queue.events.len() + queue.places.len() + queue.late.len() + queue.settling
    }

    /// Whether a scan is going on.
    pub fn is_scanning(&self) -> bool {
        let queue = self.queue.lock();
        !queue.scan_is_over() || !queue.late.is_empty()
    }

    /// Whether nothing is queued, walked or being settled.
    pub fn is_idle(&self) -> bool {
        self.queue.lock().is_idle()
    }

    /// Ends all waiting.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
        self.work.notify_one();
    }
}

/// A deadline so far from now; absurd timeouts are cut to a day.
pub fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(Duration::from_secs(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeKey;

    fn name(number: u64) -> Change {
        Change::Name {
            parent: NodeKey { dev: 1, ino: 1 },
            name: number.to_string().into(),
        }
    }

    #[test]
    fn an_event_is_queued_once_until_it_is_taken() {
        let inbox = Inbox::default();
        inbox.push(name(1));
        inbox.push(name(2));
        inbox.push(name(1));
        let batch = inbox.next().unwrap();
        assert_eq!(batch.events, [name(1), name(2)]);
        inbox.push(name(1));
        assert!(!inbox.wait_settled(Instant::now()));
        inbox.settled(&batch);
        assert!(
            !inbox.wait_settled(Instant::now()),
            "the event that came later is not settled"
        );
        let batch = inbox.next().unwrap();
        assert_eq!(batch.events, [name(1)]);
        inbox.settled(&batch);
        assert!(inbox.wait_settled(Instant::now()));
        assert!(inbox.is_idle());
    }

    #[test]
    fn events_gather_unless_somebody_waits_for_them() {
        let inbox = Inbox::default();
        inbox.push(name(0));
        let begin = Instant::now();
        let first = inbox.next().unwrap();
        assert_eq!(first.events.len(), 1);
        assert!(begin.elapsed() >= GATHERED_FIRST, "a moment");
        inbox.settled(&first);
        let settled = {
            let queue = inbox.queue.lock();
            let settled = queue.settled_at.unwrap();
            assert_eq!(
                queue.gathers_until(settled),
                settled + GATHERED_FOR,
                "longer while others come"
            );
            let later = settled + REST * 2;
            assert_eq!(queue.gathers_until(later), later + GATHERED_FIRST);
            settled
        };
        (1..=5).for_each(|number| inbox.push(name(number)));
        assert_eq!(inbox.queue.lock().settled_at, Some(settled));
        let batch = inbox.next().unwrap();
        assert_eq!(batch.events.len(), 5);
        inbox.settled(&batch);
        inbox.push(name(1));
        assert!(!inbox.queue.lock().is_urgent());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| inbox.wait_settled(Instant::now() + Duration::from_secs(60)));
            while inbox.queue.lock().waiters == 0 {
                std::thread::yield_now();
            }
            assert!(inbox.queue.lock().is_urgent(), "somebody waits");
            let batch = inbox.next().unwrap();
            inbox.settled(&batch);
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn a_flood_becomes_one_scan_of_everything() {
        let inbox = Inbox::default();
        (0..EVENTS_MAX as u64 + 1000).for_each(|number| inbox.push(name(number)));
        let mut events = Vec::new();
        while !inbox.is_idle() {
            let batch = inbox.next().unwrap();
            inbox.settled(&batch);
            events.extend(batch.events);
        }
        assert_eq!(events.len(), EVENTS_MAX + 1);
        assert_eq!(events.last(), Some(&Change::Everything));
    }

    #[test]
    fn late_places_wait_for_the_end_of_the_scan() {
        let inbox = Inbox::default();
        let place = |name: &str| Place {
            folder: FileId(1),
            name: name.into(),
            trust: Trust::Ctime,
        };
        inbox.push_folder(FileId(1));
        assert_eq!(inbox.next_folder(), Some(FileId(1)));
        inbox.push_late([place("gone")]);
        inbox.push_places(vec![place("new")]);
        let batch = inbox.next().unwrap();
        assert_eq!((batch.places, batch.late), (vec![place("new")], vec![]));
        inbox.walked();
        assert_eq!(inbox.next().unwrap().late, [place("gone")]);
    }

    #[test]
    fn closing_ends_all_waiting() {
        let inbox = Inbox::default();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(inbox.next().is_none()));
            scope.spawn(|| assert!(inbox.next_folder().is_none()));
            std::thread::sleep(Duration::from_millis(20));
            inbox.close();
        });
    }
}
