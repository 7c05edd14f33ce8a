//! The change feed: what became of which path, at which generation.

use std::path::PathBuf;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use crate::ids::{FileId, Generation};

/// Events that a slow reader may be behind.
const BEHIND_MAX: usize = 8_192;

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A file not known before.
    Created,
    /// Its content may have changed; what is found is stale until [`What::Indexed`].
    Changed,
    /// It has another path.
    Moved,
    /// A name of it is gone.
    Removed,
    /// Its present content can be found.
    Indexed,
    /// Its content could not be read.
    Failed,
}

impl What {
    /// The word for it in the feed.
    pub fn word(self) -> &'static str {
        match self {
            What::Created => "created",
            What::Changed => "changed",
            What::Moved => "moved",
            What::Removed => "removed",
            What::Indexed => "indexed",
            What::Failed => "failed",
        }
    }
}

/// An event of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The commit that made it visible.
    pub generation: Generation,
    /// The file.
    pub file: FileId,
    /// Its path, relative to the root.
    pub path: PathBuf,
    /// What happened.
    pub what: What,
}

/// Who listens.
#[derive(Default)]
pub struct Feed {
    listeners: Mutex<Vec<Sender<Event>>>,
}

impl Feed {
    /// Events from now on. A reader that falls too far behind finds the channel closed: it has to look at everything.
    pub fn subscribe(&self) -> Receiver<Event> {
        let (sender, receiver) = bounded(BEHIND_MAX);
        self.listeners.lock().push(sender);
        receiver
    }

    /// Whether anyone listens; without, nobody needs to make events.
    pub fn is_heard(&self) -> bool {
        !self.listeners.lock().is_empty()
    }

    /// Hands events to all listeners; never waits for one.
    pub fn publish(&self, events: &[Event]) {
        self.listeners.lock().retain(|listener| {
            events.iter().all(|event| match listener.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_is_too_slow_is_cut_off_and_others_go_on() {
        let feed = Feed::default();
        assert!(!feed.is_heard());
        let (slow, quick) = (feed.subscribe(), feed.subscribe());
        let event = Event {
            generation: Generation(1),
            file: FileId(2),
            path: "x".into(),
            what: What::Indexed,
        };
        for _ in 0..BEHIND_MAX + 1 {
            feed.publish(std::slice::from_ref(&event));
            assert_eq!(quick.try_recv().unwrap(), event);
        }
        assert_eq!(slow.iter().count(), BEHIND_MAX);
        feed.publish(std::slice::from_ref(&event));
        assert_eq!(quick.len(), 1);
    }
}
