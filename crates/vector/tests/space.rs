//! What a space promises to those who use it.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests fail their test, too"
)]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use vexfs_vector::{
    Batch, Database, Effort, Element, Error, Filter, Index, Measure, Options, SearchParams, Snapshot,
    SpaceConfig,
};

fn open(dir: &Path) -> Database {
    Database::open(
        dir,
        Options {
            background: false,
            ..Options::default()
        },
    )
    .unwrap()
}

/// Small memory, so that flushes and merges happen within a few commits.
fn small(dir: &Path) -> Database {
    Database::open(
        dir,
        Options {
            background: false,
            durable: false,
            memory_bytes: 600,
            ..Options::default()
        },
    )
    .unwrap()
}

fn contents(snapshot: &Snapshot) -> BTreeMap<u64, Vec<f32>> {
    let mut all = BTreeMap::new();
    snapshot
        .for_each(|id, vector| {
            assert!(all.insert(id, vector.to_vec()).is_none(), "id {id} twice");
            Ok(())
        })
        .unwrap();
    assert_eq!(all.len() as u64, snapshot.len());
    all
}

#[test]
fn commits_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let config = SpaceConfig::new(2, Measure::L2);
    {
        let database = open(dir.path());
        let space = database.create_space("a", config).unwrap();
        space.upsert(&[(1, &[1.0, 2.0]), (2, &[3.0, 4.0])]).unwrap();
        space.checkpoint().unwrap();
        let commit = space
            .apply(Batch::new().delete(1).upsert(3, &[5.0, 6.0]).tag(99))
            .unwrap();
        assert_eq!((commit.seq, commit.removed), (2, 1));
    }
    let space = open(dir.path()).space("a").unwrap();
    assert_eq!(space.config(), config);
    assert_eq!(
        contents(&space.snapshot()),
        [(2, vec![3.0, 4.0]), (3, vec![5.0, 6.0])].into()
    );
    assert_eq!((space.committed_tag(), space.stats().seq), (Some(99), 2));
    assert!(space.findings().is_empty());
}

#[test]
fn a_snapshot_keeps_its_version_through_flushes_and_merges() {
    let dir = tempfile::tempdir().unwrap();
    let database = small(dir.path());
    let space = database
        .create_space("a", SpaceConfig::new(4, Measure::L2))
        .unwrap();
    for id in 0..100 {
        space.upsert(&[(id, &[id as f32; 4])]).unwrap();
    }
    let before = space.snapshot();
    let expected = contents(&before);
    for id in 0..100 {
        space.upsert(&[(id, &[-1.0; 4])]).unwrap();
        space.delete(&[id / 2]).unwrap();
        space.maintain(std::time::Duration::from_secs(1)).unwrap();
    }
    assert_eq!(contents(&before), expected);
    assert_eq!(space.len(), 50);
}

#[test]
fn a_batch_deletes_before_it_inserts() {
    let dir = tempfile::tempdir().unwrap();
    let space = open(dir.path())
        .create_space("a", SpaceConfig::new(1, Measure::L2))
        .unwrap();
    space.upsert(&[(10, &[1.0]), (11, &[1.0]), (20, &[1.0])]).unwrap();
    let commit = space
        .apply(
            Batch::new()
                .upsert(11, &[2.0])
                .delete_range(10..12)
                .delete(20)
                .upsert(20, &[3.0]),
        )
        .unwrap();
    assert_eq!(commit.removed, 3);
    assert_eq!(
        contents(&space.snapshot()),
        [(11, vec![2.0]), (20, vec![3.0])].into()
    );
}

#[test]
fn bad_input_is_refused_by_name_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path());
    let space = database
        .create_space("a", SpaceConfig::new(3, Measure::Cosine))
        .unwrap();
    space.upsert(&[(1, &[1.0, 0.0, 0.0])]).unwrap();
    let refused = |result: Result<vexfs_vector::Commit, Error>, text: &str| {
        assert_eq!(result.unwrap_err().to_string(), text);
        assert_eq!((space.len(), space.stats().seq), (1, 1));
    };
    refused(
        space.upsert(&[(2, &[1.0, 2.0])]),
        "a vector of 2 components where the space has 3",
    );
    refused(
        space.upsert(&[(2, &[1.0; 3]), (3, &[1.0; 4])]),
        "a vector of 4 components where the space has 3",
    );
    refused(
        space.upsert(&[(2, &[1.0, f32::NAN, 0.0])]),
        "component 1 is not a finite number",
    );
    refused(
        space.upsert(&[(2, &[1.0; 3]), (3, &[0.0, 0.0, f32::INFINITY])]),
        "component 2 is not a finite number",
    );

    let search =
        |query: &[f32], params: SearchParams<'_>| space.search(query, &params).unwrap_err().to_string();
    assert_eq!(
        search(&[1.0], SearchParams::new(1)),
        "a vector of 1 components where the space has 3"
    );
    assert_eq!(
        search(&[f32::NAN; 3], SearchParams::new(1)),
        "component 0 is not a finite number"
    );
    let backwards = [5..9, 1..2];
    let params = SearchParams::new(1).filter(Filter::Ranges(&backwards));
    assert_eq!(
        search(&[1.0; 3], params),
        "the ranges of the filter are not ascending and disjoint"
    );

    assert!(matches!(database.space("b"), Err(Error::UnknownSpace(name)) if name == "b"));
    assert!(matches!(database.drop_space("b"), Err(Error::UnknownSpace(_))));
    let again = database.create_space("a", SpaceConfig::new(3, Measure::L2));
    assert!(matches!(again, Err(Error::SpaceExists(name)) if name == "a"));
    for dim in [0, 16_385] {
        let made = database.create_space("c", SpaceConfig::new(dim, Measure::L2));
        assert!(matches!(made, Err(Error::BadConfig(_))));
    }
    for name in ["", "a\nb", &"x".repeat(256)] {
        assert!(matches!(
            database.create_space(name, SpaceConfig::new(3, Measure::L2)),
            Err(Error::BadName(_))
        ));
    }
    let half = database.create_space(
        "half",
        SpaceConfig {
            element: Element::F16,
            ..SpaceConfig::new(1, Measure::L2)
        },
    );
    assert!(matches!(
        half.unwrap().upsert(&[(1, &[1e6])]),
        Err(Error::TooLarge { component: 0 })
    ));
}

#[test]
fn a_question_without_an_answer_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let space = open(dir.path())
        .create_space("a", SpaceConfig::new(2, Measure::L2))
        .unwrap();
    space.upsert(&[(7, &[1.0, 1.0])]).unwrap();
    let five = SearchParams::new(5);
    let backwards = [4..5, 1..2];
    for (query, params) in [
        (&[1.0, 1.0][..], SearchParams::new(0)),
        (&[1.0, 1.0], five.effort(Effort::Recall(0.0))),
        (&[1.0, 1.0], five.effort(Effort::Recall(f32::NAN))),
        (&[1.0, 1.0], five.max_distance(f32::NAN)),
        (&[1.0, 1.0], five.filter(Filter::Ranges(&backwards))),
        (&[1.0], five),
        (&[1.0, f32::NAN], five),
        (&[f32::INFINITY, 1.0], five),
    ] {
        let refused = |error: &Error| match error {
            Error::BadQuery(what) => !what.is_empty(),
            Error::WrongDimension { expected: 2, found } => *found == query.len(),
            Error::NotFinite { component } => !query[*component].is_finite(),
            _ => false,
        };
        let (alone, batch) = (
            space.search(query, &params),
            space.search_batch(&[&[0.0, 0.0], query], &params, 2),
        );
        assert!(refused(&alone.unwrap_err()) && refused(&batch.unwrap_err()));
        assert!(refused(&space.pages(query, params).err().unwrap()));
        assert_eq!(space.search(&[1.0, 1.0], &five).unwrap()[0].id, 7);
    }
}

#[test]
fn nothing_is_found_where_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    let space = open(dir.path())
        .create_space("a", SpaceConfig::new(2, Measure::Dot))
        .unwrap();
    assert!(space.is_empty());
    assert_eq!(space.search(&[1.0, 1.0], &SearchParams::new(5)).unwrap(), []);
    space.upsert(&[(1, &[1.0, 1.0])]).unwrap();
    assert_eq!(
        space
            .search(&[1.0, 1.0], &SearchParams::new(5).filter(Filter::Ranges(&[])))
            .unwrap(),
        []
    );
    assert!(!space.get(2, &mut Vec::new()).unwrap());
    space.delete(&[1, 1, 5]).unwrap();
    assert_eq!(space.search(&[1.0, 1.0], &SearchParams::new(5)).unwrap(), []);
}

#[test]
fn a_second_opener_is_told_that_the_database_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    assert!(matches!(
        Database::open(dir.path(), Options::default()),
        Err(Error::Locked(_))
    ));
    drop(first);
    open(dir.path());
}

#[test]
fn a_rename_replaces_a_space_in_one_step() {
    let dir = tempfile::tempdir().unwrap();
    {
        let database = open(dir.path());
        let old = database
            .create_space("live", SpaceConfig::new(1, Measure::L2))
            .unwrap();
        let new = database
            .create_space("next", SpaceConfig::new(2, Measure::L2))
            .unwrap();
        new.upsert(&[(1, &[0.0, 1.0])]).unwrap();
        database.rename_space("next", "live").unwrap();
        assert_eq!(database.space("live").unwrap().config().dim, 2);
        assert!(matches!(old.upsert(&[(1, &[0.0])]), Err(Error::Dropped)));
        assert!(matches!(
            database.rename_space("next", "x"),
            Err(Error::UnknownSpace(_))
        ));
    }
    let database = open(dir.path());
    assert_eq!(
        database
            .spaces()
            .iter()
            .map(|s| (s.name.as_str(), s.vectors))
            .collect::<Vec<_>>(),
        [("live", 1)]
    );
    database.drop_space("live").unwrap();
    drop(database);
    assert!(open(dir.path()).spaces().is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("spaces")).unwrap().count(), 0);
}

#[test]
fn concurrent_commits_are_all_there_and_numbered_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let space = open(dir.path())
        .create_space("a", SpaceConfig::new(1, Measure::L2))
        .unwrap();
    let mut seqs: Vec<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8u64)
            .map(|writer| {
                let space = &space;
                let commit = move |i| space.upsert(&[(writer * 100 + i, &[1.0])]).unwrap().seq;
                scope.spawn(move || (0..20).map(commit).collect::<Vec<_>>())
            })
            .collect();
        writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .collect()
    });
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=160).collect::<Vec<_>>());
    assert_eq!(space.len(), 160);
}

#[test]
fn pages_go_on_where_the_last_one_ended() {
    let dir = tempfile::tempdir().unwrap();
    let space = open(dir.path())
        .create_space("a", SpaceConfig::new(1, Measure::L2))
        .unwrap();
    for id in 0..25 {
        space.upsert(&[(id, &[(id / 2) as f32])]).unwrap();
    }
    let mut pages = space.pages(&[0.0], SearchParams::new(10)).unwrap();
    let first = pages.next_page().unwrap();
    space.delete_ranges(&[0..20, 20..25]).unwrap();
    let mut resumed = space.snapshot().pages(&[0.0], SearchParams::new(10)).unwrap();
    resumed.resume(pages.place().unwrap());
    assert_eq!(resumed.next_page().unwrap(), []);
    let rest = [
        pages.next_page().unwrap(),
        pages.next_page().unwrap(),
        pages.next_page().unwrap(),
    ]
    .concat();
    let ids: Vec<u64> = first.iter().chain(&rest).map(|n| n.id).collect();
    assert_eq!(ids, (0..25).collect::<Vec<_>>());
}

#[test]
fn batch_search_answers_in_the_order_of_the_queries() {
    let dir = tempfile::tempdir().unwrap();
    let space = open(dir.path())
        .create_space("a", SpaceConfig::new(1, Measure::L2))
        .unwrap();
    for id in 0..50 {
        space.upsert(&[(id, &[id as f32])]).unwrap();
    }
    let queries: Vec<[f32; 1]> = (0..50).rev().map(|id| [id as f32]).collect();
    let queries: Vec<&[f32]> = queries.iter().map(|q| &q[..]).collect();
    for threads in [0, 1, 4] {
        let answers = space
            .search_batch(&queries, &SearchParams::new(1), threads)
            .unwrap();
        assert!(
            answers
                .iter()
                .zip((0..50).rev())
                .all(|(answer, id)| answer[0].id == id)
        );
    }
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Upsert(Vec<(u64, i8)>),
    Delete(Vec<u64>),
    DeleteRange(u64, u64),
    Checkpoint,
    Maintain,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..60u64;
    prop_oneof![
        8 => prop::collection::vec((id.clone(), any::<i8>()), 1..12).prop_map(Step::Upsert),
        3 => prop::collection::vec(id.clone(), 1..8).prop_map(Step::Delete),
        1 => (id.clone(), id).prop_map(|(a, b)| Step::DeleteRange(a.min(b), a.max(b))),
        1 => Just(Step::Checkpoint),
        2 => Just(Step::Maintain),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_space_equals_a_map(steps in prop::collection::vec(step(), 1..60), element in 0..3) {
        let dir = tempfile::tempdir().unwrap();
        let element = [Element::F32, Element::F16, Element::I8][element as usize];
        let mut database = small(dir.path());
        let mut space = database.create_space("a", SpaceConfig { element, ..SpaceConfig::new(4, Measure::L2) }).unwrap();
        let mut model: BTreeMap<u64, Vec<f32>> = BTreeMap::new();
        // The first component is the largest, so that every element type stores these values exactly.
        let vector = |x: i8| vec![127.0, f32::from(x), 0.0, -f32::from(x)];
        for step in steps {
            match step {
                Step::Upsert(vectors) => {
                    let rows: Vec<_> = vectors.iter().map(|&(id, x)| (id, vector(x.max(-127)))).collect();
                    space.upsert(&rows.iter().map(|(id, v)| (*id, &v[..])).collect::<Vec<_>>()).unwrap();
                    model.extend(rows);
                }
                Step::Delete(ids) => {
                    space.delete(&ids).unwrap();
                    model.retain(|id, _| !ids.contains(id));
                }
                Step::DeleteRange(start, end) => {
                    space.delete_ranges(std::slice::from_ref(&(start..end))).unwrap();
                    model.retain(|id, _| !(start..end).contains(id));
                }
                Step::Checkpoint => space.checkpoint().unwrap(),
                Step::Maintain => drop(space.maintain(std::time::Duration::from_secs(1)).unwrap()),
                Step::Reopen => {
                    drop((space, database));
                    database = small(dir.path());
                    space = database.space("a").unwrap();
                }
            }
            prop_assert_eq!(&contents(&space.snapshot()), &model);
        }
        let query = vector(3);
        let exact = space.search(&query, &SearchParams::new(10).index(Index::Exact)).unwrap();
        let distance = |v: &[f32]| v.iter().zip(&query).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let mut expected: Vec<(u64, f32)> = model.iter().map(|(id, v)| (*id, distance(v))).collect();
        expected.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        expected.truncate(10);
        prop_assert_eq!(exact.iter().map(|n| (n.id, n.distance)).collect::<Vec<_>>(), expected);
    }
}
