//! A collection as files on a mount, searched through its API: the whole way that a user's files go.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tempfile::TempDir;

use super::collection::Collection;
use super::{FILES, Ranker};
use crate::bench::daemon::Daemon;

/// How long the index may take.
const WAIT_MAX: Duration = Duration::from_secs(1800);
/// The modes in the order of a report.
const MODES: [&str; 3] = ["text", "vec", "hybrid"];

/// A mount of a collection.
pub(super) struct OnMount {
    passages: usize,
    numbers: HashMap<String, usize>,
    daemon: Daemon,
    _source: TempDir,
}

impl OnMount {
    /// Mounts an empty directory, writes a file for each document, waits until all of them can be found.
    pub(super) fn prepare(collection: &Collection, progress: &mut dyn FnMut(f32)) -> Result<OnMount> {
        let source = tempfile::tempdir()?;
        let daemon = Daemon::mount(source.path())?;
        let mut numbers = HashMap::new();
        let documents = &collection.documents;
        for (number, document) in documents.iter().enumerate() {
            let mut name = document.file_name();
            if numbers.contains_key(&name) {
                name = format!("{number}-{name}");
            }
            let path = daemon.at().join(&name);
            std::fs::write(&path, document.content()).with_context(|| path.display().to_string())?;
            numbers.insert(name, number);
            progress(number as f32 / documents.len() as f32 / 2.0);
        }
        let status = daemon.wait(documents.len() as u64, WAIT_MAX, &mut |part| {
            progress(0.5 + part / 2.0)
        })?;
        Ok(OnMount {
            passages: status["passages"].as_u64().unwrap_or(0) as usize,
            numbers,
            daemon,
            _source: source,
        })
    }
}

impl Ranker for OnMount {
    fn passages(&self) -> usize {
        self.passages
    }

    fn search(&self, query: &str) -> Result<[Vec<usize>; 3]> {
        let mut lists = <[Vec<usize>; 3]>::default();
        for (mode, list) in MODES.iter().zip(&mut lists) {
            let options = format!("@k={FILES},@mode={mode}");
            let body = json!({ "path": "", "options": options, "query": plain(query) });
            let answer = self
                .daemon
                .client()
                .post("/v1/search", &body)
                .map_err(|e| anyhow::anyhow!("{query}: {}", e.message))?;
            for hit in answer["hits"].as_array().into_iter().flatten() {
                let name = hit["path"].as_str().and_then(|path| path.rsplit('/').next());
                list.extend(name.and_then(|name| self.numbers.get(name)));
            }
        }
        Ok(lists)
    }
}

/// A question of a collection as a query of words only: quotes, excluding dashes, `OR` and the colons of filters are
/// taken for what they are in prose.
fn plain(query: &str) -> String {
    let word = |word: &str| {
        let word = word.trim_start_matches('-').replace(['"', ':'], " ");
        if word == "OR" { "or".to_owned() } else { word }
    };
    query.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_become_words() {
        assert_eq!(plain("a \"b c\" -d x:y OR z - e-f"), "a  b c  d x y or z  e-f");
        vexfs_core::query::parse::parse(&plain("\"unclosed size:lots -like:a OR")).unwrap();
    }
}
