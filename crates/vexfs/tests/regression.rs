//! Something is broken on purpose; the gate finds it and the advice names it.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing")]

use std::path::Path;
use std::process::{Command, Output};

/// Runs the benchmark in `dir` and gives what it ended with.
fn benchmark(dir: &Path, simd: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_performance_benchmark"));
    command.arg("--quick").args(args).arg("--output").arg(dir);
    command.env_remove("VEXFS_SIMD");
    if let Some(level) = simd {
        command.env("VEXFS_SIMD", level);
    }
    command.output().expect("the benchmark starts")
}

fn report(dir: &Path, ending: &str) -> String {
    std::fs::read_to_string(dir.join("performance_analysis_report").with_extension(ending)).expect("a report")
}

/// A part measured twice: as it is, and broken. The second must fail on a metric that begins so, and a finding of `rule` say why.
fn check(part: &str, simd: Option<&str>, broken: &[&str], metric: &str, rule: &str) {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = benchmark(before.path(), None, &["--only", part]);
    assert!(
        whole.status.success(),
        "{}",
        String::from_utf8_lossy(&whole.stderr)
    );

    let baseline = before.path().join("performance_analysis_report.json");
    let mut args = vec!["--only", part, "--baseline", baseline.to_str().unwrap()];
    args.extend(broken);
    let worse = benchmark(after.path(), simd, &args);
    let shown = String::from_utf8_lossy(&worse.stdout);
    assert_eq!(worse.status.code(), Some(1), "{shown}");
    assert!(shown.contains(&format!("REGRESSION {metric}")), "{shown}");
    let found: serde_json::Value = serde_json::from_str(&report(after.path(), "json")).unwrap();
    let rules: Vec<&str> = found["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|f| f["rule"].as_str())
        .collect();
    assert!(rules.contains(&rule), "{rules:?}");
    assert!(report(after.path(), "md").contains(metric));
}

#[test]
fn a_pool_of_one_buffer_is_found_and_named() {
    check(
        "pool",
        None,
        &["--pool-buffers", "1"],
        "pool.hit_rate",
        "pool-misses",
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn kernels_without_vector_instructions_are_found_and_named() {
    if !is_x86_feature_detected!("avx2") {
        println!("this processor has no faster level than the portable one");
        return;
    }
    check("simd", Some("scalar"), &[], "simd.", "simd-level");
}

#[test]
fn a_baseline_that_is_no_report_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let baseline = dir.path().join("baseline.json");
    std::fs::write(&baseline, "{}").unwrap();
    let output = benchmark(
        dir.path(),
        None,
        &["--only", "simd", "--baseline", baseline.to_str().unwrap()],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not a report"));
}
