use super::super::metric::tests::measured;
use super::super::pool::{HIT_RATE, PAIR, WASTE};
use super::super::simd::LEVEL_SHARE;
use super::*;

fn rules(metrics: Vec<Metric>) -> Vec<String> {
    findings(&measured(metrics)).into_iter().map(|f| f.rule).collect()
}

/// The rule finds what is bad, and nothing else does; nothing finds what is good.
fn check(rule: &str, bad: Vec<Metric>, good: Vec<Metric>) {
    assert_eq!(rules(bad), [rule]);
    assert_eq!(rules(good), Vec::<String>::new(), "{rule}");
}

#[test]
fn what_was_not_measured_gives_no_advice() {
    assert_eq!(rules(vec![]), Vec::<String>::new());
}

#[test]
fn a_lower_simd_level_than_the_cpu_has() {
    let share = |value| vec![Metric::higher(LEVEL_SHARE, "share", value, 0.0)];
    check("simd-level", share(0.2), share(0.97));
    let mut run = measured(share(0.2));
    run.machine.simd = "scalar".into();
    run.parts[0].metrics.push(
        Metric::lower("simd.l2_f32.256", "ns", 100.0, 0.0)
            .peer("scalar", 100.0)
            .peer("avx2", 20.0),
    );
    let finding = &findings(&run)[0];
    assert!(
        finding.title.contains("'scalar'") && finding.action.contains("'avx2'"),
        "{finding:?}"
    );
}

#[test]
fn a_pool_that_misses() {
    let rate = |value| vec![Metric::higher(HIT_RATE, "share", value, 0.0)];
    check("pool-misses", rate(0.4), rate(0.99));
}

#[test]
fn a_pool_that_the_allocator_beats() {
    let pair =
        |ns| vec![Metric::lower(format!("{PAIR}.read"), "ns", ns, 0.0).against("system allocator", 20.0)];
    check("pool-slower-than-allocator", pair(40.0), pair(12.0));
}

#[test]
fn buffers_larger_than_asked() {
    let waste = |value| vec![Metric::lower(WASTE, "fraction", value, 0.0)];
    check("pool-waste", waste(0.8), waste(0.2));
}

#[test]
fn a_request_that_costs_many_empty_ones_is_named() {
    let stat = |us| {
        vec![
            Metric::lower(NULL_FUSE, "us", 4.0, 0.0),
            Metric::lower("fs.stat_cold", "us", us, 0.0).against(NATIVE, 1.0),
        ]
    };
    check("slow-request", stat(2000.0), stat(9.0));
    assert!(
        findings(&measured(stat(2000.0)))[0]
            .title
            .starts_with("stat_cold")
    );
}

#[test]
fn metadata_that_is_not_cached() {
    let cached = |ops| vec![Metric::higher(CACHED_OPS, "ops/s", ops, 0.0).against("native", 1e6)];
    check("cached-metadata", cached(30_000.0), cached(900_000.0));
}

#[test]
fn file_data_through_the_daemon() {
    let read = |mib| vec![Metric::higher("fs.read.sequential", "MiB/s", mib, 0.0).against("native", 8000.0)];
    check("slow-file-data", read(1800.0), read(7600.0));
}

#[test]
fn requests_that_wake_another_cpu() {
    let trips = |free| {
        vec![
            Metric::lower(NULL_FUSE, "us", 4.0, 0.0),
            Metric::lower(NULL_FUSE_UNPINNED, "us", free, 0.0),
        ]
    };
    check("cross-cpu-wakeup", trips(40.0), trips(5.0));
}

#[test]
fn a_device_that_syncs_slowly() {
    let sync = |us| vec![Metric::lower(SYNC, "us", us, 0.0)];
    check("slow-sync", sync(9000.0), sync(300.0));
}

#[test]
fn an_operation_that_needs_too_much_stack() {
    let stack = |bytes| vec![Metric::lower(STACK, "bytes", bytes, 0.0)];
    check("stack", stack(9000.0), stack(3000.0));
}

#[test]
fn a_scan_that_memory_limits() {
    let scan = |rate| {
        vec![
            Metric::higher(MEMORY_BANDWIDTH, "GB/s", 12.0, 0.0),
            Metric::higher("simd.stream_l2_f32", "GB/s", rate, 0.0),
        ]
    };
    check("scan-at-memory-limit", scan(11.5), scan(6.0));
}

#[test]
fn every_finding_says_what_it_saw_what_to_do_and_what_it_brings() {
    let found = findings(&measured(vec![
        Metric::lower(SYNC, "us", 9000.0, 0.0),
        Metric::higher(HIT_RATE, "share", 0.4, 0.0),
        Metric::lower(WASTE, "fraction", 0.8, 0.0),
    ]));
    assert_eq!(
        found.iter().map(|f| f.priority).collect::<Vec<_>>(),
        [Priority::High, Priority::Medium, Priority::Low]
    );
    for finding in found {
        for text in [
            &finding.evidence,
            &finding.threshold,
            &finding.action,
            &finding.expected_gain,
        ] {
            assert!(!text.is_empty());
        }
        assert!(finding.evidence.contains(" = "), "{finding:?}");
    }
}
