//! The alert rules and the dashboard ask for metrics that the daemon has, in expressions that are at least balanced.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use vexfs_core::change::{Change, ChangeSink};
use vexfs_core::engine::Engine;
use vexfs_core::fs::{Stack, StackOptions};
use vexfs_core::ids::NodeKey;
use vexfs_core::metrics::Metrics;

struct Unheard;

impl ChangeSink for Unheard {
    fn maybe_changed(&self, _node: NodeKey) {}
    fn changed(&self, _change: Change) {}
}

/// Names of the metrics of a daemon in which every operation ran twice: the second call of a thread measures its stack.
fn exported() -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    let stack = Stack::new(root.into(), StackOptions::default(), Arc::new(Unheard)).unwrap();
    let metrics = Arc::new(Metrics::new());
    for (operation, _) in Metrics::operations() {
        for _ in 0..2 {
            metrics.time(operation, || Ok::<_, ()>(())).unwrap();
        }
    }
    let mut text = String::new();
    Engine::new(Arc::new(stack), None, metrics).prometheus(&mut text);
    vexfs_core::knowledge::Status::default().prometheus(&mut text);
    let sample = |line: &str| line.split(['{', ' ']).next().map(str::to_owned);
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
        .collect()
}

/// Words of an expression that name a metric.
fn asked(expression: &str) -> BTreeSet<String> {
    expression
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("vexfs_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn contrib(name: &str) -> String {
    fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../contrib")
            .join(name),
    )
    .unwrap()
}

fn check(expressions: &[String]) {
    let exported = exported();
    for expression in expressions {
        let asked = asked(expression);
        assert!(!asked.is_empty(), "{expression}");
        let unknown: Vec<_> = asked.difference(&exported).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {expression}");
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            assert_eq!(
                expression.matches(open).count(),
                expression.matches(close).count(),
                "{expression}"
            );
        }
    }
}

#[test]
fn alert_rules_ask_for_metrics_that_there_are() {
    let text = contrib("prometheus-alerts.yml");
    let of = |key: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim);
        lines
            .filter_map(|line| line.strip_prefix(key))
            .map(|rest| rest.trim().to_owned())
            .collect()
    };
    let (names, expressions) = (of("- alert:"), of("expr:"));
    assert!(names.len() >= 5 && names.len() == expressions.len());
    assert_eq!(
        names.iter().collect::<BTreeSet<_>>().len(),
        names.len(),
        "names are unique"
    );
    assert_eq!(of("annotations:").len(), names.len());
    check(&expressions);
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let dashboard: serde_json::Value = serde_json::from_str(&contrib("grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let expressions: Vec<String> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(expressions.len() >= 8);
    check(&expressions);
}

#[test]
fn what_is_shown_is_what_stands_in_the_table() {
    let family = |sample: &String| {
        let of_histogram = |name: &str| {
            ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end).map(str::to_owned))
        };
        of_histogram(sample).unwrap_or_else(|| sample.clone())
    };
    let shown: BTreeSet<String> = exported().iter().map(family).collect();
    let table: BTreeSet<String> = vexfs_core::metrics::table::TABLE
        .iter()
        .map(|f| f.name.to_owned())
        .collect();
    assert_eq!(shown, table);
}
