//! Feeds: reads that wait. The change feed gives a line for each commit, a live query one for each change of its results.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Knowledge;
use super::saved::SavedQuery;
use crate::error::Result;
use crate::fs::ops::Caller;
use crate::ids::NodeKey;
use crate::query::access::readable;
use crate::query::answer::{Answer, path_text};
use crate::query::options::Options;
use crate::query::search::Request;
use crate::semantic::indexer::feed::Event;

/// Makes the lines of a feed: waits for the next ones until the deadline, an empty list when none came.
type Source = Box<dyn FnMut(Instant) -> Vec<String> + Send>;

/// An open feed.
pub struct Feed {
    state: Mutex<State>,
}

struct State {
    source: Source,
    buffered: VecDeque<u8>,
}

impl Feed {
    pub(super) fn new(source: Source) -> Feed {
        Feed {
            state: Mutex::new(State {
                source,
                buffered: VecDeque::new(),
            }),
        }
    }

    /// At most `size` bytes of the feed, waiting up to `wait` for them. An empty line when nothing happened in that
    /// time; nothing at all only at the end of the feed.
    pub fn read(&self, size: usize, wait: Duration) -> Vec<u8> {
        let mut state = self.state.lock();
        if state.buffered.is_empty() {
            for line in (state.source)(Instant::now() + wait) {
                state.buffered.extend(line.bytes());
                state.buffered.push_back(b'\n');
            }
        }
        let taken = size.min(state.buffered.len());
        state.buffered.drain(..taken).collect()
    }
}

/// Compares the results of a live query with those that were seen before.
#[derive(Default)]
pub(super) struct Watched {
    seen: BTreeMap<PathBuf, (usize, bool)>,
}

impl Watched {
    /// A line for each file that came, left, or changed its stale mark.
    pub(super) fn lines(&mut self, answer: &Answer) -> Vec<String> {
        let now: BTreeMap<PathBuf, (usize, bool)> = answer
            .hits
            .iter()
            .enumerate()
            .map(|(i, hit)| (hit.path.clone(), (i, hit.stale)))
            .collect();
        let mut lines = Vec::new();
        for (i, hit) in answer.hits.iter().enumerate() {
            let op = match self.seen.get(&hit.path) {
                None => "add",
                Some((_, stale)) if *stale != hit.stale => "update",
                Some(_) => continue,
            };
            let mut line = hit.json(i + 1, answer);
            line["op"] = json!(op);
            lines.push(line.to_string());
        }
        for path in self.seen.keys().filter(|path| !now.contains_key(*path)) {
            let line = json!({"op": "remove", "path": path_text(path), "generation": answer.generation.0, "pending": answer.pending});
            lines.push(line.to_string());
        }
        self.seen = now;
        lines
    }
}

/// A feed of the changes of a query's results: `run` answers it, `wait` returns when a commit may have changed it.
pub(super) fn live(
    mut run: impl FnMut() -> Result<Answer> + Send + 'static,
    mut wait: impl FnMut(Instant) -> bool + Send + 'static,
) -> Feed {
    let mut watched = Watched::default();
    let mut first = true;
    Feed::new(Box::new(move |deadline| {
        if !first && !wait(deadline) {
            return vec![String::new()];
        }
        first = false;
        let lines = match run() {
            Ok(answer) => watched.lines(&answer),
            Err(error) => vec![json!({"op": "error", "error": error.to_string()}).to_string()],
        };
        if lines.is_empty() {
            vec![String::new()]
        } else {
            lines
        }
    }))
}

impl Knowledge {
    /// A feed of what is committed from now on, of the files that the caller may read.
    pub fn subscribe(self: &Arc<Knowledge>, caller: Caller) -> Feed {
        let events = self.indexer.subscribe();
        let knowledge = self.clone();
        Feed::new(Box::new(move |deadline| match events.recv_deadline(deadline) {
            Ok(event) => {
                let readable = readable(knowledge.root.as_fd(), &caller, std::slice::from_ref(&event.path));
                // What is gone can be read by nobody; who could is not known any more, so only its owner hears of it.
                let hears = readable == [true] || caller.uid == rustix::process::geteuid().as_raw();
                vec![if hears {
                    event_json(&event).to_string()
                } else {
                    String::new()
                }]
            }
            Err(error) if error.is_timeout() => vec![String::new()],
            Err(_) => Vec::new(),
        }))
    }

    /// A feed of the changes of a saved query's results.
    pub fn live(self: &Arc<Knowledge>, caller: Caller, scope: NodeKey, saved: SavedQuery) -> Result<Feed> {
        saved.what()?;
        let (asks, waits) = (self.clone(), self.clone());
        let run = move || {
            let options = Options {
                k: 100,
                ..Options::default()
            };
            let what = saved.what()?;
            let request = Request {
                caller: &caller,
                scope: Some(scope),
                what,
                options: &options,
                fresh: Default::default(),
            };
            asks.search(&request)
        };
        let mut seen = self.store.generation();
        let wait = move |deadline: Instant| loop {
            let now = waits.store.generation();
            if now != seen {
                seen = now;
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        Ok(live(run, wait))
    }
}

/// A line of the change feed.
fn event_json(event: &Event) -> Value {
    json!({
        "generation": event.generation.0,
        "what": event.what.word(),
        "path": path_text(&event.path),
        "id": event.file.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_gives_lines_in_parts_an_empty_line_when_idle_and_ends_when_its_source_does() {
        let mut parts = vec![
            vec![],
            vec!["one".to_owned(), "two".to_owned()],
            vec![String::new()],
        ];
        let feed = Feed::new(Box::new(move |_| parts.pop().unwrap_or_default()));
        assert_eq!(feed.read(100, Duration::ZERO), b"\n");
        assert_eq!(feed.read(3, Duration::ZERO), b"one");
        assert_eq!(feed.read(100, Duration::ZERO), b"\ntwo\n");
        assert_eq!(feed.read(100, Duration::ZERO), b"");
    }

    fn answer(paths: &[&str], generation: u64) -> Answer {
        let hit = |path: &&str| crate::query::answer::Hit {
            file: crate::ids::FileId(1),
            path: PathBuf::from(path),
            score: 1.0,
            score_vec: None,
            score_bm25: None,
            score_rel: None,
            passages: vec![],
            stale: false,
            generation: crate::ids::Generation(1),
        };
        Answer {
            query: String::new(),
            generation: crate::ids::Generation(generation),
            pending: 0,
            took: Duration::ZERO,
            truncated: false,
            hits: paths.iter().map(hit).collect(),
        }
    }

    #[test]
    fn a_live_query_tells_what_came_and_what_left_and_nothing_when_nothing_did() {
        let answers = [
            answer(&["a", "b"], 1),
            answer(&["b", "a"], 2),
            answer(&["b", "c"], 3),
        ];
        let mut next = answers.into_iter();
        let feed = live(move || Ok(next.next().expect("three answers")), |_| true);
        let ops = || {
            let text = String::from_utf8(feed.read(10_000, Duration::ZERO)).unwrap();
            let op = |line: &str| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                format!(
                    "{} {}",
                    line["op"].as_str().unwrap(),
                    line["path"].as_str().unwrap()
                )
            };
            text.lines()
                .filter(|line| !line.is_empty())
                .map(op)
                .collect::<Vec<_>>()
        };
        assert_eq!(ops(), ["add a", "add b"]);
        assert_eq!(ops(), [""; 0]);
        assert_eq!(ops(), ["add c", "remove a"]);
    }
}
