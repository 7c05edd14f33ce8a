//! Where the state lives: the store directory.
//!
//! It is `SOURCE/.vexfs` (the name can be changed), or a directory that the user names, or one below
//! `$XDG_STATE_HOME/vexfs` where SOURCE cannot be written. It belongs to the mounting user, nobody else can read
//! it, and a signature marks it as ours. A directory, file or symlink of that name which we did not make is never
//! touched.
//!
//! A mount over SOURCE hides the store from every path that leads through SOURCE. So the directory is held open,
//! and [`StoreDir::path`] leads through the descriptor.

mod lock;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fchmod, fstat, mkdirat, openat};
use rustix::io::Errno;

use crate::error::{Error, Result};

pub use self::lock::StoreLock;

/// The name of the store directory in SOURCE, and of the control directory in the mount.
pub const CTLNAME_DEFAULT: &str = ".vexfs";

/// The file that marks a directory as a store. Its content is [`SIGNATURE`].
const SIGNATURE_FILE: &str = "SIGNATURE";
/// Content of the signature file; the number is the version of the layout.
const SIGNATURE: &[u8] = b"vexfs store 1\n";
/// Tells backup programs to leave the directory out (bford.info/cachedir).
const CACHEDIR_TAG_FILE: &str = "CACHEDIR.TAG";
const CACHEDIR_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n\
    # State of a VexFS mount. Deleting this directory un-installs VexFS here; the files beside it stay untouched.\n";
/// An open store directory.
#[derive(Debug)]
pub struct StoreDir {
    dir: OwnedFd,
    location: PathBuf,
}

impl StoreDir {
    /// Opens the store of `source`, or makes it.
    ///
    /// `explicit` is the directory that the user named; else it is `source/ctlname`, or, when that cannot be made
    /// because SOURCE is read-only for us, a directory of this SOURCE below `$XDG_STATE_HOME/vexfs`.
    ///
    /// # Errors
    /// [`Error::ForeignStore`] when something that is not our store has the name: nothing was changed then.
    /// Other errors are those of the filesystem; at worst an empty directory is left behind, which the next call
    /// takes over.
    pub fn open_or_create(source: &Path, explicit: Option<&Path>, ctlname: &OsStr) -> Result<StoreDir> {
        check_name(ctlname)?;
        if let Some(path) = explicit {
            let (parent, name) = split(path)?;
            return open_or_create_at(&open_dir(&parent)?, parent.join(&name), &name);
        }
        let location = source.join(ctlname);
        match open_or_create_at(&open_dir(source)?, location, ctlname) {
            Err(Error::Os(libc::EROFS | libc::EACCES | libc::EPERM)) => {
                StoreDir::open_or_create_elsewhere(source)
            }
            other => other,
        }
    }

    /// Opens the store of `source` below `$XDG_STATE_HOME/vexfs`, or makes it.
    ///
    /// # Errors
    /// As [`StoreDir::open_or_create`].
    pub fn open_or_create_elsewhere(source: &Path) -> Result<StoreDir> {
        let parent = state_home()?.join("vexfs");
        fs::create_dir_all(&parent)?;
        let name = name_for(source)?;
        open_or_create_at(&open_dir(&parent)?, parent.join(&name), &name)
    }

    /// Opens an existing store of `source` without making one: `None` when there is none.
    ///
    /// # Errors
    /// As [`StoreDir::open_or_create`].
    pub fn open(source: &Path, explicit: Option<&Path>, ctlname: &OsStr) -> Result<Option<StoreDir>> {
        check_name(ctlname)?;
        let candidates = match explicit {
            Some(path) => vec![path.to_owned()],
            None => vec![
                source.join(ctlname),
                state_home()?.join("vexfs").join(name_for(source)?),
            ],
        };
        for location in candidates {
            let opened = split(&location)
                .and_then(|(parent, name)| open_at(&open_dir(&parent)?, location.clone(), &name));
            match opened {
                Err(e) if e.errno() == libc::ENOENT => {}
                Ok(store) if !store.is_signed()? => {}
                other => return other.map(Some),
            }
        }
        Ok(None)
    }

    /// A path of the directory that works whatever is mounted over its location. It is valid in this process while
    /// `self` lives. Do not canonicalise it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()))
    }

    /// Where the directory was found, for people: messages, `status`.
    pub fn location(&self) -> &Path {
        &self.location
    }

    fn is_signed(&self) -> Result<bool> {
        Ok(read_small(self.dir.as_fd(), SIGNATURE_FILE)?.as_deref() == Some(SIGNATURE))
    }

    /// Marks a new directory as ours. The signature is written last: without it the directory counts as unfinished.
    fn sign(&self) -> Result<()> {
        for (name, content) in [(CACHEDIR_TAG_FILE, CACHEDIR_TAG), (SIGNATURE_FILE, SIGNATURE)] {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let mut file = File::from(openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(content)?;
            file.sync_all()?;
        }
        rustix::fs::fsync(&self.dir)?;
        Ok(())
    }

    /// Whether nothing is in it but what an interrupted [`StoreDir::sign`] leaves.
    fn is_unfinished(&self) -> Result<bool> {
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let expected: [&[u8]; 4] = [
                b".",
                b"..",
                CACHEDIR_TAG_FILE.as_bytes(),
                SIGNATURE_FILE.as_bytes(),
            ];
            if !expected.contains(&name) {
                return Ok(false);
            }
        }
        Ok(read_small(self.dir.as_fd(), SIGNATURE_FILE)?.is_none_or(|s| SIGNATURE.starts_with(&s)))
    }

    fn foreign(&self, why: &str) -> Error {
        Error::ForeignStore {
            location: self.location.clone(),
            why: why.to_owned(),
        }
    }
}

impl AsFd for StoreDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// A name for the control directory must be one component, and not a dot.
fn check_name(name: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 255 || bytes.contains(&b'/') || bytes == b"." || bytes == b".." {
        return Err(Error::Invalid(format!(
            "ctlname={}: not a file name",
            name.display()
        )));
    }
    Ok(())
}

fn open_or_create_at(parent: &OwnedFd, location: PathBuf, name: &OsStr) -> Result<StoreDir> {
    match mkdirat(parent, name, Mode::RWXU) {
        Err(Errno::EXIST) | Ok(()) => {}
        // An existing store on a filesystem that became read-only is still a store.
        Err(e) => match open_at(parent, location.clone(), name) {
            Err(Error::Os(libc::ENOENT)) => return Err(e.into()),
            Err(other) => return Err(other),
            Ok(_) => return Err(e.into()),
        },
    }
    let store = open_at(parent, location, name)?;
    if !store.is_signed()? {
        if !store.is_unfinished()? {
            return Err(store.foreign("it is not a VexFS store"));
        }
        store.sign()?;
        rustix::fs::fsync(parent)?;
    }
    fchmod(&store.dir, Mode::RWXU)?;
    Ok(store)
}

/// Opens the directory if it can be a store of ours: a real directory that belongs to us.
fn open_at(parent: &OwnedFd, location: PathBuf, name: &OsStr) -> Result<StoreDir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let foreign = |why: &str| Error::ForeignStore {
        location: location.clone(),
        why: why.to_owned(),
    };
    let dir = match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::LOOP) => return Err(foreign("it is a symbolic link")),
        Err(Errno::NOTDIR) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let link = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink;
            return Err(foreign(if link {
                "it is a symbolic link"
            } else {
                "it is not a directory"
            }));
        }
        Err(Errno::ACCESS) => return Err(foreign("it belongs to another user")),
        other => other?,
    };
    if fstat(&dir)?.st_uid != rustix::process::geteuid().as_raw() {
        return Err(foreign("it belongs to another user"));
    }
    Ok(StoreDir { dir, location })
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// The directory in which `path` stands, absolute, and its name.
fn split(path: &Path) -> Result<(PathBuf, OsString)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Invalid(format!(
            "store={}: not a directory name",
            path.display()
        )));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    Ok((parent.canonicalize()?, name.to_owned()))
}

/// `$XDG_STATE_HOME`, `~/.local/state`, or `/var/lib` for a process without a home.
fn state_home() -> Result<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    Ok(absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("/var/lib")))
}

/// A name that tells SOURCE to people and is unique to its path.
fn name_for(source: &Path) -> Result<OsString> {
    let full = source.canonicalize()?;
    let hash = blake3::hash(full.as_os_str().as_bytes()).to_hex();
    let mut name = full.file_name().unwrap_or(OsStr::new("root")).to_owned();
    if name.len() > 200 {
        name = OsString::from("long");
    }
    name.push(format!("-{}", &hash[..16]));
    Ok(name)
}

/// The content of a small file of the directory, `None` if there is no such file. Symbolic links are refused.
fn read_small(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => File::from(other?),
    };
    let mut content = Vec::new();
    file.take(4096).read_to_end(&mut content)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn open(source: &Path) -> Result<StoreDir> {
        StoreDir::open_or_create(source, None, OsStr::new(CTLNAME_DEFAULT))
    }

    fn refused_because(source: &Path, expect: &str) {
        match open(source) {
            Err(Error::ForeignStore { why, .. }) => assert_eq!(why, expect),
            other => panic!("expected a refusal because {expect}, got {other:?}"),
        }
    }

    #[test]
    fn a_new_store_is_private_and_tagged_and_found_again() -> Result<()> {
        let source = tempfile::tempdir()?;
        let store = open(source.path())?;
        let dir = source.path().join(".vexfs");
        assert_eq!(fs::metadata(&dir)?.permissions().mode() & 0o7777, 0o700);
        assert!(
            fs::read(dir.join("CACHEDIR.TAG"))?.starts_with(b"Signature: 8a477f597d28d172789f06886806bc55")
        );
        fs::write(dir.join("content"), "x")?;
        drop(store);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let again = open(source.path())?;
        assert_eq!(fs::read(again.path().join("content"))?, b"x");
        assert_eq!(
            fs::metadata(&dir)?.permissions().mode() & 0o7777,
            0o700,
            "opening makes it private again"
        );
        Ok(())
    }

    #[test]
    fn foreign_things_of_that_name_are_refused_and_untouched() -> Result<()> {
        let source = tempfile::tempdir()?;
        let name = source.path().join(".vexfs");

        symlink("/tmp", &name)?;
        refused_because(source.path(), "it is a symbolic link");
        fs::remove_file(&name)?;

        fs::write(&name, "mine")?;
        refused_because(source.path(), "it is not a directory");
        assert_eq!(fs::read(&name)?, b"mine");
        fs::remove_file(&name)?;

        fs::create_dir(&name)?;
        fs::write(name.join("mine"), "mine")?;
        refused_because(source.path(), "it is not a VexFS store");
        assert_eq!(fs::read_dir(&name)?.count(), 1);
        Ok(())
    }

    #[test]
    fn a_store_of_another_user_is_refused() -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let source = tempfile::tempdir()?;
        drop(open(source.path())?);
        std::os::unix::fs::chown(source.path().join(".vexfs"), Some(65534), Some(65534))?;
        refused_because(source.path(), "it belongs to another user");
        Ok(())
    }

    #[test]
    fn an_interrupted_creation_is_finished_by_the_next_one() -> Result<()> {
        let source = tempfile::tempdir()?;
        let dir = source.path().join(".vexfs");
        fs::create_dir(&dir)?;
        fs::write(dir.join("CACHEDIR.TAG"), "Signa")?;
        fs::write(dir.join("SIGNATURE"), "vexfs s")?;
        assert!(StoreDir::open(source.path(), None, OsStr::new(".vexfs"))?.is_none());
        open(source.path())?;
        assert!(StoreDir::open(source.path(), None, OsStr::new(".vexfs"))?.is_some());
        Ok(())
    }

    #[test]
    fn an_explicit_store_stands_where_it_was_asked_for() -> Result<()> {
        let source = tempfile::tempdir()?;
        let elsewhere = tempfile::tempdir()?;
        let wanted = elsewhere.path().join("state");
        let store = StoreDir::open_or_create(source.path(), Some(&wanted), OsStr::new(".vexfs"))?;
        assert_eq!(store.location(), wanted.canonicalize()?);
        assert_eq!(fs::read_dir(source.path())?.count(), 0);
        Ok(())
    }

    #[test]
    fn odd_control_names_are_refused() {
        for name in ["", ".", "..", "a/b"] {
            let result = StoreDir::open_or_create(Path::new("/tmp"), None, OsStr::new(name));
            assert!(matches!(result, Err(Error::Invalid(_))), "{name:?}");
        }
    }

    #[test]
    fn names_below_the_state_directory_differ_by_path() -> Result<()> {
        let (a, b) = (tempfile::tempdir()?, tempfile::tempdir()?);
        fs::create_dir(a.path().join("docs"))?;
        fs::create_dir(b.path().join("docs"))?;
        let (a, b) = (
            name_for(&a.path().join("docs"))?,
            name_for(&b.path().join("docs"))?,
        );
        assert!(a != b && a.as_bytes().starts_with(b"docs-"));
        Ok(())
    }

    #[test]
    fn errors_of_the_filesystem_keep_their_errno() {
        let missing = StoreDir::open_or_create(Path::new("/nonexistent-vexfs"), None, OsStr::new(".vexfs"));
        assert_eq!(missing.map(drop).map_err(|e| e.errno()), Err(libc::ENOENT));
        let missing = StoreDir::open_or_create(
            Path::new("/tmp"),
            Some(Path::new("/nonexistent-vexfs/x")),
            OsStr::new(".vexfs"),
        );
        assert_eq!(missing.map(drop).map_err(|e| e.errno()), Err(libc::ENOENT));
    }
}
