//! At the start: do the derived indexes hold what the rows say?
//!
//! The tag of each derived index is compared with the watermark of the store's last commit that used it.
//! - Equal: the rows are right.
//! - Ahead: a commit of the rows did not happen. What the derived index holds about the files that wait is unknown, so
//!   they are cleaned when they are indexed. No other file was part of that commit.
//! - Behind, or empty: the derived index lost something, or was deleted. Everything is made anew.
//!
//! Another embedder or another way of cutting passages makes everything anew as well.

use std::os::fd::AsFd;
use std::path::Path;

use super::derived::{Vectors, Words};
use super::{Explanation, Shared};
use crate::error::{Error, Result};
use crate::ids::Generation;
use crate::semantic::embed::Embedder;
use crate::store::catalog::Derived;
use crate::store::file::{Kind, State};
use crate::store::naming::Want;
use crate::store::{Store, Tx};

/// The way from a file to its passages; another number makes everything anew.
const PIPELINE: u32 = 2;

/// Brings rows and derived indexes together. Returns the highest tag in use.
pub(super) fn recover(
    store: &Store,
    vectors: &dyn Vectors,
    words: &dyn Words,
    embedder: &dyn Embedder,
) -> Result<u64> {
    let recipe = recipe(embedder);
    let (vectors_named, words_named, recipe_named) = store.read(|rows| {
        Ok((
            rows.watermark(Derived::Vectors)?,
            rows.watermark(Derived::Words)?,
            rows.saved("index", b"recipe")?,
        ))
    })?;
    let (vectors_tag, words_tag) = (vectors.tag(), words.tag()?);
    let mut highest = vectors_named.max(words_named).max(vectors_tag).max(words_tag);
    let behind = vectors_tag < vectors_named || words_tag < words_named;
    let other = recipe_named
        .as_ref()
        .is_some_and(|named| named != recipe.as_bytes());
    if behind || other {
        tracing::warn!(behind, other, "the index is made anew");
        store.write(|tx| tx.distrust_derived(true))?;
        highest += 1;
        vectors.clear(highest)?;
        words.clear(highest)?;
        store.write(|tx| {
            tx.set_watermark(Derived::Vectors, highest)?;
            tx.set_watermark(Derived::Words, highest)
        })?;
    } else if vectors_tag > vectors_named || words_tag > words_named {
        store.write(|tx| tx.distrust_derived(false))?;
    }
    if recipe_named.is_none_or(|named| named != recipe.as_bytes()) {
        store.write(|tx| record_recipe(tx, embedder))?;
    }
    Ok(highest)
}

/// What the derived indexes are made by.
fn recipe(embedder: &dyn Embedder) -> String {
    format!("{PIPELINE} {} {}", embedder.id(), embedder.dim())
}

/// Writes down what the derived indexes are made by.
pub(super) fn record_recipe(tx: &mut Tx<'_>, embedder: &dyn Embedder) -> Result<()> {
    tx.save("index", b"recipe", Some(recipe(embedder).as_bytes()))
}

/// Why links, pipes, sockets and devices are found by nobody.
const NO_CONTENT: &str = "no regular file";

/// What is neither file nor folder has a name and no content to look at: it is never opened.
fn without_content(kind: Kind) -> State {
    match kind {
        Kind::File | Kind::Directory => State::Named,
        _ => State::Excluded(NO_CONTENT.into()),
    }
}

/// Why a path is in the index or not.
pub(super) fn why(shared: &Shared, path: &Path) -> Result<Explanation> {
    let row = shared.store.read(|rows| match rows.resolve(path)? {
        Some(id) => rows.file(id),
        None => Ok(None),
    })?;
    if let Some(row) = row {
        let passages = shared
            .store
            .mirror()
            .get(row.id)
            .map_or(0, |node| node.passages());
        let state = match (row.state, row.facts.kind) {
            (State::Named, kind) => without_content(kind),
            (state, _) => state,
        };
        return Ok(Explanation {
            file: Some(row.id),
            state,
            passages,
            indexed: row.indexed,
        });
    }
    // Below an excluded folder nothing has a row; what does not exist at all is an error.
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Invalid("an empty path".into()));
    };
    let folder = shared.tree.open_folder(parent)?;
    let Some(found) = shared.tree.look(folder.as_fd(), name)? else {
        return Err(Error::NotFound(path.display().to_string()));
    };
    let mut at = std::path::PathBuf::new();
    let root = shared.tree.open_folder(&at)?;
    let mut here = shared.rules.read_unremembered(&shared.tree, root.as_fd(), None)?;
    for component in parent.iter() {
        at.push(component);
        let open = shared.tree.open_folder(&at)?;
        here = shared
            .rules
            .read_unremembered(&shared.tree, open.as_fd(), Some((here, component)))?;
    }
    let state = match shared.rules.verdict(&here, name, &found) {
        Want::Exclude(rule) => State::Excluded(rule),
        Want::Index if found.facts.kind == Kind::File => State::Pending,
        Want::Index => without_content(found.facts.kind),
    };
    Ok(Explanation {
        file: None,
        state,
        passages: 0,
        indexed: Generation(0),
    })
}
