//! What transactions promise, as a program that one reads at a glance: a tree of numbered nodes in memory, and for each
//! transaction the names that it touched with what stood there, the names that it hides, and what it staged.

use std::collections::{BTreeMap, BTreeSet};

/// Which file or directory, for ever.
pub(crate) type Id = u64;
/// A name in a directory.
pub(crate) type At = (Id, String);

pub(crate) const ROOT: Id = 0;

/// Permission bits of a new file under the usual umask.
const NEW_FILE_MODE: u32 = 0o644;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Dir(BTreeMap<String, Id>),
    File(File),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: String,
    /// Counts changes of the content.
    version: u64,
    /// Counts the inodes that it had: a commit brings another, unless it has several names.
    inode: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) told: BTreeMap<String, Vec<u8>>,
}

impl File {
    pub(crate) fn new(content: String) -> File {
        File {
            content,
            mode: NEW_FILE_MODE,
            ..File::default()
        }
    }
}

/// The tree that everybody sees.
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<Id, Node>,
    last: Id,
    /// When each node was changed last.
    changed: BTreeMap<Id, u64>,
    clock: u64,
    /// Every name that ever was.
    names: BTreeSet<String>,
}

impl Tree {
    pub(crate) fn new() -> Tree {
        Tree {
            nodes: BTreeMap::from([(ROOT, Node::Dir(BTreeMap::new()))]),
            last: ROOT,
            changed: BTreeMap::new(),
            clock: 0,
            names: BTreeSet::new(),
        }
    }

    /// Whether something was called so: what was told of it may come back with the name.
    pub(crate) fn was(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(crate) fn next_id(&mut self) -> Id {
        self.last += 1;
        self.last
    }

    fn note(&mut self, id: Id) {
        self.clock += 1;
        self.changed.insert(id, self.clock);
    }

    fn children(&self, dir: Id) -> BTreeMap<String, Id> {
        match self.nodes.get(&dir) {
            Some(Node::Dir(children)) => children.clone(),
            _ => BTreeMap::new(),
        }
    }

    fn children_mut(&mut self, dir: Id) -> &mut BTreeMap<String, Id> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Dir(children)) => children,
            other => panic!("not a directory: {other:?}"),
        }
    }

    pub(crate) fn file(&self, id: Id) -> Option<&File> {
        match self.nodes.get(&id) {
            Some(Node::File(file)) => Some(file),
            _ => None,
        }
    }

    fn file_mut(&mut self, id: Id) -> &mut File {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => file,
            other => panic!("not a file: {other:?}"),
        }
    }

    /// Every path with its place and its node.
    pub(crate) fn paths(&self) -> BTreeMap<String, (At, Id)> {
        walk(&|dir| self.children(dir))
    }

    pub(crate) fn make(&mut self, (dir, name): At, node: Node) -> Id {
        let id = self.next_id();
        self.nodes.insert(id, node);
        self.names.insert(name.clone());
        self.children_mut(dir).insert(name, id);
        self.note(id);
        id
    }

    pub(crate) fn write(&mut self, id: Id, content: String) {
        let file = self.file_mut(id);
        file.content = content;
        file.version += 1;
        self.note(id);
    }

    pub(crate) fn remove(&mut self, (dir, name): &At) {
        let id = self.children_mut(*dir).remove(name).unwrap();
        self.stir(id);
        self.drop_unreachable();
    }

    pub(crate) fn rename(&mut self, (dir, name): &At, (to, new): At) {
        let id = self.children_mut(*dir).remove(name).unwrap();
        self.names.insert(new.clone());
        self.children_mut(to).insert(new, id);
        self.stir(id);
    }

    pub(crate) fn link(&mut self, id: Id, (to, new): At) {
        self.names.insert(new.clone());
        self.children_mut(to).insert(new, id);
        self.stir(id);
    }

    pub(crate) fn chmod(&mut self, id: Id, mode: u32) {
        self.file_mut(id).mode = mode;
        self.stir(id);
    }

    /// Something of an inode other than its content has changed, and with it the time that tells so.
    fn stir(&mut self, id: Id) {
        if let Some(Node::File(file)) = self.nodes.get_mut(&id) {
            file.version += 1;
        }
        self.note(id);
    }

    /// Names that lead to a node.
    pub(crate) fn links(&self, id: Id) -> usize {
        let dirs = self.nodes.values().filter_map(|node| match node {
            Node::Dir(children) => Some(children),
            Node::File(_) => None,
        });
        dirs.flat_map(BTreeMap::values)
            .filter(|child| **child == id)
            .count()
    }

    pub(crate) fn tell(&mut self, id: Id, name: &str, value: Option<Vec<u8>>) {
        let told = &mut self.file_mut(id).told;
        match value {
            Some(value) => told.insert(name.to_owned(), value),
            None => told.remove(name),
        };
        self.note(id);
    }

    /// What a conflict is found by: which node, and of a file which state.
    fn stands(&self, (dir, name): &At) -> Option<(Id, u64, u64)> {
        let id = *self.children(*dir).get(name)?;
        Some(
            self.file(id)
                .map_or((id, 0, 0), |file| (id, file.version, file.inode)),
        )
    }

    fn drop_unreachable(&mut self) {
        let reached: BTreeSet<Id> = self.paths().into_values().map(|(_, id)| id).collect();
        self.nodes.retain(|id, _| *id == ROOT || reached.contains(id));
    }
}

/// What a read of a file is compared by.
fn seen(tree: &Tree, id: Id) -> Option<(u64, u64)> {
    tree.file(id).map(|file| (file.version, file.inode))
}

fn walk(children: &dyn Fn(Id) -> BTreeMap<String, Id>) -> BTreeMap<String, (At, Id)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(String::new(), ROOT)];
    let mut entered = BTreeSet::new();
    while let Some((path, dir)) = todo.pop() {
        // One moved a folder into another inside, somebody else the other into the one outside: the transaction shows
        // both until it is refused.
        if !entered.insert(dir) {
            continue;
        }
        for (name, id) in children(dir) {
            let below = match path.is_empty() {
                true => name.clone(),
                false => format!("{path}/{name}"),
            };
            todo.push((below.clone(), id));
            found.insert(below, ((dir, name), id));
        }
    }
    found
}

/// What somebody told in a transaction.
#[derive(Clone, Debug)]
struct Told {
    /// The base file's inode and value when it was told first; none for a new file.
    before: Option<(u64, Option<Vec<u8>>)>,
    value: Option<Vec<u8>>,
}

/// An open transaction.
#[derive(Clone)]
pub(crate) struct Txn {
    begun: u64,
    /// What it read must stay as it is, too.
    strict: bool,
    /// Base files that a strict one read, with their versions and inodes.
    read: BTreeMap<Id, Option<(u64, u64)>>,
    /// Permission bits of what it changed.
    modes: BTreeMap<Id, u32>,
    touched: BTreeMap<At, Option<(Id, u64, u64)>>,
    hidden: BTreeSet<At>,
    staged: BTreeMap<At, Id>,
    /// Contents of changed and new files.
    pub(crate) files: BTreeMap<Id, String>,
    new_dirs: BTreeSet<Id>,
    new_files: BTreeSet<Id>,
    told: BTreeMap<(Id, String), Told>,
    /// Removed base directories, with the names that had been removed from them.
    emptied: Vec<(Id, BTreeSet<String>)>,
    gone: BTreeSet<Id>,
}

impl Txn {
    pub(crate) fn begin(tree: &Tree, strict: bool) -> Txn {
        Txn {
            begun: tree.clock,
            strict,
            read: BTreeMap::new(),
            modes: BTreeMap::new(),
            touched: BTreeMap::new(),
            hidden: BTreeSet::new(),
            staged: BTreeMap::new(),
            files: BTreeMap::new(),
            new_dirs: BTreeSet::new(),
            new_files: BTreeSet::new(),
            told: BTreeMap::new(),
            emptied: Vec::new(),
            gone: BTreeSet::new(),
        }
    }

    fn children(&self, tree: &Tree, dir: Id) -> BTreeMap<String, Id> {
        let mut children = tree.children(dir);
        children.retain(|name, _| !self.hidden.contains(&(dir, name.clone())));
        let staged = self.staged.iter().filter(|((above, _), _)| *above == dir);
        children.extend(staged.map(|((_, name), id)| (name.clone(), *id)));
        children
    }

    /// Every path inside.
    pub(crate) fn paths(&self, tree: &Tree) -> BTreeMap<String, (At, Id)> {
        walk(&|dir| self.children(tree, dir))
    }

    /// Paths inside on which nothing was changed outside since this began: a kernel may believe the others for a moment.
    pub(crate) fn steady(&self, tree: &Tree) -> BTreeMap<String, (At, Id)> {
        let paths = self.paths(tree);
        let is_steady = |path: &String| {
            let mut prefixes = path.match_indices('/').map(|(end, _)| &path[..end]);
            let whole = std::iter::once(path.as_str());
            prefixes.by_ref().chain(whole).all(|path| {
                let id = paths[path].1;
                tree.changed.get(&id).is_none_or(|at| *at <= self.begun)
            })
        };
        paths
            .iter()
            .filter(|(path, _)| is_steady(path))
            .map(|(path, at)| (path.clone(), at.clone()))
            .collect()
    }

    pub(crate) fn is_dir(&self, tree: &Tree, id: Id) -> bool {
        self.new_dirs.contains(&id) || matches!(tree.nodes.get(&id), Some(Node::Dir(_)))
    }

    pub(crate) fn is_empty(&self, tree: &Tree, dir: Id) -> bool {
        self.children(tree, dir).is_empty()
    }

    /// Names that it wants to make and that are free outside.
    pub(crate) fn wanted(&self) -> Vec<At> {
        let free = self.touched.iter().filter(|(_, base)| base.is_none());
        free.map(|(at, _)| at.clone()).collect()
    }

    pub(crate) fn told(&self, tree: &Tree, id: Id, name: &str) -> Option<Vec<u8>> {
        match self.told.get(&(id, name.to_owned())) {
            Some(told) => told.value.clone(),
            None => tree.file(id)?.told.get(name).cloned(),
        }
    }

    /// Whether something was told of a node.
    pub(crate) fn tells(&self, id: Id) -> bool {
        self.told.keys().any(|(told, _)| *told == id)
    }

    fn touch(&mut self, tree: &Tree, at: &At) {
        // Nobody outside can do anything in a new directory.
        if !self.new_dirs.contains(&at.0) {
            let stands = tree.stands(at);
            self.touched.entry(at.clone()).or_insert(stands);
        }
    }

    /// A directory in which something changes, and those above it, must stay where they are.
    fn touch_above(&mut self, tree: &Tree, dir: Id) {
        let mut dir = dir;
        while dir != ROOT {
            let at = self
                .paths(tree)
                .into_values()
                .find(|(_, id)| *id == dir)
                .unwrap()
                .0;
            self.touch(tree, &at);
            self.staged.insert(at.clone(), dir);
            dir = at.0;
        }
    }

    fn hide(&mut self, at: &At) {
        self.staged.remove(at);
        if matches!(self.touched.get(at), Some(Some(_))) {
            self.hidden.insert(at.clone());
        }
    }

    pub(crate) fn make(&mut self, tree: &mut Tree, at: At, content: Option<String>) {
        self.touch_above(tree, at.0);
        self.touch(tree, &at);
        let id = tree.next_id();
        self.staged.insert(at, id);
        match content {
            Some(content) => {
                self.new_files.insert(id);
                self.files.insert(id, content);
            }
            None => {
                self.new_dirs.insert(id);
            }
        }
    }

    pub(crate) fn write(&mut self, tree: &Tree, at: &At, id: Id, content: String) {
        self.touch_above(tree, at.0);
        self.touch(tree, at);
        self.staged.insert(at.clone(), id);
        // A copy has the mode of that time.
        self.modes.insert(id, self.mode(tree, id));
        self.files.insert(id, content);
    }

    /// What it shows in a file.
    pub(crate) fn content(&self, tree: &Tree, id: Id) -> String {
        let staged = self.files.get(&id).cloned();
        staged.unwrap_or_else(|| tree.file(id).unwrap().content.clone())
    }

    /// The permission bits that it shows.
    pub(crate) fn mode(&self, tree: &Tree, id: Id) -> u32 {
        let staged = self.modes.get(&id).copied();
        staged
            .or(tree.file(id).map(|file| file.mode))
            .unwrap_or(NEW_FILE_MODE)
    }

    pub(crate) fn chmod(&mut self, tree: &Tree, at: &At, id: Id, mode: u32) {
        self.write(tree, at, id, self.content(tree, id));
        self.modes.insert(id, mode);
    }

    pub(crate) fn link(&mut self, tree: &Tree, at: &At, id: Id, to: At) {
        self.write(tree, at, id, self.content(tree, id));
        self.touch_above(tree, to.0);
        self.touch(tree, &to);
        self.staged.insert(to, id);
    }

    /// Reads a file. What is staged is its own business.
    pub(crate) fn read(&mut self, tree: &Tree, id: Id) {
        if self.strict && !self.files.contains_key(&id) {
            self.read.entry(id).or_insert(seen(tree, id));
        }
    }

    /// Names that lead to a file in it.
    pub(crate) fn links(&self, tree: &Tree, id: Id) -> usize {
        let paths = self.paths(tree);
        paths.values().filter(|(_, other)| *other == id).count()
    }

    pub(crate) fn remove(&mut self, tree: &Tree, at: &At, id: Id) {
        let last = self.links(tree, id) == 1;
        self.touch_above(tree, at.0);
        self.touch(tree, at);
        if self.is_dir(tree, id) && !self.new_dirs.contains(&id) {
            let gone = self.hidden.iter().filter(|(dir, _)| *dir == id);
            self.emptied
                .push((id, gone.map(|(_, name)| name.clone()).collect()));
        }
        self.hide(at);
        if last {
            self.files.remove(&id);
            self.gone.insert(id);
        }
    }

    pub(crate) fn rename(&mut self, tree: &Tree, at: &At, id: Id, to: At) {
        self.touch_above(tree, at.0);
        self.touch_above(tree, to.0);
        self.touch(tree, at);
        self.touch(tree, &to);
        self.hide(at);
        self.staged.insert(to, id);
    }

    /// `of_content`: it was made for the content, so that must stay too.
    pub(crate) fn tell(
        &mut self,
        tree: &Tree,
        at: &At,
        id: Id,
        (name, of_content): (&str, bool),
        value: Option<Vec<u8>>,
    ) {
        if of_content && tree.file(id).is_some() && !self.files.contains_key(&id) {
            self.touch(tree, at);
        }
        let before = tree
            .file(id)
            .map(|file| (file.inode, file.told.get(name).cloned()));
        self.told
            .entry((id, name.to_owned()))
            .and_modify(|told| told.value = value.clone())
            .or_insert(Told { before, value });
    }

    /// Whether somebody else was first.
    pub(crate) fn conflicts(&self, tree: &Tree) -> Vec<String> {
        let touched = self.touched.iter().filter(|(at, base)| tree.stands(at) != **base);
        let mut found: Vec<_> = touched.map(|((_, name), _)| name.clone()).collect();
        for ((id, name), told) in &self.told {
            let Some((inode, before)) = &told.before else {
                continue;
            };
            let same = match tree.file(*id) {
                Some(file) => {
                    (self.gone.contains(id) || file.inode == *inode) && file.told.get(name) == before.as_ref()
                }
                None => false,
            };
            if !same {
                found.push(format!("{id}#{name}"));
            }
        }
        let read = self
            .read
            .iter()
            .filter(|(id, before)| seen(tree, **id) != **before);
        found.extend(read.map(|(id, _)| format!("{id} was read")));
        for (dir, gone) in &self.emptied {
            let new = tree
                .children(*dir)
                .into_keys()
                .filter(|name| !gone.contains(name));
            found.extend(new);
        }
        found
    }

    /// The same when it has taken what others did for its base and its own side has won; none where that may leave
    /// conflicts: it is sure for files that both changed, under the names at which they were.
    pub(crate) fn rebased(&self, tree: &Tree) -> Option<Txn> {
        let mut rebased = self.clone();
        for (at, base) in &self.touched {
            let now = tree.stands(at);
            if now != *base {
                let (before, after) = ((*base)?.0, now?.0);
                if before != after || self.staged.get(at) != Some(&after) || !self.files.contains_key(&after)
                {
                    return None;
                }
                rebased.touched.insert(at.clone(), now);
            }
        }
        for ((id, name), told) in &mut rebased.told {
            if let Some((inode, before)) = &mut told.before {
                let file = tree.file(*id)?;
                if file.inode != *inode && !self.files.contains_key(id) || self.gone.contains(id) {
                    return None;
                }
                (*inode, *before) = (file.inode, file.told.get(name).cloned());
            }
        }
        for (id, before) in &mut rebased.read {
            *before = seen(tree, *id);
        }
        rebased.emptied.is_empty().then_some(rebased)
    }

    /// All of it at once.
    pub(crate) fn commit(self, tree: &mut Tree) {
        let inodes: BTreeMap<Id, usize> = self.files.keys().map(|id| (*id, tree.links(*id))).collect();
        for (dir, name) in &self.hidden {
            if let Some(Node::Dir(children)) = tree.nodes.get_mut(dir) {
                children.remove(name);
            }
        }
        for id in self.new_dirs {
            tree.nodes.insert(id, Node::Dir(BTreeMap::new()));
        }
        for id in self.new_files {
            tree.nodes.insert(id, Node::File(File::default()));
        }
        for ((dir, name), id) in self.staged {
            if tree.nodes.contains_key(&dir) {
                tree.names.insert(name.clone());
                tree.children_mut(dir).insert(name, id);
            }
            // A container that stays where it is was not changed.
            if tree.file(id).is_some() {
                tree.stir(id);
            }
        }
        for (dir, _) in &self.hidden {
            tree.note(*dir);
        }
        // A file that lost a name and has others is another by its times.
        for (id, ..) in self.hidden.iter().filter_map(|at| *self.touched.get(at)?) {
            if tree.file(id).is_some() {
                tree.stir(id);
            }
        }
        for (id, content) in self.files {
            tree.write(id, content);
            let file = tree.file_mut(id);
            file.inode += u64::from(inodes[&id] < 2);
            file.mode = self.modes.get(&id).copied().unwrap_or(NEW_FILE_MODE);
        }
        for ((id, name), told) in self.told {
            if tree.file(id).is_some() && !self.gone.contains(&id) {
                tree.tell(id, &name, told.value);
            }
        }
        tree.drop_unreachable();
    }
}
