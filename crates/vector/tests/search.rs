//! Every index under every filter, against the exact answer.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests fail their test, too"
)]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringTreemap;
use vexfs_vector::{
    Batch, Database, Effort, Element, Filter, Index, Measure, Neighbor, Options, SearchParams, Space,
    SpaceConfig,
};

const DIM: usize = 32;

fn scattered(seed: &mut u64) -> f32 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 40) as f32 / (1u32 << 24) as f32 - 0.5
}

/// A vector near one of 64 centres, with a few strong directions, as embeddings have.
fn vector(seed: &mut u64) -> Vec<f32> {
    let mut centre = (32.0 + scattered(seed) * 64.0) as u64;
    (0..DIM)
        .map(|i| scattered(&mut centre) + scattered(seed) / (1.0 + i as f32 / 4.0))
        .collect()
}

/// Ids are 1000 * file + slot; every ninth vector was deleted, some were replaced, and the rest of the rows are
/// spread over files and memory.
fn filled(database: &Database, config: SpaceConfig, rows: u64) -> Arc<Space> {
    let space = database.create_space("s", config).unwrap();
    let mut seed = 1;
    let ids: Vec<u64> = (0..rows).map(|i| i / 50 * 1000 + i % 50).collect();
    for chunk in ids.chunks(700) {
        let mut batch = Batch::new();
        for &id in chunk {
            batch.upsert(id, &vector(&mut seed));
        }
        space.apply(&batch).unwrap();
        space.maintain(Duration::from_secs(60)).unwrap();
    }
    let gone: Vec<u64> = ids.iter().copied().step_by(9).collect();
    space.delete(&gone).unwrap();
    let mut batch = Batch::new();
    for &id in ids.iter().skip(4).step_by(90) {
        batch.upsert(id, &vector(&mut seed));
    }
    space.apply(&batch).unwrap();
    assert!(
        space.stats().files > 0 && space.stats().memory_rows > 0,
        "{:?}",
        space.stats()
    );
    space
}

fn recall(found: &[Neighbor], truth: &[Neighbor]) -> f64 {
    let hits = found
        .iter()
        .filter(|n| truth.iter().any(|t| t.id == n.id))
        .count();
    hits as f64 / truth.len().max(1) as f64
}

fn check(element: Element, measure: Measure) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        background: false,
        durable: false,
        memory_bytes: 400_000,
        graph_rows: 3000,
        ..Options::default()
    };
    let database = Database::open(dir.path(), options).unwrap();
    let space = filled(
        &database,
        SpaceConfig {
            dim: DIM,
            measure,
            element,
        },
        12_000,
    );

    let one_file = 7000..8000;
    let subtree = [0..20_000, 90_000..150_000];
    let scattered_files: Vec<Range<u64>> = (0..200).map(|i| i * 1000..i * 1000 + 7).collect();
    let few: RoaringTreemap = (0..240_000).step_by(1003).collect();
    let many: RoaringTreemap = (0..240_000).filter(|id| id % 3 != 0).collect();
    let even = |id: u64| id.is_multiple_of(2);
    let rare = |id: u64| id % 100 == 7;
    let filters = [
        None,
        Some(Filter::Ranges(std::slice::from_ref(&one_file))),
        Some(Filter::Ranges(&subtree)),
        Some(Filter::Ranges(&scattered_files)),
        Some(Filter::Ids(&few)),
        Some(Filter::Ids(&many)),
        Some(Filter::Predicate {
            test: &even,
            selectivity: 0.5,
        }),
        Some(Filter::Predicate {
            test: &rare,
            selectivity: 0.01,
        }),
    ];
    let allowed = |filter: Option<Filter<'_>>, id: u64| match filter {
        None => true,
        Some(Filter::Ranges(ranges)) => ranges.iter().any(|range| range.contains(&id)),
        Some(Filter::Ids(ids)) => ids.contains(id),
        Some(Filter::Predicate { test, .. }) => test(id),
    };
    assert!(space.stats().graph_rows > 5000, "{:?}", space.stats());
    let mut seed = 99;
    for filter in filters {
        let mut sums = [0.0; 4];
        for _ in 0..20 {
            let query = vector(&mut seed);
            let params = SearchParams {
                filter,
                ..SearchParams::new(10)
            };
            let truth = space.search(&query, &params.index(Index::Exact)).unwrap();
            assert!(truth.is_sorted_by(|a, b| (a.distance, a.id) < (b.distance, b.id)));
            assert!(
                truth
                    .iter()
                    .all(|n| allowed(filter, n.id) && space.contains(n.id))
            );
            let in_scope = space.snapshot().ids().filter(|&id| allowed(filter, id)).count();
            assert_eq!(truth.len(), in_scope.min(10));
            for (sum, index) in sums
                .iter_mut()
                .zip([Index::Auto, Index::Bytes, Index::OneBit, Index::Graph])
            {
                let found = space.search(&query, &params.index(index)).unwrap();
                assert!(
                    found.iter().all(|n| allowed(filter, n.id)),
                    "{index:?} {filter:?}"
                );
                *sum += recall(&found, &truth) / 20.0;
            }
            assert_eq!(
                space.search(&query, &params.effort(Effort::Exact)).unwrap(),
                truth
            );

            let reach = truth[truth.len() / 2].distance;
            let near = space.search(&query, &params.max_distance(reach)).unwrap();
            assert!(near.iter().all(|n| n.distance <= reach));
            let all = SearchParams {
                k: usize::MAX,
                max_distance: Some(reach),
                ..params
            };
            let all = space.search(&query, &all).unwrap();
            assert_eq!(all[..], truth[..all.len()], "a range search is exact");
            assert!(truth.get(all.len()).is_none_or(|next| next.distance > reach));
        }
        assert!(
            sums[..3].iter().all(|&recall| recall >= 0.95),
            "{element:?} {measure:?} {filter:?}: {sums:?}"
        );
        // A walk under a narrow filter is not what the engine would choose.
        assert!(sums[3] >= 0.9, "{element:?} {measure:?} {filter:?}: {sums:?}");
    }
}

#[test]
fn every_index_finds_the_exact_neighbours_of_f32_rows() {
    for measure in [Measure::L2, Measure::Dot, Measure::Cosine] {
        check(Element::F32, measure);
    }
}

#[test]
fn every_index_finds_the_exact_neighbours_of_smaller_rows() {
    check(Element::F16, Measure::Cosine);
    check(Element::I8, Measure::L2);
    check(Element::I8, Measure::Cosine);
}
