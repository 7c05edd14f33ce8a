//! Profiles: named embedders that are reached over HTTP, each described by a JSON file.
//!
//! ```json
//! { "api": "ollama", "url": "http://127.0.0.1:11434", "model": "nomic-embed-text", "dim": 768 }
//! ```
//!
//! `NAME.json` is looked for in `$XDG_CONFIG_HOME/vexfs/embedders` (`~/.config`), then in `/etc/vexfs/embedders`. The key
//! of a service never stands in it: it is in a file or in the environment, and read when it is used.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// Components of a vector at most.
const DIM_MAX: usize = 16_384;
/// Texts of one request at most.
const BATCH_MAX: usize = 2_048;

/// What a service speaks.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `POST URL/embeddings`, where URL ends in `/v1`: OpenAI, vLLM, llama.cpp, LM Studio and many others.
    OpenAi,
    /// `POST URL/api/embed` of Ollama.
    Ollama,
}

/// A named embedder.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name: that of the file.
    #[serde(skip)]
    pub name: String,
    /// What the service speaks.
    pub api: Api,
    /// Where it is: `http://` or `https://`.
    pub url: String,
    /// The model that it is asked for.
    pub model: String,
    /// Components of the model's vectors.
    pub dim: usize,
    /// The file with the service's key, if it wants one.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The environment variable with the key.
    #[serde(default)]
    pub key_env: Option<String>,
    /// Texts in a request.
    #[serde(default = "Profile::usual_batch")]
    pub batch: usize,
    /// Seconds that an answer may take.
    #[serde(default = "Profile::usual_timeout")]
    pub timeout_s: u64,
    /// How often a request is repeated that failed for a reason that may pass.
    #[serde(default = "Profile::usual_retries")]
    pub retries: u32,
    /// The share of the vectors in a fused score, 0 to 1.
    #[serde(default = "Profile::usual_weight")]
    pub hybrid_weight: f32,
    /// Tokens of a text that the model looks at.
    #[serde(default = "Profile::usual_tokens")]
    pub tokens_max: usize,
}

impl Profile {
    fn usual_batch() -> usize {
        32
    }

    fn usual_timeout() -> u64 {
        60
    }

    fn usual_retries() -> u32 {
        4
    }

    /// Measured for a transformer of 22 million parameters.
    fn usual_weight() -> f32 {
        0.5
    }

    fn usual_tokens() -> usize {
        512
    }

    /// Reads the profile of this name. What is missing or wrong in it is said with the file's path.
    pub fn find(name: &str) -> Result<Profile> {
        if name.is_empty()
            || name.len() > 64
            || !name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            return Err(Error::Invalid(format!(
                "embedder {name:?}: a profile's name has 1 to 64 letters, digits, '-', '_' and '.'"
            )));
        }
        let folders = folders();
        let file = format!("{name}.json");
        let Some(path) = folders
            .iter()
            .map(|folder| folder.join(&file))
            .find(|path| path.exists())
        else {
            let looked: Vec<String> = folders
                .iter()
                .map(|folder| folder.display().to_string())
                .collect();
            return Err(Error::NotFound(format!(
                "embedder {name:?}: no {file} in {}",
                looked.join(" or ")
            )));
        };
        Profile::read(name, &path)
    }

    fn read(name: &str, path: &Path) -> Result<Profile> {
        let invalid = |what: String| Error::Invalid(format!("{}: {what}", path.display()));
        let text = std::fs::read(path).map_err(|e| invalid(e.to_string()))?;
        let mut profile: Profile = serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
        name.clone_into(&mut profile.name);
        profile.url.truncate(profile.url.trim_end_matches('/').len());
        if !profile.url.starts_with("http://") && !profile.url.starts_with("https://") {
            return Err(invalid("url: http:// or https:// is expected".into()));
        }
        if !(1..=DIM_MAX).contains(&profile.dim) {
            return Err(invalid(format!("dim: 1 to {DIM_MAX} is expected")));
        }
        if !(1..=BATCH_MAX).contains(&profile.batch) {
            return Err(invalid(format!("batch: 1 to {BATCH_MAX} is expected")));
        }
        if !(0.0..=1.0).contains(&profile.hybrid_weight) {
            return Err(invalid("hybrid_weight: 0 to 1 is expected".into()));
        }
        if profile.timeout_s == 0 || profile.tokens_max == 0 || profile.retries > 20 {
            return Err(invalid(
                "timeout_s and tokens_max are above 0, retries at most 20".into(),
            ));
        }
        Ok(profile)
    }
}

fn folders() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let own = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")));
    let mut folders: Vec<PathBuf> = own.into_iter().map(|own| own.join("vexfs/embedders")).collect();
    folders.push("/etc/vexfs/embedders".into());
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Profile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        std::fs::write(&path, text).unwrap();
        Profile::read("p", &path)
    }

    #[test]
    fn a_profile_needs_four_lines() {
        let profile =
            read(r#"{"api": "ollama", "url": "http://127.0.0.1:11434/", "model": "m", "dim": 8}"#).unwrap();
        assert_eq!(
            (profile.api, profile.url.as_str()),
            (Api::Ollama, "http://127.0.0.1:11434")
        );
        assert_eq!((profile.batch, profile.hybrid_weight), (32, 0.5));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_file() {
        for (text, expected) in [
            (r#"{"api": "openai", "url": "http://x", "model": "m"}"#, "dim"),
            (r#"{"api": "openai", "url": "x", "model": "m", "dim": 8}"#, "url"),
            (
                r#"{"api": "openai", "url": "http://x", "model": "m", "dim": 0}"#,
                "dim",
            ),
            (
                r#"{"api": "openai", "url": "http://x", "model": "m", "dim": 8, "key": "s"}"#,
                "key",
            ),
            (
                r#"{"api": "other", "url": "http://x", "model": "m", "dim": 8}"#,
                "openai",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("p.json") && error.contains(expected), "{error}");
        }
        assert!(Profile::find("../etc/passwd").is_err());
        assert!(
            Profile::find("not-there")
                .unwrap_err()
                .to_string()
                .contains("/etc/vexfs/embedders")
        );
    }
}
