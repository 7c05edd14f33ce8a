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
    check_with(&[], part, simd, broken, metric, rule);
}

/// The same with arguments for both.
fn check_with(both: &[&str], part: &str, simd: Option<&str>, broken: &[&str], metric: &str, rule: &str) {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut args = vec!["--only", part];
    args.extend(both);
    let whole = benchmark(before.path(), None, &args);
    assert!(
        whole.status.success(),
        "{}",
        String::from_utf8_lossy(&whole.stderr)
    );

    let baseline = before.path().join("performance_analysis_report.json");
    args.extend(["--baseline", baseline.to_str().unwrap()]);
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

/// Whether a filesystem can be mounted here.
fn can_mount() -> bool {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    let unshare = Command::new("unshare").args(["-m", "true"]).status();
    let can = device.is_ok() && unshare.is_ok_and(|status| status.success());
    if !can {
        println!("skipped: needs /dev/fuse and the right to mount");
    }
    can
}

#[test]
fn a_sleep_in_getattr_is_found_and_named() {
    if can_mount() {
        let few = ["--files", "100", "--rounds", "1"];
        let slow = ["--slow-getattr", "2000"];
        check_with(&few, "fs", None, &slow, "fs.stat_written", "slow-request");
    }
}

#[test]
fn no_operation_makes_more_requests_or_system_calls_than_allowed() {
    if can_mount() {
        let dir = tempfile::tempdir().unwrap();
        let ended = benchmark(dir.path(), None, &["--only", "costs"]);
        let shown = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{shown}");
        assert!(report(dir.path(), "md").contains("which requests"), "{shown}");
    }
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
