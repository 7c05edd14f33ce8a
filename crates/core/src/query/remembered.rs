//! Answers given lately, for those who ask the same again before anything changed: a directory of results is listed,
//! then each of its files is looked up.
//!
//! An answer holds for one generation, one user and one question. Whether the caller may still read what it was made
//! from is asked anew each time, since rights can change behind the mount.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::answer::Hit;
use super::options::Options;
use crate::ids::{FileId, Generation};

/// Answers kept; about 20 kB each.
const ANSWERS_MAX: usize = 64;
/// Then an answer is made anew: `mtime:1h` means another hour by then.
const AGE_MAX: Duration = Duration::from_secs(60);

/// Who asked what.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub(super) generation: Generation,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) scope: Option<FileId>,
    pub(super) text: String,
    pub(super) options: Options,
}

/// An answer, and the rights that it rests on.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) hits: Vec<Hit>,
    pub(super) truncated: bool,
    /// Each path that was met, and whether the caller could read it.
    pub(super) paths: Vec<PathBuf>,
    pub(super) readable: Vec<bool>,
}

/// The answers, the latest last.
#[derive(Default)]
pub struct Remembered {
    answers: Mutex<VecDeque<(Question, Known, Instant)>>,
}

impl Remembered {
    pub(super) fn get(&self, question: &Question) -> Option<Known> {
        let answers = self.answers.lock();
        let mut young = answers
            .iter()
            .rev()
            .take_while(|(.., since)| since.elapsed() < AGE_MAX);
        let found = young.find(|(asked, ..)| asked == question);
        found.map(|(_, known, _)| known.clone())
    }

    pub(super) fn clear(&self) {
        self.answers.lock().clear();
    }

    pub(super) fn put(&self, question: Question, known: Known) {
        let mut answers = self.answers.lock();
        // What an earlier generation answered is never asked for again.
        answers.retain(|(asked, ..)| asked.generation == question.generation && *asked != question);
        if answers.len() == ANSWERS_MAX {
            answers.pop_front();
        }
        answers.push_back((question, known, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(generation: u64, uid: u32, text: &str) -> Question {
        Question {
            generation: Generation(generation),
            uid,
            gid: 0,
            scope: None,
            text: text.to_owned(),
            options: Options::default(),
        }
    }

    fn known(path: &str) -> Known {
        Known {
            hits: Vec::new(),
            truncated: false,
            paths: vec![path.into()],
            readable: vec![true],
        }
    }

    #[test]
    fn an_answer_is_for_its_generation_and_user_only() {
        let remembered = Remembered::default();
        remembered.put(question(1, 0, "a"), known("first"));
        assert_eq!(
            remembered.get(&question(1, 0, "a")).unwrap().paths,
            [PathBuf::from("first")]
        );
        for other in [question(2, 0, "a"), question(1, 7, "a"), question(1, 0, "b")] {
            assert!(remembered.get(&other).is_none());
        }
        remembered.put(question(2, 0, "b"), known("later"));
        assert!(remembered.get(&question(1, 0, "a")).is_none());
    }

    #[test]
    fn the_number_of_answers_is_bounded() {
        let remembered = Remembered::default();
        for i in 0..200 {
            remembered.put(question(1, 0, &i.to_string()), known("x"));
        }
        assert_eq!(remembered.answers.lock().len(), ANSWERS_MAX);
        assert!(remembered.get(&question(1, 0, "199")).is_some());
        assert!(remembered.get(&question(1, 0, "0")).is_none());
    }
}
