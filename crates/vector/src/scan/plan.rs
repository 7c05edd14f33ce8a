//! Which structure answers a query: decided by an estimate of cost, not by a fixed size.

/// What a search has to choose between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Exact distances of the allowed rows alone.
    Exact,
    /// Byte codes, then exact distances of the best.
    Bytes,
    /// One-bit codes of all rows, then exact distances of the possible.
    OneBit,
    /// The graph, with the filter inside.
    Graph,
}

/// The size of the question.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Rows in the space.
    pub rows: usize,
    /// Rows that the filter lets through.
    pub allowed: usize,
    /// Elements of a vector.
    pub dim: usize,
    /// Candidates kept by a graph search.
    pub ef: usize,
    /// Whether byte codes, one-bit codes and a graph are there.
    pub has_bytes: bool,
    /// See `has_bytes`.
    pub has_onebit: bool,
    /// See `has_bytes`.
    pub has_graph: bool,
}

/// Nanoseconds that the parts of a search take. The defaults were measured on one Zen 5 core, with 100,000 rows of 256
/// and of 384 elements; only their ratios matter.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// An exact distance of a row, per element, rows in ascending order.
    pub exact_element_ns: f64,
    /// The wait for a row, rows in ascending order but not next to each other.
    pub row_ns: f64,
    /// The wait for the byte code of a row, in the same order.
    pub byte_row_ns: f64,
    /// An exact distance of a row anywhere in memory, per element.
    pub reranked_element_ns: f64,
    /// The wait for a row anywhere in memory.
    pub reranked_ns: f64,
    /// A byte code's distance, per element, rows in order.
    pub byte_element_ns: f64,
    /// A one-bit code's distance, per element, rows in order.
    pub bit_element_ns: f64,
    /// One step of the graph: the wait for a node and its neighbours.
    pub hop_ns: f64,
    /// The distances of one step of the graph, per element.
    pub hop_element_ns: f64,
    /// Exact distances that end a one-bit scan.
    pub onebit_reranked: f64,
}

impl Default for Costs {
    fn default() -> Costs {
        Costs {
            exact_element_ns: 0.09,
            row_ns: 40.0,
            byte_row_ns: 8.0,
            reranked_element_ns: 0.3,
            reranked_ns: 60.0,
            byte_element_ns: 0.025,
            bit_element_ns: 0.008,
            hop_ns: 250.0,
            hop_element_ns: 0.6,
            onebit_reranked: 200.0,
        }
    }
}

impl Costs {
    /// The cheapest plan among the structures that are there.
    pub fn choose(&self, scope: Scope) -> Plan {
        let mut best = (self.exact_ns(scope), Plan::Exact);
        for (there, cost, plan) in [
            (scope.has_bytes, self.bytes_ns(scope), Plan::Bytes),
            (scope.has_onebit, self.onebit_ns(scope), Plan::OneBit),
            (scope.has_graph, self.graph_ns(scope), Plan::Graph),
        ] {
            if there && cost < best.0 {
                best = (cost, plan);
            }
        }
        best.1
    }

    fn exact_ns(&self, s: Scope) -> f64 {
        // Below a quarter the allowed rows are walked; above, all rows are measured, and the filter is asked last.
        let (rows, wait) = if s.allowed * 4 < s.rows {
            (s.allowed, self.row_ns)
        } else {
            (s.rows, 0.0)
        };
        rows as f64 * (wait + self.exact_element_ns * s.dim as f64)
    }

    fn bytes_ns(&self, s: Scope) -> f64 {
        // Below a quarter the allowed rows are walked, each a jump in memory; above, all rows are read in order.
        let scanned = if s.allowed * 4 < s.rows {
            s.allowed as f64 * (self.byte_row_ns + self.byte_element_ns * s.dim as f64)
        } else {
            s.rows as f64 * self.byte_element_ns * s.dim as f64
        };
        scanned + self.exact_rows_ns(s, 20.0)
    }

    fn onebit_ns(&self, s: Scope) -> f64 {
        s.rows as f64 * self.bit_element_ns * s.dim as f64 + self.exact_rows_ns(s, self.onebit_reranked)
    }

    /// A filtered search widens its beam by the inverse of the selectivity, because that share of it counts.
    fn graph_ns(&self, s: Scope) -> f64 {
        let selectivity = s.allowed.max(1) as f64 / s.rows.max(1) as f64;
        let hops = s.ef as f64 / selectivity.min(1.0) + (s.rows.max(1) as f64).log2();
        hops * (self.hop_ns + self.hop_element_ns * s.dim as f64) + self.exact_rows_ns(s, 20.0)
    }

    fn exact_rows_ns(&self, s: Scope, rows: f64) -> f64 {
        rows.min(s.allowed as f64) * (self.reranked_ns + self.reranked_element_ns * s.dim as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rows: usize, allowed: usize) -> Plan {
        let scope = Scope {
            rows,
            allowed,
            dim: 384,
            ef: 40,
            has_bytes: true,
            has_onebit: true,
            has_graph: true,
        };
        Costs::default().choose(scope)
    }

    #[test]
    fn the_narrower_the_scope_the_simpler_the_plan() {
        assert_eq!(plan(1_000_000, 1_000_000), Plan::Graph);
        assert_eq!(plan(1_000_000, 500_000), Plan::Graph);
        assert_ne!(plan(1_000_000, 100), Plan::Graph);
        assert_eq!(plan(1_000_000, 10), Plan::Exact);
        assert_eq!(plan(5, 5), Plan::Exact);
    }

    /// On 100,000 rows the scan of what a filter lets through met the walk at about one row in twenty.
    #[test]
    fn a_filter_is_walked_where_that_is_faster_than_scanning_what_it_allows() {
        for (dim, percent, plan) in [
            (384, 50, Plan::Graph),
            (384, 10, Plan::Graph),
            (384, 5, Plan::Exact),
            (384, 1, Plan::Exact),
            (256, 10, Plan::Graph),
            (256, 2, Plan::Exact),
        ] {
            let scope = Scope {
                rows: 100_000,
                allowed: 1000 * percent,
                dim,
                ef: 40,
                has_bytes: false,
                has_onebit: false,
                has_graph: true,
            };
            assert_eq!(Costs::default().choose(scope), plan, "{dim} {percent} %");
        }
    }

    #[test]
    fn a_missing_structure_is_never_chosen() {
        for rows in [10, 1000, 100_000, 10_000_000] {
            let scope = Scope {
                rows,
                allowed: rows,
                dim: 128,
                ef: 40,
                has_bytes: false,
                has_onebit: false,
                has_graph: false,
            };
            assert_eq!(Costs::default().choose(scope), Plan::Exact);
        }
    }
}
