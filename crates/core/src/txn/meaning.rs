//! How far the changes of a transaction move what files mean: the distance between the content vectors of a file
//! before and after, the farthest first.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::plan::changed_files;
use super::teller::Teller;
use super::view::before::read;
use super::view::{Node, View};
use crate::ids::Ino;
use crate::{Error, Result};

/// Bytes of a file that are compared: what follows is left out.
const BYTES_MAX: u64 = 4 << 20;

/// Changed files of the base with their distance: 0 for the same meaning, 1 for nothing in common, up to 2; `None` for
/// what has no text. The farthest first, those without text last.
pub(super) fn moved(view: &View, teller: &dyn Teller) -> Result<Vec<(PathBuf, Option<f32>)>> {
    let mut moved = Vec::new();
    for (path, number) in changed_files(view)? {
        let node = view.node(Ino(number))?;
        let Some(upper) = node.upper else { continue };
        let base = match node.lower {
            Some(lower) => view.lower.backing_fd(lower)?,
            // Written anew and renamed over the old one, as editors do.
            None => match replaced(view, &node)? {
                Some(base) => base,
                None => continue,
            },
        };
        let before = teller.meaning(&node.name, &content(base)?)?;
        let after = teller.meaning(&node.name, &content(view.upper.backing_fd(upper)?)?)?;
        let distance = before.zip(after).map(|(before, after)| {
            let cosine: f32 = before.iter().zip(&after).map(|(a, b)| a * b).sum();
            (1.0 - cosine).max(0.0)
        });
        moved.push((path, distance));
    }
    moved.sort_by(|(path, a), (other, b)| {
        b.partial_cmp(a)
            .unwrap_or(a.is_none().cmp(&b.is_none()))
            .then(path.cmp(other))
    });
    Ok(moved)
}

/// The regular file that the base has at a node's name.
fn replaced(view: &View, node: &Node) -> Result<Option<OwnedFd>> {
    let Some(dir) = view.node(Ino(node.parent))?.lower else {
        return Ok(None);
    };
    let found = match view.lower.lookup(dir, &node.name) {
        Ok(found) => found.attr,
        Err(Error::Os(libc::ENOENT)) => return Ok(None),
        Err(e) => return Err(e),
    };
    let opened = match found.mode & libc::S_IFMT == libc::S_IFREG {
        true => view.lower.backing_fd(found.ino).map(Some),
        false => Ok(None),
    };
    view.lower.forget(found.ino, 1);
    opened
}

fn content(file: OwnedFd) -> Result<Vec<u8>> {
    let size = rustix::fs::fstat(&file)?.st_size as u64;
    read(&file, size.min(BYTES_MAX))
}
