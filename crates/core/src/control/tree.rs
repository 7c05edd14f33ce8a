//! The control directory `.vexfs`: queries and reports as directories, links and files.
//!
//! It stands in every directory of the mount and is listed by none; the directory in which it stands is the scope of
//! its queries. Lookup and getattr never run a query; opendir, readdir and open do. One opendir gives one frozen
//! list. Generated files have no size until they are read, so the adapter opens them with direct I/O.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::children::read_options;
use super::handles::{Handle, Handles};
use super::lists::{Lists, ResultList};
use super::node::{Listing, Node, Nodes, Report, Scope, Source};
use super::relations::RelationLists;
use super::{AddEntry, ControlDirectory, saved};
use crate::error::{Error, Result};
use crate::fs::ops::{Attr, Caller, Entry, SetAttr, Timestamp};
use crate::ids::{Ino, NodeKey};
use crate::knowledge::Knowledge;
use crate::query::answer::{Answer, name_text, path_text};
use crate::query::options::Options;
use crate::query::search::{Fresh, Request, What};
use crate::store::relations::check_kind;
use crate::txn::Txn;

pub(super) const S_IFDIR: u32 = libc::S_IFDIR;
pub(super) const S_IFREG: u32 = libc::S_IFREG;
pub(super) const S_IFLNK: u32 = libc::S_IFLNK;

/// How long the kernel may believe in a control directory without asking: a program that works in a transaction by
/// absolute paths passes it with every call.
const ROOT_TTL: Duration = Duration::from_secs(1);

/// The control directory of one mount.
pub struct ControlTree {
    pub(super) knowledge: Arc<Knowledge>,
    metrics: Box<dyn Fn() -> String + Send + Sync>,
    pub(super) nodes: Nodes,
    pub(super) lists: Lists,
    pub(super) links: RelationLists,
    pub(super) handles: Handles,
    born: Timestamp,
    owner: (u32, u32),
}

impl ControlTree {
    /// A control directory over what is known of the files. `metrics` renders the filesystem's own counters.
    pub fn new(knowledge: Arc<Knowledge>, metrics: Box<dyn Fn() -> String + Send + Sync>) -> ControlTree {
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        ControlTree {
            knowledge,
            metrics,
            nodes: Nodes::default(),
            lists: Lists::default(),
            links: RelationLists::default(),
            handles: Handles::default(),
            born: Timestamp::now(),
            owner,
        }
    }

    /// The transaction in whose tree a directory stands.
    pub(super) fn txn_of(&self, dir: Ino) -> Result<Arc<Txn>> {
        let txn = self.knowledge.desk().and_then(|desk| desk.of(dir));
        txn.ok_or(Error::Os(libc::ESTALE))
    }

    /// Where the directory stands in which one searches.
    pub(super) fn scope_path(&self, scope: Scope) -> Result<PathBuf> {
        match scope.staged {
            Some(dir) => Ok(self.txn_of(dir)?.place(dir)?.0),
            None => self.knowledge.directory_path(scope.dir),
        }
    }

    /// How many nodes the kernel holds.
    pub fn nodes_held(&self) -> usize {
        self.nodes.len()
    }
}

impl ControlDirectory for ControlTree {
    fn lookup_root(&self, caller: &Caller, dir: NodeKey) -> Result<Entry> {
        let staged = None;
        self.entry(
            caller,
            Node::Root {
                scope: Scope { dir, staged },
            },
        )
    }

    fn lookup_staged(&self, caller: &Caller, dir: Ino) -> Result<Entry> {
        let scope = Scope {
            dir: NodeKey { dev: 0, ino: 0 },
            staged: Some(dir),
        };
        self.entry(caller, Node::Root { scope })
    }

    fn lookup(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<Entry> {
        let node = self.child(caller, self.node(parent)?, name)?;
        self.entry(caller, node)
    }

    fn forget(&self, ino: Ino, count: u64) {
        self.nodes.forget(ino, count);
    }

    fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attr> {
        let node = self.node(ino)?;
        Ok(self.attr(caller, &node, ino))
    }

    fn setattr(&self, caller: &Caller, ino: Ino, change: &SetAttr) -> Result<Attr> {
        let node = self.node(ino)?;
        if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() || !writable(&node) {
            return Err(Error::NotPermitted("the control directory"));
        }
        Ok(self.attr(caller, &node, ino))
    }

    fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        let (listing, name) = match self.node(ino)? {
            Node::ResultLink(listing, name) => (listing, name),
            Node::Relation(place, name) => {
                let relation = self.relation_link(caller, &place, &name)?;
                return self.relation_target(&place, &relation);
            }
            _ => return Err(Error::Invalid("not a symbolic link".into())),
        };
        let list = self.frozen(caller, &listing)?;
        Ok(list
            .target(&name)
            .ok_or_else(|| Error::NotFound(name_text(&name)))?
            .to_vec())
    }

    fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<u64> {
        let node = self.node(ino)?;
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return match node {
                Node::SavedFile { name, file, .. } if file.is_writable() => {
                    self.saved_open_write(caller, &name, file, flags)
                }
                _ => Err(Error::ReadOnly),
            };
        }
        let handle = match node {
            Node::Report {
                report: Report::Events,
                ..
            } => Handle::Events(self.knowledge.subscribe(*caller)),
            Node::Report { scope, report } => Handle::Text(self.report(scope, report)?.into_bytes()),
            Node::ResultsJsonl(listing) => {
                Handle::Text(self.run(caller, &listing)?.answer.jsonl().into_bytes())
            }
            Node::AskFile(listing) => {
                Handle::Text(crate::query::ask::render(&self.answer(caller, &listing)?).into_bytes())
            }
            Node::SavedFile { scope, name, file } => self.saved_open_read(caller, scope, &name, file)?,
            _ => return Err(Error::Os(libc::EISDIR)),
        };
        Ok(self.handles.insert(handle))
    }

    fn read(&self, _caller: &Caller, _ino: Ino, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        self.handles.read(fh, offset, size)
    }

    fn write(&self, caller: &Caller, _ino: Ino, fh: u64, offset: u64, data: &[u8]) -> Result<u32> {
        self.saved_write(caller, fh, offset, data)
    }

    fn release(&self, _ino: Ino, fh: u64) {
        self.handles.remove(fh);
    }

    fn opendir(&self, caller: &Caller, ino: Ino) -> Result<u64> {
        let rows = self.rows(caller, &self.node(ino)?)?;
        Ok(self.handles.insert(Handle::Dir(rows)))
    }

    fn readdir(
        &self,
        _caller: &Caller,
        ino: Ino,
        fh: u64,
        offset: u64,
        add: &mut AddEntry<'_>,
    ) -> Result<()> {
        let rows = self.handles.dir(fh)?;
        let dots = [(".", ino), ("..", ino)];
        let dots = dots.iter().map(|(name, ino)| (*ino, S_IFDIR, OsStr::new(*name)));
        let rows = rows.iter().map(|row| (row.ino, row.kind, row.name.as_os_str()));
        for (i, (ino, kind, name)) in dots.chain(rows).enumerate().skip(offset as usize) {
            if add(ino, i as u64 + 1, (kind >> 12) as u8, name) {
                break;
            }
        }
        Ok(())
    }

    fn releasedir(&self, _ino: Ino, fh: u64) {
        self.handles.remove(fh);
    }

    fn mkdir(&self, caller: &Caller, parent: Ino, name: &OsStr, _mode: u32) -> Result<Entry> {
        match self.node(parent)? {
            Node::Saved { scope } => {
                self.knowledge.saved_create(caller, name)?;
                self.entry(
                    caller,
                    Node::SavedQuery {
                        scope,
                        name: name.into(),
                    },
                )
            }
            // A type that can be is there already; the name of one that cannot says why.
            Node::RelatedFile { scope, path } => {
                check_kind(&name.to_string_lossy())?;
                let node = self.relation_type(scope, path, name)?;
                self.entry(caller, node)
            }
            _ => Err(Error::NotPermitted("this directory")),
        }
    }

    fn rmdir(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<()> {
        match self.node(parent)? {
            Node::Saved { .. } => self.knowledge.saved_drop(caller, name),
            Node::RelatedFile { scope, path } => match self.relation_type(scope, path, name)? {
                Node::Relations(place) => self.relation_remove_type(caller, &place),
                _ => Err(Error::NotPermitted("this directory")),
            },
            _ => Err(Error::NotPermitted("this directory")),
        }
    }

    fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(Error::Os(libc::EINVAL));
        }
        match (self.node(parent)?, self.node(new_parent)?) {
            (Node::Saved { .. }, Node::Saved { .. }) => self.knowledge.saved_rename(caller, name, new_name),
            (Node::Relations(from), Node::Relations(to)) => {
                self.relation_rename(caller, (&from, name), (&to, new_name))
            }
            _ => Err(Error::NotPermitted("this directory")),
        }
    }

    fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        _mode: u32,
        flags: i32,
    ) -> Result<(Entry, u64)> {
        // A shell's `>` creates what it could not look up; what exists already is opened.
        let node = self
            .child(caller, self.node(parent)?, name)
            .map_err(|error| match error {
                Error::NotFound(_) => Error::Os(libc::EPERM),
                error => error,
            })?;
        if flags & libc::O_EXCL != 0 {
            return Err(Error::Exists(name_text(name)));
        }
        let entry = self.entry(caller, node)?;
        match self.open(caller, entry.attr.ino, flags) {
            Ok(fh) => Ok((entry, fh)),
            Err(error) => {
                self.nodes.forget(entry.attr.ino, 1);
                Err(error)
            }
        }
    }

    fn symlink(&self, caller: &Caller, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry> {
        let Node::Relations(place) = self.node(parent)? else {
            return Err(Error::NotPermitted("the control directory"));
        };
        self.relation_make(caller, &place, name, target)?;
        self.entry(caller, Node::Relation(place, name.into()))
    }

    fn unlink(&self, caller: &Caller, parent: Ino, name: &OsStr) -> Result<()> {
        let Node::Relations(place) = self.node(parent)? else {
            return Err(Error::NotPermitted("the control directory"));
        };
        self.relation_remove(caller, &place, name)
    }

    fn getxattr(&self, caller: &Caller, ino: Ino, name: &OsStr) -> Result<Vec<u8>> {
        let (listing, link) = match self.node(ino)? {
            Node::ResultLink(listing, link) => (listing, link),
            Node::Relation(place, link) => {
                let relation = self.relation_link(caller, &place, &link)?;
                return match name.as_bytes() {
                    b"vexfs.derived" => Ok(u8::from(relation.derived).to_string().into_bytes()),
                    b"vexfs.dangling" => Ok(u8::from(relation.dangling).to_string().into_bytes()),
                    b"vexfs.properties" => {
                        Ok(serde_json::json!(relation.properties()).to_string().into_bytes())
                    }
                    _ => Err(Error::NoAttribute),
                };
            }
            // How fresh the list is that was shown last.
            Node::Results(listing) | Node::ResultsJsonl(listing) => {
                let list = self.lists.get(&listing, caller.uid).ok_or(Error::NoAttribute)?;
                return freshness(&list.answer, name.as_bytes());
            }
            _ => return Err(Error::NoAttribute),
        };
        let list = self.frozen(caller, &listing)?;
        let (rank, hit) = list.hit(&link).ok_or_else(|| Error::NotFound(name_text(&link)))?;
        let value = match name.as_bytes() {
            b"vexfs.score" => format!("{:.4}", hit.score),
            b"vexfs.rank" => rank.to_string(),
            b"vexfs.lines" => match hit.passages.first() {
                Some(p) => format!("{}-{}", p.start_line, p.end_line),
                None => return Err(Error::NoAttribute),
            },
            b"vexfs.stale" => u8::from(hit.stale).to_string(),
            name => return freshness(&list.answer, name),
        };
        Ok(value.into_bytes())
    }

    fn listxattr(&self, _caller: &Caller, _ino: Ino) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn setxattr(&self, _caller: &Caller, _ino: Ino, _name: &OsStr, _value: &[u8], _flags: i32) -> Result<()> {
        Err(Error::NotPermitted("the control directory"))
    }

    fn removexattr(&self, _caller: &Caller, _ino: Ino, _name: &OsStr) -> Result<()> {
        Err(Error::NotPermitted("the control directory"))
    }

    fn make_searchable(&self, node: NodeKey) {
        self.knowledge.wait_file(node);
    }

    fn get_own_xattr(&self, caller: &Caller, node: NodeKey, name: &OsStr) -> Result<Vec<u8>> {
        self.knowledge.xattr_get(caller, node, name)
    }

    fn set_own_xattr(
        &self,
        caller: &Caller,
        node: NodeKey,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        if flags & (libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
            let there = self.knowledge.xattr_get(caller, node, name).is_ok();
            if there && flags & libc::XATTR_CREATE != 0 {
                return Err(Error::Exists(name_text(name)));
            }
            if !there && flags & libc::XATTR_REPLACE != 0 {
                return Err(Error::NoAttribute);
            }
        }
        self.knowledge.xattr_set(caller, node, name, value)
    }

    fn remove_own_xattr(&self, _caller: &Caller, node: NodeKey, name: &OsStr) -> Result<()> {
        self.knowledge.xattr_remove(node, name)
    }
}

impl ControlTree {
    fn node(&self, ino: Ino) -> Result<Node> {
        self.nodes.get(ino).ok_or(Error::Os(libc::ESTALE))
    }

    fn entry(&self, caller: &Caller, node: Node) -> Result<Entry> {
        let ino = self.nodes.refer(node.clone());
        // Names below `.vexfs` are looked up each time: they differ by caller, and a query's results change. `.vexfs`
        // itself is the same for all.
        let ttl = match node {
            Node::Root { .. } => ROOT_TTL,
            _ => Duration::ZERO,
        };
        let attr = self.attr(caller, &node, ino);
        Ok(Entry {
            attr,
            generation: 0,
            entry_ttl: ttl,
            attr_ttl: ttl,
        })
    }

    fn attr(&self, caller: &Caller, node: &Node, ino: Ino) -> Attr {
        let (mode, size) = match node {
            Node::ResultLink(listing, name) => {
                let list = self.lists.get(listing, caller.uid);
                (
                    S_IFLNK | 0o777,
                    list.and_then(|l| l.target(name).map(|t| t.len() as u64))
                        .unwrap_or(0),
                )
            }
            Node::Relation(place, name) => {
                let relation = self.relation_link(caller, place, name).ok();
                let mode = if relation.as_ref().is_some_and(|r| r.derived) {
                    0o555
                } else {
                    0o777
                };
                let target = relation.and_then(|relation| self.relation_target(place, &relation).ok());
                (S_IFLNK | mode, target.map_or(0, |target| target.len() as u64))
            }
            Node::Relations(_) => (S_IFDIR | 0o777, 0),
            Node::ResultsJsonl(_) | Node::AskFile(_) | Node::Report { .. } => (S_IFREG | 0o444, 0),
            Node::SavedFile { file, .. } => (saved::mode(*file), 0),
            Node::SavedQuery { .. } => (S_IFDIR | 0o700, 0),
            Node::Saved { .. } => (S_IFDIR | 0o777, 0),
            _ => (S_IFDIR | 0o555, 0),
        };
        let (uid, gid) = match node {
            Node::SavedFile { .. } | Node::SavedQuery { .. } => (caller.uid, caller.gid),
            _ => self.owner,
        };
        Attr {
            ino,
            size,
            blocks: 0,
            atime: self.born,
            mtime: self.born,
            ctime: self.born,
            mode,
            nlink: if mode & libc::S_IFMT == S_IFDIR { 2 } else { 1 },
            uid,
            gid,
            rdev: 0,
            blksize: 4_096,
        }
    }

    /// Runs the query of a listing and keeps the list for the lookups that follow.
    pub(super) fn run(&self, caller: &Caller, listing: &Arc<Listing>) -> Result<Arc<ResultList>> {
        let answer = self.answer(caller, listing)?;
        let scope = self.scope_path(listing.scope)?;
        let list = Arc::new(ResultList::new(answer, &scope, depth(listing)));
        self.lists.put(listing.clone(), caller.uid, list.clone());
        Ok(list)
    }

    /// The list that the caller was shown last.
    fn frozen(&self, caller: &Caller, listing: &Arc<Listing>) -> Result<Arc<ResultList>> {
        self.lists.get(listing, caller.uid).ok_or(Error::Os(libc::ENOENT))
    }

    fn answer(&self, caller: &Caller, listing: &Listing) -> Result<Answer> {
        let options = if listing.options.is_empty() {
            Options::default()
        } else {
            read_options(&listing.options)?
        };
        let saved;
        let what = match &listing.source {
            Source::Query(query) => What::Text(query),
            Source::Like(path) => What::Like(path),
            Source::Saved(name) => {
                saved = self.knowledge.saved_get(caller, name)?;
                saved.what()?
            }
        };
        let request = Request {
            caller,
            scope: listing.scope.staged.is_none().then_some(listing.scope.dir),
            what,
            options: &options,
            fresh: Fresh::default(),
        };
        match listing.scope.staged {
            Some(dir) => {
                let txn = self.txn_of(dir)?;
                self.knowledge.inside(&txn, caller).search(dir, &request)
            }
            None => self.knowledge.search(&request),
        }
    }

    fn report(&self, scope: Scope, report: Report) -> Result<String> {
        Ok(match report {
            Report::Status => self.knowledge.status().text(),
            Report::StatusJson => {
                let mut status = self.knowledge.status().json();
                // So that a program learns where in the tree it stands.
                status["scope"] = path_text(&self.scope_path(scope)?).into();
                if let Some(dir) = scope.staged {
                    status["txn"] = name_text(self.txn_of(dir)?.name()).into();
                }
                format!("{status}\n")
            }
            Report::Metrics | Report::Events => (self.metrics)(),
        })
    }
}

/// What an attribute says of how fresh an answer is.
fn freshness(answer: &Answer, name: &[u8]) -> Result<Vec<u8>> {
    let value = match name {
        b"vexfs.generation" => answer.generation.0,
        b"vexfs.pending" => answer.pending,
        _ => return Err(Error::NoAttribute),
    };
    Ok(value.to_string().into_bytes())
}

/// How many directories a link of the list stands below the scope.
fn depth(listing: &Listing) -> usize {
    match &listing.source {
        // .vexfs/search/<query>/ and .vexfs/search/@options/<query>/
        Source::Query(_) => 3 + usize::from(!listing.options.is_empty()),
        // .vexfs/like/<path>/
        Source::Like(path) => 2 + path.components().count(),
        // .vexfs/q/<name>/results/
        Source::Saved(_) => 4,
    }
}

fn writable(node: &Node) -> bool {
    matches!(node, Node::SavedFile { file, .. } if file.is_writable())
}
