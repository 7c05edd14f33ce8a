//! What a transaction changes as a patch that `git apply` takes, and `patch -p1` but for binary contents.
//!
//! The old side is the base as the transaction found it, so that the patch still says what the transaction meant when
//! somebody else has changed the same files. Files that were moved are renames, also those of a moved directory. What no
//! patch can say (special files, empty directories, owners, attributes, what lies in a `.git`) stands before it as lines
//! that begin with `#`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Difference;
use super::diff::hunks;
use super::git::{blob_name, is_binary, literal, quoted};
use super::plan::{Found, collect};
use super::view::before::read;
use super::view::{Base, View};
use crate::fs::ops::Attr;
use crate::ids::{Ino, NodeKey};
use crate::{Error, Result};

/// Larger files are named, not shown.
const BYTES_MAX: u64 = 16 << 20;

/// One side of a file: its mode as git has it, and its content.
struct Side {
    mode: &'static str,
    content: Vec<u8>,
}

/// The patch of a view that nobody changes meanwhile.
pub(super) fn patch(view: &View) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    collect(view, view.root().0, Path::new(""), &mut found)?;
    found.sort();
    let mut writer = Writer {
        view,
        removed: BTreeMap::new(),
        notes: Vec::new(),
        out: Vec::new(),
    };
    let (of_git, found): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|(path, ..)| is_of_git(path));
    for (path, ..) in &of_git {
        writer.note(path, "git takes no patch of its own directory");
    }
    writer.note_removed(&found)?;
    for (path, difference, number) in &found {
        if let Some(number) = number {
            writer.present(path, *difference, *number)?;
        }
    }
    for (path, (ino, key)) in std::mem::take(&mut writer.removed) {
        if let Some(old) = writer.old_side(&path, ino, key)? {
            writer.file(Some((&path, old)), None)?;
        }
        view.lower.forget(ino, 1);
    }
    let mut text = writer.notes;
    text.append(&mut writer.out);
    Ok(text)
}

/// Whether git would refuse a whole patch for this path: it lies in a repository's own directory.
fn is_of_git(path: &Path) -> bool {
    path.components()
        .any(|component| component.as_os_str().eq_ignore_ascii_case(".git"))
}

struct Writer<'v> {
    view: &'v View,
    /// Base files that are no longer at their paths. Each counts as looked up.
    removed: BTreeMap<PathBuf, (Ino, NodeKey)>,
    notes: Vec<u8>,
    out: Vec<u8>,
}

impl Writer<'_> {
    fn note(&mut self, path: &Path, what: &str) {
        self.notes.extend_from_slice(b"# not in this patch: ");
        self.notes.extend_from_slice(&quoted("", path));
        self.notes.extend_from_slice(format!(" ({what})\n").as_bytes());
    }

    /// Lists the base files that a commit would take away, those in directories too.
    fn note_removed(&mut self, found: &[Found]) -> Result<()> {
        for (path, difference, number) in found {
            let gone = match (difference, number) {
                (Difference::Removed, _) => true,
                (Difference::Changed, Some(number)) => self.origin(*number)?.as_ref() != Some(path),
                _ => false,
            };
            if gone
                && let Some((ino, attr)) = self.base_at(path)?
                && let Some(key) = self.view.lower.node_key(ino)
            {
                self.note_base(path.clone(), ino, key, &attr)?;
            }
        }
        Ok(())
    }

    /// Where the base has what a node came from.
    fn origin(&self, number: u64) -> Result<Option<PathBuf>> {
        let node = self.view.node(Ino(number))?;
        Ok(match &node.origin {
            Some((dir, name)) if node.lower.is_some() => Some(self.base_path(*dir)?.join(name)),
            _ => None,
        })
    }

    /// What the base has at a path of a parent that both have; counts as looked up.
    fn base_at(&self, path: &Path) -> Result<Option<(Ino, Attr)>> {
        let mut at = Ino::ROOT;
        let mut attr = None;
        for name in path.components() {
            let found = match self.view.lower.lookup(at, name.as_os_str()) {
                Ok(found) => Some(found),
                Err(Error::Os(libc::ENOENT | libc::ENOTDIR)) => None,
                Err(error) => return Err(error),
            };
            if at != Ino::ROOT {
                self.view.lower.forget(at, 1);
            }
            let Some(found) = found else { return Ok(None) };
            at = found.attr.ino;
            attr = Some(found.attr);
        }
        Ok(attr.map(|attr| (at, attr)))
    }

    /// A base inode that was looked up, with everything below it.
    fn note_base(&mut self, path: PathBuf, ino: Ino, key: NodeKey, attr: &Attr) -> Result<()> {
        if attr.mode & libc::S_IFMT != libc::S_IFDIR {
            if let Some((before, _)) = self.removed.insert(path, (ino, key)) {
                self.view.lower.forget(before, 1);
            }
            return Ok(());
        }
        let mut names = Vec::new();
        let fh = self.view.lower.opendir(ino)?;
        let listed = self.view.lower.readdir(fh, 0, |entry| {
            if entry.name != "." && entry.name != ".." {
                names.push(entry.name.to_owned());
            }
            false
        });
        self.view.lower.releasedir(fh);
        listed?;
        for name in names {
            if let Ok(found) = self.view.lower.lookup(ino, &name)
                && let Some(key) = self.view.lower.node_key(found.attr.ino)
            {
                self.note_base(path.join(&name), found.attr.ino, key, &found.attr)?;
            }
        }
        self.view.lower.forget(ino, 1);
        Ok(())
    }

    /// Something that is there after the commit.
    fn present(&mut self, path: &Path, difference: Difference, number: u64) -> Result<()> {
        let node = self.view.node(Ino(number))?;
        if node.is_dir() {
            return match (difference, node.lower) {
                (Difference::Added, Some(_)) => self.moved_directory(path, number),
                (Difference::Added, None) if self.view.staged_names(&node)?.is_empty() => {
                    self.note(path, "an empty directory");
                    Ok(())
                }
                _ => Ok(()),
            };
        }
        let key = node.lower.and_then(|lower| self.view.lower.node_key(lower));
        let origin = self.origin(number)?;
        let Some(new) = self.new_side(path, Ino(number))? else {
            return Ok(());
        };
        match (difference, origin, key) {
            // The same file with other content, or another file at its place.
            (Difference::Changed, origin, key) if origin.as_deref().is_none_or(|origin| origin == path) => {
                let old = match (key, node.lower) {
                    (Some(key), Some(lower)) => self.old_side(path, lower, key)?,
                    _ => self.taken(path)?,
                };
                self.file(old.map(|old| (path, old)), Some((path, new)))
            }
            (_, Some(origin), Some(_)) => {
                let from = self.taken(&origin)?;
                if difference == Difference::Changed
                    && let Some(replaced) = self.taken(path)?
                {
                    self.file(Some((path, replaced)), None)?;
                }
                self.file(from.map(|from| (origin.as_path(), from)), Some((path, new)))
            }
            _ => self.file(None, Some((path, new))),
        }
    }

    /// The files of a directory that was moved; those that were changed there are listed by themselves.
    fn moved_directory(&mut self, path: &Path, number: u64) -> Result<()> {
        let node = self.view.node(Ino(number))?;
        let fh = self.view.opendir(Ino(number))?;
        let mut names = Vec::new();
        let listed = self.view.readdir(fh, 0, |entry| {
            if entry.name != "." && entry.name != ".." {
                names.push(entry.name.to_owned());
            }
            false
        });
        self.view.releasedir(fh);
        listed?;
        let Some(lower) = node.lower else { return Ok(()) };
        let from = match self.origin(number)? {
            Some(from) => from,
            None => self.view.lower.path_of_dir(lower)?,
        };
        for name in names {
            let entry = self.view.lookup(Ino(number), &name)?;
            let child = self.view.node(entry.attr.ino)?;
            let (here, there) = (path.join(&name), from.join(&name));
            let shown = match (child.is_dir(), child.upper.is_some()) {
                (true, _) if child.lower.is_some() => self.moved_directory(&here, entry.attr.ino.0),
                (false, false) => match (self.taken(&there)?, self.new_side(&here, entry.attr.ino)?) {
                    (Some(old), Some(new)) => self.file(Some((&there, old)), Some((&here, new))),
                    _ => Ok(()),
                },
                _ => Ok(()),
            };
            self.view.forget(entry.attr.ino, 1);
            shown?;
        }
        Ok(())
    }

    /// The base's side of a path that a commit takes away, once.
    fn taken(&mut self, path: &Path) -> Result<Option<Side>> {
        let Some((ino, key)) = self.removed.remove(path) else {
            return Ok(None);
        };
        let side = self.old_side(path, ino, key);
        self.view.lower.forget(ino, 1);
        side
    }

    fn base_path(&self, number: u64) -> Result<PathBuf> {
        let lower = self.view.node(Ino(number))?.lower;
        self.view.lower.path_of_dir(lower.ok_or(Error::Os(libc::ESTALE))?)
    }

    fn old_side(&mut self, path: &Path, ino: Ino, key: NodeKey) -> Result<Option<Side>> {
        let attr = self.view.lower.getattr(ino, None);
        if let Some(content) = self.view.before(key) {
            // One that is gone since has told its mode to nobody.
            let mode = attr.as_ref().map_or("100644", regular);
            return Ok(Some(Side { mode, content }));
        }
        let attr = attr?;
        let is_touched_since = {
            let state = self.view.state.lock();
            let mut known = state.touched.values().flatten();
            known.any(|base| base.key == key && *base != Base::of(key, &attr))
        };
        if is_touched_since && attr.mode & libc::S_IFMT == libc::S_IFREG {
            self.note(
                path,
                "somebody changed it, and what it contained before is not known",
            );
            return Ok(None);
        }
        let link = || self.view.lower.readlink(ino);
        self.side(path, &attr, || self.view.lower.backing_fd(ino), link)
    }

    fn new_side(&mut self, path: &Path, ino: Ino) -> Result<Option<Side>> {
        let attr = self.view.getattr(ino, None)?;
        let node = self.view.node(ino)?;
        let file = || match (node.upper.filter(|_| node.copied), node.lower) {
            (Some(upper), _) => self.view.upper.backing_fd(upper),
            (None, Some(lower)) => self.view.lower.backing_fd(lower),
            (None, None) => Err(Error::Os(libc::ESTALE)),
        };
        self.side(path, &attr, file, || self.view.readlink(ino))
    }

    fn side(
        &self,
        path: &Path,
        attr: &Attr,
        file: impl FnOnce() -> Result<std::os::fd::OwnedFd>,
        link: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Option<Side>> {
        Ok(match attr.mode & libc::S_IFMT {
            libc::S_IFREG if attr.size <= BYTES_MAX => Some(Side {
                mode: regular(attr),
                content: read(file()?, attr.size)?,
            }),
            libc::S_IFLNK => Some(Side {
                mode: "120000",
                content: link()?,
            }),
            _ => {
                tracing::debug!(path = %path.display(), "not in a patch");
                None
            }
        })
    }

    /// One file of the patch.
    fn file(&mut self, old: Option<(&Path, Side)>, new: Option<(&Path, Side)>) -> Result<()> {
        match (old, new) {
            (Some((from, old)), Some((to, new))) => {
                let links = [&old, &new].map(|side| side.mode == "120000");
                if links[0] != links[1] {
                    // git has no change of the type.
                    self.file(Some((from, old)), None)?;
                    return self.file(None, Some((to, new)));
                }
                self.changed(from, &old, to, &new)
            }
            (Some((path, old)), None) => {
                self.head(path, path)?;
                writeln!(self.out, "deleted file mode {}", old.mode)?;
                self.content(path, path, Some(&old), None)
            }
            (None, Some((path, new))) => {
                self.head(path, path)?;
                writeln!(self.out, "new file mode {}", new.mode)?;
                self.content(path, path, None, Some(&new))
            }
            (None, None) => Ok(()),
        }
    }

    fn changed(&mut self, from: &Path, old: &Side, to: &Path, new: &Side) -> Result<()> {
        if from == to && old.mode == new.mode && old.content == new.content {
            return Ok(());
        }
        self.head(from, to)?;
        if old.mode != new.mode {
            writeln!(self.out, "old mode {}\nnew mode {}", old.mode, new.mode)?;
        }
        if from != to {
            for (what, path) in [("rename from ", from), ("rename to ", to)] {
                self.out.extend_from_slice(what.as_bytes());
                self.out.extend_from_slice(&quoted("", path));
                self.out.push(b'\n');
            }
        }
        match old.content == new.content {
            true => Ok(()),
            false => self.content(from, to, Some(old), Some(new)),
        }
    }

    fn head(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.out.extend_from_slice(b"diff --git ");
        self.out.extend_from_slice(&quoted("a/", from));
        self.out.push(b' ');
        self.out.extend_from_slice(&quoted("b/", to));
        self.out.push(b'\n');
        Ok(())
    }

    fn content(&mut self, from: &Path, to: &Path, old: Option<&Side>, new: Option<&Side>) -> Result<()> {
        let name = |side: Option<&Side>| side.map_or("0".repeat(40), |side| blob_name(&side.content));
        let bytes = |side: Option<&Side>| side.map_or(Vec::new(), |side| side.content.clone());
        let mode = match (old, new) {
            (Some(old), Some(new)) if old.mode == new.mode => format!(" {}", new.mode),
            _ => String::new(),
        };
        writeln!(self.out, "index {}..{}{mode}", name(old), name(new))?;
        let (before, after) = (bytes(old), bytes(new));
        if before == after {
            return Ok(());
        }
        if is_binary(&before) || is_binary(&after) {
            self.out.extend_from_slice(b"GIT binary patch\n");
            literal(&mut self.out, &after)?;
            literal(&mut self.out, &before)?;
            return Ok(());
        }
        for (sign, prefix, path, side) in [("--- ", "a/", from, old), ("+++ ", "b/", to, new)] {
            self.out.extend_from_slice(sign.as_bytes());
            match side {
                Some(_) => self.out.extend_from_slice(&quoted(prefix, path)),
                None => self.out.extend_from_slice(b"/dev/null"),
            }
            // A name with a space ends where the tab is.
            if side.is_some() && path.to_string_lossy().contains(' ') {
                self.out.push(b'\t');
            }
            self.out.push(b'\n');
        }
        self.out.extend_from_slice(&hunks(&before, &after));
        Ok(())
    }
}

fn regular(attr: &Attr) -> &'static str {
    match attr.mode & 0o111 {
        0 => "100644",
        _ => "100755",
    }
}
