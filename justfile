# Short words for what CI runs. `just` alone lists them.

_default:
    @just --list --unsorted

# Everything that CI runs
ci:
    .ci/run

# Format, lint, test
check: fmt lint test

# Format the code
fmt:
    cargo fmt --all

# Lint as CI does: warnings are errors
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# All tests
test *ARGS:
    scripts/test {{ARGS}}

# Licences and advisories of the dependencies
deny:
    cargo deny check

# POSIX conformance: every case that passes on the bare filesystem passes on the mount
pjdfstest:
    scripts/pjdfstest

# Random file operations against a model, on the mount
fsx OPERATIONS="200000" SEEDS="1 2 3":
    scripts/fsx {{OPERATIONS}} {{SEEDS}}

# What people do with a directory, on the mount
tools:
    scripts/tools

# Eight processes at once, then invariants
stress SECONDS="60":
    scripts/stress {{SECONDS}}

# Measure the filesystem beside the bare directory
bench *ARGS:
    cargo run --release --bin performance_benchmark -- {{ARGS}}

# Kill a process that writes vectors, two hundred times
kill-vectors:
    cargo test -p vexfs-vector --test kill -- --ignored

# Kill the daemon while it indexes, two hundred times: nothing refused, no vector lost, the index that of a rebuild
kill-daemon KILLS="200":
    VEXFS_KILLS={{KILLS}} cargo test --workspace --test history a_daemon_killed

# Vectors in large numbers: reopening, churn, filters; prints what it measures
slow-vectors:
    cargo test --release -p vexfs-vector --test slow -- --ignored --nocapture --test-threads 1

# Fuzz a decoder: journal, manifest, sealed or import
fuzz TARGET SECONDS="60":
    cargo +nightly fuzz run {{TARGET}} -- -max_total_time={{SECONDS}}
