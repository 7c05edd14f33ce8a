//! Does everything agree: the store with itself, the derived indexes with the store, the files with the catalog?

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde_json::{Value, json};

use super::Knowledge;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::{FileId, PassageId};
use crate::query::answer::path_text;
use crate::store::file::{Kind, State};

/// How long pending changes may take before they are compared with.
const SETTLE_MAX: Duration = Duration::from_secs(600);
/// Faults of one kind that are told one by one; the rest is counted.
const FAULTS_MAX: usize = 50;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The derived indexes and the rows that they follow from.
    Indexes,
    /// The pages of the store, the checksums of all its files, and sizes and times of files, too.
    Quick,
    /// The contents of files, too: each is read and hashed.
    Contents,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// How many of what was compared.
    pub counts: Vec<(&'static str, u64)>,
    /// What does not agree.
    pub faults: Vec<Fault>,
}

/// Something that does not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where: `store`, `vectors`, `words`, `spaces`, `relations`, `files`.
    pub part: &'static str,
    /// What is wrong, in words.
    pub what: String,
}

impl Verdict {
    /// The verdict as one JSON object.
    pub fn json(&self) -> Value {
        let faults: Vec<Value> = self
            .faults
            .iter()
            .map(|fault| json!({ "part": fault.part, "fault": fault.what }))
            .collect();
        let counts: serde_json::Map<String, Value> = self
            .counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), json!(count)))
            .collect();
        json!({ "sound": faults.is_empty(), "counts": counts, "faults": faults })
    }

    fn count(&mut self, name: &'static str, count: usize) {
        self.counts.push((name, count as u64));
    }

    /// Adds faults of one kind.
    fn faults(&mut self, part: &'static str, faults: impl IntoIterator<Item = String>) {
        let mut more = 0;
        for (i, what) in faults.into_iter().enumerate() {
            match i < FAULTS_MAX {
                true => self.faults.push(Fault { part, what }),
                false => more += 1,
            }
        }
        if more > 0 {
            let what = format!("and {more} more of this kind");
            self.faults.push(Fault { part, what });
        }
    }
}

impl Knowledge {
    /// Compares what should agree; only the daemon's user may. Changes nothing, but waits for what is pending, so that
    /// work under way is not taken for a fault; what a manual index holds back is counted.
    ///
    /// # Errors
    /// [`Error::NotFresh`] when files are still pending after ten minutes: nothing is compared then.
    pub fn verify(&self, caller: &Caller, depth: Depth) -> Result<Verdict> {
        self.owner_only(caller)?;
        if depth != Depth::Indexes {
            self.indexer.scan(|_| true)?;
        }
        // Held by hand (`index=manual`), the rest waits for nobody: it is counted, and is no fault.
        let held = self.indexer.is_paused();
        let settled = match held {
            true => self.indexer.wait_seen(SETTLE_MAX),
            false => self.indexer.wait_idle(SETTLE_MAX),
        };
        if !settled {
            return Err(Error::NotFresh {
                pending: self.indexer.pending(),
            });
        }
        let mut verdict = Verdict::default();
        if held {
            verdict.count("pending", self.indexer.pending() as usize);
        }
        self.verify_passages(&mut verdict)?;
        self.verify_spaces(&mut verdict)?;
        self.verify_relations(&mut verdict)?;
        if depth != Depth::Indexes {
            verdict.faults("store", self.store.check()?);
            self.verify_checksums(&mut verdict)?;
            self.verify_files(&mut verdict, depth)?;
        }
        Ok(verdict)
    }

    /// Each passage of the rows has a vector and words, and there are no others.
    fn verify_passages(&self, verdict: &mut Verdict) -> Result<()> {
        let words = self.searcher.words.snapshot();
        let vectors = self.searcher.model.load().passages.snapshot();
        let mut named: HashSet<u64> = HashSet::new();
        let files: Vec<FileId> = self.store.mirror().iter().map(|(id, _)| id).collect();
        self.store.read(|rows| {
            for file in files {
                let passages = rows.passages(file)?;
                named.extend(
                    passages
                        .known()
                        .iter()
                        .map(|row| PassageId::new(file, row.slot).0),
                );
            }
            Ok(())
        })?;
        verdict.count("passages", named.len());
        let held: HashSet<u64> = vectors.ids().collect();
        self.compare(verdict, "vectors", &named, &held);
        let held: HashSet<u64> = words.ids()?.into_iter().map(|id| id.0).collect();
        self.compare(verdict, "words", &named, &held);
        Ok(())
    }

    fn compare(&self, verdict: &mut Verdict, part: &'static str, named: &HashSet<u64>, held: &HashSet<u64>) {
        let place = |id: &u64| {
            let id = PassageId(*id);
            let path = self.store.mirror().path(id.file());
            let path = path.map_or("a file that is gone".to_owned(), |path| path_text(&path));
            format!("passage {} of {path}", id.slot())
        };
        let missing = named
            .difference(held)
            .map(|id| format!("{} is missing", place(id)));
        verdict.faults(part, missing);
        let orphans = held
            .difference(named)
            .map(|id| format!("{} is an orphan", place(id)));
        verdict.faults(part, orphans);
    }

    /// Each vector that a program set is in the index of its space, and no other is.
    fn verify_spaces(&self, verdict: &mut Verdict) -> Result<()> {
        let mut vectors = 0;
        for row in self.store.read(|rows| rows.spaces())? {
            let mut told = HashSet::new();
            self.store.read(|rows| {
                rows.each_vector(&row.name, |file, _| {
                    told.insert(file.0);
                    Ok(())
                })
            })?;
            vectors += told.len();
            let held = self.spaces.indexed(&row.name)?;
            let name = &row.name;
            let file = |id: &u64| {
                let path = self.store.mirror().path(FileId(*id));
                path.map_or(format!("file {id}"), |path| path_text(&path))
            };
            let missing = told.difference(&held);
            verdict.faults(
                "spaces",
                missing.map(|id| format!("{} is not in the index of {name:?}", file(id))),
            );
            let orphans = held.difference(&told);
            verdict.faults(
                "spaces",
                orphans.map(|id| format!("{} is an orphan in {name:?}", file(id))),
            );
        }
        verdict.count("vectors", vectors);
        Ok(())
    }

    fn verify_relations(&self, verdict: &mut Verdict) -> Result<()> {
        let (count, faults) = self.store.read(|rows| rows.relation_faults())?;
        verdict.counts.push(("relations", count));
        verdict.faults("relations", faults);
        Ok(())
    }

    /// Every byte of the vector index and of the index of words fits its checksum.
    fn verify_checksums(&self, verdict: &mut Verdict) -> Result<()> {
        let mut spaces = self.spaces.all()?;
        spaces.push(self.searcher.model.load().passages.clone());
        verdict.count("spaces", spaces.len());
        for space in spaces {
            let findings = space.verify().into_iter();
            verdict.faults(
                "vectors",
                findings.map(|found| format!("{}: {}", found.file, found.what)),
            );
        }
        let damaged = self.searcher.words.damaged()?;
        verdict.faults(
            "words",
            damaged
                .iter()
                .map(|path| format!("{}: the checksum does not fit", path.display())),
        );
        Ok(())
    }

    /// Each file of the catalog is there as it was last seen.
    fn verify_files(&self, verdict: &mut Verdict, depth: Depth) -> Result<()> {
        let mut orphans = 0;
        let mut files: Vec<(FileId, PathBuf)> = Vec::new();
        {
            let mirror = self.store.mirror();
            for (id, node) in mirror.iter() {
                match node.state() {
                    State::Orphan => orphans += 1,
                    _ if node.kind() == Kind::File && node.state().is_live() => {
                        files.extend(mirror.path(id).map(|path| (id, path)));
                    }
                    _ => {}
                }
            }
        }
        verdict.count("files", files.len());
        verdict.counts.push(("orphans", orphans));
        let mut hashed = 0;
        let mut faults = Vec::new();
        for (id, path) in &files {
            let row = self.store.read(|rows| rows.file(*id))?;
            // One that changed since waits for the indexer, and that is no fault.
            let Some(row) = row.filter(|row| row.state == State::Ready) else {
                continue;
            };
            let Some(now) = self.look_at(path, depth == Depth::Contents && row.hash.is_some()) else {
                faults.push(format!("{} cannot be opened", path_text(path)));
                continue;
            };
            if (now.size, now.mtime) != (row.facts.size, row.facts.mtime) {
                faults.push(format!("{} changed, and nothing noticed", path_text(path)));
            } else if let (Some(hash), Some(known)) = (now.hash, row.hash) {
                hashed += 1;
                if hash != known {
                    faults.push(format!(
                        "{} has other contents than were indexed",
                        path_text(path)
                    ));
                }
            }
        }
        // What changed during the look is on its way.
        if !faults.is_empty() && !self.indexer.is_paused() && !self.indexer.wait_idle(Duration::ZERO) {
            return Err(Error::NotFresh {
                pending: self.indexer.pending(),
            });
        }
        if depth == Depth::Contents {
            verdict.counts.push(("hashed", hashed));
        }
        verdict.faults("files", faults);
        Ok(())
    }

    /// A file as it is now; none if it cannot be opened.
    fn look_at(&self, path: &Path, contents: bool) -> Option<Look> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME;
        let open = |flags| rustix::fs::openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve);
        // Only the owner of a file may leave its access time alone.
        let opened = open(flags).or_else(|_| open(flags - OFlags::NOATIME)).ok()?;
        let stat = rustix::fs::fstat(&opened).ok()?;
        let hash = match contents {
            true => {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(File::from(opened)).ok()?;
                Some(*hasher.finalize().as_bytes())
            }
            false => None,
        };
        Some(Look {
            size: stat.st_size as u64,
            mtime: stat.st_mtime as i64 * 1_000_000_000 + stat.st_mtime_nsec as i64,
            hash,
        })
    }
}

/// What a look at a file gave.
struct Look {
    size: u64,
    /// Nanoseconds since the epoch.
    mtime: i64,
    /// blake3 of the contents, if they were asked for.
    hash: Option<[u8; 32]>,
}
