use std::ffi::OsStr;
use std::path::Path;

use super::*;
use crate::ids::{FileId, NodeKey};
use crate::store::Store;
use crate::store::file::{Facts, Kind, ROOT};
use crate::store::mirror::Name;
use crate::store::naming::{Trust, Want};
use crate::store::past::Told;
use crate::store::relations::{Relation, Target};

struct Case {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Case {
    fn new() -> Case {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).unwrap();
        Case { _dir: dir, store }
    }

    fn write<T>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> T {
        self.store.write(work).unwrap().0
    }

    fn read<T>(&self, work: impl FnOnce(&Rows<'_>) -> Result<T>) -> T {
        self.store.read(work).unwrap()
    }

    fn bind(&self, parent: FileId, name: &str, ino: u64, kind: Kind, size: u64) -> FileId {
        let facts = Facts {
            key: NodeKey { dev: 1, ino },
            born: ino as i64,
            kind,
            size,
            mtime: size as i64,
            ctime: 6,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
        };
        self.write(|tx| tx.bind(&at(parent, name), &facts, &Want::Index, Trust::Nothing))
            .0
    }

    fn file(&self, name: &str, ino: u64, size: u64) -> FileId {
        self.bind(ROOT, name, ino, Kind::File, size)
    }

    fn snapshot(&self, name: &str) -> Moment {
        self.write(|tx| tx.make_snapshot(name, 1)).moment
    }

    fn told(&self, file: FileId, moment: Moment) -> Told {
        self.read(|rows| rows.told_at(file, moment))
    }

    /// Rows in which the past is kept, and triggers.
    fn kept(&self) -> i64 {
        let count = |rows: &Rows<'_>, sql: &str| -> Result<i64> {
            Ok(rows.0.query_row(sql, [], |row| row.get::<_, i64>(0))?)
        };
        self.read(|rows| {
            let mut all = count(rows, "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'")?;
            for table in tables() {
                all += count(rows, &format!("SELECT count(*) FROM past_{table}"))?;
            }
            Ok(all)
        })
    }
}

fn at(parent: FileId, name: &str) -> Name {
    Name {
        parent,
        name: name.as_bytes().into(),
    }
}

fn relation(from: FileId, to: Target) -> Relation {
    Relation {
        from,
        kind: "cites".into(),
        to,
        properties: None,
        derived: false,
    }
}

#[test]
fn what_was_told_is_found_as_it_was_however_it_was_changed() {
    let case = Case::new();
    let (file, other) = (case.file("a", 7, 1), case.file("b", 8, 1));
    let dangling = Target::Path("c".into());
    case.write(|tx| {
        tx.add_tag(file, "old")?;
        tx.add_tag(file, "both")?;
        tx.set_metadata(file, "key", b"one")?;
        tx.set_vector(file, "s", &[1.0])?;
        tx.relate(&relation(file, Target::File(other)))?;
        tx.relate(&relation(file, dangling.clone()))
    });
    let before = case.told(file, Moment::NOW);
    let moment = case.snapshot("one");
    case.write(|tx| {
        tx.remove_tag(file, "old")?;
        tx.add_tag(file, "both")?;
        tx.add_tag(file, "new")
    });
    // Replaced twice: what counts is what was there first.
    for value in [b"two", b"six"] {
        case.write(|tx| tx.set_metadata(file, "key", value));
    }
    case.write(|tx| tx.set_metadata(file, "more", b"x"));
    case.write(|tx| tx.set_vector(file, "s", &[2.0]));
    case.write(|tx| tx.unrelate(file, "cites", &Target::File(other)));
    // A file appears to which the relation was to lead.
    case.file("c", 9, 1);
    let now = case.told(file, Moment::NOW);
    assert_ne!(now, before);
    assert_eq!(
        now.tags.keys().map(String::as_str).collect::<Vec<_>>(),
        ["both", "new"]
    );
    assert!(!now.relations.contains_key(&("cites".into(), dangling)));
    assert_eq!(case.told(file, moment), before);
    case.write(|tx| tx.unbind(&at(ROOT, "a")));
    case.write(|tx| tx.purge_orphans(i64::MAX));
    assert_eq!(case.told(file, moment), before, "the file is gone, and forgotten");
}

#[test]
fn files_are_found_under_the_paths_that_they_had() {
    let case = Case::new();
    let folder = case.bind(ROOT, "d", 5, Kind::Directory, 0);
    let inner = case.bind(folder, "x", 6, Kind::File, 3);
    let first = case.snapshot("first");
    case.bind(ROOT, "e", 5, Kind::Directory, 0);
    case.write(|tx| tx.unbind(&at(ROOT, "d")));
    let second = case.snapshot("second");
    case.bind(folder, "x", 6, Kind::File, 4);
    let path = |file, moment| case.read(|rows| rows.path_at(file, moment));
    assert_eq!(path(inner, first).as_deref(), Some(Path::new("d/x")));
    assert_eq!(path(inner, second).as_deref(), Some(Path::new("e/x")));
    let size = |moment| case.read(|rows| rows.version_at(inner, moment)).unwrap().size;
    assert_eq!((size(first), size(second), size(Moment::NOW)), (3, 3, 4));
    let child = |name, moment| case.read(|rows| rows.child_at(ROOT, OsStr::new(name), moment));
    assert_eq!((child("d", first), child("e", first)), (Some(folder), None));
    assert_eq!((child("d", second), child("e", second)), (None, Some(folder)));
    let touched = |from, to| case.read(|rows| rows.touched_between(from, to));
    assert!(touched(first, second).contains(&folder) && !touched(first, second).contains(&inner));
    assert!(touched(second, Moment::NOW).contains(&inner) && !touched(second, Moment::NOW).contains(&folder));
}

#[test]
fn a_snapshot_that_goes_leaves_the_one_before_whole_and_the_last_leaves_nothing() {
    let case = Case::new();
    let nothing = case.kept();
    let file = case.file("a", 7, 1);
    case.write(|tx| tx.add_tag(file, "t"));
    assert_eq!(case.kept(), nothing, "without a snapshot nothing is kept");
    let tags = |moment| case.told(file, moment).tags.into_keys().collect::<Vec<_>>();
    let first = case.snapshot("first");
    case.snapshot("second");
    case.write(|tx| tx.add_tag(file, "u"));
    let third = case.snapshot("third");
    case.write(|tx| tx.remove_tag(file, "t"));
    case.write(|tx| tx.drop_snapshot("second"));
    assert_eq!(
        (tags(first), tags(third)),
        (vec!["t".into()], vec!["t".into(), "u".into()])
    );
    case.write(|tx| tx.drop_snapshot("third"));
    case.write(|tx| tx.add_tag(file, "v"));
    assert_eq!(tags(first), ["t"]);
    assert_eq!(case.read(|rows| rows.snapshots()).len(), 1);
    case.write(|tx| tx.drop_snapshot("first"));
    assert_eq!(case.kept(), nothing);
    case.snapshot("again");
}

#[test]
fn names_that_are_taken_or_none_are_refused() {
    let case = Case::new();
    case.snapshot("one");
    let refused = |name: &str| case.store.write(|tx| tx.make_snapshot(name, 1)).unwrap_err();
    assert!(matches!(refused("one"), Error::Exists(_)));
    let long = "x".repeat(256);
    for name in ["", ".", ".x", "@x", "a/b", "a\nb", "now", &long] {
        assert!(matches!(refused(name), Error::Invalid(_)), "{name:?}");
    }
    let missing = case.store.write(|tx| tx.drop_snapshot("two")).unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)));
}

#[test]
fn keeping_a_row_searches_by_index() {
    let case = Case::new();
    case.snapshot("one");
    case.read(|rows| {
        for kept in &KEPT {
            let sql = kept.keep("q").replacen(';', "", 1);
            let columns: Vec<_> = kept.key.iter().map(|c| format!("1 AS {c}")).collect();
            let sql = sql.replacen(
                " FROM (SELECT max",
                &format!(" FROM (SELECT {}) AS q, (SELECT max", columns.join(", ")),
                1,
            );
            let mut statement = rows.0.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let plan = statement.query_map([], |row| row.get::<_, String>(3))?;
            for line in plan {
                let line = line?;
                let whole = line.starts_with("SCAN t") || line.starts_with("SCAN p");
                assert!(!whole, "{}: {line}", kept.table);
            }
        }
        Ok(())
    });
}
