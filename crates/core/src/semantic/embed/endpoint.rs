//! An embedder behind an HTTP endpoint: OpenAI-compatible, or Ollama.
//!
//! Texts go in batches. What may pass - no connection, a timeout, 408, 429, 5xx - is tried again, each time after twice
//! the wait, or after what the service asks for; what will not pass is an error at once. The key is read when it is used
//! and stands in no message.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Agent;

use super::Embedder;
use super::profile::{Api, Profile};
use crate::error::{Error, Result};

/// The first wait before a request is repeated, doubled each time, and the longest.
const WAIT_MIN: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer: 2,048 vectors of 3,072 numbers as text.
const ANSWER_BYTES_MAX: u64 = 128 << 20;
/// Bytes of a refusal that are repeated in an error.
const REFUSAL_BYTES_MAX: usize = 200;
/// Bytes of a token, at most in all but odd texts: so much of a text is sent.
const TOKEN_BYTES: usize = 8;

/// An embedder behind an endpoint.
pub struct Endpoint {
    id: String,
    profile: Profile,
    agent: Agent,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// Why a request failed, and whether another one may not.
struct Failure {
    what: String,
    passes: bool,
    /// What the service asks to wait.
    wait: Option<Duration>,
}

impl Failure {
    fn lasting(what: String) -> Failure {
        Failure {
            what,
            passes: false,
            wait: None,
        }
    }
}

impl Endpoint {
    /// The embedder that a profile describes. Nothing is asked yet.
    pub fn new(profile: Profile) -> Endpoint {
        let config = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(profile.timeout_s)))
            .http_status_as_error(false)
            .tls_config(tls())
            .user_agent(concat!("vexfs/", env!("CARGO_PKG_VERSION")))
            .build();
        Endpoint {
            id: identity(&profile),
            agent: config.into(),
            profile,
        }
    }

    /// The vectors of one batch.
    fn batch(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let mut wait = WAIT_MIN;
        let mut tries = 0;
        loop {
            match self.ask(texts) {
                Ok(vectors) => return Ok(vectors),
                Err(failure) if failure.passes && tries < self.profile.retries => {
                    tracing::debug!(profile = self.profile.name, what = failure.what, "asked again");
                    std::thread::sleep(failure.wait.unwrap_or(wait).min(WAIT_MAX));
                    wait = (wait * 2).min(WAIT_MAX);
                    tries += 1;
                }
                Err(failure) => {
                    let what = format!("embedder {:?}: {}", self.profile.name, failure.what);
                    return Err(Error::Embedder(what));
                }
            }
        }
    }

    fn ask(&self, texts: &[&str]) -> std::result::Result<Vec<Vec<f32>>, Failure> {
        let Profile { url, model, api, .. } = &self.profile;
        let (url, body) = match api {
            Api::OpenAi => (
                format!("{url}/embeddings"),
                json!({ "model": model, "input": texts, "encoding_format": "float" }),
            ),
            Api::Ollama => (
                format!("{url}/api/embed"),
                json!({ "model": model, "input": texts }),
            ),
        };
        let mut request = self.agent.post(&url).header("content-type", "application/json");
        if let Some(key) = self.key()? {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut answer = request
            .send(body.to_string())
            .map_err(|error| unsent(&url, &error))?;
        let status = answer.status().as_u16();
        let wait = answer
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let text = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec();
        let text = text.map_err(|error| Failure {
            what: format!("{url}: {error}"),
            passes: true,
            wait: None,
        })?;
        if status != 200 {
            let said = String::from_utf8_lossy(&text[..text.len().min(REFUSAL_BYTES_MAX)]);
            return Err(Failure {
                what: format!("{url}: status {status}: {}", said.trim()),
                passes: matches!(status, 408 | 429 | 500..=599),
                wait: wait.map(Duration::from_secs),
            });
        }
        vectors(*api, &text, texts.len(), self.profile.dim)
            .map_err(|what| Failure::lasting(format!("{url}: {what}")))
    }

    /// The key, without the line's end of its file.
    fn key(&self) -> std::result::Result<Option<String>, Failure> {
        let read = match (&self.profile.key_file, &self.profile.key_env) {
            (Some(path), _) => std::fs::read_to_string(path)
                .map_err(|error| format!("key_file {}: {error}", path.display()))
                .map(Some),
            (None, Some(name)) => std::env::var(name)
                .map_err(|_| format!("key_env: {name} is not set"))
                .map(Some),
            (None, None) => Ok(None),
        };
        let key = read.map_err(Failure::lasting)?;
        Ok(key.map(|key| key.trim().to_owned()))
    }
}

/// Why a request had no answer. A wrong address or certificate will be wrong the next time.
fn unsent(url: &str, error: &ureq::Error) -> Failure {
    let untrusted = match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref().and_then(|error| error.downcast_ref()),
        _ => None,
    };
    if let Some(error) = untrusted {
        return Failure::lasting(format!("{url}: the service is not trusted: {error}"));
    }
    Failure {
        what: format!("{url}: {error}"),
        passes: matches!(
            error,
            ureq::Error::Io(_)
                | ureq::Error::Timeout(_)
                | ureq::Error::ConnectionFailed
                | ureq::Error::HostNotFound
        ),
        wait: None,
    }
}

/// The name of what makes the vectors: another model, service or dimension makes others.
fn identity(profile: &Profile) -> String {
    let made_by = format!(
        "{:?} {} {} {}",
        profile.api, profile.url, profile.model, profile.dim
    );
    let hash = blake3::hash(made_by.as_bytes()).to_hex();
    format!("{}-{}-{}", profile.name, profile.dim, &hash[..8])
}

/// Certificates are checked as the system does.
fn tls() -> ureq::tls::TlsConfig {
    ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}

#[derive(Deserialize)]
struct OpenAiAnswer {
    data: Vec<OpenAiVector>,
}

#[derive(Deserialize)]
struct OpenAiVector {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct OllamaAnswer {
    embeddings: Vec<Vec<f32>>,
}

/// The vectors of an answer, in the order of the texts.
fn vectors(api: Api, text: &[u8], count: usize, dim: usize) -> std::result::Result<Vec<Vec<f32>>, String> {
    let vectors = match api {
        Api::OpenAi => {
            let answer: OpenAiAnswer = serde_json::from_slice(text).map_err(|error| refused(text, &error))?;
            let mut data = answer.data;
            data.sort_by_key(|vector| vector.index);
            if data.iter().enumerate().any(|(at, vector)| vector.index != at) {
                return Err("the answer does not number its vectors from 0".into());
            }
            data.into_iter().map(|vector| vector.embedding).collect()
        }
        Api::Ollama => {
            let answer: OllamaAnswer = serde_json::from_slice(text).map_err(|error| refused(text, &error))?;
            answer.embeddings
        }
    };
    if vectors.len() != count {
        return Err(format!("{} vectors for {count} texts", vectors.len()));
    }
    if let Some(other) = vectors.iter().find(|vector| vector.len() != dim) {
        return Err(format!(
            "vectors of {} components, the profile says dim {dim}",
            other.len()
        ));
    }
    if vectors.iter().flatten().any(|number| !number.is_finite()) {
        return Err("a vector with a component that is no number".into());
    }
    Ok(vectors)
}

/// Some services say with status 200 that something is wrong.
fn refused(text: &[u8], error: &serde_json::Error) -> String {
    match serde_json::from_slice::<Value>(text) {
        Ok(Value::Object(object)) if object.contains_key("error") => object["error"].to_string(),
        _ => format!("not the expected JSON: {error}"),
    }
}

/// What of a text is sent.
fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl Embedder for Endpoint {
    fn id(&self) -> &str {
        &self.id
    }

    fn dim(&self) -> usize {
        self.profile.dim
    }

    fn hybrid_weight(&self) -> f32 {
        self.profile.hybrid_weight
    }

    fn tokens_max(&self) -> usize {
        self.profile.tokens_max
    }

    fn embed(&self, texts: &[&str], out: &mut [f32]) -> Result<()> {
        let bytes = self.profile.tokens_max.saturating_mul(TOKEN_BYTES);
        let rows = out.chunks_mut(self.profile.dim * self.profile.batch);
        for (texts, rows) in texts.chunks(self.profile.batch).zip(rows) {
            let texts: Vec<&str> = texts.iter().map(|text| cut(text, bytes)).collect();
            for (vector, row) in self.batch(&texts)?.iter().zip(rows.chunks_mut(self.profile.dim)) {
                let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
                row.iter_mut()
                    .zip(vector)
                    .for_each(|(to, from)| *to = from * scale);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
