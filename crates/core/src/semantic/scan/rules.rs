//! Which files are kept out of the index, and why.
//!
//! In this order, the first that decides wins: the store's own name; an excluded folder above; `.vexfsignore` from the
//! file's folder upwards, then `.gitignore` in the same way (both in the syntax of gitignore(5); a `!` pattern takes a
//! file in, hidden ones too); names with a leading dot; the size.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use parking_lot::Mutex;

use super::tree::{Found, Tree};
use crate::error::Result;
use crate::ids::FileId;
use crate::store::file::Kind;
use crate::store::naming::Want;

/// The file of our own rules.
const OWN_FILE: &str = ".vexfsignore";
/// Git's rules, which are honoured.
const GIT_FILE: &str = ".gitignore";
/// A longer file of rules is cut off: it is not one that a person wrote.
const RULES_BYTES_MAX: u64 = 1 << 20;
/// Folders whose rules are remembered; they are read again when forgotten.
const FOLDERS_MAX: usize = 20_000;

/// What the rules are made from, besides the files in the tree.
#[derive(Clone, Debug)]
pub struct RuleOptions {
    /// The name of the control directory and of stores, never indexed at any depth.
    pub ctlname: OsString,
    /// Whether `.gitignore` files count.
    pub gitignore: bool,
    /// Whether names with a leading dot are taken in.
    pub hidden: bool,
    /// Larger files stay out.
    pub size_max: u64,
}

impl Default for RuleOptions {
    fn default() -> RuleOptions {
        RuleOptions {
            ctlname: ".vexfs".into(),
            gitignore: true,
            hidden: false,
            size_max: 64 << 20,
        }
    }
}

/// The rules of a tree.
pub struct Rules {
    options: RuleOptions,
    folders: Mutex<HashMap<FileId, Arc<FolderRules>>>,
}

/// The rules that hold in a folder.
pub struct FolderRules {
    above: Option<Arc<FolderRules>>,
    /// Its path, for explanations.
    path: PathBuf,
    /// Its name in the folder above.
    name: OsString,
    excluded: Option<String>,
    own: Option<Gitignore>,
    git: Option<Gitignore>,
}

impl Rules {
    /// The rules, none of the tree's files read yet.
    pub fn new(options: RuleOptions) -> Rules {
        Rules {
            options,
            folders: Mutex::new(HashMap::new()),
        }
    }

    /// Whether a change of this name changes what the rules say.
    pub fn is_rule_file(name: &OsStr) -> bool {
        name == OWN_FILE || name == GIT_FILE
    }

    /// Forgets the files of rules that were read: one changed, or a folder moved.
    pub fn forget(&self) {
        self.folders.lock().clear();
    }

    /// The remembered rules of a folder.
    pub fn remembered(&self, folder: FileId) -> Option<Arc<FolderRules>> {
        self.folders.lock().get(&folder).cloned()
    }

    /// Reads the rules of an open folder, given those of the folder above, or none for the root; remembers them.
    pub fn read(
        &self,
        tree: &Tree,
        id: FileId,
        folder: BorrowedFd<'_>,
        above: Option<(Arc<FolderRules>, &OsStr)>,
    ) -> Result<Arc<FolderRules>> {
        let rules = self.read_unremembered(tree, folder, above)?;
        let mut folders = self.folders.lock();
        if folders.len() >= FOLDERS_MAX {
            folders.clear();
        }
        folders.insert(id, Arc::clone(&rules));
        Ok(rules)
    }

    /// Reads the rules of an open folder, given those of the folder above, or none for the root.
    pub fn read_unremembered(
        &self,
        tree: &Tree,
        folder: BorrowedFd<'_>,
        above: Option<(Arc<FolderRules>, &OsStr)>,
    ) -> Result<Arc<FolderRules>> {
        let (path, name, excluded) = match &above {
            None => (PathBuf::new(), OsString::new(), None),
            Some((above, name)) => {
                let found = Found {
                    facts: tree.facts_of(folder)?,
                    is_mount: false,
                };
                let excluded = match self.verdict(above, name, &found) {
                    Want::Exclude(rule) => Some(rule),
                    Want::Index => None,
                };
                (above.path.join(name), (*name).to_owned(), excluded)
            }
        };
        let read = |file, wanted: bool| if wanted { patterns(folder, file) } else { None };
        let wanted = excluded.is_none();
        Ok(Arc::new(FolderRules {
            own: read(OWN_FILE, wanted),
            git: read(GIT_FILE, wanted && self.options.gitignore),
            above: above.map(|(above, _)| above),
            path,
            name,
            excluded,
        }))
    }

    /// Whether what was found at a name of a folder shall be indexed.
    pub fn verdict(&self, folder: &FolderRules, name: &OsStr, found: &Found) -> Want {
        if name == self.options.ctlname {
            return Want::Exclude("store".into());
        }
        if let Some(rule) = &folder.excluded {
            return Want::Exclude(rule.clone());
        }
        if found.is_mount {
            return Want::Exclude("mount point".into());
        }
        let is_dir = found.facts.kind == Kind::Directory;
        let by_pattern = folder.decide(OWN_FILE, |rules| rules.own.as_ref(), name, is_dir);
        let by_pattern =
            by_pattern.or_else(|| folder.decide(GIT_FILE, |rules| rules.git.as_ref(), name, is_dir));
        match by_pattern {
            Some(Want::Exclude(rule)) => return Want::Exclude(rule),
            Some(Want::Index) => {}
            None if !self.options.hidden && name.as_bytes().starts_with(b".") => {
                return Want::Exclude("hidden".into());
            }
            None => {}
        }
        if found.facts.kind == Kind::File && found.facts.size > self.options.size_max {
            return Want::Exclude(format!("size > {}", self.options.size_max));
        }
        Want::Index
    }
}

impl FolderRules {
    /// The rule that keeps the whole folder out.
    pub fn excluded(&self) -> Option<&str> {
        self.excluded.as_deref()
    }

    /// What the nearest matching pattern of one kind of file says about a name in this folder.
    fn decide<'r>(
        &'r self,
        file: &str,
        patterns: impl Fn(&'r FolderRules) -> Option<&'r Gitignore>,
        name: &OsStr,
        is_dir: bool,
    ) -> Option<Want> {
        let mut path = PathBuf::from(name);
        let mut folder = self;
        loop {
            if let Some(patterns) = patterns(folder) {
                match patterns.matched(&path, is_dir) {
                    Match::None => {}
                    Match::Whitelist(_) => return Some(Want::Index),
                    Match::Ignore(glob) => {
                        let file = folder.path.join(file);
                        return Some(Want::Exclude(format!("{}: {}", file.display(), glob.original())));
                    }
                }
            }
            path = Path::new(&folder.name).join(path);
            folder = folder.above.as_deref()?;
        }
    }
}

/// Reads a file of patterns from an open folder. What cannot be read or parsed does not count.
fn patterns(folder: BorrowedFd<'_>, name: &str) -> Option<Gitignore> {
    use rustix::fs::{Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = std::fs::File::from(openat(folder.as_fd(), name, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(RULES_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let mut builder = GitignoreBuilder::new("");
    for line in String::from_utf8_lossy(&bytes).lines() {
        if let Err(error) = builder.add_line(None, line) {
            tracing::warn!(%error, line, "a pattern is not understood");
        }
    }
    builder.build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Case {
        dir: tempfile::TempDir,
        tree: Tree,
        rules: Rules,
    }

    impl Case {
        fn new(files: &[(&str, &str)]) -> Case {
            let dir = tempfile::tempdir().unwrap();
            for (path, content) in files {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            let tree = Tree::new(fs::File::open(dir.path()).unwrap().into());
            Case {
                dir,
                tree,
                rules: Rules::new(RuleOptions {
                    size_max: 1000,
                    ..RuleOptions::default()
                }),
            }
        }

        /// The rule for a path, folder by folder as the scan walks; empty when it is indexed.
        fn rule(&self, path: &str) -> String {
            let full = self.dir.path().join(path);
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            if !full.exists() {
                fs::write(&full, "").unwrap();
            }
            let mut at = PathBuf::new();
            let root = self.tree.open_folder(&at).unwrap();
            let mut rules = self
                .rules
                .read(&self.tree, FileId(1), root.as_fd(), None)
                .unwrap();
            let mut parts: Vec<_> = Path::new(path).iter().collect();
            let last = parts.pop().unwrap();
            for (i, part) in parts.into_iter().enumerate() {
                at.push(part);
                let folder = self.tree.open_folder(&at).unwrap();
                let id = FileId(2 + i as u64);
                rules = self
                    .rules
                    .read(&self.tree, id, folder.as_fd(), Some((rules, part)))
                    .unwrap();
            }
            let folder = self.tree.open_folder(&at).unwrap();
            let found = self.tree.look(folder.as_fd(), last).unwrap().unwrap();
            match self.rules.verdict(&rules, last, &found) {
                Want::Index => String::new(),
                Want::Exclude(rule) => rule,
            }
        }
    }

    #[test]
    fn hidden_names_and_stores_stay_out() {
        let case = Case::new(&[]);
        assert_eq!(case.rule("a/b.txt"), "");
        assert_eq!(case.rule("a/.b"), "hidden");
        assert_eq!(case.rule(".git/config"), "hidden");
        assert_eq!(case.rule("deep/.vexfs/db"), "store");
    }

    #[test]
    fn gitignore_holds_below_its_folder_and_the_nearest_pattern_wins() {
        let case = Case::new(&[
            (".gitignore", "*.log\n/target/\nbuild\n"),
            ("keep/.gitignore", "!*.log\n"),
            ("sub/.gitignore", "/local\n"),
        ]);
        assert_eq!(case.rule("x.log"), ".gitignore: *.log");
        assert_eq!(case.rule("keep/x.log"), "");
        assert_eq!(case.rule("target/x"), ".gitignore: /target/");
        assert_eq!(case.rule("sub/target/x"), "");
        assert_eq!(case.rule("sub/build/x"), ".gitignore: build");
        assert_eq!(case.rule("sub/local"), "sub/.gitignore: /local");
        assert_eq!(case.rule("local"), "");
    }

    #[test]
    fn our_own_rules_outrank_git_and_hidden() {
        let case = Case::new(&[
            (".gitignore", "*.log\n"),
            (".vexfsignore", "!*.log\n!.config/\n# comment\nsecret*\n"),
        ]);
        assert_eq!(case.rule("x.log"), "");
        assert_eq!(case.rule(".config/y"), "");
        assert_eq!(case.rule("a/secret.txt"), ".vexfsignore: secret*");
    }

    #[test]
    fn large_files_stay_out() {
        let big = "x".repeat(1001);
        let case = Case::new(&[("big", &big), ("small", "x")]);
        assert_eq!(case.rule("big"), "size > 1000");
        assert_eq!(case.rule("small"), "");
    }
}
