//! How well search finds: nDCG, recall and reciprocal rank on a judged collection.
//!
//! A collection is a directory in the layout of BEIR (Thakur et al. 2021): `corpus.jsonl` (`_id`, `title`, `text`),
//! `queries.jsonl` (`_id`, `text`), and judgements `qrels.tsv` or `qrels/test.tsv` (query, document, grade). Each
//! document becomes a file of its own.

mod collection;
mod measures;
mod mounted;

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;
use vexfs_core::ids::{FileId, Generation, PassageId};
use vexfs_core::query::fuse::{DEPTH, Scored, fuse};
use vexfs_core::semantic::embed::{Embedder, StaticModel};
use vexfs_core::semantic::lexical::{Entry, LexicalIndex, Limit, Snapshot, Words};
use vexfs_core::semantic::passages::{self, Form};

pub use collection::Collection;
pub use measures::Measures;
use mounted::OnMount;

/// Which way documents and queries go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Through {
    /// Files written to a mount, queries to its API. The program itself is started as the daemon.
    Mount,
    /// The library's parts in this process, without files.
    Memory,
}

/// What was measured, by mode of search.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which way.
    pub through: Through,
    /// Files.
    pub documents: usize,
    /// Queries with a judgement.
    pub queries: usize,
    /// Passages that the files were cut into.
    pub passages: usize,
    /// The embedder.
    pub embedder: String,
    /// By word.
    pub text: Measures,
    /// By meaning.
    pub vector: Measures,
    /// By both.
    pub hybrid: Measures,
}

/// Files that a query asks for: recall is measured at this depth.
const FILES: usize = 100;

/// The command `performance_benchmark quality --corpus DIR [--in-memory]`: measures and prints.
pub fn command(corpus: Option<&Path>, through: Through, json: bool, progress: &ProgressBar) -> ExitCode {
    let Some(corpus) = corpus else {
        eprintln!("performance_benchmark quality: --corpus DIR is missing");
        return ExitCode::from(2);
    };
    progress.set_length(1000);
    let outcome = run(corpus, through, &mut |part| {
        progress.set_position((part * 1000.0) as u64)
    });
    progress.finish_and_clear();
    let printed = outcome.and_then(|report| {
        if json {
            Ok(serde_json::to_string_pretty(&report)?)
        } else {
            Ok(report.table())
        }
    });
    match printed {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("performance_benchmark quality: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!(
            "{} documents, {} passages, {} queries, {}\n\n{:8} {:>8} {:>10} {:>11} {:>7}\n",
            self.documents,
            self.passages,
            self.queries,
            self.embedder,
            "",
            "nDCG@10",
            "recall@10",
            "recall@100",
            "MRR@10"
        );
        for (mode, found) in [
            ("text", self.text),
            ("vector", self.vector),
            ("hybrid", self.hybrid),
        ] {
            text.push_str(&format!(
                "{mode:8} {:>8.3} {:>10.3} {:>11.3} {:>7.3}\n",
                found.ndcg_at_10, found.recall_at_10, found.recall_at_100, found.mrr_at_10
            ));
        }
        text
    }
}

/// Measures a collection. `progress` is told the share done, 0..=1.
pub fn run(dir: &Path, through: Through, progress: &mut dyn FnMut(f32)) -> Result<Report> {
    let collection = Collection::read(dir)?;
    let scratch = tempfile::tempdir().context("a directory for the index")?;
    let half = &mut |part: f32| progress(part / 2.0);
    let ranker: Box<dyn Ranker> = match through {
        Through::Mount => Box::new(OnMount::prepare(&collection, half)?),
        Through::Memory => Box::new(Indexed::build(&collection, scratch.path(), half)?),
    };
    let mut sums = [Measures::default(); 3];
    let judged = collection.judged_queries();
    for (i, query) in judged.iter().enumerate() {
        let lists = ranker.search(&query.text)?;
        for (sum, list) in sums.iter_mut().zip(&lists) {
            sum.add(&Measures::of(list, query.grades));
        }
        progress(0.5 + i as f32 / judged.len() as f32 / 2.0);
    }
    let [text, vector, hybrid] = sums.map(|sum| sum.mean(judged.len()));
    Ok(Report {
        through,
        documents: collection.documents.len(),
        queries: judged.len(),
        passages: ranker.passages(),
        embedder: StaticModel::built_in().id().to_owned(),
        text,
        vector,
        hybrid,
    })
}

/// Something that holds a collection and ranks it.
trait Ranker {
    /// Passages that the documents were cut into.
    fn passages(&self) -> usize;
    /// Ranked documents by word, by meaning, by both.
    fn search(&self, query: &str) -> Result<[Vec<usize>; 3]>;
}

/// A collection in both indexes.
struct Indexed {
    words: Snapshot,
    vectors: Vec<(PassageId, Vec<f32>)>,
}

impl Indexed {
    fn build(collection: &Collection, dir: &Path, progress: &mut dyn FnMut(f32)) -> Result<Indexed> {
        let model = StaticModel::built_in();
        let words = LexicalIndex::open(dir, 1)?;
        let mut vectors = Vec::new();
        for (number, document) in collection.documents.iter().enumerate() {
            let (name, text) = (document.file_name(), document.content());
            for (slot, passage) in passages::split(&text, Form::Prose, model.tokenizer())
                .iter()
                .enumerate()
            {
                let id = PassageId::new(FileId(number as u64), slot as u32);
                words.add(Entry {
                    id,
                    title: &passage.title(&name),
                    text: &text[passage.bytes.clone()],
                    lines: (passage.first_line, passage.last_line),
                    start: passage.bytes.start as u64,
                })?;
                let mut vector = vec![0.0; model.dim()];
                model.embed(&[&passage.embedded(&text)], &mut vector)?;
                vectors.push((id, vector));
            }
            progress(number as f32 / collection.documents.len() as f32);
        }
        words.commit(Generation(1))?;
        Ok(Indexed {
            words: words.snapshot(),
            vectors,
        })
    }

    /// The best passage of each of the nearest files, by exact scan.
    fn nearest(&self, query: &str) -> Result<Vec<Scored>> {
        let model = StaticModel::built_in();
        let mut target = vec![0.0; model.dim()];
        model.embed(&[query], &mut target)?;
        let mut best: HashMap<FileId, Scored> = HashMap::new();
        for (id, vector) in &self.vectors {
            let score = vector.iter().zip(&target).map(|(a, b)| a * b).sum();
            let hit = Scored { id: *id, score };
            let known = best.entry(id.file()).or_insert(hit);
            if score > known.score {
                *known = hit;
            }
        }
        let mut hits: Vec<Scored> = best.into_values().collect();
        hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        hits.truncate(DEPTH);
        Ok(hits)
    }
}

impl Ranker for Indexed {
    fn passages(&self) -> usize {
        self.vectors.len()
    }

    fn search(&self, query: &str) -> Result<[Vec<usize>; 3]> {
        let words = Words {
            any: query.split_whitespace().map(str::to_owned).collect(),
            all: Vec::new(),
        };
        let limit = Limit {
            files: DEPTH,
            passages_per_file: 1,
        };
        let by_word = self.words.search(&words, limit, None)?;
        let by_meaning = self.nearest(query)?;
        let weight = StaticModel::built_in().hybrid_weight();
        let number = |hit: &Scored| hit.id.file().0 as usize;
        let fused = fuse(&by_word, &by_meaning, weight);
        Ok([
            by_word.iter().map(number).collect(),
            by_meaning.iter().map(number).collect(),
            fused
                .files
                .iter()
                .take(FILES)
                .map(|file| file.file.0 as usize)
                .collect(),
        ])
    }
}
