use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::fs::change::{Change, ChangeSink};
use crate::fs::ops::{Entry, SetAttr};
use crate::fs::{Reopen, StackOptions};
use crate::ids::NodeKey;

use tags::Tags;

mod tags;

struct Nobody;

impl ChangeSink for Nobody {
    fn maybe_changed(&self, _node: NodeKey) {}
    fn changed(&self, _change: Change) {}
}

/// A tree with a desk over it.
struct Case {
    dir: tempfile::TempDir,
    desk: Desk,
    me: Caller,
}

fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        pid: 0,
    }
}

fn open_desk(dir: &Path) -> Result<Desk> {
    let tree = dir.join("tree");
    let stack = Stack::new(open_dir(&tree)?, StackOptions::default(), Arc::new(Nobody))?;
    let store = Arc::new(Store::open(&dir.join("store.db"))?);
    let tags = Arc::new(Tags(store.clone()));
    Desk::open(
        Arc::new(stack),
        store,
        tags,
        Arc::default(),
        open_dir(&tree)?,
        dir.join("stages"),
    )
}

impl Case {
    /// `tree` lists paths with contents; a path that ends in / is a directory.
    fn new(tree: &[(&str, &str)]) -> Case {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        for (path, content) in tree {
            let path = dir.path().join("tree").join(path);
            match content.is_empty() && path.to_string_lossy().ends_with('/') {
                true => fs::create_dir_all(&path).unwrap(),
                false => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(&path, content).unwrap();
                }
            }
        }
        let desk = open_desk(dir.path()).unwrap();
        Case { dir, desk, me: me() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("tree").join(path)
    }

    fn begin(&self, name: &str) -> Arc<Txn> {
        self.desk.begin(&self.me, OsStr::new(name)).unwrap()
    }

    fn commit(&self, name: &str) -> Result<Generation> {
        self.desk.commit(&self.me, OsStr::new(name))
    }

    fn tree(&self) -> BTreeMap<String, String> {
        snapshot(&self.dir.path().join("tree"))
    }
}

/// Every path below a directory with its type, mode, times, links and content.
fn snapshot(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(root.join(&at)).unwrap() {
            let path = at.join(entry.unwrap().file_name());
            let meta = fs::symlink_metadata(root.join(&path)).unwrap();
            let what = match meta.file_type() {
                t if t.is_dir() => "dir".to_owned(),
                t if t.is_symlink() => format!("link {}", fs::read_link(root.join(&path)).unwrap().display()),
                _ => format!(
                    "file x{} {:?}",
                    meta.nlink(),
                    fs::read_to_string(root.join(&path)).unwrap()
                ),
            };
            found.insert(
                path.display().to_string(),
                // Programs that run in one thread have one umask, which is not that of the test.
                format!("{:o} {what}", meta.permissions().mode() & !0o022),
            );
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    found
}

/// A program's calls in a view, by path.
struct Program<'t>(&'t Txn);

impl Program<'_> {
    fn entry(&self, path: &str) -> Result<Entry> {
        let view = self.0.view();
        let mut at = view.lookup_root()?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = view.lookup(at.attr.ino, OsStr::new(name))?;
        }
        Ok(at)
    }

    fn place<'p>(&self, path: &'p str) -> Result<(Ino, &'p OsStr)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.entry(dir)?.attr.ino, OsStr::new(name)))
    }

    fn read(&self, path: &str) -> Result<String> {
        let view = self.0.view();
        let ino = self.entry(path)?.attr.ino;
        let opened = view.open(ino, libc::O_RDONLY)?;
        let mut buffer = vec![0; 1 << 16];
        let len = view.read(ino, opened.fh, 0, &mut buffer)?;
        view.release(opened.fh)?;
        buffer.truncate(len);
        Ok(String::from_utf8(buffer).unwrap())
    }

    fn write(&self, path: &str, content: &str) -> Result<()> {
        let view = self.0.view();
        let (dir, name) = self.place(path)?;
        let flags = libc::O_WRONLY | libc::O_TRUNC | libc::O_CREAT;
        let (entry, opened) = view.create(&me(), dir, name, (0o644, 0), flags)?;
        view.write(entry.attr.ino, opened.fh, 0, content.as_bytes(), false)?;
        view.release(opened.fh)
    }

    fn append(&self, path: &str, content: &str) -> Result<()> {
        let view = self.0.view();
        let ino = self.entry(path)?.attr.ino;
        let opened = view.open(ino, libc::O_WRONLY | libc::O_APPEND)?;
        view.write(ino, opened.fh, 0, content.as_bytes(), true)?;
        view.release(opened.fh)
    }

    fn mkdir(&self, path: &str) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.0.view().mkdir(&me(), dir, name, 0o755, 0).map(|_| ())
    }

    fn unlink(&self, path: &str) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.0.view().unlink(dir, name)
    }

    fn rmdir(&self, path: &str) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.0.view().rmdir(dir, name)
    }

    fn rename(&self, from: &str, to: &str, flags: u32) -> Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        self.0.view().rename(from.0, from.1, to.0, to.1, flags)
    }

    fn link(&self, from: &str, to: &str) -> Result<()> {
        let ino = self.entry(from)?.attr.ino;
        let (dir, name) = self.place(to)?;
        self.0.view().link(ino, dir, name).map(|_| ())
    }

    fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        self.0
            .view()
            .setattr(&me(), self.entry(path)?.attr.ino, &set)
            .map(|_| ())
    }

    fn list(&self, path: &str) -> Vec<String> {
        let view = self.0.view();
        let fh = view.opendir(self.entry(path).unwrap().attr.ino).unwrap();
        let mut names = Vec::new();
        view.readdir(fh, 0, |entry| {
            names.push(entry.name.to_str().unwrap().to_owned());
            false
        })
        .unwrap();
        view.releasedir(fh);
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }
}

fn errno<T: std::fmt::Debug>(result: Result<T>) -> i32 {
    result.unwrap_err().errno()
}

#[test]
fn nothing_is_seen_outside_before_the_commit_and_everything_after_it() {
    let case = Case::new(&[("a", "old"), ("d/b", "base")]);
    let before = case.tree();
    let txn = case.begin("t");
    let program = Program(&txn);
    program.write("a", "new").unwrap();
    program.append("d/b", " and more").unwrap();
    program.mkdir("n").unwrap();
    program.write("n/c", "made").unwrap();
    assert_eq!(program.read("a").unwrap(), "new");
    assert_eq!(program.read("d/b").unwrap(), "base and more");
    assert_eq!(program.list(""), ["a", "d", "n"]);
    assert_eq!(case.tree(), before);
    case.commit("t").unwrap();
    assert_eq!(fs::read_to_string(case.path("a")).unwrap(), "new");
    assert_eq!(fs::read_to_string(case.path("d/b")).unwrap(), "base and more");
    assert_eq!(fs::read_to_string(case.path("n/c")).unwrap(), "made");
    assert!(case.desk.get(OsStr::new("t")).is_none());
}

#[test]
fn a_transaction_that_is_given_up_leaves_nothing() {
    let case = Case::new(&[("a", "old"), ("d/b", "base")]);
    let before = case.tree();
    let txn = case.begin("t");
    let program = Program(&txn);
    program.write("a", "new").unwrap();
    program.unlink("d/b").unwrap();
    program.rmdir("d").unwrap();
    program.chmod("a", 0o600).unwrap();
    drop(txn);
    case.desk.abort(&case.me, OsStr::new("t")).unwrap();
    assert_eq!(case.tree(), before);
    assert!(matches!(case.commit("t"), Err(Error::NotFound(_))));
    let Case { dir, desk, .. } = case;
    drop(desk);
    assert_eq!(fs::read_dir(dir.path().join("stages")).unwrap().count(), 0);
}

#[test]
fn removed_names_are_hidden_and_may_be_made_again() {
    let case = Case::new(&[("d/a", "1"), ("d/b", "2")]);
    let txn = case.begin("t");
    let program = Program(&txn);
    assert_eq!(errno(program.rmdir("d")), libc::ENOTEMPTY);
    program.unlink("d/a").unwrap();
    assert_eq!(errno(program.read("d/a")), libc::ENOENT);
    assert_eq!(program.list("d"), ["b"]);
    program.unlink("d/b").unwrap();
    program.rmdir("d").unwrap();
    assert_eq!(errno(program.entry("d")), libc::ENOENT);
    program.mkdir("d").unwrap();
    assert_eq!(program.list("d"), Vec::<String>::new());
    program.write("d/c", "3").unwrap();
    case.commit("t").unwrap();
    assert_eq!(case.tree().keys().collect::<Vec<_>>(), ["d", "d/c"]);
}

#[test]
fn moved_files_and_directories_stay_the_same_inodes() {
    let case = Case::new(&[("d/e/x", "1"), ("f", "2"), ("g/", "")]);
    let inode = |path: &str| fs::symlink_metadata(case.path(path)).unwrap().ino();
    let (dir, below, file) = (inode("d/e"), inode("d/e/x"), inode("f"));
    let txn = case.begin("t");
    let program = Program(&txn);
    program.rename("d/e", "g/e2", 0).unwrap();
    program.rename("f", "g/f2", 0).unwrap();
    program.rmdir("d").unwrap();
    assert_eq!(program.read("g/e2/x").unwrap(), "1");
    assert_eq!(program.read("g/f2").unwrap(), "2");
    program.write("g/e2/y", "new").unwrap();
    case.commit("t").unwrap();
    assert_eq!(
        (inode("g/e2"), inode("g/e2/x"), inode("g/f2")),
        (dir, below, file)
    );
    assert_eq!(
        case.tree().keys().collect::<Vec<_>>(),
        ["g", "g/e2", "g/e2/x", "g/e2/y", "g/f2"]
    );
}

#[test]
fn names_change_places_and_moves_go_into_new_directories() {
    let case = Case::new(&[("a/x", "of a"), ("b/y", "of b"), ("f", "f"), ("g", "g")]);
    let txn = case.begin("t");
    let program = Program(&txn);
    program.rename("a", "b", libc::RENAME_EXCHANGE).unwrap();
    program.rename("f", "g", libc::RENAME_EXCHANGE).unwrap();
    program.mkdir("n").unwrap();
    program.mkdir("n/m").unwrap();
    program.rename("b", "n/m/b", 0).unwrap();
    program.rename("g", "n/g", 0).unwrap();
    program.append("n/m/b/x", "!").unwrap();
    assert_eq!(errno(program.rename("a", "n", 0)), libc::ENOTEMPTY);
    assert_eq!(
        errno(program.rename("f", "n", libc::RENAME_NOREPLACE)),
        libc::EEXIST
    );
    assert_eq!(program.read("n/m/b/x").unwrap(), "of a!");
    case.commit("t").unwrap();
    let tree = case.tree();
    assert_eq!(
        tree.keys().collect::<Vec<_>>(),
        ["a", "a/y", "f", "n", "n/g", "n/m", "n/m/b", "n/m/b/x"]
    );
    assert!(
        tree["f"].ends_with("\"g\"") && tree["n/g"].ends_with("\"f\""),
        "{tree:?}"
    );
    assert!(tree["n/m/b/x"].ends_with("\"of a!\"") && tree["a/y"].ends_with("\"of b\""));
}

#[test]
fn hard_links_modes_times_and_symlinks_survive() {
    let case = Case::new(&[("a", "one"), ("d/z", "z")]);
    fs::hard_link(case.path("a"), case.path("b")).unwrap();
    symlink("a", case.path("l")).unwrap();
    fs::set_permissions(case.path("d/z"), fs::Permissions::from_mode(0o4751)).unwrap();
    let time = |path: &str| fs::metadata(case.path(path)).unwrap().modified().unwrap();
    let (dir_time, file_time) = (time("d"), time("d/z"));
    let inode = fs::metadata(case.path("a")).unwrap().ino();
    let txn = case.begin("t");
    let program = Program(&txn);
    program.append("a", " two").unwrap();
    assert_eq!(program.read("b").unwrap(), "one two");
    program.link("b", "d/c").unwrap();
    program.unlink("d/c").unwrap();
    program.rename("l", "m", 0).unwrap();
    program.link("d/z", "z2").unwrap();
    case.commit("t").unwrap();
    assert_eq!(fs::metadata(case.path("b")).unwrap().ino(), inode);
    assert_eq!(fs::read_to_string(case.path("b")).unwrap(), "one two");
    assert_eq!(fs::metadata(case.path("a")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(case.path("m")).unwrap(), Path::new("a"));
    let z = fs::metadata(case.path("d/z")).unwrap();
    assert_eq!((z.mode() & 0o7777, z.nlink()), (0o4751, 2));
    assert_eq!(time("d/z"), file_time);
    assert!(time("d") > dir_time, "a name was made and removed in it");
}

#[test]
fn the_first_committer_wins_and_the_second_loses_nothing() {
    let case = Case::new(&[("a", "base"), ("b", "base"), ("d/x", "x")]);
    let (one, two, three) = (case.begin("one"), case.begin("two"), case.begin("three"));
    Program(&one).write("a", "of one").unwrap();
    Program(&two).write("a", "of two").unwrap();
    Program(&two).write("new", "of two").unwrap();
    Program(&three).write("b", "of three").unwrap();
    Program(&three).unlink("d/x").unwrap();
    Program(&three).rmdir("d").unwrap();
    case.commit("one").unwrap();
    let refused = case.commit("two");
    assert!(
        matches!(&refused, Err(Error::Conflict(paths)) if paths == "a"),
        "{refused:?}"
    );
    assert_eq!(refused.unwrap_err().errno(), libc::ECANCELED);
    assert_eq!(two.conflicts(case.desk.teller()).unwrap(), [PathBuf::from("a")]);
    assert_eq!(Program(&two).read("a").unwrap(), "of two");
    // Disjoint changes go through, but not past a new file in a directory that was removed.
    fs::write(case.path("d/late"), "late").unwrap();
    assert_eq!(errno(case.commit("three")), libc::ECANCELED);
    assert_eq!(
        three.conflicts(case.desk.teller()).unwrap(),
        [PathBuf::from("d/late")]
    );
    fs::remove_file(case.path("d/late")).unwrap();
    case.commit("three").unwrap();
    assert_eq!(case.tree().keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(fs::read_to_string(case.path("a")).unwrap(), "of one");
    assert_eq!(fs::read_to_string(case.path("b")).unwrap(), "of three");
}

#[test]
fn a_file_that_somebody_is_writing_is_not_replaced() {
    let case = Case::new(&[("a", "base")]);
    let txn = case.begin("t");
    Program(&txn).write("a", "new").unwrap();
    let stack = &case.desk.stack;
    let ino = stack.lookup(Ino::ROOT, OsStr::new("a")).unwrap().attr.ino;
    let opened = stack.open(ino, libc::O_WRONLY, Reopen::Daemon).unwrap();
    assert_eq!(errno(case.commit("t")), libc::EBUSY);
    stack.release(ino, opened.fh).unwrap();
    case.commit("t").unwrap();
    assert_eq!(fs::read_to_string(case.path("a")).unwrap(), "new");
}

#[test]
fn a_reader_sees_what_is_written_after_it_opened_the_file() {
    let case = Case::new(&[("a", "base")]);
    let txn = case.begin("t");
    let (view, program) = (txn.view(), Program(&txn));
    let ino = program.entry("a").unwrap().attr.ino;
    let opened = view.open(ino, libc::O_RDONLY).unwrap();
    program.append("a", "+").unwrap();
    let mut buffer = [0; 16];
    let len = view.read(ino, opened.fh, 0, &mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"base+");
    view.release(opened.fh).unwrap();
}

#[test]
fn what_is_told_is_committed_with_the_files_or_not_at_all() {
    let case = Case::new(&[("a", "base")]);
    let tags_at = |path: &str| {
        case.desk
            .store
            .read(|rows| match rows.resolve(Path::new(path))? {
                Some(file) => rows.tags(file),
                None => Ok(Vec::new()),
            })
            .unwrap()
    };
    let tell = |txn: &Txn, path: &str, value: Option<&[u8]>| {
        let entry = Program(txn).entry(path).unwrap();
        txn.view()
            .tell(case.desk.teller(), &me(), entry.attr.ino, OsStr::new("t"), value)
    };
    let txn = case.begin("one");
    Program(&txn).mkdir("d").unwrap();
    Program(&txn).write("d/new", "new").unwrap();
    tell(&txn, "d/new", Some(b"")).unwrap();
    // What was told of a file that goes again goes with it.
    Program(&txn).write("d/gone", "gone").unwrap();
    tell(&txn, "d/gone", Some(b"")).unwrap();
    Program(&txn).unlink("d/gone").unwrap();
    tell(&txn, "a", Some(b"")).unwrap();
    tell(&txn, "d", Some(b"")).unwrap();
    tell(&txn, "d", None).unwrap();
    assert!(matches!(tell(&txn, "d", None), Err(Error::NoAttribute)));
    let ino = Program(&txn).entry("a").unwrap().attr.ino;
    assert!(
        txn.view()
            .told(case.desk.teller(), &me(), ino, OsStr::new("t"))
            .unwrap()
            .is_some()
    );
    assert_eq!(tags_at("a"), Vec::<String>::new());
    case.commit("one").unwrap();
    assert_eq!(
        (tags_at("a"), tags_at("d/new")),
        (vec!["t".to_owned()], vec!["t".to_owned()])
    );

    let (two, three) = (case.begin("two"), case.begin("three"));
    tell(&two, "a", None).unwrap();
    tell(&three, "a", None).unwrap();
    case.commit("two").unwrap();
    assert_eq!(tags_at("a"), Vec::<String>::new());
    let refused = case.commit("three");
    assert!(
        matches!(&refused, Err(Error::Conflict(paths)) if paths == "a#t"),
        "{refused:?}"
    );
}

#[test]
fn names_and_owners_are_checked() {
    let case = Case::new(&[]);
    case.begin("t");
    let begin = |name: &str| case.desk.begin(&case.me, OsStr::new(name));
    assert_eq!(begin("t").err().unwrap().errno(), libc::EEXIST);
    assert_eq!(begin("@t").err().unwrap().errno(), libc::EINVAL);
    let other = Caller {
        uid: case.me.uid + 1000,
        ..case.me
    };
    assert_eq!(errno(case.desk.commit(&other, OsStr::new("t"))), libc::EPERM);
    assert_eq!(errno(case.desk.abort(&other, OsStr::new("t"))), libc::EPERM);
}

#[test]
fn a_commit_that_stopped_at_an_error_is_finished_by_the_next_call() {
    let case = crash_case();
    let txn = case.begin("t");
    change_everything(&Program(&txn)).unwrap();
    case.desk.stop_after.store(6, Ordering::Relaxed);
    assert_eq!(errno(case.commit("t")), libc::EIO);
    assert_eq!(errno(case.desk.abort(&case.me, OsStr::new("t"))), libc::EBUSY);
    case.desk.stop_after.store(u64::MAX, Ordering::Relaxed);
    case.commit("t").unwrap();
    assert!(case.tree().contains_key("new/dir2/q") && !case.tree().contains_key("gone"));
}

/// What the crash tests commit: something of every kind of step.
fn change_everything(program: &Program<'_>) -> Result<()> {
    program.write("plain", "new")?;
    program.append("linked", " more")?;
    program.rename("dir/sub", "moved", 0)?;
    program.write("moved/added", "added")?;
    program.rename("file", "new/file", 0).or_else(|_| {
        program.mkdir("new")?;
        program.rename("file", "new/file", 0)
    })?;
    program.rename("dir2", "new/dir2", 0)?;
    program.append("new/dir2/q", "!")?;
    program.unlink("gone")?;
    program.unlink("dir/left")?;
    program.rmdir("dir")?;
    program.write("dir", "a file now")?;
    program.chmod("kept", 0o700)
}

fn crash_case() -> Case {
    let case = Case::new(&[
        ("plain", "old"),
        ("linked", "one"),
        ("dir/sub/x", "x"),
        ("dir/left", "left"),
        ("dir2/q", "q"),
        ("file", "file"),
        ("gone", "gone"),
        ("kept/", ""),
    ]);
    fs::hard_link(case.path("linked"), case.path("linked2")).unwrap();
    case
}

#[test]
fn a_commit_that_stops_anywhere_is_all_or_nothing_after_the_next_start() {
    let whole = {
        let case = crash_case();
        let txn = case.begin("t");
        change_everything(&Program(&txn)).unwrap();
        case.commit("t").unwrap();
        drop(txn);
        let Case { dir, desk, .. } = case;
        // What is settled in the background is settled then.
        drop(desk);
        snapshot(&dir.path().join("tree"))
    };
    assert!(
        whole.contains_key("new/dir2/q") && whole["dir"].ends_with("\"a file now\""),
        "{whole:?}"
    );
    let (mut nothing_cases, mut stops) = (0, 0);
    for stop in 0.. {
        let case = crash_case();
        let before = case.tree();
        let txn = case.begin("t");
        change_everything(&Program(&txn)).unwrap();
        case.desk.stop_after.store(stop, Ordering::Relaxed);
        let committed = case.commit("t");
        let recorded = !case
            .desk
            .store
            .read(|rows| rows.saved_all(COMMIT))
            .unwrap()
            .is_empty();
        drop(txn);
        let Case { dir, desk, .. } = case;
        let reached_end = committed.is_ok();
        drop(desk);
        // Twice: the next start may crash as well, after it has finished the commit.
        if recorded && !reached_end {
            let steps = Store::open(&dir.path().join("store.db")).unwrap();
            let rows = steps.read(|rows| rows.saved_all(COMMIT)).unwrap();
            let stage = dir.path().join("stages").join(OsStr::from_bytes(&rows[0].0));
            let places = places(&stage, &open_dir(&dir.path().join("tree")).unwrap()).unwrap();
            places
                .carry_out(&decode(&rows[0].1).unwrap().1, |_| Ok(()))
                .unwrap();
        }
        drop(open_desk(dir.path()).unwrap());
        let after = snapshot(&dir.path().join("tree"));
        if recorded || reached_end {
            assert_eq!(after, whole, "stopped at point {stop}");
        } else {
            assert_eq!(after, before, "stopped at point {stop}");
            nothing_cases += 1;
        }
        assert_eq!(fs::read_dir(dir.path().join("stages")).unwrap().count(), 0);
        stops += 1;
        if reached_end {
            break;
        }
    }
    assert!(
        nothing_cases >= 1 && stops > 10,
        "{stops} points, {nothing_cases} before the record"
    );
}
