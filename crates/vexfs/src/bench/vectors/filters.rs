//! Searches of which only some rows count.

use roaring::RoaringBitmap;
use serde::Serialize;
use vexfs_vector::graph::{Effort, Graph};
use vexfs_vector::scan::{Allowed, Costs, Plan, Scope, exact};

use super::data::{Matrix, Random};
use super::index::{Set, effort, ids, rows_of};

/// A filter of one width.
#[derive(Debug, Serialize)]
pub(super) struct FilterRow {
    pub(super) percent: f64,
    pub(super) plan: &'static str,
    pub(super) ef: usize,
    pub(super) recall: f64,
    pub(super) us: f64,
    /// The exact scan of the allowed rows alone.
    pub(super) scan_us: f64,
}

/// Random filters of 50, 10, 1 and 0.1 %.
pub(super) fn filters(set: &Set<'_>, graph: &Graph) -> anyhow::Result<Vec<FilterRow>> {
    let (rows, n) = (rows_of(set.base), set.base.len());
    let mut order: Vec<u32> = (0..u32::try_from(n)?).collect();
    Random(7).shuffle(&mut order);
    let queries = Matrix {
        dim: set.base.dim,
        values: set.queries.values[..200.min(set.queries.len()) * set.base.dim].to_vec(),
    };
    let mut out = Vec::new();
    for percent in [50.0, 10.0, 1.0, 0.1] {
        let bitmap: RoaringBitmap = order[..((n as f64 * percent / 100.0) as usize).max(1)]
            .iter()
            .copied()
            .collect();
        let allowed = Allowed::Bitmap(&bitmap);
        let truth: Vec<Vec<u32>> = queries
            .iter()
            .map(|q| ids(exact(q, set.measure, &rows, allowed, set.k)))
            .collect();
        let filtered = Set {
            queries: &queries,
            truth: &truth,
            ..*set
        };
        let ef = 40;
        let scope = Scope {
            rows: n,
            allowed: bitmap.len() as usize,
            dim: set.base.dim,
            ef,
            has_bytes: false,
            has_onebit: false,
            has_graph: true,
        };
        let plan = Costs::default().choose(scope);
        let scan = effort(&filtered, "", String::new(), 100, false, |q| {
            ids(exact(q, set.measure, &rows, allowed, set.k))
        });
        let how = Effort { ef, rerank: ef };
        let (name, row) = if plan == Plan::Graph {
            let search = |q: &[f32]| {
                graph
                    .search(q, set.k, how, allowed, &rows)
                    .map(ids)
                    .unwrap_or_default()
            };
            ("graph", effort(&filtered, "", String::new(), 200, false, search))
        } else {
            (
                "exact",
                effort(&filtered, "", String::new(), 200, false, |q| {
                    ids(exact(q, set.measure, &rows, allowed, set.k))
                }),
            )
        };
        let found = truth.iter().map(Vec::len).sum::<usize>() as f64;
        let recall = row.recall * (truth.len() * set.k) as f64 / found;
        out.push(FilterRow {
            percent,
            plan: name,
            ef,
            recall,
            us: 1e6 / row.qps,
            scan_us: 1e6 / scan.qps,
        });
    }
    Ok(out)
}
