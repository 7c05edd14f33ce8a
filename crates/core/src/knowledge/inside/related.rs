//! Questions about how files hang together inside a transaction. Each file that is visited is asked for its relations,
//! as they are listed; there are few enough where changes are looked at before they are committed.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::Access;
use serde_json::{Value, json};

use super::Inside;
use crate::error::{Error, Result};
use crate::knowledge::related::{Found, Question};
use crate::knowledge::relations::{Shown, Way, plain};
use crate::query::answer::{exact_path, path_text};

/// Files that the search for a way may visit.
const WAY_FILES_MAX: usize = 10_000;

impl Inside<'_> {
    /// Answers a question about a file's relations, but for rankings, which compare what is committed.
    pub fn related(&self, question: &Question) -> Result<Found> {
        let started = Instant::now();
        let pending = self.knowledge.pending()?;
        question.check()?;
        if question.rank {
            return Err(Error::Invalid(
                "rankings compare what is committed: ask outside of the transaction".into(),
            ));
        }
        let start = plain(&question.path)?;
        let (mut hits, truncated) = match &question.to {
            Some(to) => (self.way_to(question, start, &plain(to)?)?, false),
            None => self.walk(question, start)?,
        };
        for (rank, hit) in (1..).zip(&mut hits) {
            hit["rank"] = json!(rank);
        }
        Ok(Found {
            generation: self.knowledge.store.generation(),
            pending,
            took: started.elapsed(),
            truncated,
            hits,
        })
    }

    /// The relations of the file itself, then files farther away, each once.
    fn walk(&self, question: &Question, start: PathBuf) -> Result<(Vec<Value>, bool)> {
        let mut seen = HashSet::from([start.clone()]);
        let (mut hits, mut next) = (Vec::new(), VecDeque::from([(start, 1)]));
        while let Some((from, depth)) = next.pop_front() {
            for relation in self.steps(question, &from)? {
                let new = !relation.dangling && seen.insert(relation.path.clone());
                if depth > 1 && !new {
                    continue;
                }
                if hits.len() == question.limit {
                    return Ok((hits, true));
                }
                hits.push(match depth {
                    1 => {
                        let mut hit = relation.json();
                        hit["depth"] = json!(1);
                        hit
                    }
                    _ => step_json(&relation, depth, &from),
                });
                if new && depth < question.depth {
                    next.push_back((relation.path, depth + 1));
                }
            }
        }
        Ok((hits, false))
    }

    /// The steps of a shortest way; none if there is none.
    fn way_to(&self, question: &Question, start: PathBuf, to: &Path) -> Result<Vec<Value>> {
        self.place(to, Access::READ_OK)?;
        let mut reached: Vec<(PathBuf, Option<(usize, Shown)>)> = vec![(start.clone(), None)];
        let mut seen = HashSet::from([start]);
        let mut at = 0;
        while at < reached.len() && reached[at].0 != to {
            let from = reached[at].0.clone();
            for relation in self.steps(question, &from)? {
                let room = reached.len() < WAY_FILES_MAX;
                if room && !relation.dangling && seen.insert(relation.path.clone()) {
                    reached.push((relation.path.clone(), Some((at, relation))));
                }
            }
            at += 1;
        }
        let mut steps = Vec::new();
        while let Some((_, Some((before, relation)))) = reached.get(at) {
            steps.push((relation, &reached[*before].0));
            at = *before;
        }
        let steps = (1..).zip(steps.into_iter().rev());
        Ok(steps
            .map(|(depth, (relation, from))| step_json(relation, depth, from))
            .collect())
    }

    fn steps(&self, question: &Question, from: &Path) -> Result<Vec<Shown>> {
        self.relations(from, question.kind.as_deref(), question.direction.direction())
    }
}

fn step_json(relation: &Shown, depth: u32, via: &Path) -> Value {
    let mut hit = json!({
        "path": path_text(&relation.path),
        "depth": depth,
        "type": relation.kind,
        "direction": Way::of(relation.outward),
        "via": path_text(via),
    });
    exact_path(&mut hit, &relation.path);
    hit
}
