//! Promises of the graph: recall, filters, deletion, churn, concurrency, persistence.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::scan::{Allowed, RowSlice, Rows, SliceRows, exact};

/// Clustered vectors of low intrinsic dimension: 16 directions a cluster and a little noise.
fn clustered(n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut normal = || {
        let sum: f32 = (0..6)
            .map(|_| (crate::quant::splitmix(&mut state) >> 40) as f32)
            .sum();
        (sum / (1u64 << 24) as f32 - 3.0) * 1.4
    };
    let clusters: Vec<(Vec<f32>, Vec<f32>)> = (0..24)
        .map(|_| {
            (
                (0..dim).map(|_| normal()).collect(),
                (0..16 * dim).map(|_| normal() * 0.3).collect(),
            )
        })
        .collect();
    let mut out = Vec::with_capacity(n * dim);
    for i in 0..n {
        let (centre, basis) = &clusters[i * 7 % 24];
        let place: Vec<f32> = (0..16).map(|_| normal()).collect();
        out.extend((0..dim).map(|d| {
            centre[d]
                + place
                    .iter()
                    .enumerate()
                    .map(|(j, p)| p * basis[j * dim + d])
                    .sum::<f32>()
                + 0.05 * normal()
        }));
    }
    out
}

fn build(data: &[f32], dim: usize, measure: Measure) -> Graph {
    let graph = Graph::new(dim, measure, GraphParams::default());
    for (row, vector) in data.chunks_exact(dim).enumerate() {
        graph.insert(row as u32, vector).unwrap();
    }
    graph
}

/// Mean recall@10 of the graph against the exact scan, both under the same filter.
fn recall(graph: &Graph, rows: &dyn Rows, queries: &[f32], allowed: Allowed<'_>, ef: usize) -> f64 {
    let (mut hits, mut total) = (0, 0);
    let live = |row: u32| graph.contains(row) && allowed.contains(row);
    for q in queries.chunks_exact(graph.dim()) {
        let truth = exact(q, graph.measure(), rows, Allowed::Test(&live), 10);
        let found = graph
            .search(q, 10, Effort { ef, rerank: 40 }, allowed, rows)
            .unwrap();
        assert!(found.windows(2).all(|w| w[0].1 <= w[1].1), "not in order");
        assert!(found.iter().all(|p| live(p.0)), "a row that may not be returned");
        hits += found.iter().filter(|p| truth.iter().any(|t| t.0 == p.0)).count();
        total += truth.len();
    }
    hits as f64 / total.max(1) as f64
}

const DIM: usize = 48;
const N: usize = 4000;

fn set() -> (Vec<f32>, Vec<f32>) {
    let mut data = clustered(N + 60, DIM, 1);
    let queries = data.split_off(N * DIM);
    (data, queries)
}

#[test]
fn finds_the_nearest_under_every_measure() {
    let (data, queries) = set();
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    for measure in [Measure::L2, Measure::Dot, Measure::Cosine] {
        let graph = build(&data, DIM, measure);
        let r = recall(&graph, &rows, &queries, Allowed::All, 80);
        assert!(r >= 0.95, "{measure:?}: recall {r}");
    }
}

#[test]
fn a_filter_of_any_width_keeps_recall() {
    let (data, queries) = set();
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    let graph = build(&data, DIM, Measure::L2);
    for every in [2, 10, 50, 500] {
        let test = move |row: u32| row.is_multiple_of(every);
        let r = recall(&graph, &rows, &queries, Allowed::Test(&test), 80);
        assert!(r >= 0.95, "one in {every}: recall {r}");
    }
    let none = |_: u32| false;
    assert!(
        graph
            .search(
                &queries[..DIM],
                10,
                Effort::new(40, 10),
                Allowed::Test(&none),
                &rows
            )
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_deleted_row_is_gone_at_once_and_a_sweep_keeps_recall() {
    let (data, queries) = set();
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    let graph = build(&data, DIM, Measure::L2);
    for row in (0..N as u32).filter(|r| r % 3 != 0) {
        assert!(graph.delete(row));
        assert!(!graph.delete(row) && !graph.contains(row));
    }
    assert!(
        recall(&graph, &rows, &queries, Allowed::All, 80) >= 0.95,
        "before the sweep"
    );
    assert!(graph.wants_sweep());
    let marked = graph.marked();
    assert_eq!(graph.sweep(), marked);
    assert_eq!((graph.marked(), graph.len()), (0, N - marked));
    assert!(
        recall(&graph, &rows, &queries, Allowed::All, 80) >= 0.95,
        "after the sweep"
    );
    for row in (0..N as u32).filter(|r| r % 3 == 0) {
        graph.delete(row);
    }
    graph.sweep();
    assert!(graph.is_empty());
    assert!(
        graph
            .search(&queries[..DIM], 10, Effort::new(40, 10), Allowed::All, &rows)
            .unwrap()
            .is_empty()
    );
    graph.insert(7, &data[7 * DIM..8 * DIM]).unwrap();
    let found = graph
        .search(
            &data[7 * DIM..8 * DIM],
            10,
            Effort::new(40, 10),
            Allowed::All,
            &rows,
        )
        .unwrap();
    assert_eq!(found, [(7, 0.0)]);
}

#[test]
fn replacing_every_row_twice_keeps_recall_and_memory() {
    let (mut data, queries) = set();
    let graph = build(&data, DIM, Measure::L2);
    let before = recall(
        &graph,
        &SliceRows::new(DIM, RowSlice::F32(&data)),
        &queries,
        Allowed::All,
        80,
    );
    let bytes = graph.bytes();
    let mut state = 9;
    for round in 0..2 {
        let fresh = clustered(N, DIM, 1);
        for i in 0..N {
            let row = (crate::quant::splitmix(&mut state) % N as u64) as usize;
            let row = if graph.contains(row as u32) { row } else { i };
            let source = (i + 17 * (round + 1)) % N;
            graph.delete(row as u32);
            data.copy_within(source * DIM..(source + 1) * DIM, row * DIM);
            let vector: Vec<f32> = fresh[source * DIM..(source + 1) * DIM]
                .iter()
                .map(|x| x + 0.01)
                .collect();
            data[row * DIM..(row + 1) * DIM].copy_from_slice(&vector);
            graph.insert(row as u32, &vector).unwrap();
            if graph.wants_sweep() {
                graph.sweep();
            }
        }
    }
    let after = recall(
        &graph,
        &SliceRows::new(DIM, RowSlice::F32(&data)),
        &queries,
        Allowed::All,
        80,
    );
    assert!(
        after >= 0.95 && after >= before - 0.03,
        "recall {before} became {after}"
    );
    assert!(
        graph.bytes() <= bytes * 12 / 10,
        "memory grew from {bytes} to {}",
        graph.bytes()
    );
}

#[test]
fn searches_run_beside_inserts_deletes_and_sweeps() {
    let (data, queries) = set();
    let graph = Graph::new(DIM, Measure::L2, GraphParams::default());
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let writers: Vec<_> = (0..2)
            .map(|t| {
                let (graph, data) = (&graph, &data);
                s.spawn(move || {
                    for row in (t..N).step_by(2) {
                        graph
                            .insert(row as u32, &data[row * DIM..(row + 1) * DIM])
                            .unwrap();
                        if row % 5 == t {
                            assert!(graph.delete(row as u32));
                        }
                        if row % 400 == t {
                            graph.sweep();
                        }
                    }
                })
            })
            .collect();
        s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for q in queries.chunks_exact(DIM) {
                    let found = graph
                        .search(q, 10, Effort::new(40, 10), Allowed::All, &rows)
                        .unwrap();
                    assert!(found.windows(2).all(|w| w[0].1 <= w[1].1 && w[0].0 != w[1].0));
                }
            }
        });
        writers.into_iter().for_each(|w| w.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(graph.len() + (0..N).filter(|r| r % 5 == r % 2).count(), N);
    graph.sweep();
    let r = recall(&graph, &rows, &queries, Allowed::All, 80);
    assert!(r >= 0.95, "recall {r}");
}

#[test]
fn bytes_round_trip_read_and_mapped_and_can_be_changed_afterwards() {
    let (data, queries) = set();
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    let params = GraphParams {
        centre: Some(data[..DIM].to_vec()),
        ..GraphParams::default()
    };
    let graph = Graph::new(DIM, Measure::L2, params);
    for row in 0..N - 500 {
        graph
            .insert(row as u32, &data[row * DIM..(row + 1) * DIM])
            .unwrap();
    }
    (0..100).for_each(|row| assert!(graph.delete(row)));
    graph.sweep();
    (100..150).for_each(|row| assert!(graph.delete(row)));
    let mut bytes = Vec::new();
    graph.write_to(&mut bytes).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    // SAFETY: the file is temporary and nobody else has it.
    let map = unsafe { memmap2::MmapOptions::new().map_copy(&file).unwrap() };
    for copy in [Graph::read(&bytes).unwrap(), Graph::open(map).unwrap()] {
        assert_eq!(
            (copy.len(), copy.marked(), copy.params()),
            (graph.len(), 50, graph.params())
        );
        for q in queries.chunks_exact(DIM) {
            let found = |g: &Graph| g.search(q, 10, Effort::new(40, 10), Allowed::All, &rows).unwrap();
            assert_eq!(found(&copy), found(&graph));
        }
        for row in (0..100).chain(N - 500..N) {
            copy.insert(row as u32, &data[row * DIM..(row + 1) * DIM])
                .unwrap();
        }
        copy.sweep();
        assert_eq!(copy.len(), N - 50);
        assert!(recall(&copy, &rows, &queries, Allowed::All, 80) >= 0.95);
    }
}

#[test]
fn damaged_bytes_are_refused_or_give_wrong_answers_but_never_panic() {
    let (data, queries) = set();
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    let graph = build(&data[..300 * DIM], DIM, Measure::Cosine);
    let mut bytes = Vec::new();
    graph.write_to(&mut bytes).unwrap();
    assert!(Graph::read(&bytes[..bytes.len() - 1]).is_err());
    assert!(Graph::read(&[]).is_err() && Graph::read(&bytes[1..]).is_err());
    let mut state = 77;
    for i in 0..3000 {
        let mut damaged = bytes.clone();
        let at = if i < 60 {
            i
        } else {
            (crate::quant::splitmix(&mut state) % bytes.len() as u64) as usize
        };
        damaged[at] ^= 1 << (i % 8);
        if let Ok(graph) = Graph::read(&damaged) {
            let _ = graph.search(&queries[..DIM], 10, Effort::new(20, 10), Allowed::All, &rows);
            graph.delete(5);
        }
    }
}

#[test]
fn a_range_is_what_it_says() {
    let (data, queries) = set();
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    let graph = build(&data, DIM, Measure::L2);
    let q = &queries[..DIM];
    let truth = exact(q, Measure::L2, &rows, Allowed::All, 60);
    let within = graph
        .search_range(q, truth[50].1, 32, Allowed::All, &rows)
        .unwrap();
    assert!(
        within.len() >= 48 && within.iter().all(|p| p.1 <= truth[50].1),
        "{}",
        within.len()
    );
}

/// Every third row is deleted, so that some walks have to look past many marked nodes.
#[test]
fn searches_that_take_turns_find_what_each_finds_alone() {
    let (data, queries) = set();
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    let graph = build(&data, DIM, Measure::Cosine);
    let each: Vec<&[f32]> = queries.chunks_exact(DIM).collect();
    for round in 0..2 {
        for (k, ef) in [(1, 4), (10, 30), (70, 20)] {
            let effort = Effort::new(ef, k);
            for threads in [1, 3, 100] {
                let together = graph
                    .search_batch(&each, k, effort, Allowed::All, &rows, threads)
                    .unwrap();
                assert_eq!(together.len(), each.len());
                for (q, found) in each.iter().zip(&together) {
                    assert_eq!(*found, graph.search(q, k, effort, Allowed::All, &rows).unwrap());
                    assert_eq!(found.len(), k, "round {round}");
                }
            }
        }
        (0..N as u32)
            .step_by(3)
            .for_each(|row| assert!(graph.delete(row) || round > 0));
    }
    let none = graph.search_batch(&[], 3, Effort::new(9, 3), Allowed::All, &rows, 4);
    assert!(none.unwrap().is_empty());
}

#[test]
fn a_packed_copy_has_the_same_rows_and_recall_and_can_be_changed() {
    let (data, queries) = set();
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    let graph = build(&data, DIM, Measure::L2);
    (0..N as u32 / 2).for_each(|row| assert!(graph.delete(row)));
    graph.sweep();
    (N as u32 / 2..N as u32 * 3 / 4).for_each(|row| assert!(graph.delete(row)));
    let packed = graph.packed().unwrap();
    assert_eq!((packed.len(), packed.marked()), (N / 4, 0));
    assert!((0..N as u32).all(|row| packed.contains(row) == graph.contains(row)));
    assert!(packed.bytes() < graph.bytes());
    let distance_apart = |graph: &Graph| {
        let apart = |slot: u32| graph.edges_of(slot).map(move |to| u64::from(slot.abs_diff(to)));
        (0..graph.used.load(Ordering::Relaxed))
            .flat_map(apart)
            .sum::<u64>()
    };
    assert!(distance_apart(&packed) * 2 < distance_apart(&graph));
    for row in 0..N as u32 / 2 {
        packed.insert(row, &data[row as usize * DIM..][..DIM]).unwrap();
    }
    let r = recall(&packed, &rows, &queries, Allowed::All, 80);
    assert!(r >= 0.95, "recall {r}");
    let empty = Graph::new(DIM, Measure::L2, GraphParams::default())
        .packed()
        .unwrap();
    assert!(empty.is_empty());
}

#[test]
fn calibration_reaches_its_target() {
    let (data, queries) = set();
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    let graph = build(&data, DIM, Measure::L2);
    let low = graph.calibrate(&queries, 10, 0.5, &rows).unwrap();
    let high = graph.calibrate(&queries, 10, 0.98, &rows).unwrap();
    assert!(low.ef <= high.ef, "{low:?} {high:?}");
    assert!(recall(&graph, &rows, &queries, Allowed::All, high.ef) >= 0.98);
}

#[test]
fn bad_input_is_an_error_and_changes_nothing() {
    let graph = Graph::new(4, Measure::Cosine, GraphParams::default());
    let rows = SliceRows::new(4, RowSlice::F32(&[1.0; 4]));
    let search = |q: &[f32]| graph.search(q, 3, Effort::new(10, 3), Allowed::All, &rows);
    assert!(search(&[1.0; 4]).unwrap().is_empty(), "an empty graph");
    assert!(matches!(
        graph.insert(0, &[1.0; 3]),
        Err(GraphError::WrongDimension { want: 4, got: 3 })
    ));
    assert!(matches!(
        graph.insert(0, &[f32::NAN; 4]),
        Err(GraphError::NotFinite)
    ));
    assert!(matches!(graph.insert(0, &[0.0; 4]), Err(GraphError::NotFinite)));
    graph.insert(0, &[1.0; 4]).unwrap();
    assert!(matches!(
        graph.insert(0, &[1.0; 4]),
        Err(GraphError::Duplicate(0))
    ));
    assert_eq!(graph.len(), 1);
    assert_eq!(search(&[2.0; 4]).unwrap().len(), 1);
    assert!(search(&[f32::INFINITY; 4]).is_err());
    assert!(!graph.delete(9) && !graph.delete(u32::MAX));
}

#[test]
fn many_copies_of_one_vector_do_not_cut_off_the_rest() {
    let (mut data, queries) = set();
    let copy: Vec<f32> = data[..DIM].to_vec();
    data[..1500 * DIM]
        .chunks_exact_mut(DIM)
        .for_each(|row| row.copy_from_slice(&copy));
    let graph = build(&data, DIM, Measure::L2);
    let rows = SliceRows::new(DIM, RowSlice::F32(&data));
    let others = |row: u32| row >= 1500;
    let r = recall(&graph, &rows, &queries, Allowed::Test(&others), 80);
    assert!(r >= 0.95, "recall {r}");
}
