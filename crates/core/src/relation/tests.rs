//! Relations in a store: told, derived, gone and found again.

use std::path::{Path, PathBuf};

use super::*;
use crate::error::Error;
use crate::ids::FileId;
use crate::ids::NodeKey;
use crate::store::Store;
use crate::store::catalog::Indexed;
use crate::store::file::{Facts, Kind, ROOT, State};
use crate::store::mirror::Name;
use crate::store::naming::{Trust, Want};
use crate::store::passages::Passages;
use crate::store::relations::{Relation, Target};

struct Case {
    _dir: tempfile::TempDir,
    store: Store,
}

fn facts(ino: u64) -> Facts {
    Facts {
        key: NodeKey { dev: 1, ino },
        born: ino as i64,
        kind: Kind::File,
        size: 10,
        mtime: 1,
        ctime: 1,
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        nlink: 1,
    }
}

fn at(name: &str) -> Name {
    Name {
        parent: ROOT,
        name: name.as_bytes().into(),
    }
}

impl Case {
    fn new() -> Case {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).unwrap();
        Case { _dir: dir, store }
    }

    fn bind(&self, name: &str, ino: u64) -> FileId {
        let bound = self
            .store
            .write(|tx| tx.bind(&at(name), &facts(ino), &Want::Index, Trust::Mtime));
        bound.unwrap().0.0
    }

    fn unbind(&self, name: &str) {
        self.store.write(|tx| tx.unbind(&at(name))).unwrap();
    }

    fn index(&self, id: FileId, ino: u64, path: &str, text: &str) {
        let indexed = Indexed {
            facts: facts(ino),
            hash: Some(*blake3::hash(text.as_bytes()).as_bytes()),
            passages: Passages::Known {
                name: [0; 8],
                rows: Vec::new(),
            },
            state: State::Ready,
        };
        let derived = derive(Path::new(path), text, text);
        self.store
            .write(|tx| {
                tx.set_indexed(id, indexed, false)?;
                tx.set_derived(id, &derived)
            })
            .unwrap();
    }

    fn from(&self, id: FileId) -> Vec<(String, Target)> {
        let relations = self.store.read(|rows| rows.relations_from(id, None)).unwrap();
        relations.into_iter().map(|r| (r.kind, r.to)).collect()
    }
}

fn told(from: FileId, kind: &str, to: Target) -> Relation {
    Relation {
        from,
        kind: kind.into(),
        to,
        properties: None,
        derived: false,
    }
}

fn words(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|n| format!("word{} ", n * n % 7919)).collect()
}

#[test]
fn a_relation_is_kept_once_with_its_last_properties() {
    let case = Case::new();
    let mut relation = told(FileId(5), "cites", Target::File(FileId(6)));
    case.store.write(|tx| tx.relate(&relation)).unwrap();
    relation.properties = Some("{\"page\":3,\"sure\":true}".into());
    case.store.write(|tx| tx.relate(&relation)).unwrap();
    let found = case
        .store
        .read(|rows| rows.relations_from(FileId(5), Some("cites")))
        .unwrap();
    assert_eq!(found, [relation.clone()]);
    assert_eq!(
        case.store.read(|rows| rows.linked(FileId(6), None)).unwrap(),
        [FileId(5)]
    );
    let removed = |to: &Target| {
        case.store
            .write(|tx| tx.unrelate(FileId(5), "cites", to))
            .unwrap()
            .0
    };
    assert!(!removed(&Target::File(FileId(7))));
    assert!(removed(&relation.to));
    assert!(!removed(&relation.to));
}

#[test]
fn what_cannot_be_a_relation_is_refused() {
    let case = Case::new();
    let refused = |kind: &str, properties: Option<&str>| {
        let relation = Relation {
            properties: properties.map(str::to_owned),
            ..told(FileId(5), kind, Target::File(FileId(6)))
        };
        let refused = case.store.write(|tx| tx.relate(&relation));
        assert!(matches!(refused, Err(Error::Invalid(_))), "{kind} {properties:?}");
    };
    for kind in ["", "a/b", ".a", "@a", "a\nb"] {
        refused(kind, None);
    }
    for properties in ["", "3", "[1]", "{\"a\":[1]}", "{\"a\":{}}", "{\"a\":1"] {
        refused("cites", Some(properties));
    }
}

#[test]
fn links_lead_to_files_and_follow_their_renames() {
    let case = Case::new();
    let (a, b) = (case.bind("a.md", 10), case.bind("b.md", 11));
    case.index(a, 10, "a.md", "[b](b.md) [missing](c.md)");
    assert_eq!(
        case.from(a),
        [
            ("links".into(), Target::File(b)),
            ("links".into(), Target::Path("c.md".into())),
        ]
    );
    case.bind("moved.md", 11);
    assert_eq!(case.from(a)[0].1, Target::File(b));
    let found = case.store.read(|rows| rows.relations_to(b, None)).unwrap();
    assert!(found[0].derived && found[0].properties.as_deref() == Some("{\"line\":1}"));
}

#[test]
fn a_missing_target_is_found_when_it_comes_and_dangles_when_it_goes() {
    let case = Case::new();
    let a = case.bind("a.md", 10);
    case.index(a, 10, "a.md", "[c](c.md)");
    let c = case.bind("c.md", 12);
    assert_eq!(case.from(a)[0].1, Target::File(c));
    case.unbind("c.md");
    assert_eq!(case.from(a)[0].1, Target::Path("c.md".into()));
}

#[test]
fn new_content_replaces_what_followed_from_the_old() {
    let case = Case::new();
    let (a, b) = (case.bind("a.md", 10), case.bind("b.md", 11));
    case.store
        .write(|tx| tx.relate(&told(a, "cites", Target::File(b))))
        .unwrap();
    case.index(a, 10, "a.md", "[b](b.md)");
    assert_eq!(case.from(a).len(), 2);
    case.index(a, 10, "a.md", "nothing");
    assert_eq!(case.from(a), [("cites".into(), Target::File(b))]);
}

#[test]
fn a_wiki_link_finds_its_note_in_any_folder_and_the_nearest_first() {
    let case = Case::new();
    let folder = Facts {
        kind: Kind::Directory,
        ..facts(20)
    };
    let folder = case
        .store
        .write(|tx| tx.bind(&at("deep"), &folder, &Want::Index, Trust::Mtime))
        .unwrap()
        .0
        .0;
    let name = Name {
        parent: folder,
        name: b"Note.md".as_slice().into(),
    };
    let deep = case
        .store
        .write(|tx| tx.bind(&name, &facts(21), &Want::Index, Trust::Mtime))
        .unwrap()
        .0
        .0;
    let a = case.bind("a.md", 10);
    case.index(a, 10, "a.md", "[[Note]]");
    assert_eq!(case.from(a), [("links".into(), Target::File(deep))]);
    let top = case.bind("Note.md", 22);
    case.index(a, 10, "a.md", "[[Note]]");
    assert_eq!(case.from(a), [("links".into(), Target::File(top))]);
}

#[test]
fn equal_and_nearly_equal_files_find_one_another_until_they_differ() {
    let case = Case::new();
    let (a, b, c) = (
        case.bind("a.txt", 10),
        case.bind("b.txt", 11),
        case.bind("c.txt", 12),
    );
    case.index(a, 10, "a.txt", &words(0..500));
    case.index(b, 11, "b.txt", &words(0..500));
    case.index(c, 12, "c.txt", &words(10..505));
    assert_eq!(case.from(b), [("duplicates".into(), Target::File(a))]);
    let alike = case.from(c);
    assert_eq!(alike.len(), 2);
    assert!(alike.iter().all(|(kind, _)| kind == "resembles"));
    case.index(a, 10, "a.txt", &words(3000..3500));
    assert_eq!(case.from(b), []);
    assert_eq!(case.from(c), [("resembles".into(), Target::File(b))]);
}

#[test]
fn of_a_gone_file_only_what_was_told_remains() {
    let case = Case::new();
    let (a, b) = (case.bind("a.md", 10), case.bind("b.md", 11));
    case.index(a, 10, "a.md", "[b](b.md)");
    case.store
        .write(|tx| tx.relate(&told(b, "cites", Target::File(a))))
        .unwrap();
    case.unbind("a.md");
    case.store.write(|tx| tx.set_removed(a)).unwrap();
    assert_eq!(case.from(a), []);
    assert_eq!(case.from(b), [("cites".into(), Target::File(a))]);
    case.store.write(|tx| tx.purge_orphans(i64::MAX)).unwrap();
    assert_eq!(case.from(b), [("cites".into(), Target::Path("a.md".into()))]);
}

#[test]
fn joining_stays_below_the_root() {
    let check = |from: &str, target: &str, expect: Option<&str>| {
        assert_eq!(
            join(Path::new(from), Path::new(target)),
            expect.map(PathBuf::from),
            "{from} + {target}"
        );
    };
    check("a/b", "c", Some("a/b/c"));
    check("a/b", "../c", Some("a/c"));
    check("a/b", "./c/./d", Some("a/b/c/d"));
    check("a/b", "/c", Some("c"));
    check("a", "../../c", None);
}

#[test]
fn each_target_is_given_once() {
    let found = references(Path::new("n.md"), "[a](x.md) [b](x.md#part) [c](y.md)");
    assert_eq!(found.len(), 2);
}
