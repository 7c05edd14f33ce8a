//! `mode=rel`: what meaning and words find is where the walk begins, and what is near to it by relations comes up, so
//! that a file that no word of the query is in can still be the first.

use std::collections::HashMap;
use std::path::PathBuf;

use super::asked::Asked;
use super::filter::Sieve;
use super::fuse::FusedFile;
use super::search::Searcher;
use super::sight::CallersSight;
use crate::error::Result;
use crate::ids::FileId;
use crate::relation::nearness::around;
use crate::semantic::lexical::Snapshot;

/// Hits from which the walk begins. The best few carry nearly all weight.
const SEEDS: usize = 20;

/// Files that a walk gives. It reads the relations of 500; more than this hold no weight worth a rank.
const NEAR_MAX: usize = 10_000;

impl FusedFile {
    /// A file that no passage brought up.
    pub(super) fn alone(file: FileId, score: f32) -> FusedFile {
        FusedFile {
            file,
            score,
            score_vec: None,
            score_bm25: None,
            score_rel: None,
            passages: Vec::new(),
        }
    }
}

impl Searcher {
    /// The files nearest by relations to the best hits, and to the file that the query names by `like:`. The nearest
    /// has the score 1. Conditions and scope hold for hits and neighbours alike.
    pub(super) fn related(
        &self,
        asked: &Asked,
        sieve: &Sieve<'_>,
        snapshot: &Snapshot,
        wanted: usize,
        sight: &mut CallersSight<'_>,
    ) -> Result<Vec<(FusedFile, PathBuf)>> {
        let hits = self.ranked(asked, sieve, snapshot, SEEDS, sight)?;
        let mut starts: Vec<(FileId, f32)> = hits.iter().map(|(hit, _)| (hit.file, hit.score)).collect();
        if let Some(file) = asked.except {
            // As much as all that is like it.
            let likenesses: f32 = starts.iter().map(|(_, score)| score).sum();
            starts.push((file, likenesses.max(1.0)));
        }
        let near = self.store.read(|rows| around(rows, &starts, NEAR_MAX, sight))?;
        let near: Vec<_> = {
            let mirror = self.store.mirror();
            let passes = |file| Some(file) != asked.except && sieve.passes(&mirror, file);
            near.into_iter().filter(|(file, _)| passes(*file)).collect()
        };
        sight.look(near.iter().map(|(file, _)| *file));
        let most = near.first().map_or(1.0, |(_, weight)| *weight);
        let mut hits: HashMap<FileId, FusedFile> = hits.into_iter().map(|(hit, _)| (hit.file, hit)).collect();
        let ranked = near.into_iter().filter_map(|(file, weight)| {
            let path = sight.path(file)?.to_owned();
            let mut found = hits.remove(&file).unwrap_or_else(|| FusedFile::alone(file, 0.0));
            found.score = weight / most;
            found.score_rel = Some(found.score);
            Some((found, path))
        });
        Ok(ranked.take(wanted).collect())
    }
}
