//! How fresh the index is, for people and for programs.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::ids::Generation;
use crate::metrics::table::single;
use crate::query::answer::path_text;

/// What `status` says.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The last commit.
    pub generation: Generation,
    /// Regular files known.
    pub files: u64,
    /// Files that are searchable as they are.
    pub ready: u64,
    /// Files that changed and are not searchable yet, or wait to be forgotten.
    pub pending: u64,
    /// Of these, places that wait to be looked at.
    pub queue: u64,
    /// Files whose text could not be read.
    pub failed: u64,
    /// Files that a rule keeps out.
    pub excluded: u64,
    /// Passages in the indexes.
    pub passages: u64,
    /// Bytes of the searchable files.
    pub bytes: u64,
    /// A scan of the whole tree is under way.
    pub scanning: bool,
    /// Nothing is left to do.
    pub idle: bool,
    /// Why nothing is indexed any more, when something failed for good.
    pub error: Option<String>,
    /// The embedder of the default space.
    pub embedder: String,
    /// Components of its vectors.
    pub dim: usize,
    /// The migration to another embedder that is going on, or was the last: `to`, `running`, `done` and `all` files,
    /// `error`.
    pub migration: Option<Value>,
    /// Where the tree is mounted, if it is.
    pub mountpoint: Option<PathBuf>,
    /// The backing directory.
    pub source: PathBuf,
    /// The store.
    pub store: PathBuf,
    /// Where the API is served, if it is.
    pub socket: Option<PathBuf>,
    /// File data reaches the backing file without the daemon.
    pub passthrough: Option<bool>,
    /// The instruction set of the distance kernels.
    pub simd: &'static str,
    /// Queries answered since the daemon started.
    pub queries: u64,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
}

impl Status {
    /// A line for each thing worth knowing.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let state = match (&self.error, self.scanning, self.idle) {
            (Some(error), ..) => format!("stopped: {error}"),
            (None, true, _) => "scanning".into(),
            (None, false, false) => "indexing".into(),
            (None, false, true) => "fresh".into(),
        };
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{name:<12} {value}");
        };
        line("state", &state);
        line("generation", &self.generation);
        line("files", &self.files);
        line("ready", &self.ready);
        line("pending", &self.pending);
        line("failed", &self.failed);
        line("excluded", &self.excluded);
        line("passages", &self.passages);
        line("bytes", &self.bytes);
        line(
            "embedder",
            &format_args!("{} ({} dimensions, {})", self.embedder, self.dim, self.simd),
        );
        if let Some(migration) = &self.migration {
            let [to, error] = ["to", "error"].map(|name| migration[name].as_str());
            let to = to.unwrap_or_default();
            let state = match (migration["running"] == true, error) {
                (true, _) => format!("to {to}: {} of {} files", migration["done"], migration["all"]),
                (false, Some(error)) => format!("to {to} failed: {error}"),
                (false, None) => format!("to {to} done"),
            };
            line("migration", &state);
        }
        line("source", &path_text(&self.source));
        if let Some(mountpoint) = &self.mountpoint {
            line("mountpoint", &path_text(mountpoint));
        }
        line("store", &path_text(&self.store));
        if let Some(passthrough) = self.passthrough {
            line("passthrough", &if passthrough { "on" } else { "off" });
        }
        line("uptime", &format_args!("{} s", self.uptime_s));
        text
    }

    /// Appends it as Prometheus text.
    pub fn prometheus(&self, out: &mut String) {
        for (name, value) in [
            ("vexfs_index_generation", self.generation.0),
            ("vexfs_index_lag", self.pending),
            ("vexfs_index_queue", self.queue),
            ("vexfs_index_files", self.files),
            ("vexfs_index_ready", self.ready),
            ("vexfs_index_failed", self.failed),
            ("vexfs_index_excluded", self.excluded),
            ("vexfs_index_passages", self.passages),
            ("vexfs_index_bytes", self.bytes),
            ("vexfs_index_scanning", u64::from(self.scanning)),
        ] {
            single(out, name, value);
        }
    }

    /// All of it as one JSON object; `text` holds the form for people.
    pub fn json(&self) -> Value {
        json!({
            "generation": self.generation.0,
            "files": self.files,
            "ready": self.ready,
            "pending": self.pending,
            "queue": self.queue,
            "failed": self.failed,
            "excluded": self.excluded,
            "passages": self.passages,
            "bytes": self.bytes,
            "scanning": self.scanning,
            "idle": self.idle,
            "error": self.error,
            "embedder": self.embedder,
            "dim": self.dim,
            "migration": self.migration,
            "mountpoint": self.mountpoint.as_deref().map(path_text),
            "source": path_text(&self.source),
            "store": path_text(&self.store),
            "socket": self.socket.as_deref().map(path_text),
            "passthrough": self.passthrough,
            "simd": self.simd,
            "pid": std::process::id(),
            "queries": self.queries,
            "uptime_s": self.uptime_s,
            "version": env!("CARGO_PKG_VERSION"),
            "text": self.text(),
        })
    }
}
