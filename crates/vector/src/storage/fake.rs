//! A storage in memory that fails at a chosen step and can lose power.
//!
//! It is as unkind as the contract in `storage.rs` allows: of bytes not synced any sectors may survive, of names not
//! synced any prefix of the changes to their directory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Aligned, Map, Storage, StorageFile};

const SECTOR: usize = 512;

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This step fails, half done, and all later ones do: the power is gone.
    PowerLoss,
    /// This step alone fails.
    Once(io::ErrorKind),
}

/// A directory tree in memory.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Tree>>);

#[derive(Default)]
struct Tree {
    files: Vec<Content>,
    names: Names,
    durable_names: Names,
    /// Changes of names since the last sync of their directory.
    changes: Vec<(PathBuf, Change)>,
    steps: u64,
    fault: Option<(u64, Fault)>,
    dice: u64,
}

/// Index of the file by path; `None` for directories.
type Names = BTreeMap<PathBuf, Option<usize>>;

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync.
    writes: Vec<Write>,
}

#[derive(Clone)]
enum Write {
    Bytes(usize, Vec<u8>),
    Len(usize),
}

#[derive(Clone)]
enum Change {
    Add(PathBuf, Option<usize>),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Fake {
    /// Lets step number `step` from now on fail; steps are everything that changes something, and syncs.
    pub(crate) fn fail_at(&self, step: u64, fault: Fault, seed: u64) {
        let mut tree = self.0.lock();
        (tree.fault, tree.dice) = (Some((tree.steps + step, fault)), seed);
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    /// Whether the chosen step was reached.
    pub(crate) fn has_failed(&self) -> bool {
        let tree = self.0.lock();
        tree.fault.is_some_and(|(at, _)| tree.steps >= at)
    }

    /// What is left after the power went: a new storage without faults.
    pub(crate) fn lose_power(&self, seed: u64) -> Fake {
        let tree = self.0.lock();
        let mut dice = seed;
        let mut names = tree.durable_names.clone();
        let mut directories: Vec<&PathBuf> = tree.changes.iter().map(|(dir, _)| dir).collect();
        directories.sort();
        directories.dedup();
        for dir in directories {
            let changes: Vec<&Change> = tree
                .changes
                .iter()
                .filter(|(d, _)| d == dir)
                .map(|(_, c)| c)
                .collect();
            let kept = roll(&mut dice) as usize % (changes.len() + 1);
            changes[..kept].iter().for_each(|change| change.apply(&mut names));
        }
        let orphaned = |path: &Path, names: &Names| {
            path.ancestors()
                .skip(1)
                .any(|dir| !dir.as_os_str().is_empty() && !names.contains_key(dir))
        };
        let kept = names.iter().filter(|(path, _)| !orphaned(path, &names));
        let names: Names = kept.map(|(path, file)| (path.clone(), *file)).collect();
        let files = tree
            .files
            .iter()
            .map(|file| file.after_power_loss(&mut dice))
            .collect();
        let left = Tree {
            files,
            durable_names: names.clone(),
            names,
            ..Tree::default()
        };
        Fake(Arc::new(Mutex::new(left)))
    }

    /// The files and their bytes.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let tree = self.0.lock();
        let files = tree
            .names
            .iter()
            .filter_map(|(path, file)| Some((path, (*file)?)));
        files
            .map(|(path, file)| (path.clone(), tree.files[file].now.clone()))
            .collect()
    }

    /// A copy that shares nothing, with one byte of a file changed.
    pub(crate) fn with_flipped(&self, path: &Path, at: usize, mask: u8) -> Fake {
        let tree = self.0.lock();
        let mut files = tree.files.clone();
        let file = tree.names[path].expect("a file");
        files[file].now[at] ^= mask;
        files[file].durable = files[file].now.clone();
        let left = Tree {
            files,
            names: tree.names.clone(),
            durable_names: tree.names.clone(),
            ..Tree::default()
        };
        Fake(Arc::new(Mutex::new(left)))
    }
}

impl Tree {
    /// Counts a step; an error if it is to fail.
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match self.fault {
            Some((at, Fault::PowerLoss)) if self.steps >= at => Err(io::Error::other("the power is gone")),
            Some((at, Fault::Once(kind))) if self.steps == at => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, dir: &Path, change: Change) {
        change.apply(&mut self.names);
        self.changes.push((dir.to_owned(), change));
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names
            .get(path)
            .copied()
            .flatten()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Change::Add(path, file) => drop(names.insert(path.clone(), *file)),
            Change::Remove(path) => names.retain(|name, _| !name.starts_with(path)),
            Change::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

impl Content {
    fn apply(bytes: &mut Vec<u8>, write: &Write) {
        match write {
            Write::Len(len) => bytes.resize(*len, 0),
            Write::Bytes(at, new) => {
                bytes.resize(bytes.len().max(at + new.len()), 0);
                bytes[*at..at + new.len()].copy_from_slice(new);
            }
        }
    }

    fn after_power_loss(&self, dice: &mut u64) -> Content {
        let mut left = self.durable.clone();
        for write in &self.writes {
            match (write, roll(dice) % 4) {
                (_, 0) => {}
                (write, 1) | (write @ Write::Len(_), _) => Content::apply(&mut left, write),
                (Write::Bytes(at, new), _) => {
                    let mut from = 0;
                    while from < new.len() {
                        let to = new.len().min((at + from) / SECTOR * SECTOR + SECTOR - at);
                        if roll(dice).is_multiple_of(2) {
                            Content::apply(&mut left, &Write::Bytes(at + from, new[from..to].to_vec()));
                        }
                        from = to;
                    }
                }
            }
        }
        Content {
            now: left.clone(),
            durable: left,
            writes: Vec::new(),
        }
    }
}

/// The next of a sequence of scattered numbers (splitmix64).
pub(crate) fn roll(dice: &mut u64) -> u64 {
    *dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*dice ^ (*dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl Storage for Fake {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let mut tree = self.0.lock();
        tree.step()?;
        if !parent(path).as_os_str().is_empty() && !tree.names.contains_key(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = match tree.find(path) {
            Ok(file) => {
                tree.files[file].now.clear();
                tree.files[file].writes.push(Write::Len(0));
                file
            }
            Err(_) => {
                tree.files.push(Content::default());
                let file = tree.files.len() - 1;
                tree.change(parent(path), Change::Add(path.to_owned(), Some(file)));
                file
            }
        };
        Ok(Box::new(Handle {
            tree: Arc::clone(&self.0),
            file,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let file = self.0.lock().find(path)?;
        Ok(Box::new(Handle {
            tree: Arc::clone(&self.0),
            file,
        }))
    }

    fn map(&self, path: &Path) -> io::Result<Map> {
        let tree = self.0.lock();
        let file = tree.find(path)?;
        Ok(Map::Memory(Arc::new(Aligned::copy_of(&tree.files[file].now))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.0.lock();
        tree.step()?;
        tree.find(from)?;
        tree.change(parent(to), Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.0.lock();
        tree.step()?;
        tree.find(path)?;
        tree.change(parent(path), Change::Remove(path.to_owned()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let tree = self.0.lock();
        let inside = tree.names.keys().filter(|path| parent(path) == dir);
        Ok(inside
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut tree = self.0.lock();
        tree.step()?;
        if !tree.names.contains_key(dir) {
            tree.change(parent(dir), Change::Add(dir.to_owned(), None));
        }
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut tree = self.0.lock();
        tree.step()?;
        tree.change(parent(dir), Change::Remove(dir.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut tree = self.0.lock();
        tree.step()?;
        let (synced, left) = std::mem::take(&mut tree.changes)
            .into_iter()
            .partition(|(d, _)| d == dir);
        let synced: Vec<(PathBuf, Change)> = synced;
        synced
            .iter()
            .for_each(|(_, change)| change.apply(&mut tree.durable_names));
        tree.changes = left;
        Ok(())
    }
}

/// An open file; it outlives its name.
struct Handle {
    tree: Arc<Mutex<Tree>>,
    file: usize,
}

impl Handle {
    fn write(&self, write: Write) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let result = tree.step();
        let mut write = write;
        if let (Err(_), Write::Bytes(at, bytes)) = (&result, &mut write) {
            // A write that fails may have written a part: whole sectors.
            let end = *at + roll(&mut tree.dice) as usize % (bytes.len() + 1);
            bytes.truncate((end / SECTOR * SECTOR).saturating_sub(*at));
        } else if result.is_err() {
            return result;
        }
        let file = &mut tree.files[self.file];
        Content::apply(&mut file.now, &write);
        file.writes.push(write);
        result
    }
}

impl StorageFile for Handle {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(Write::Bytes(offset as usize, bytes.to_vec()))
    }

    fn sync(&self) -> io::Result<()> {
        let mut tree = self.tree.lock();
        tree.step()?;
        let file = &mut tree.files[self.file];
        file.durable = file.now.clone();
        file.writes.clear();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write(Write::Len(len as usize))
    }
}
