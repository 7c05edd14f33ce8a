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

# Both inside a transaction
conformance-txn:
    TXN=1 scripts/pjdfstest
    TXN=1 scripts/fsx 100000 1 2 3

# Kill the daemon at every point of commits of three shapes: all or nothing each time
kill-commits:
    cargo test --workspace --test commit_crashes -- --ignored --nocapture

# Random operations of several clients, in transactions and outside, beside a model: SEEDS histories of 600 steps
model-txn SEEDS="100":
    VEXFS_SEEDS={{SEEDS}} cargo test --workspace --test transaction_model -- --ignored --nocapture

# What people do with a directory, on the mount
tools:
    scripts/tools

# Eight processes at once, then invariants
stress SECONDS="60":
    scripts/stress {{SECONDS}}

# Memory of a daemon with a million files in its catalog and in the kernel's cache
memory *ARGS:
    cargo run --release --bin performance_benchmark -- memory {{ARGS}}

# Measure the filesystem beside the bare directory
bench *ARGS:
    cargo run --release --bin performance_benchmark -- {{ARGS}}

# Indexing and questions at a size, through mount, socket and library: 1000000 passages take ten minutes and 4 GB
semantic PASSAGES="100000":
    cargo run --release --bin performance_benchmark -- semantic --passages {{PASSAGES}}

# Kill a process that writes vectors, two hundred times
kill-vectors:
    cargo test -p vexfs-vector --test kill -- --ignored

# Kill the daemon while it indexes, two hundred times: nothing refused, no vector lost, the index that of a rebuild
kill-daemon KILLS="200":
    VEXFS_KILLS={{KILLS}} cargo test --workspace --test history a_daemon_killed

# Vectors in large numbers: reopening, churn, filters; prints what it measures
slow-vectors:
    cargo test --release -p vexfs-vector --test slow -- --ignored --nocapture --test-threads 1

# The vector index beside hnswlib, usearch and faiss, on data made here: DIR gets 2 GB, the first run takes half an hour
peers DIR="/tmp/peers":
    python3 -m venv {{DIR}}/venv && {{DIR}}/venv/bin/pip install -q numpy hnswlib usearch faiss-cpu simsimd rabitqlib
    cargo build --release --bin performance_benchmark
    target/release/performance_benchmark vectors-data clustered --dim 384 --out {{DIR}}/clustered
    target/release/performance_benchmark vectors-data text --from /usr/share/doc /usr/share/man --out {{DIR}}/text
    target/release/performance_benchmark vectors-data clustered --dim 128 --rows 1000000 --out {{DIR}}/million
    for set in clustered text million; do {{DIR}}/venv/bin/python benches/peers.py {{DIR}}/$set --ours target/release/performance_benchmark || exit 1; done
    target/release/performance_benchmark vectors --only kernels
    {{DIR}}/venv/bin/python benches/peers.py {{DIR}}/clustered kernels

# The unsafe parts of the vector engine under the address sanitizer: kernels, arenas, mappings, the graph beside writers
sanitize:
    RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test -p vexfs-vector --lib --target "$(rustc -vV | sed -n 's/host: //p')"

# What Miri can run of them: no vector instructions, no mapped files. Wants `rustup component add miri rust-src`
miri:
    VEXFS_SIMD=scalar PROPTEST_CASES=4 MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test -p vexfs-vector --lib -- graph::beam graph::visited quant::rotate topk

# Fuzz a decoder: journal, manifest, sealed or import. Wants `cargo install cargo-fuzz`
fuzz TARGET SECONDS="60":
    cargo +nightly fuzz run {{TARGET}} -- -max_total_time={{SECONDS}}

# The benchmark's figures beside those of fio, a loop in C and perf stat, in the same minutes. Wants gcc, fio, perf and root
agree *ARGS:
    cargo build --release --bin performance_benchmark
    scripts/agree {{ARGS}}
