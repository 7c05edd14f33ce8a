//! The tree as it should be, in memory.

use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) xattr: Option<u8>,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Vec<u8>),
    Symlink,
    Dir(BTreeMap<&'static str, usize>),
}

/// The tree as it should be. Node 0 is the root; nodes are never removed, only unlinked.
pub(super) struct Model {
    pub(super) nodes: Vec<Node>,
}

/// A directory of the model and the way to it.
pub(super) type Place = (usize, Vec<&'static str>);

impl Model {
    pub(super) fn new() -> Model {
        let mut model = Model { nodes: Vec::new() };
        model.add(Body::Dir(BTreeMap::new()), 0o755);
        model
    }

    pub(super) fn add(&mut self, body: Body, mode: u32) -> usize {
        self.nodes.push(Node {
            body,
            mode,
            xattr: None,
        });
        self.nodes.len() - 1
    }

    pub(super) fn entries(&self, dir: usize) -> &BTreeMap<&'static str, usize> {
        let Body::Dir(entries) = &self.nodes[dir].body else {
            unreachable!("only directories are asked")
        };
        entries
    }

    pub(super) fn entries_mut(&mut self, dir: usize) -> &mut BTreeMap<&'static str, usize> {
        let Body::Dir(entries) = &mut self.nodes[dir].body else {
            unreachable!("only directories are asked")
        };
        entries
    }

    pub(super) fn content_mut(&mut self, node: usize) -> &mut Vec<u8> {
        let Body::File(content) = &mut self.nodes[node].body else {
            unreachable!("only files are asked")
        };
        content
    }

    pub(super) fn is_dir(&self, node: usize) -> bool {
        matches!(self.nodes[node].body, Body::Dir(_))
    }

    /// Reachable directories, in a fixed order.
    pub(super) fn dirs(&self) -> Vec<Place> {
        let mut all: Vec<Place> = vec![(0, vec![])];
        let mut at = 0;
        while at < all.len() {
            let (dir, path) = all[at].clone();
            for (name, node) in self.entries(dir).iter().filter(|(_, node)| self.is_dir(**node)) {
                all.push((*node, [&path[..], &[name]].concat()));
            }
            at += 1;
        }
        all
    }

    pub(super) fn links(&self, node: usize) -> u32 {
        let in_dir = |dir: usize| self.entries(dir).values().filter(|n| **n == node).count() as u32;
        self.dirs().iter().map(|(dir, _)| in_dir(*dir)).sum()
    }

    pub(super) fn is_below(&self, node: usize, ancestor: usize) -> bool {
        node == ancestor
            || self.is_dir(ancestor) && self.entries(ancestor).values().any(|n| self.is_below(node, *n))
    }

    /// rename(2), in the order in which the kernel checks.
    pub(super) fn rename(
        &mut self,
        from: (usize, &'static str),
        to: (usize, &'static str),
        flags: u32,
    ) -> Result<(), i32> {
        let source = *self.entries(from.0).get(from.1).ok_or(libc::ENOENT)?;
        let target = self.entries(to.0).get(to.1).copied();
        let exchange = flags == libc::RENAME_EXCHANGE;
        if flags == libc::RENAME_NOREPLACE && target.is_some() {
            return Err(libc::EEXIST);
        }
        if exchange && target.is_none() {
            return Err(libc::ENOENT);
        }
        if self.is_below(to.0, source) {
            return Err(libc::EINVAL);
        }
        if let Some(target) = target {
            if self.is_below(from.0, target) {
                return Err(if exchange { libc::EINVAL } else { libc::ENOTEMPTY });
            }
            if target == source {
                return Ok(());
            }
            match (self.is_dir(source), self.is_dir(target)) {
                _ if exchange => {}
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.entries(target).is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
        }
        self.entries_mut(from.0).remove(from.1);
        self.entries_mut(to.0).insert(to.1, source);
        if let (true, Some(target)) = (exchange, target) {
            self.entries_mut(from.0).insert(from.1, target);
        }
        Ok(())
    }
}
