//! Who answers for a path: the daemon of the mount that it lies in, or, without a mount, this process for the time of
//! the command, on the same store.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use vexfs_core::store::dir::{CTLNAME_DEFAULT, StoreDir};

use super::client::Client;
use super::failure::Failure;
use crate::service::{STORE_SOCKET, Unmounted};

/// Where to look without a mount.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct At {
    /// Search this directory's store without a mount
    #[arg(short = 'C', long = "directory", value_name = "DIR", global = true)]
    directory: Option<PathBuf>,
}

/// Who answers, and the path as they know it.
pub(crate) struct Found {
    pub(crate) client: Client,
    /// The path below the root of the mount or directory.
    pub(crate) below_root: PathBuf,
    /// The root, absolute.
    pub(crate) root: PathBuf,
    /// Keeps the store of an unmounted directory open for the time of the command.
    _unmounted: Option<Unmounted>,
}

impl At {
    /// Who answers for `path`, which is relative to `-C DIR` where that is given.
    pub(crate) fn find(&self, path: &Path) -> Result<Found, Failure> {
        match &self.directory {
            Some(directory) => in_directory(directory, path),
            None => in_mount(path)?.ok_or_else(|| {
                Failure::no_daemon(format!(
                    "{} is in no VexFS mount; -C DIR searches a directory without one",
                    path.display()
                ))
            }),
        }
    }
}

impl Found {
    /// A path that may not exist, below the root; one outside of it stays absolute. `at` is where it was given.
    pub(crate) fn below(&self, at: &At, path: &Path) -> Result<PathBuf, Failure> {
        let given = at.directory.as_deref().unwrap_or(Path::new(".")).join(path);
        let full = std::path::absolute(&given).map_err(|e| Failure::from_io(&e, path))?;
        let full = without_dots(&full);
        let below = match full.strip_prefix(&self.root) {
            Ok(below) => below,
            // The way to it may lead through a link into the tree.
            Err(_) => match std::fs::canonicalize(&given) {
                Ok(real) => return Ok(real.strip_prefix(&self.root).unwrap_or(&real).to_owned()),
                Err(_) => &full,
            },
        };
        Ok(below.to_owned())
    }

    /// A path below the root as the user would write it, who gave `like` for another.
    pub(crate) fn shown(&self, below_root: &Path, like: &Path, at: &At) -> PathBuf {
        if at.directory.is_some() || below_root.is_absolute() {
            return below_root.to_owned();
        }
        let full = self.root.join(below_root);
        let here = std::env::current_dir().unwrap_or_default();
        match full.strip_prefix(&here) {
            Ok(below) if like.is_relative() => below.to_owned(),
            _ => full,
        }
    }
}

/// A path for a request, which is JSON and cannot hold other bytes than UTF-8.
pub(crate) fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| {
        let name = vexfs_core::query::answer::path_text(path);
        Failure::usage(format!(
            "{name} is not UTF-8; the control directory takes any name"
        ))
    })
}

/// `.` and `..` worked out by name alone.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

fn in_directory(directory: &Path, path: &Path) -> Result<Found, Failure> {
    let full = directory.join(path);
    // A mounted directory is answered by its daemon, whichever way it is named.
    if let Some(found) = in_mount(&full)? {
        return Ok(found);
    }
    let root = std::fs::canonicalize(directory).map_err(|e| Failure::from_io(&e, directory))?;
    let full = std::fs::canonicalize(&full).map_err(|e| Failure::from_io(&e, &full))?;
    let below_root = full
        .strip_prefix(&root)
        .map_err(|_| Failure::usage(format!("{} is not below {}", path.display(), directory.display())))?
        .to_owned();
    // Somebody serves it already.
    let store = StoreDir::open(&root, None, CTLNAME_DEFAULT.as_ref())?;
    if let Some(store) = store.filter(|store| matches!(store.locked_by(), Ok(Some(_)))) {
        return Ok(Found {
            client: Client::new(store.location().join(STORE_SOCKET)),
            below_root,
            root,
            _unmounted: None,
        });
    }
    let unmounted = Unmounted::open(&root)?;
    Ok(Found {
        client: Client::new(unmounted.socket()),
        below_root,
        root,
        _unmounted: Some(unmounted),
    })
}

/// Asks the control directory of the path's directory. `None` when the path is in no mount of ours.
fn in_mount(path: &Path) -> Result<Option<Found>, Failure> {
    let full = std::path::absolute(path).map_err(|e| Failure::from_io(&e, path))?;
    let (dir, name) = match std::fs::symlink_metadata(&full) {
        Ok(meta) if meta.is_dir() => (full.as_path(), None),
        Ok(_) => (full.parent().unwrap_or(Path::new("/")), full.file_name()),
        Err(e) => return Err(Failure::from_io(&e, path)),
    };
    let report = dir.join(".vexfs/status.json");
    let Ok(text) = std::fs::read(&report) else {
        return Ok(None);
    };
    let status: Value =
        serde_json::from_slice(&text).map_err(|e| Failure::usage(format!("{}: {e}", report.display())))?;
    let (Some(socket), Some(scope)) = (status["socket"].as_str(), status["scope"].as_str()) else {
        return Err(Failure::no_daemon(format!(
            "{} is mounted without an API socket",
            dir.display()
        )));
    };
    let mut below_root = PathBuf::from(scope);
    let root = dir.ancestors().nth(below_root.components().count());
    let root = root.unwrap_or(dir).to_owned();
    below_root.extend(name);
    let client = Client::new(socket.into());
    Ok(Some(Found {
        client: match status["txn"].as_str() {
            Some(txn) => client.inside(txn.to_owned()),
            None => client,
        },
        below_root,
        root,
        _unmounted: None,
    }))
}
