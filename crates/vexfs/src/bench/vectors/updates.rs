//! Inserts and deletes, beside searches and alone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;
use vexfs_vector::graph::{Effort, Graph};
use vexfs_vector::scan::Allowed;

use super::data::Random;
use super::index::{Set, cpu_seconds, rows_of};

/// Updates of the graph.
#[derive(Debug, Serialize)]
pub(super) struct Updates {
    insert_beside_search_per_s: f64,
    search_beside_insert_per_s: f64,
    delete_per_s: f64,
    sweep_per_s: f64,
    recall_before: f64,
    pub(super) recall_after_replacing_all: f64,
    bytes_grown_percent: f64,
}

impl Updates {
    pub(super) fn named(&self) -> Vec<(&'static str, String)> {
        vec![
            (
                "inserts/s beside a searching thread",
                format!("{:.0}", self.insert_beside_search_per_s),
            ),
            (
                "searches/s meanwhile",
                format!("{:.0}", self.search_beside_insert_per_s),
            ),
            ("deletes/s (marks)", format!("{:.0}", self.delete_per_s)),
            ("deletes/s, repair included", format!("{:.0}", self.sweep_per_s)),
            ("recall at ef 40", format!("{:.4}", self.recall_before)),
            (
                "recall after replacing all rows",
                format!("{:.4}", self.recall_after_replacing_all),
            ),
            ("memory grown by, %", format!("{:.1}", self.bytes_grown_percent)),
        ]
    }
}

/// Replaces every row of the graph in random order (a tenth of them beside a searching thread), then measures deletes.
pub(super) fn updates(set: &Set<'_>, graph: &Graph) -> anyhow::Result<Updates> {
    let (rows, n) = (rows_of(set.base), set.base.len());
    let recall = || -> anyhow::Result<f64> {
        let mut hits = 0;
        for i in 0..set.queries.len() {
            let found = graph.search(
                set.queries.row(i),
                set.k,
                Effort::new(40, set.k),
                Allowed::All,
                &rows,
            )?;
            hits += found.iter().filter(|p| set.truth[i].contains(&p.0)).count();
        }
        Ok(hits as f64 / (set.queries.len() * set.k) as f64)
    };
    let (recall_before, bytes) = (recall()?, graph.bytes());
    let mut order: Vec<u32> = (0..u32::try_from(n)?).collect();
    Random(11).shuffle(&mut order);
    let replace = |row: u32| -> anyhow::Result<()> {
        graph.delete(row);
        graph.insert(row, set.base.row(row as usize))?;
        Ok(())
    };
    let (beside, rest) = order.split_at(n / 10);
    let (insert_per_s, search_per_s) = beside_searches(set, graph, beside)?;
    for &row in rest {
        replace(row)?;
        if graph.wants_sweep() {
            graph.sweep();
        }
    }
    graph.sweep();
    let recall_after = recall()?;
    let grown = graph.bytes() as f64 / bytes as f64 * 100.0 - 100.0;
    let victims = &order[..n / 20];
    let began = cpu_seconds();
    for &row in victims {
        graph.delete(row);
    }
    let marked = cpu_seconds();
    graph.sweep();
    let swept = cpu_seconds();
    Ok(Updates {
        insert_beside_search_per_s: insert_per_s,
        search_beside_insert_per_s: search_per_s,
        delete_per_s: victims.len() as f64 / (marked - began),
        sweep_per_s: victims.len() as f64 / (swept - began),
        recall_before,
        recall_after_replacing_all: recall_after,
        bytes_grown_percent: grown,
    })
}

/// Deletes the rows, then inserts them again on this thread while another one searches; both rates by CPU time of
/// the thread.
fn beside_searches(set: &Set<'_>, graph: &Graph, victims: &[u32]) -> anyhow::Result<(f64, f64)> {
    let rows = rows_of(set.base);
    for &row in victims {
        graph.delete(row);
    }
    graph.sweep();
    let (done, searched, searcher_ns) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let took = std::thread::scope(|scope| {
        scope.spawn(|| {
            let began = cpu_seconds();
            let mut i = 0;
            while !done.load(Ordering::Relaxed) {
                let query = set.queries.row(i % set.queries.len());
                drop(graph.search(query, set.k, Effort::new(40, set.k), Allowed::All, &rows));
                i += 1;
            }
            searched.store(i as u64, Ordering::Relaxed);
            searcher_ns.store(((cpu_seconds() - began) * 1e9) as u64, Ordering::Relaxed);
        });
        let began = cpu_seconds();
        let outcome = victims
            .iter()
            .try_for_each(|&row| graph.insert(row, set.base.row(row as usize)));
        let took = cpu_seconds() - began;
        done.store(true, Ordering::Relaxed);
        outcome.map(|()| took)
    })?;
    let searches = searched.into_inner() as f64 / (searcher_ns.into_inner() as f64 * 1e-9);
    Ok((victims.len() as f64 / took, searches))
}
