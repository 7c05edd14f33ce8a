//! A collection as files on a mount, searched through its API: the whole way that a user's files go.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use vexfs_mount::unmounting;

use super::collection::Collection;
use super::{FILES, Ranker};
use crate::cli::client::Client;

/// How long the index may take.
const WAIT_MAX: Duration = Duration::from_secs(1800);
/// The modes in the order of a report.
const MODES: [&str; 3] = ["text", "vec", "hybrid"];

/// A mount of a collection; unmounted on drop.
pub(super) struct OnMount {
    client: Client,
    passages: usize,
    numbers: HashMap<String, usize>,
    at: TempDir,
    _source: TempDir,
}

impl OnMount {
    /// Mounts an empty directory, writes a file for each document, waits until all of them can be found.
    pub(super) fn prepare(collection: &Collection, progress: &mut dyn FnMut(f32)) -> Result<OnMount> {
        let (source, at) = (tempfile::tempdir()?, tempfile::tempdir()?);
        run(Command::new(std::env::current_exe()?)
            .arg("mount")
            .arg(source.path())
            .arg(at.path()))?;
        let status = status(at.path());
        let socket = status
            .as_ref()
            .ok()
            .and_then(|status| status["socket"].as_str())
            .unwrap_or("");
        let mut mounted = OnMount {
            client: Client::new(socket.into()),
            passages: 0,
            numbers: HashMap::new(),
            at,
            _source: source,
        };
        status?;
        for (number, document) in collection.documents.iter().enumerate() {
            let mut name = document.file_name();
            if mounted.numbers.contains_key(&name) {
                name = format!("{number}-{name}");
            }
            let path = mounted.at.path().join(&name);
            std::fs::write(&path, document.content()).with_context(|| path.display().to_string())?;
            mounted.numbers.insert(name, number);
            progress(number as f32 / collection.documents.len() as f32 / 2.0);
        }
        mounted.wait(collection.documents.len() as u64, progress)?;
        Ok(mounted)
    }

    fn wait(&mut self, files: u64, progress: &mut dyn FnMut(f32)) -> Result<()> {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let status = status(self.at.path())?;
            let number = |name: &str| status[name].as_u64().unwrap_or(0);
            let done = number("ready") + number("failed") + number("excluded");
            if done >= files && status["idle"] == true {
                if number("failed") > 0 {
                    bail!("{} documents could not be read", number("failed"));
                }
                self.passages = number("passages") as usize;
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{done} of {files} documents were indexed in {} s",
                    WAIT_MAX.as_secs()
                );
            }
            progress(0.5 + done as f32 / files.max(1) as f32 / 2.0);
            std::thread::sleep(Duration::from_millis(50));
        }
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
                .client
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

impl Drop for OnMount {
    fn drop(&mut self) {
        let unmounted = std::env::current_exe()
            .map_err(anyhow::Error::from)
            .and_then(|program| run(Command::new(program).arg("umount").arg(self.at.path())));
        if unmounted.is_err() {
            // Nothing may stay mounted, whatever holds it.
            let _ = unmounting::unmount_lazily(self.at.path());
        }
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

fn status(at: &Path) -> Result<Value> {
    let path = at.join(".vexfs/status.json");
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
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
