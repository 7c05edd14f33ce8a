use super::*;
use crate::ids::NodeKey;
use crate::store::Store;
use crate::store::catalog::Indexed;
use crate::store::mirror::{Mirror, Node};
use crate::store::passages::PassageRow;
use crate::store::relations::{Relation, Target};

/// A store in a temporary directory, and short words for what happens to it.
struct Case {
    _dir: tempfile::TempDir,
    store: Store,
}

fn inode(ino: u64, kind: Kind) -> Facts {
    Facts {
        key: NodeKey { dev: 1, ino },
        born: 100 + ino as i64,
        kind,
        size: 10,
        mtime: 5,
        ctime: 6,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
    }
}

fn file(ino: u64) -> Facts {
    inode(ino, Kind::File)
}

fn at(parent: FileId, name: &str) -> Name {
    Name {
        parent,
        name: name.as_bytes().into(),
    }
}

impl Case {
    fn new() -> Case {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).unwrap();
        Case { _dir: dir, store }
    }

    fn bind(&self, parent: FileId, name: &str, facts: &Facts) -> (FileId, News) {
        let bound = self
            .store
            .write(|tx| tx.bind(&at(parent, name), facts, &Want::Index, Trust::Mtime));
        let result = bound.unwrap().0;
        self.sound();
        result
    }

    fn unbind(&self, parent: FileId, name: &str) {
        self.store.write(|tx| tx.unbind(&at(parent, name))).unwrap();
        self.sound();
    }

    fn tag(&self, id: FileId, tag: &str) {
        self.store.write(|tx| tx.add_tag(id, tag)).unwrap();
    }

    fn index(&self, id: FileId, facts: &Facts, hash: u8) {
        let row = PassageRow {
            bytes: 0..10,
            lines: (1, 1),
            slot: 0,
            hash: [hash; 16],
        };
        let indexed = Indexed {
            facts: *facts,
            hash: Some([hash; 32]),
            passages: Passages::Known {
                name: name_hash(b"x"),
                rows: vec![row],
            },
            state: State::Ready,
        };
        self.store.write(|tx| tx.set_indexed(id, indexed, false)).unwrap();
    }

    fn tags_at(&self, path: &str) -> Vec<String> {
        let tags = self.store.read(|rows| match rows.resolve(Path::new(path))? {
            Some(id) => rows.tags(id),
            None => Ok(vec!["missing".into()]),
        });
        tags.unwrap()
    }

    fn id_of(&self, key: NodeKey) -> Option<FileId> {
        self.store.read(|rows| rows.id_of(key)).unwrap()
    }

    fn state(&self, id: FileId) -> Option<State> {
        let row = self.store.read(|rows| rows.file(id)).unwrap();
        let mirrored = self.store.mirror().get(id).map(|node| node.state().clone());
        let state = row.map(|row| row.state);
        assert_eq!(state, mirrored);
        state
    }

    /// The mirror equals one that is loaded anew, and no row contradicts another.
    fn sound(&self) {
        assert_eq!(self.store.check().unwrap(), Vec::<String>::new());
        let fresh = self.store.read(Mirror::load).unwrap();
        let mirror = self.store.mirror();
        let facts = |node: Node<'_>| {
            let (kind, state) = (node.kind(), node.state().clone());
            (kind, state, node.size(), node.mtime(), node.passages())
        };
        assert_eq!(mirror.counts(), fresh.counts());
        for (id, node) in fresh.iter() {
            assert_eq!(mirror.get(id).map(facts), Some(facts(node)));
            assert_eq!(mirror.paths(id), fresh.paths(id));
        }
        assert_eq!(mirror.iter().count(), fresh.iter().count());
    }
}

#[test]
fn a_renamed_folder_takes_everything_below_along_in_one_row() {
    let case = Case::new();
    let (folder, _) = case.bind(ROOT, "a", &inode(10, Kind::Directory));
    let (below, _) = case.bind(folder, "x", &file(11));
    let (_, news) = case.bind(ROOT, "b", &inode(10, Kind::Directory));
    assert_eq!(news, News::Moved);
    assert_eq!(case.store.mirror().path(below).unwrap(), Path::new("b/x"));
    assert_eq!(
        case.store.read(|rows| rows.resolve(Path::new("a"))).unwrap(),
        None
    );
}

#[test]
fn hard_links_are_one_file_until_the_last_goes() {
    let case = Case::new();
    let two = Facts { nlink: 2, ..file(10) };
    let (id, _) = case.bind(ROOT, "a", &two);
    assert_eq!(case.bind(ROOT, "b", &two).0, id);
    assert_eq!(case.store.mirror().paths(id).len(), 2);
    case.unbind(ROOT, "a");
    assert_eq!(case.store.mirror().path(id).unwrap(), Path::new("b"));
    case.unbind(ROOT, "b");
    assert_eq!(case.state(id), Some(State::Leaving));
    case.store.write(|tx| tx.set_removed(id)).unwrap();
    assert_eq!(case.state(id), None);
}

#[test]
fn an_editors_replacement_keeps_id_and_tags() {
    let case = Case::new();
    let (id, _) = case.bind(ROOT, "a", &file(10));
    case.tag(id, "mine");
    let (temporary, _) = case.bind(ROOT, "a.tmp", &file(11));
    let (after, _) = case.bind(ROOT, "a", &file(11));
    assert_eq!(after, id);
    assert_eq!(case.tags_at("a"), ["mine"]);
    assert_eq!(case.id_of(file(11).key), Some(id));
    assert_eq!(case.state(temporary), Some(State::Leaving));
}

#[test]
fn a_file_with_tags_of_its_own_keeps_them_when_it_replaces_another() {
    let case = Case::new();
    let (a, _) = case.bind(ROOT, "a", &file(10));
    let (b, _) = case.bind(ROOT, "b", &file(11));
    case.tag(a, "of a");
    case.tag(b, "of b");
    assert_eq!(case.bind(ROOT, "a", &file(11)).0, b);
    assert_eq!(case.tags_at("a"), ["of b"]);
    assert_eq!(case.tags_at("b"), ["missing"]);
}

#[test]
fn a_restored_tree_keeps_what_was_told() {
    let case = Case::new();
    let (folder, _) = case.bind(ROOT, "d", &inode(10, Kind::Directory));
    let (id, _) = case.bind(folder, "x", &file(11));
    case.tag(id, "mine");
    case.store
        .write(|tx| tx.set_vector(id, "s", &[1.0, 2.0]))
        .unwrap();
    // Another inode for each name, as after a copy; contents are compared, nothing else changes.
    assert_eq!(case.bind(ROOT, "d", &inode(20, Kind::Directory)).0, folder);
    assert_eq!(case.bind(folder, "x", &file(21)).0, id);
    assert_eq!(case.tags_at("d/x"), ["mine"]);
    // Removed altogether, and brought back later with the same times.
    case.unbind(ROOT, "d");
    case.store.write(|tx| tx.set_removed(id)).unwrap();
    assert_eq!(case.state(id), Some(State::Orphan));
    let (folder, _) = case.bind(ROOT, "d", &inode(30, Kind::Directory));
    assert_eq!(case.bind(folder, "x", &file(31)).0, id);
    let vector = case.store.read(|rows| rows.vector(id, "s")).unwrap().unwrap();
    assert_eq!(vector.value, [1.0, 2.0]);
}

#[test]
fn the_same_content_under_the_same_name_elsewhere_gets_the_orphans_tags() {
    let case = Case::new();
    let (id, _) = case.bind(ROOT, "x", &file(10));
    case.tag(id, "mine");
    case.index(id, &file(10), 7);
    case.unbind(ROOT, "x");
    case.store.write(|tx| tx.set_removed(id)).unwrap();
    let (folder, _) = case.bind(ROOT, "d", &inode(11, Kind::Directory));
    let (other, _) = case.bind(
        folder,
        "x",
        &Facts {
            mtime: 99,
            ..file(12)
        },
    );
    assert_ne!(other, id);
    let adopted = |hash: u8| {
        case.store
            .write(|tx| tx.adopt_orphan(other, &[hash; 32]))
            .unwrap()
            .0
    };
    assert!(!adopted(8));
    assert!(adopted(7));
    assert_eq!(case.tags_at("d/x"), ["mine"]);
}

#[test]
fn purged_orphans_are_gone_for_good() {
    let case = Case::new();
    let (id, _) = case.bind(ROOT, "x", &file(10));
    case.tag(id, "mine");
    case.unbind(ROOT, "x");
    case.store.write(|tx| tx.set_removed(id)).unwrap();
    assert_eq!(
        case.store.write(|tx| tx.purge_orphans(now_ns() + 1)).unwrap().0,
        1
    );
    case.bind(ROOT, "x", &file(10));
    assert_eq!(case.tags_at("x"), Vec::<String>::new());
}

#[test]
fn an_inode_number_used_again_is_another_file() {
    let case = Case::new();
    let (old, _) = case.bind(ROOT, "a", &file(10));
    let (new, _) = case.bind(
        ROOT,
        "b",
        &Facts {
            born: 999,
            ..file(10)
        },
    );
    assert_ne!(old, new);
    assert_eq!(case.tags_at("a"), ["missing"]);
}

#[test]
fn a_file_that_is_found_moved_after_its_loss_is_the_same() {
    let case = Case::new();
    let (id, _) = case.bind(ROOT, "a", &file(10));
    case.index(id, &file(10), 1);
    case.unbind(ROOT, "a");
    assert_eq!(case.state(id), Some(State::Leaving));
    assert_eq!(case.bind(ROOT, "b", &file(10)).0, id);
    assert_eq!(case.state(id), Some(State::Stale));
}

#[test]
fn only_a_change_of_size_or_times_makes_a_ready_file_stale() {
    let case = Case::new();
    let (id, _) = case.bind(ROOT, "a", &file(10));
    case.index(id, &file(10), 1);
    assert_eq!(
        case.bind(
            ROOT,
            "a",
            &Facts {
                ctime: 9,
                mode: 0o600,
                ..file(10)
            }
        ),
        (id, News::Adjusted)
    );
    assert_eq!(case.state(id), Some(State::Ready));
    assert_eq!(
        case.bind(
            ROOT,
            "a",
            &Facts {
                ctime: 9,
                mode: 0o600,
                ..file(10)
            }
        ),
        (id, News::Same)
    );
    assert_eq!(
        case.bind(ROOT, "a", &Facts { size: 11, ..file(10) }),
        (id, News::Changed)
    );
    assert_eq!(case.state(id), Some(State::Stale));
}

#[test]
fn relations_follow_files_and_wait_for_paths() {
    let case = Case::new();
    let (from, _) = case.bind(ROOT, "a", &file(10));
    let relation = Relation {
        from,
        kind: "cites".into(),
        to: Target::Path("b".into()),
        properties: Some("{\"page\":3}".into()),
        derived: false,
    };
    case.store.write(|tx| tx.relate(&relation)).unwrap();
    let (to, _) = case.bind(ROOT, "b", &file(11));
    case.bind(ROOT, "c", &file(11));
    let found = case
        .store
        .read(|rows| rows.relations_to(to, Some("cites")))
        .unwrap();
    assert_eq!(
        found,
        [Relation {
            to: Target::File(to),
            ..relation
        }]
    );
    assert_eq!(
        case.store
            .read(|rows| rows.relations_from(from, Some("other")))
            .unwrap(),
        []
    );
}

#[test]
fn a_relation_that_dangles_leads_to_what_a_moved_folder_brings() {
    let case = Case::new();
    let (from, _) = case.bind(ROOT, "a", &file(10));
    let relate = |path: &str| {
        let relation = Relation {
            from,
            kind: "cites".into(),
            to: Target::Path(path.into()),
            properties: None,
            derived: false,
        };
        case.store.write(|tx| tx.relate(&relation)).unwrap();
    };
    relate("new/b");
    relate("new/none");
    relate("new0");
    let (folder, _) = case.bind(ROOT, "old", &inode(11, Kind::Directory));
    let (to, _) = case.bind(folder, "b", &file(12));
    case.bind(ROOT, "new", &inode(11, Kind::Directory));
    let found = case.store.read(|rows| rows.relations_from(from, None)).unwrap();
    let targets: Vec<Target> = found.into_iter().map(|relation| relation.to).collect();
    assert_eq!(
        targets,
        [
            Target::File(to),
            Target::Path("new/none".into()),
            Target::Path("new0".into())
        ]
    );
}

#[test]
fn ids_are_never_used_again() {
    let case = Case::new();
    let excluded = Want::Exclude("hidden".into());
    let mut last = ROOT;
    for ino in 10..20 {
        let (id, _) = case
            .store
            .write(|tx| tx.bind(&at(ROOT, "a"), &file(ino), &excluded, Trust::Mtime))
            .unwrap()
            .0;
        assert!(id > last);
        last = id;
        case.unbind(ROOT, "a");
        assert_eq!(case.state(id), None);
    }
}

#[test]
fn a_tree_on_another_device_number_stays_the_same() {
    let case = Case::new();
    let root = |dev| Facts {
        key: NodeKey { dev, ino: 2 },
        ..inode(2, Kind::Directory)
    };
    case.store.write(|tx| tx.bind_root(&root(1))).unwrap();
    let (id, _) = case.bind(ROOT, "a", &file(10));
    case.store.write(|tx| tx.bind_root(&root(9))).unwrap();
    assert_eq!(case.id_of(NodeKey { dev: 9, ino: 10 }), Some(id));
    assert_eq!(case.id_of(NodeKey { dev: 1, ino: 10 }), None);
    case.sound();
}

#[test]
fn a_next_version_whose_inode_number_a_lost_file_had_is_the_file_at_once() {
    let case = Case::new();
    let (kept, _) = case.bind(ROOT, "kept", &file(20));
    let (lost, _) = case.bind(ROOT, "lost", &file(21));
    case.tag(kept, "of kept");
    case.tag(lost, "of lost");
    case.index(lost, &file(21), 1);
    // The backing filesystem gave the number of the lost file anew before anybody looked at its name.
    let next = Facts {
        born: 999,
        ..file(21)
    };
    case.store.write(|tx| tx.succeed(kept, &next)).unwrap();
    case.sound();
    assert_eq!(case.id_of(next.key), Some(kept));
    assert_eq!(case.tags_at("kept"), ["of kept"]);
    assert_eq!(case.tags_at("lost"), ["missing"]);
    // The same again, when the lost file has left but its row waits to be removed from the index.
    let another = Facts {
        born: 1000,
        ..file(20)
    };
    case.store.write(|tx| tx.succeed(kept, &another)).unwrap();
    let back = Facts {
        born: 1001,
        ..file(21)
    };
    case.store.write(|tx| tx.succeed(kept, &back)).unwrap();
    assert_eq!(case.id_of(back.key), Some(kept));
    case.sound();
}
