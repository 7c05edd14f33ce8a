//! A database: a directory of spaces, the catalog that names them, and the thread that looks after them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::manifest::Catalog;
use crate::space::bell::Bell;
use crate::space::{Options, Space, SpaceConfig};
use crate::storage::{Disk, Storage, replace};

const CATALOG: &str = "CATALOG";
const SPACES: &str = "spaces";
/// How long the thread sleeps when nobody rings.
const REST: Duration = Duration::from_secs(3);
/// How long one space may keep the thread while others wait.
const TURN: Duration = Duration::from_millis(200);

/// A directory of spaces. Dropping it ends the background thread; spaces that are still held stay usable.
pub struct Database {
    storage: Arc<dyn Storage>,
    options: Options,
    catalog: Arc<Mutex<Open>>,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// The catalog as on disk, and the spaces that it names.
#[derive(Default)]
struct Open {
    catalog: Catalog,
    spaces: BTreeMap<String, Result<Arc<Space>, Error>>,
    /// A sync of the catalog failed.
    stopped: bool,
}

/// One line of [`Database::spaces`].
#[derive(Clone, Debug)]
pub struct SpaceInfo {
    /// The name.
    pub name: String,
    /// The shape; `None` if the space could not be opened.
    pub config: Option<SpaceConfig>,
    /// Vectors in it.
    pub vectors: u64,
    /// Why it could not be opened.
    pub problem: Option<String>,
}

impl Database {
    /// Opens the database in a directory, making both if need be. A space that cannot be opened does not keep the
    /// others from being served: [`Database::space`] returns its error.
    ///
    /// Errors: [`Error::Locked`] when another process has it, [`Error::Corrupt`] and [`Error::Version`] for the
    /// catalog.
    pub fn open(dir: &Path, options: Options) -> Result<Database> {
        let storage = Disk::lock(dir).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => Error::Locked(dir.display().to_string()),
            _ => Error::io("open", dir, e),
        })?;
        Database::open_in(Arc::new(storage), options)
    }

    pub(crate) fn open_in(storage: Arc<dyn Storage>, options: Options) -> Result<Database> {
        let root = Path::new("");
        let names = storage.list(root).map_err(|e| Error::io("list", root, e))?;
        let catalog = if names.iter().any(|name| name == CATALOG) {
            let path = Path::new(CATALOG);
            let bytes = storage.map(path).map_err(|e| Error::io("read", path, e))?;
            Catalog::decode(&bytes, path)?
        } else {
            make(&*storage, &names)?
        };
        let bell = Arc::new(if options.background {
            Bell::attended()
        } else {
            Bell::default()
        });
        let spaces = catalog.spaces.iter().map(|(name, number)| {
            let opened = Space::open(
                Arc::clone(&storage),
                space_dir(*number),
                options,
                Arc::clone(&bell),
            );
            (name.clone(), opened.map(Arc::new))
        });
        let open = Open {
            spaces: spaces.collect(),
            catalog,
            stopped: false,
        };
        sweep(&*storage, &open.catalog);
        let catalog = Arc::new(Mutex::new(open));
        let thread = options
            .background
            .then(|| look_after(Arc::clone(&catalog), Arc::clone(&bell)));
        Ok(Database {
            storage,
            options,
            catalog,
            bell,
            thread,
        })
    }

    /// Makes a space.
    ///
    /// Errors: [`Error::SpaceExists`], [`Error::BadName`], [`Error::BadConfig`].
    pub fn create_space(&self, name: &str, config: SpaceConfig) -> Result<Arc<Space>> {
        check_name(name)?;
        let config = config.check()?;
        let mut open = self.catalog.lock();
        if open.spaces.contains_key(name) {
            return Err(Error::SpaceExists(name.into()));
        }
        let number = open.catalog.next_number;
        let dir = space_dir(number);
        Space::create(&*self.storage, &dir, config)?;
        let spaces = Path::new(SPACES);
        self.storage
            .sync_dir(spaces)
            .map_err(|e| Error::io("sync", spaces, e))?;
        let space = Arc::new(Space::open(
            Arc::clone(&self.storage),
            dir,
            self.options,
            Arc::clone(&self.bell),
        )?);
        let mut catalog = open.catalog.clone();
        catalog.next_number = number + 1;
        catalog.spaces.push((name.into(), number));
        self.write(&mut open, catalog)?;
        open.spaces.insert(name.into(), Ok(Arc::clone(&space)));
        Ok(space)
    }

    /// The space with this name.
    ///
    /// Errors: [`Error::UnknownSpace`], or the reason why it could not be opened.
    pub fn space(&self, name: &str) -> Result<Arc<Space>> {
        match self.catalog.lock().spaces.get(name) {
            Some(Ok(space)) => Ok(Arc::clone(space)),
            Some(Err(e)) => Err(Error::Corrupt {
                file: format!("space {name:?}"),
                what: e.to_string(),
            }),
            None => Err(Error::UnknownSpace(name.into())),
        }
    }

    /// Removes a space and its files. Those who still hold it can read on, but not write.
    pub fn drop_space(&self, name: &str) -> Result<()> {
        let mut open = self.catalog.lock();
        let mut catalog = open.catalog.clone();
        let at = position(&catalog, name)?;
        let (_, number) = catalog.spaces.remove(at);
        self.write(&mut open, catalog)?;
        if let Some(Ok(space)) = open.spaces.remove(name) {
            space.retire();
        }
        // The catalog no longer names it, so a leftover is removed at the next open.
        let _ = self.storage.remove_dir(&space_dir(number));
        Ok(())
    }

    /// Gives a space another name, in one step. A space that has the new name already is dropped in the same step, so
    /// that a migration can fill a new space and then put it in place of the old.
    pub fn rename_space(&self, from: &str, to: &str) -> Result<()> {
        check_name(to)?;
        let mut open = self.catalog.lock();
        let mut catalog = open.catalog.clone();
        let at = position(&catalog, from)?;
        if from == to {
            return Ok(());
        }
        catalog.spaces[at].0 = to.into();
        let replaced = catalog
            .spaces
            .iter()
            .enumerate()
            .position(|(i, (name, _))| i != at && name == to);
        let replaced = replaced.map(|i| catalog.spaces.remove(i).1);
        self.write(&mut open, catalog)?;
        let space = open.spaces.remove(from).expect("the catalog names it");
        if let Some(Ok(old)) = open.spaces.insert(to.into(), space) {
            old.retire();
        }
        if let Some(number) = replaced {
            let _ = self.storage.remove_dir(&space_dir(number));
        }
        Ok(())
    }

    /// All spaces in order of their names.
    pub fn spaces(&self) -> Vec<SpaceInfo> {
        let open = self.catalog.lock();
        let info = |(name, space): (&String, &Result<Arc<Space>>)| SpaceInfo {
            name: name.clone(),
            config: space.as_ref().ok().map(|space| space.config()),
            vectors: space.as_ref().map_or(0, |space| space.len()),
            problem: space.as_ref().err().map(Error::to_string),
        };
        open.spaces.iter().map(info).collect()
    }

    /// Replaces the catalog; on an error the old one holds.
    fn write(&self, open: &mut Open, catalog: Catalog) -> Result<()> {
        if open.stopped {
            return Err(Error::Stopped);
        }
        let path = Path::new(CATALOG);
        match replace(&*self.storage, path, &catalog.encode()) {
            Ok(true) => {
                open.catalog = catalog;
                Ok(())
            }
            Ok(false) => {
                open.stopped = true;
                Err(Error::Stopped)
            }
            Err(e) => Err(Error::io("replace", path, e)),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.bell.close();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by its own message; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Makes the catalog of a new database. A directory with spaces but without a catalog is not new.
fn make(storage: &dyn Storage, names: &[String]) -> Result<Catalog> {
    let path = Path::new(CATALOG);
    if names.iter().any(|name| name == SPACES)
        && !storage
            .list(Path::new(SPACES))
            .is_ok_and(|spaces| spaces.is_empty())
    {
        return Err(Error::corrupt(path, "it is missing, but there are spaces"));
    }
    let catalog = Catalog {
        next_number: 1,
        spaces: Vec::new(),
    };
    storage
        .create_dir(Path::new(SPACES))
        .map_err(|e| Error::io("create", Path::new(SPACES), e))?;
    match replace(storage, path, &catalog.encode()) {
        Ok(true) => Ok(catalog),
        Ok(false) => Err(Error::Stopped),
        Err(e) => Err(Error::io("write", path, e)),
    }
}

/// Removes directories that no name leads to: what a crash left of creating or dropping a space.
fn sweep(storage: &dyn Storage, catalog: &Catalog) {
    for name in storage.list(Path::new(SPACES)).unwrap_or_default() {
        let named = name
            .parse()
            .is_ok_and(|number: u64| catalog.spaces.iter().any(|(_, n)| *n == number));
        if !named {
            let _ = storage.remove_dir(&Path::new(SPACES).join(name));
        }
    }
}

fn space_dir(number: u64) -> PathBuf {
    Path::new(SPACES).join(format!("{number:08}"))
}

fn position(catalog: &Catalog, name: &str) -> Result<usize> {
    catalog
        .spaces
        .iter()
        .position(|(n, _)| n == name)
        .ok_or_else(|| Error::UnknownSpace(name.into()))
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=255).contains(&name.len()) && !name.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(Error::BadName(name.into()))
    }
}

/// The thread that flushes and merges.
fn look_after(catalog: Arc<Mutex<Open>>, bell: Arc<Bell>) -> JoinHandle<()> {
    let work = move || {
        // What the last process left is taken up at once: a graph that is read serves the first search.
        bell.ring();
        while bell.wait(REST) {
            let spaces: Vec<Arc<Space>> = catalog.lock().spaces.values().flatten().cloned().collect();
            let mut left = spaces;
            while !left.is_empty() && !bell.is_closed() {
                left.retain(|space| match space.maintain(TURN) {
                    Ok(more) => more,
                    Err(Error::Dropped | Error::Stopped) => false,
                    Err(e) => {
                        tracing::warn!(space = %space.dir().display(), error = %e, "upkeep failed; it is tried again");
                        false
                    }
                });
            }
        }
    };
    std::thread::Builder::new()
        .name("vexfs-vector".into())
        .spawn(work)
        .expect("the system has threads left")
}
