//! Questions about how files hang together: neighbours, the way from one to another, and what is near by relations and
//! likeness together.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Knowledge;
use super::relations::{SHOWN_MAX, Way};
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::{FileId, Generation};
use crate::query::answer::{exact_path, path_text};
use crate::query::options::Options;
use crate::query::search::{Request, What};
use crate::query::sight::CallersSight;
use crate::relation::nearness;
use crate::relation::walk::{Bounds, Reached, neighbours, shortest_path};
use crate::store::relations::Direction;

/// Steps of a walk at most: beyond this nearly everything is related to nearly everything.
const DEPTH_MAX: u32 = 32;
/// Files that the search for a way may visit.
const WAY_FILES_MAX: usize = 100_000;
/// Files like the one asked about, from which nearness spreads too.
const SIMILAR: usize = 20;

/// What is asked about a file's relations.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The file, below the root.
    pub path: PathBuf,
    /// Steps to walk.
    #[serde(default = "one")]
    pub depth: u32,
    /// Follow relations of this type only.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Follow relations in this direction only.
    #[serde(default)]
    pub direction: Way,
    /// Files in the answer at most.
    #[serde(default = "thousand")]
    pub limit: usize,
    /// Ask for a shortest way to this file.
    #[serde(default)]
    pub to: Option<PathBuf>,
    /// Ask for the files nearest by relations and likeness.
    #[serde(default)]
    pub rank: bool,
}

impl Question {
    /// Refuses what has no answer.
    pub(super) fn check(&self) -> Result<()> {
        if !(1..=DEPTH_MAX).contains(&self.depth) || !(1..=SHOWN_MAX).contains(&self.limit) {
            return Err(Error::Invalid(format!(
                "a depth of 1 to {DEPTH_MAX} and a limit of 1 to {SHOWN_MAX} are expected"
            )));
        }
        match self.rank && self.to.is_some() {
            true => Err(Error::Invalid(
                "a way to a file has no ranking: ask for one of both".into(),
            )),
            false => Ok(()),
        }
    }
}

fn one() -> u32 {
    1
}

fn thousand() -> usize {
    1000
}

/// What was found, in order: by depth, along the way, or the nearest first.
#[derive(Clone, Debug)]
pub struct Found {
    /// The commit that was read.
    pub generation: Generation,
    /// Files that changed and whose relations are not derived yet.
    pub pending: u64,
    /// How long it took.
    pub took: Duration,
    /// A bound left some out.
    pub truncated: bool,
    /// The files, each a JSON object with at least `rank` and `path`.
    pub hits: Vec<Value>,
}

impl Found {
    /// The answer as one JSON object.
    pub fn json(&self, path: &Path) -> Value {
        json!({
            "file": path_text(path),
            "generation": self.generation.0,
            "pending": self.pending,
            "took_ms": (self.took.as_secs_f64() * 1e6).round() / 1e3,
            "truncated": self.truncated,
            "hits": self.hits,
        })
    }
}

impl Knowledge {
    /// Answers a question about a file's relations, as if what the caller may not read were not there.
    pub fn related(&self, caller: &Caller, question: &Question) -> Result<Found> {
        let started = Instant::now();
        let pending = self.pending()?;
        question.check()?;
        let file = self.known_file(caller, &question.path)?;
        let (mut hits, truncated) = match (&question.to, question.rank) {
            (Some(to), _) => (self.way(caller, question, file, to)?, false),
            (None, true) => (self.nearest(caller, question, file)?, false),
            (None, false) => self.walk(caller, question, file)?,
        };
        for (rank, hit) in (1..).zip(&mut hits) {
            hit["rank"] = json!(rank);
        }
        Ok(Found {
            generation: self.store.generation(),
            pending,
            took: started.elapsed(),
            truncated,
            hits,
        })
    }

    fn known_file(&self, caller: &Caller, path: &Path) -> Result<FileId> {
        self.known_at(self.node_at(caller, path, false)?, path)
    }

    /// The relations of the file itself, dangling ones among them, then files farther away.
    fn walk(&self, caller: &Caller, question: &Question, file: FileId) -> Result<(Vec<Value>, bool)> {
        let (kind, direction) = (question.kind.as_deref(), question.direction.direction());
        let mut sight = self.searcher.sight(caller);
        let direct = self.relations_of(caller, file, kind, direction)?;
        let mut truncated = direct.len() > question.limit;
        let mut hits: Vec<Value> = direct.iter().take(question.limit).map(|r| r.json()).collect();
        hits.iter_mut().for_each(|hit| hit["depth"] = json!(1));
        if question.depth > 1 {
            let bounds = Bounds {
                depth: question.depth,
                files: question.limit,
            };
            let walk = self
                .store
                .read(|rows| neighbours(rows, file, kind, direction, bounds, &mut sight))?;
            truncated |= walk.truncated;
            let farther = walk.reached.iter().filter(|reached| reached.depth > 1);
            hits.extend(farther.filter_map(|reached| step_json(&mut sight, reached)));
            truncated |= hits.len() > question.limit;
            hits.truncate(question.limit);
        }
        Ok((hits, truncated))
    }

    fn way(&self, caller: &Caller, question: &Question, file: FileId, to: &Path) -> Result<Vec<Value>> {
        let (kind, direction) = (question.kind.as_deref(), question.direction.direction());
        let to = self.known_file(caller, to)?;
        let mut sight = self.searcher.sight(caller);
        let ends = (file, to);
        let way = self
            .store
            .read(|rows| shortest_path(rows, ends, kind, direction, WAY_FILES_MAX, &mut sight))?;
        let steps = way.unwrap_or_default();
        Ok(steps
            .iter()
            .filter_map(|step| step_json(&mut sight, step))
            .collect())
    }

    fn nearest(&self, caller: &Caller, question: &Question, file: FileId) -> Result<Vec<Value>> {
        if question.kind.is_some() || question.direction.direction() != Direction::Both {
            return Err(Error::Invalid(
                "a ranking follows relations of all types, both ways".into(),
            ));
        }
        let options = Options {
            k: SIMILAR,
            ..Options::default()
        };
        let alike = self.searcher.search(&Request {
            caller,
            scope: None,
            what: What::Like(&question.path),
            options: &options,
            fresh: Default::default(),
        })?;
        let similar: Vec<(FileId, f32)> = alike.hits.iter().map(|hit| (hit.file, hit.score)).collect();
        let mut sight = self.searcher.sight(caller);
        let near = self
            .store
            .read(|rows| nearness::related(rows, file, &similar, question.limit, &mut sight))?;
        sight.look(near.iter().map(|(file, _)| *file));
        let most = near.first().map_or(1.0, |(_, weight)| *weight);
        let hits = near.iter().filter_map(|(file, weight)| {
            let path = sight.path(*file)?;
            let similarity = alike.hits.iter().find(|hit| hit.file == *file);
            let mut hit = json!({
                "path": path_text(path),
                "score": round(weight / most),
                "similarity": similarity.and_then(|hit| hit.score_vec).map(round),
            });
            exact_path(&mut hit, path);
            Some(hit)
        });
        Ok(hits.collect())
    }
}

/// A step as a JSON object; none for a file that went meanwhile.
fn step_json(sight: &mut CallersSight<'_>, step: &Reached) -> Option<Value> {
    // The starts of a walk were not looked at yet.
    sight.look([step.file, step.via].into_iter());
    let path = sight.path(step.file)?;
    let mut hit = json!({
        "path": path_text(path),
        "depth": step.depth,
        "type": step.kind,
        "direction": Way::of(step.outward),
        "via": sight.path(step.via).map(path_text),
    });
    exact_path(&mut hit, path);
    Some(hit)
}

fn round(score: f32) -> f64 {
    (f64::from(score) * 1e4).round() / 1e4
}
