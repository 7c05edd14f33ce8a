//! From what is staged to the steps of its commit.
//!
//! The staged tree is walked along the base. Where both have a directory they are merged entry by entry; what is new
//! moves whole; what was moved is first held in the stage, so that its old place is free and its old parents may go,
//! and then put into its new place as the inode that it was. Attributes of directories come last, with the times that
//! they had in the stage: every step before changes those.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Difference;
use super::step::{Step, Times, What};
use super::view::{KEPT, Node, TREE, View};
use crate::ids::{Ino, NodeKey};
use crate::{Error, Result};

/// In the stage: base inodes on their way, and what was removed.
pub(super) const HOLD: &str = "hold";

/// The steps of a commit and what they change.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// Names that will lead elsewhere: the base directory and the name.
    pub(super) names: Vec<(Ino, OsString)>,
    /// Base inodes whose attributes or content change in place.
    pub(super) inodes: Vec<Ino>,
}

/// Plans the commit of a view. The caller keeps the view as it is.
pub(super) fn plan(view: &View) -> Result<Plan> {
    let mut planner = Planner {
        view,
        held: 0,
        rewrites: Vec::new(),
        file_holds: Vec::new(),
        dir_holds: Vec::new(),
        moves: Vec::new(),
        adoptions: Vec::new(),
        inodes: Vec::new(),
    };
    planner.rewrite_linked()?;
    planner.directory(view.root().0, Path::new(TREE), Path::new(""))?;
    Ok(planner.finish())
}

struct Planner<'v> {
    view: &'v View,
    held: u64,
    rewrites: Vec<Step>,
    file_holds: Vec<Step>,
    dir_holds: Vec<Step>,
    moves: Vec<Step>,
    adoptions: Vec<Step>,
    inodes: Vec<Ino>,
}

impl Planner<'_> {
    fn finish(mut self) -> Plan {
        // A directory within one that is held too is held first, while its path is what it was.
        let depth = |step: &Step| std::cmp::Reverse(step.tree.components().count());
        self.dir_holds.sort_by_key(depth);
        let parts = [
            self.rewrites,
            self.file_holds,
            self.dir_holds,
            self.moves,
            self.adoptions,
        ];
        let state = self.view.state.lock();
        // Names that lead to something come first: what was moved is found in its new place before it is missed.
        let mut names: Vec<_> = state
            .touched
            .iter()
            .filter_map(|((dir, name), base)| {
                let lower = state.nodes.get(dir)?.lower?;
                let hidden = state.hidden.get(dir).is_some_and(|names| names.contains(name));
                Some((base.is_some() && hidden, lower, name.clone()))
            })
            .collect();
        names.sort();
        // The links of what loses a name are fewer.
        let bases = state.touched.values().flatten();
        let inodes = bases.filter_map(|base| self.view.lower.ino_of(base.key));
        self.inodes.extend(inodes);
        self.inodes.sort();
        self.inodes.dedup();
        Plan {
            steps: parts.into_iter().flatten().collect(),
            names: names.into_iter().map(|(_, dir, name)| (dir, name)).collect(),
            inodes: self.inodes,
        }
    }

    /// Copies of files with several names: the inode stays, its content is replaced.
    fn rewrite_linked(&mut self) -> Result<()> {
        let mut linked: Vec<(u64, Node)> = {
            let state = self.view.state.lock();
            let nodes = state
                .nodes
                .iter()
                .filter(|(_, node)| node.copied && node.base_links > 1);
            nodes
                .filter(|(_, node)| node.kind == libc::S_IFREG && node.lower.is_some())
                .map(|(number, node)| (*number, node.clone()))
                .collect()
        };
        linked.sort_by_key(|(number, _)| *number);
        for (number, node) in linked {
            let (Some(lower), Some((dir, name))) = (node.lower, &node.origin) else {
                continue;
            };
            let tree = self.base_path(*dir)?.join(name);
            self.rewrites.push(Step {
                what: What::Rewrite,
                key: self.lower_key(lower)?,
                stage: Path::new(KEPT).join(number.to_string()),
                tree,
            });
            self.inodes.push(lower);
        }
        Ok(())
    }

    /// A directory that both have. `stage` is where its staged half is when this is carried out, `tree` where the base's
    /// is.
    fn directory(&mut self, number: u64, stage: &Path, tree: &Path) -> Result<()> {
        let node = self.view.node(Ino(number))?;
        let staged = self.view.staged_names(&node)?;
        for (name, key) in self.hidden(number) {
            let moves_on = staged.iter().any(|(other, _)| *other == name) || self.is_moved_dir(key);
            if !moves_on {
                let place = self.place();
                self.moves.push(Step {
                    what: What::Trash,
                    key,
                    stage: place,
                    tree: tree.join(&name),
                });
            }
        }
        for (name, child) in staged {
            let in_place = self.is_in_place(number, &name, child)?;
            self.child(child, &stage.join(&name), &tree.join(&name), in_place, false)?;
        }
        if let Some(lower) = node.lower {
            self.adoption(&node, lower, stage, tree)?;
            self.inodes.push(lower);
        }
        Ok(())
    }

    /// What a base directory takes over from its staged half: what was set there, and the time of its last change
    /// unless somebody else has changed it since, whose time is later.
    fn adoption(&mut self, node: &Node, lower: Ino, stage: &Path, tree: &Path) -> Result<()> {
        let key = self.lower_key(lower)?;
        if node.set {
            self.adoptions.push(Step {
                what: What::Adopt,
                key,
                stage: stage.to_owned(),
                tree: tree.to_owned(),
            });
        }
        let now = self.view.lower.getattr(lower, None)?;
        match node.before {
            Some(before) if before.mtime == now.mtime => self.keep_times(node, key, tree),
            _ => Ok(()),
        }
    }

    /// A directory gets the times that its staged half has now.
    fn keep_times(&mut self, node: &Node, key: NodeKey, tree: &Path) -> Result<()> {
        let upper = node.upper.ok_or(Error::Os(libc::ESTALE))?;
        let staged = self.view.upper.getattr(upper, None)?;
        self.adoptions.push(Step {
            what: What::SetTimes(Times {
                accessed: staged.atime,
                modified: staged.mtime,
            }),
            key,
            stage: PathBuf::new(),
            tree: tree.to_owned(),
        });
        Ok(())
    }

    /// Something staged. `put` says that it came into the tree with its new parent already.
    fn child(&mut self, number: u64, stage: &Path, tree: &Path, in_place: bool, put: bool) -> Result<()> {
        let node = self.view.node(Ino(number))?;
        match node.lower {
            None => self.arrival(&node, stage, tree, put),
            Some(_) if in_place && node.kind == libc::S_IFDIR => self.directory(number, stage, tree),
            // The inode is there, and its content is rewritten; or a placeholder came back to where its base is.
            Some(_) if in_place && (node.base_links > 1 || !node.copied) => Ok(()),
            Some(_) if node.copied && node.base_links == 1 && node.kind != libc::S_IFDIR => {
                self.arrival(&node, stage, tree, put)
            }
            Some(lower) => self.moved(number, &node, lower, (stage, tree), put),
        }
    }

    /// Something that the base has not, or that replaces what the base has.
    fn arrival(&mut self, node: &Node, stage: &Path, tree: &Path, put: bool) -> Result<()> {
        let upper = node.upper.ok_or(Error::Os(libc::ESTALE))?;
        let key = self.upper_key(upper)?;
        if !put {
            self.moves.push(Step {
                what: What::Put,
                key,
                stage: stage.to_owned(),
                tree: tree.to_owned(),
            });
        }
        if node.kind == libc::S_IFDIR {
            let moves = self.moves.len();
            for (name, child) in self.view.staged_names(node)? {
                // Within the new directory everything stands in the tree from now on.
                let path = tree.join(&name);
                self.child(child, &path, &path, false, true)?;
            }
            if self.moves.len() > moves {
                self.keep_times(node, key, tree)?;
            }
        }
        Ok(())
    }

    /// A base inode that gets another place. What stands for it in the stage changes places with it, if it is in the
    /// tree already.
    fn moved(
        &mut self,
        number: u64,
        node: &Node,
        lower: Ino,
        (stage, tree): (&Path, &Path),
        put: bool,
    ) -> Result<()> {
        let key = self.lower_key(lower)?;
        let place = self.place();
        let directory = node.kind == libc::S_IFDIR;
        let from = match &node.origin {
            Some((dir, name)) => self.base_path(*dir)?.join(name),
            None => return Err(Error::Os(libc::ESTALE)),
        };
        let (what, holds) = if directory {
            (What::HoldDir, &mut self.dir_holds)
        } else {
            (What::HoldFile, &mut self.file_holds)
        };
        holds.push(Step {
            what,
            key,
            stage: place.clone(),
            tree: from,
        });
        self.moves.push(Step {
            what: What::Put,
            key,
            stage: place.clone(),
            tree: tree.to_owned(),
        });
        match directory {
            true => self.directory(number, if put { &place } else { stage }, tree),
            false => Ok(()),
        }
    }

    /// Hidden names of a directory, with the inodes that they led to.
    fn hidden(&self, number: u64) -> Vec<(OsString, NodeKey)> {
        let state = self.view.state.lock();
        let names = state.hidden.get(&number).into_iter().flatten();
        let mut found: Vec<_> = names
            .filter_map(|name| {
                let base = state.touched.get(&(number, name.clone()))?.as_ref()?;
                Some((name.clone(), base.key))
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// Whether a base directory stands somewhere else in the stage: then it is held, not removed.
    fn is_moved_dir(&self, key: NodeKey) -> bool {
        let state = self.view.state.lock();
        let lower = self.view.lower.ino_of(key);
        lower.is_some()
            && state.nodes.values().any(|node| {
                node.kind == libc::S_IFDIR && node.upper.is_some() && node.lower == lower && !node.gone
            })
    }

    /// Whether a staged inode stands where the base has the inode that it came from.
    fn is_in_place(&self, dir: u64, name: &OsString, child: u64) -> Result<bool> {
        let state = self.view.state.lock();
        let base = state.touched.get(&(dir, name.clone())).copied().flatten();
        let lower = state.nodes.get(&child).and_then(|node| node.lower);
        drop(state);
        Ok(match (base, lower) {
            (Some(base), Some(lower)) => base.key == self.lower_key(lower)?,
            _ => false,
        })
    }

    /// The base's path of a directory, before the first step.
    fn base_path(&self, number: u64) -> Result<PathBuf> {
        let lower = self
            .view
            .node(Ino(number))?
            .lower
            .ok_or(Error::Os(libc::ESTALE))?;
        self.view.lower.path_of_dir(lower)
    }

    fn lower_key(&self, lower: Ino) -> Result<NodeKey> {
        self.view.lower.node_key(lower).ok_or(Error::Os(libc::ESTALE))
    }

    fn upper_key(&self, upper: Ino) -> Result<NodeKey> {
        self.view.upper.node_key(upper).ok_or(Error::Os(libc::ESTALE))
    }

    fn place(&mut self) -> PathBuf {
        self.held += 1;
        Path::new(HOLD).join(self.held.to_string())
    }
}

/// What a commit would change, by path, in the order of paths.
pub(super) fn differences(view: &View) -> Result<Vec<(PathBuf, Difference)>> {
    let mut found = Vec::new();
    collect(view, view.root().0, Path::new(""), &mut found)?;
    found.sort();
    Ok(found
        .into_iter()
        .map(|(path, difference, _)| (path, difference))
        .collect())
}

/// Files that a commit would change or replace, moved or not, with their nodes.
pub(super) fn changed_files(view: &View) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    collect(view, view.root().0, Path::new(""), &mut found)?;
    let mut files = Vec::new();
    for (path, difference, number) in found {
        let Some(number) = number else { continue };
        let node = view.node(Ino(number))?;
        let has_base = node.lower.is_some() || difference == Difference::Changed;
        if node.kind == libc::S_IFREG && node.copied && has_base {
            files.push((path, number));
        }
    }
    Ok(files)
}

/// A path, what happens to it, and its node if it stays.
pub(super) type Found = (PathBuf, Difference, Option<u64>);

pub(super) fn collect(view: &View, number: u64, path: &Path, found: &mut Vec<Found>) -> Result<()> {
    let node = view.node(Ino(number))?;
    let staged = view.staged_names(&node)?;
    {
        let state = view.state.lock();
        let hidden = state.hidden.get(&number).into_iter().flatten();
        let gone = hidden.filter(|name| !staged.iter().any(|(other, _)| other == *name));
        found.extend(gone.map(|name| (path.join(name), Difference::Removed, None)));
    }
    for (name, child) in staged {
        let node = view.node(Ino(child))?;
        let below = path.join(&name);
        let known = {
            let state = view.state.lock();
            state.touched.get(&(number, name)).copied().flatten()
        };
        let same = match (known, node.lower) {
            (Some(base), Some(lower)) => view.lower.node_key(lower) == Some(base.key),
            _ => false,
        };
        let changed = match node.kind == libc::S_IFDIR {
            true => node.set,
            false => node.copied,
        };
        let difference = match known {
            None => Some(Difference::Added),
            Some(_) if !same || changed => Some(Difference::Changed),
            Some(_) => None,
        };
        found.extend(difference.map(|difference| (below.clone(), difference, Some(child))));
        if node.kind == libc::S_IFDIR {
            collect(view, child, &below, found)?;
        }
    }
    Ok(())
}
