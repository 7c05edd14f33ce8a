//! Making a space, and opening one: manifest, segments, journals.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::bell::Bell;
use super::commit::Writer;
use super::upkeep::{Tide, Upkeep};
use super::{Dead, Finding, Options, Space, SpaceConfig, State, View};
use crate::error::{Error, Result};
use crate::journal::{self, End};
use crate::manifest::Manifest;
use crate::segment::{self, Segment};
use crate::storage::{Storage, replace};

/// Where corrupt files are moved, so that nothing reads them and somebody can look at them.
const QUARANTINE: &str = "quarantine";

impl Space {
    /// Writes the files of an empty space. The caller makes the name of `dir` durable.
    pub(crate) fn create(storage: &dyn Storage, dir: &Path, config: SpaceConfig) -> Result<()> {
        storage.create_dir(dir).map_err(|e| Error::io("create", dir, e))?;
        let manifest = Manifest {
            config,
            seq: 0,
            tag: None,
            journal_from: 1,
            next_number: 1,
            graph: None,
            segments: Vec::new(),
        };
        let path = dir.join("MANIFEST");
        match replace(storage, &path, &manifest.encode()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Stopped),
            Err(e) => Err(Error::io("write", &path, e)),
        }
    }

    /// Opens a space. Corrupt segments and journals are moved to a quarantine and named in the findings; a corrupt
    /// manifest is an error.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        dir: PathBuf,
        options: Options,
        bell: Arc<Bell>,
    ) -> Result<Space> {
        let path = dir.join("MANIFEST");
        let bytes = storage.map(&path).map_err(|e| Error::io("read", &path, e))?;
        let manifest = Manifest::decode(&bytes, &path)?;
        let mut opening = Opening {
            storage: &*storage,
            dir: &dir,
            findings: Vec::new(),
        };
        let mut state = opening.segments(&manifest)?;
        let names = storage.list(&dir).map_err(|e| Error::io("list", &dir, e))?;
        opening.sweep(&names, &manifest);
        let (next_journal, corrupt_journals) = opening.journals(&names, &manifest, &mut state)?;
        let findings = opening.findings;
        let corrupt = !corrupt_journals.is_empty();
        let rows = state.live;

        let space = Space {
            config: manifest.config,
            state: ArcSwap::from_pointee(state),
            queue: Mutex::default(),
            writer: Mutex::new(Writer {
                journal: None,
                next_journal,
            }),
            upkeep: Mutex::new(Upkeep {
                manifest,
                corrupt_journals,
                indexing: None,
                tide: Tide::at(rows),
            }),
            findings: Mutex::new(findings),
            stopped: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
            storage,
            dir,
            options,
            bell,
        };
        if corrupt {
            // What could be read of the journals goes into a segment, so that the next open does not need them.
            space.flush_memory()?;
        }
        Ok(space)
    }
}

/// What opening needs at every step.
struct Opening<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    findings: Vec<Finding>,
}

impl Opening<'_> {
    /// Opens the segments that the manifest names.
    fn segments(&mut self, manifest: &Manifest) -> Result<State> {
        let mut state = State {
            seq: manifest.seq,
            tag: manifest.tag,
            ..State::empty()
        };
        for entry in &manifest.segments {
            match Segment::open(self.storage, self.dir, entry.number, entry.rows, manifest.config) {
                Ok(segment) => {
                    self.codes(&segment)?;
                    let mut view = View::new(segment);
                    view.dead = Arc::new(Dead::from_bitmap(&entry.dead));
                    state.live += view.live() as u64;
                    state.files.push(view);
                }
                Err(Error::Corrupt { file, what }) => {
                    let path = segment::rows_path(self.dir, entry.number);
                    quarantine(self.storage, self.dir, &path)?;
                    self.findings.push(Finding {
                        file,
                        what: format!("{what}; {} rows are lost", entry.rows),
                    });
                }
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    let file = segment::rows_path(self.dir, entry.number).display().to_string();
                    self.findings.push(Finding {
                        file,
                        what: format!("it is missing; {} rows are lost", entry.rows),
                    });
                }
                Err(e) => return Err(e),
            }
        }
        Ok(state)
    }

    /// Opens the codes of a segment. They are derived: what is wrong with them is named, and they are made again.
    fn codes(&mut self, segment: &Segment) -> Result<()> {
        match segment.open_codes(self.storage, self.dir) {
            Ok(()) => {}
            Err(Error::Corrupt { file, what }) => {
                let path = segment::codes_path(self.dir, segment.number());
                quarantine(self.storage, self.dir, &path)?;
                self.findings.push(Finding {
                    file,
                    what: format!("{what}; it is made again"),
                });
            }
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Removes what a crash left behind: files that the manifest does not name. Best effort.
    fn sweep(&self, names: &[String], manifest: &Manifest) {
        let named = |number: u64| manifest.segments.iter().any(|entry| entry.number == number);
        for name in names {
            let stale = match name.split_once('.') {
                Some((_, "tmp")) => true,
                Some((number, "rows" | "codes")) => number.parse().is_ok_and(|number| !named(number)),
                Some((number, "graph")) => number.parse().ok() != manifest.graph,
                Some((number, "journal")) => number
                    .parse()
                    .is_ok_and(|number: u64| number < manifest.journal_from),
                _ => false,
            };
            if stale {
                let _ = self.storage.remove(&self.dir.join(name));
            }
        }
    }

    /// Replays the journals. Returns the number of the next one, and the numbers of those to set aside.
    fn journals(
        &mut self,
        names: &[String],
        manifest: &Manifest,
        state: &mut State,
    ) -> Result<(u64, Vec<u64>)> {
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| name.strip_suffix(".journal")?.parse().ok())
            .collect();
        numbers.retain(|&number| number >= manifest.journal_from);
        numbers.sort_unstable();
        let next = numbers.last().map_or(manifest.journal_from, |last| last + 1);
        for (i, &number) in numbers.iter().enumerate() {
            let path = journal::path(self.dir, number);
            let bytes = self.storage.map(&path).map_err(|e| Error::io("read", &path, e))?;
            let end = journal::replay(&bytes, manifest.config.dim, state.seq + 1, |record| {
                state.apply(manifest.config, record.seq, record.tag, record.change);
            });
            drop(bytes);
            let file = path.display().to_string();
            match end {
                End::Clean => self.settle(&path, None)?,
                End::Torn(0) => self
                    .storage
                    .remove(&path)
                    .map_err(|e| Error::io("remove", &path, e))?,
                End::Torn(len) => self.settle(&path, Some(len))?,
                End::Newer(found) => {
                    return Err(Error::Version {
                        file,
                        found,
                        supported: journal::VERSION,
                    });
                }
                End::Corrupt(what) => {
                    let what = format!("{what}; commits after {} are lost", state.seq);
                    self.findings.push(Finding { file, what });
                    return Ok((next, numbers[i..].to_vec()));
                }
            }
        }
        Ok((next, Vec::new()))
    }

    /// Cuts off a torn end, and makes durable what a killed process may have left unsynced: it is served from now on.
    fn settle(&self, path: &Path, cut: Option<u64>) -> Result<()> {
        let settled = self.storage.open(path).and_then(|file| {
            cut.map_or(Ok(()), |len| file.set_len(len))?;
            file.sync()
        });
        settled.map_err(|e| Error::io("sync", path, e))
    }
}

/// Moves a corrupt file away.
pub(super) fn quarantine(storage: &dyn Storage, dir: &Path, path: &Path) -> Result<()> {
    let into = dir.join(QUARANTINE);
    let name = path.file_name().expect("a file in the space's directory");
    let moved = storage
        .create_dir(&into)
        .and_then(|()| storage.rename(path, &into.join(name)));
    moved.map_err(|e| Error::io("quarantine", path, e))
}
