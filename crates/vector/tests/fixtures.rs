//! A database of every format version opens and says what it always said.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests fail their test, too"
)]

use std::path::{Path, PathBuf};

use vexfs_vector::{Batch, Database, Element, Measure, Options, SearchParams, SpaceConfig};

const OPTIONS: Options = Options {
    durable: true,
    memory_bytes: 1 << 20,
    merge_bytes_per_s: 0,
    graph_rows: 12,
    background: false,
};

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}"))
}

fn vector(id: u64) -> [f32; 3] {
    [id as f32, 127.0, -(id as f32)]
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let into = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &into);
        } else {
            std::fs::copy(&path, into).unwrap();
        }
    }
}

/// Makes the fixture of the present version: run it once when the version changes.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_fixture_of_the_present_version() {
    let dir = fixture(1);
    assert!(!dir.exists(), "a fixture is never written again");
    let database = Database::open(&dir, OPTIONS).unwrap();
    for (name, element) in [
        ("f32", Element::F32),
        ("f16", Element::F16),
        ("i8 ä", Element::I8),
    ] {
        let config = SpaceConfig {
            element,
            ..SpaceConfig::new(3, Measure::L2)
        };
        let space = database.create_space(name, config).unwrap();
        let mut batch = Batch::new();
        for id in 0..20 {
            batch.upsert(id << 40, &vector(id)).tag(5);
        }
        space.apply(&batch).unwrap();
        space.checkpoint().unwrap();
        space.delete(&[3 << 40]).unwrap();
        space.checkpoint().unwrap();
        space
            .apply(
                Batch::new()
                    .delete_range(0..1)
                    .delete(1 << 40)
                    .upsert(7, &vector(7))
                    .tag(77),
            )
            .unwrap();
    }
}

#[test]
fn version_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(1), dir.path());
    let database = Database::open(dir.path(), OPTIONS).unwrap();
    let names: Vec<String> = database.spaces().into_iter().map(|space| space.name).collect();
    assert_eq!(names, ["f16", "f32", "i8 ä"]);
    for name in names {
        let space = database.space(&name).unwrap();
        assert_eq!(space.verify(), [], "{name}");
        assert_eq!(
            (space.len(), space.stats().seq, space.committed_tag()),
            (18, 3, Some(77)),
            "{name}"
        );
        let mut ids: Vec<u64> = space.snapshot().ids().collect();
        ids.sort_unstable();
        let expected: Vec<u64> = [7]
            .into_iter()
            .chain((2..20).filter(|&id| id != 3).map(|id| id << 40))
            .collect();
        assert_eq!(ids, expected, "{name}");
        for id in ids {
            let mut found = Vec::new();
            assert!(space.get(id, &mut found).unwrap());
            let number = if id == 7 { 7 } else { id >> 40 };
            assert_eq!(found, vector(number), "{name} {id}");
        }
        let near = space.search(&vector(9), &SearchParams::new(1)).unwrap();
        assert_eq!((near[0].id, near[0].distance), (9 << 40, 0.0));
        space.upsert(&[(1, &vector(1))]).unwrap();
    }
}
