//! What happens to everything below a folder, in commits of bounded size: a folder may hold millions of files, and a
//! commit of them all would keep every other writer waiting and its changes in memory.
//!
//! A crash between two commits leaves the folder with fewer files below it; the scan at the next start goes on.

use super::Shared;
use super::feed::{Event, What};
use crate::error::Result;
use crate::ids::FileId;
use crate::store::Rows;
use crate::store::file::Kind;
use crate::store::mirror::Name;
use crate::store::naming::{News, Trust, Want};

/// Files in one commit.
const FILES_MAX: usize = 4_096;

/// Whether more lies below a folder than fits in one commit.
pub(super) fn is_large(rows: &Rows<'_>, folder: FileId) -> Result<bool> {
    let (mut folders, mut below) = (vec![folder], 0);
    while let Some(folder) = folders.pop() {
        let children = rows.children(folder)?;
        below += children.len();
        if below > FILES_MAX {
            return Ok(true);
        }
        folders.extend(children.into_iter().map(|(_, id)| id));
    }
    Ok(false)
}

/// Everything below a folder is kept out by the rule that keeps the folder out.
pub(super) fn exclude(shared: &Shared, folder: FileId, rule: &str) -> Result<()> {
    let mut folders = vec![folder];
    let want = Want::Exclude(rule.to_owned());
    while let Some(folder) = folders.pop() {
        let children = shared.store.read(|rows| rows.children(folder))?;
        for children in children.chunks(FILES_MAX) {
            let (changed, _) = shared.store.write(|tx| {
                let mut changed = Vec::new();
                for (name, id) in children {
                    let Some(row) = tx.rows().file(*id)? else { continue };
                    if row.facts.kind == Kind::Directory {
                        folders.push(*id);
                    }
                    let at = Name {
                        parent: folder,
                        name: name.clone(),
                    };
                    // The row is its own evidence: nothing was looked at.
                    if tx.bind(&at, &row.facts, &want, Trust::Mtime)?.1 != News::Same {
                        changed.push(*id);
                    }
                }
                shared.queue.touch(&changed);
                Ok(changed)
            })?;
            if let Some(lowest) = changed.iter().min() {
                shared.queue.notify(*lowest, &[]);
            }
        }
    }
    Ok(())
}

/// A folder is gone with everything below it: the deepest names go first, its own goes last.
pub(super) fn forget(shared: &Shared, at: &Name) -> Result<()> {
    let Some(folder) = shared.store.read(|rows| rows.child(at.parent, at.as_os_str()))? else {
        return Ok(());
    };
    let mut folders = vec![folder];
    let mut next = 0;
    while let Some(&folder) = folders.get(next) {
        next += 1;
        shared.store.read(|rows| {
            for (_, id) in rows.children(folder)? {
                if rows
                    .file(id)?
                    .is_some_and(|row| row.facts.kind == Kind::Directory)
                {
                    folders.push(id);
                }
            }
            Ok(())
        })?;
    }
    for folder in folders.into_iter().rev() {
        let names = shared.store.read(|rows| rows.children(folder))?;
        let names: Vec<Name> = names
            .into_iter()
            .map(|(name, _)| Name { parent: folder, name })
            .collect();
        for names in names.chunks(FILES_MAX) {
            unbind(shared, names)?;
        }
    }
    unbind(shared, std::slice::from_ref(at))
}

fn unbind(shared: &Shared, names: &[Name]) -> Result<()> {
    let paths: Vec<_> = {
        let mirror = shared.store.mirror();
        names.iter().map(|name| mirror.path_of_name(name)).collect()
    };
    let ((gone, awaiting), generation) = shared.store.write(|tx| {
        let mut gone = Vec::new();
        for (name, path) in names.iter().zip(&paths) {
            gone.extend(tx.unbind(name)?.zip(path.as_ref()));
        }
        let awaiting = tx.take_awaiting();
        shared.queue.touch(&awaiting);
        Ok((gone, awaiting))
    })?;
    if let Some(lowest) = awaiting.iter().min() {
        shared.queue.notify(*lowest, &[]);
    }
    if shared.feed.is_heard() {
        let events = gone.into_iter().map(|(file, path)| Event {
            generation,
            file,
            path: path.clone(),
            what: What::Removed,
        });
        shared.feed.publish(&events.collect::<Vec<_>>());
    }
    Ok(())
}
