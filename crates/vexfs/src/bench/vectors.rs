//! Vectors: recall and speed of every index at several efforts, filters, updates, and the distance kernels.
//!
//! `performance_benchmark vectors --base FILE --queries FILE` measures given data; without them it makes clustered data
//! of low intrinsic dimension. `performance_benchmark vectors-data` writes such data, or embeddings of text found on
//! this machine, as files that other programs read too. Uniform random vectors are no benchmark: all distances are
//! nearly the same, and every index looks bad in a way that no real data shows.

mod data;
mod filters;
mod index;
mod kernels;
mod updates;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use vexfs_vector::Measure;

use super::metric::Table;
use data::Matrix;
pub(super) use data::clustered;

/// What to measure on which data.
#[derive(Clone, Debug, Args)]
struct Given {
    /// Rows to index: .npy (f32, two dimensions) or .fvecs
    #[arg(long, value_name = "FILE", requires = "queries")]
    base: Option<PathBuf>,
    /// Queries, in one of the same formats
    #[arg(long, value_name = "FILE", requires = "base")]
    queries: Option<PathBuf>,
    /// The nearest rows of each query: .ivecs or .npy (i32, i64 or u32); computed if not given
    #[arg(long, value_name = "FILE", requires = "base")]
    truth: Option<PathBuf>,
    /// Neighbours asked for
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// The measure: l2, cosine or dot
    #[arg(long, default_value = "l2", value_parser = measure)]
    space: Measure,
    /// Beams of the graph to try
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10,12,14,17,20,24,28,34,40,56,80,112,160,240"
    )]
    ef: Vec<usize>,
    /// Rows that are measured exactly at the end of a search; if not given one and a half beams, twice k, at least 20
    #[arg(long)]
    rerank: Option<usize>,
    /// Only these: graph, exact, bytes, onebit, batches, filters, updates, kernels
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The results as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Parser)]
#[command(name = "performance_benchmark", max_term_width = 100)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures the vector indexes
    Vectors(Given),
    /// Writes data sets as .npy files
    VectorsData(data::Wanted),
}

/// True if the command line is one that [`run`] reads: the part `vectors` with options of its own, or `vectors-data`.
pub fn reads(arguments: &[String]) -> bool {
    match arguments.get(1).map(String::as_str) {
        Some("vectors-data") => true,
        Some("vectors") => arguments.len() > 2,
        _ => false,
    }
}

/// The programs `performance_benchmark vectors` and `vectors-data`.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let outcome = match Line::parse_from(arguments).command {
        Command::Vectors(given) => measured(&given),
        Command::VectorsData(wanted) => wanted.write(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("performance_benchmark: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Everything measured on one set.
#[derive(Debug, Serialize)]
struct Results {
    space: &'static str,
    simd: &'static str,
    rows: usize,
    dim: usize,
    queries: usize,
    k: usize,
    build: Option<index::Build>,
    efforts: Vec<index::EffortRow>,
    /// Queries per second of the graph at a recall, between the two efforts around it.
    graph_qps_at: Vec<(f64, Option<f64>)>,
    batches: Vec<index::BatchRow>,
    filters: Vec<filters::FilterRow>,
    updates: Option<updates::Updates>,
    kernels: Option<kernels::Kernels>,
}

fn measure(name: &str) -> Result<Measure, String> {
    Measure::from_name(name).ok_or_else(|| format!("'{name}' is none of l2, cosine, dot"))
}

fn measured(given: &Given) -> anyhow::Result<()> {
    let (base, queries) = match (&given.base, &given.queries) {
        (Some(base), Some(queries)) => (Matrix::read(base)?, Matrix::read(queries)?),
        _ => data::clustered(101_000, 384, 1).split(100_000),
    };
    ensure!(
        base.dim == queries.dim,
        "base and queries differ in dimension: {} and {}",
        base.dim,
        queries.dim
    );
    let results = of_set(given, &base, &queries)?;
    if given.json {
        println!("{}", serde_json::to_string(&results)?);
    } else {
        tables(&results)
            .iter()
            .for_each(|table| println!("{}", text(table)));
    }
    Ok(())
}

fn of_set(given: &Given, base: &Matrix, queries: &Matrix) -> anyhow::Result<Results> {
    let known = [
        "graph", "exact", "bytes", "onebit", "batches", "filters", "updates", "kernels",
    ];
    if let Some(name) = given.only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is nothing called '{name}'; known: {}", known.join(", "));
    }
    ensure!(
        base.len() >= given.k && given.k > 0,
        "k must be between 1 and the number of rows"
    );
    let wants = |name: &str| given.only.is_empty() || given.only.iter().any(|w| w == name);
    let truth = match &given.truth {
        Some(path) => data::read_truth(path, given.k, queries.len()).context("reading the truth")?,
        None => index::truth(base, queries, given.space, given.k),
    };
    let set = index::Set {
        base,
        queries,
        truth: &truth,
        measure: given.space,
        k: given.k,
    };
    let mut results = Results {
        space: given.space.name(),
        simd: vexfs_vector::kernel::Kernels::get().simd().name(),
        rows: base.len(),
        dim: base.dim,
        queries: queries.len(),
        k: given.k,
        build: None,
        efforts: Vec::new(),
        graph_qps_at: Vec::new(),
        batches: Vec::new(),
        filters: Vec::new(),
        updates: None,
        kernels: None,
    };
    for tier in ["exact", "bytes", "onebit"]
        .into_iter()
        .filter(|tier| wants(tier))
    {
        results.efforts.extend(index::scans(&set, tier));
    }
    if ["graph", "batches", "filters", "updates"].into_iter().any(wants) {
        let (graph, build) = index::build(&set)?;
        results.build = Some(build);
        if wants("graph") {
            results
                .efforts
                .extend(index::graph(&set, &graph, &given.ef, given.rerank)?);
        }
        if wants("graph") {
            let at = |recall| (recall, index::qps_at(&results.efforts, "graph", recall));
            results.graph_qps_at = [0.90, 0.95, 0.99].map(at).to_vec();
        }
        if wants("batches") {
            results.batches = index::batches(&set, &graph)?;
        }
        if wants("filters") {
            results.filters = filters::filters(&set, &graph)?;
        }
        if wants("updates") {
            results.updates = Some(updates::updates(&set, &graph)?);
        }
    }
    if wants("kernels") {
        results.kernels = Some(kernels::measured());
    }
    Ok(results)
}

fn tables(results: &Results) -> Vec<Table> {
    let mut tables = Vec::new();
    let column = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let title = |what: &str| {
        format!(
            "{what}: {} x {}, {}, k = {}",
            results.rows, results.dim, results.space, results.k
        )
    };
    tables.push(Table {
        title: title("Search"),
        columns: column(&["recall", "queries/s", "queries/s, 2 threads", "p50 us", "p99 us"]),
        rows: results
            .efforts
            .iter()
            .map(|e| {
                let cells = vec![
                    format!("{:.4}", e.recall),
                    format!("{:.0}", e.qps),
                    e.qps_2_threads.map_or_else(String::new, |q| format!("{q:.0}")),
                    format!("{:.1}", e.p50_us),
                    format!("{:.1}", e.p99_us),
                ];
                (format!("{} {}", e.index, e.effort), cells)
            })
            .collect(),
    });
    if !results.filters.is_empty() {
        tables.push(Table {
            title: title("Filtered search"),
            columns: column(&["plan", "recall", "us", "scan of the allowed, us"]),
            rows: results
                .filters
                .iter()
                .map(|f| {
                    let cells = vec![
                        f.plan.into(),
                        format!("{:.4}", f.recall),
                        format!("{:.1}", f.us),
                        format!("{:.1}", f.scan_us),
                    ];
                    (format!("{} % allowed", f.percent), cells)
                })
                .collect(),
        });
    }
    let mut single = Vec::new();
    if let Some(b) = &results.build {
        single.push(("build, rows/s".to_owned(), vec![format!("{:.0}", b.rows_per_s)]));
        single.push(("build, CPU s".to_owned(), vec![format!("{:.1}", b.cpu_s)]));
        single.push((
            "hot bytes a vector".to_owned(),
            vec![format!("{:.0}", b.bytes_per_vector)],
        ));
        single.push((
            "bytes a vector on disk, rows not counted".to_owned(),
            vec![format!("{:.0}", b.disk_bytes_per_vector)],
        ));
    }
    for (recall, qps) in &results.graph_qps_at {
        let cell = qps.map_or_else(|| "not reached".to_owned(), |q| format!("{q:.0}"));
        single.push((format!("queries/s at recall {recall:.2}"), vec![cell]));
    }
    for b in &results.batches {
        let name = format!("queries/s, {} at once, {} threads", b.size, b.threads);
        single.push((name, vec![format!("{:.0}", b.qps)]));
    }
    if let Some(u) = &results.updates {
        for (name, value) in u.named() {
            single.push((name.to_owned(), vec![value]));
        }
    }
    if !single.is_empty() {
        tables.push(Table {
            title: title("Graph"),
            columns: column(&["value"]),
            rows: single,
        });
    }
    tables.extend(results.kernels.as_ref().map(kernels::Kernels::table));
    tables
}

fn text(table: &Table) -> String {
    let mut out = format!("{}\n{:<34}", table.title, "");
    table.columns.iter().for_each(|c| out += &format!("{c:>24}"));
    for (name, cells) in &table.rows {
        out += &format!("\n{name:<34}");
        cells.iter().for_each(|c| out += &format!("{c:>24}"));
    }
    out + "\n"
}
