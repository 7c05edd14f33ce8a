"""Our vector index beside hnswlib, usearch, faiss and SymphonyQG: the same rows, queries and truth, one thread, one run.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install numpy hnswlib usearch faiss-cpu simsimd rabitqlib
    cargo build --release --bin performance_benchmark
    target/release/performance_benchmark vectors-data clustered --dim 384 --out /tmp/clustered
    target/release/performance_benchmark vectors-data text --from /usr/share/doc /usr/share/man --out /tmp/text
    target/release/performance_benchmark vectors-data clustered --dim 128 --rows 1000000 --out /tmp/million
    /tmp/peers/bin/python benches/peers.py /tmp/clustered --ours target/release/performance_benchmark

`just peers` does all of it. Rates are queries per second of CPU time, the best of five passes over all queries,
interpolated between the two efforts around a recall@10; every index gets all queries in one call; ours is measured before and after the peers and the mean of both
is given, because the rate of a shared machine drifts. The measure is squared L2. hnswlib, usearch and faiss have M=16 and
efConstruction=200; SymphonyQG has degree 32 and ef 200. Bytes are those of an index in memory with its rows: the size of
its serialised form, or what it says itself. Indexes are kept beside the data, so a second run does not build them again.

`kernels` times simsimd's one-to-many forms in the second-level cache, next to `vectors --only kernels` of ours.
"""

import argparse
import json
import os
import subprocess
import time

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

K = 10
PASSES = 5
RECALLS = (0.90, 0.95, 0.99)
BEAMS = [10, 12, 14, 17, 20, 24, 28, 34, 40, 56, 80, 112, 160, 240, 360, 500, 700, 1000]


class Result:
    """What one index achieved: build time if it was built, bytes a vector, and a rate for each recall."""

    def __init__(self, name, build_s, row_bytes, at):
        self.name, self.build_s, self.row_bytes, self.at = name, build_s, row_bytes, at


def interpolated(rows):
    """The rates at RECALLS of (recall, rate) pairs in ascending order of effort."""
    at, last = {}, None
    for recall, rate in rows:
        for target in RECALLS:
            if target not in at and recall >= target:
                share = 1 if last is None else (target - last[0]) / (recall - last[0])
                at[target] = rate if last is None else last[1] + (rate - last[1]) * share
        last = (recall, rate)
    return at


def sweep(search, queries, want):
    """(recall, queries/s) by effort, until nearly everything is found."""
    rows = []
    for ef in BEAMS:
        best, found = float("inf"), None
        for _ in range(PASSES):
            began = time.process_time()
            found = search(ef)
            best = min(best, time.process_time() - began)
        pairs = zip(np.asarray(found).tolist(), want.tolist())
        recall = sum(len(set(f) & set(w)) for f, w in pairs) / want.size
        rows.append((recall, len(queries) / best))
        print(f"    ef {ef:5} recall {recall:.4f} {len(queries) / best:8.0f}/s", flush=True)
        if recall > 0.992:
            break
    return rows


def kept(directory, name, build, save, load):
    """The index from its file, or built and saved; CPU seconds of the build or None."""
    path = os.path.join(directory, name + ".index")
    if os.path.exists(path):
        return load(path), None, os.path.getsize(path)
    began = time.process_time()
    index = build()
    took = time.process_time() - began
    save(index, path)
    return index, took, os.path.getsize(path)


def hnswlib(directory, base, queries, want):
    import hnswlib

    def build():
        index = hnswlib.Index("l2", base.shape[1])
        index.init_index(len(base), ef_construction=200, M=16)
        index.add_items(base, num_threads=1)
        return index

    def load(path):
        index = hnswlib.Index("l2", base.shape[1])
        index.load_index(path, max_elements=len(base))
        return index

    index, took, size = kept(directory, "hnswlib", build, lambda i, p: i.save_index(p), load)

    def search(ef):
        index.set_ef(ef)
        return index.knn_query(queries, K, num_threads=1)[0]

    return [Result("hnswlib", took, size / len(base), interpolated(sweep(search, queries, want)))]


def usearch(directory, base, queries, want):
    from usearch.index import Index

    def empty():
        return Index(ndim=base.shape[1], metric="l2sq", dtype="f32", connectivity=16, expansion_add=200)

    def build():
        index = empty()
        index.add(np.arange(len(base)), base, threads=1)
        return index

    def load(path):
        index = empty()
        index.load(path)
        return index

    index, took, size = kept(directory, "usearch", build, lambda i, p: i.save(p), load)

    def search(ef):
        index.expansion_search = ef
        return index.search(queries, K, threads=1).keys

    return [Result("usearch f32", took, size / len(base), interpolated(sweep(search, queries, want)))]


def faiss(directory, base, queries, want):
    import faiss

    faiss.omp_set_num_threads(1)
    dim, results = base.shape[1], []
    for name, empty in (
        ("faiss HNSW f32", lambda: faiss.IndexHNSWFlat(dim, 16)),
        ("faiss HNSW SQ8", lambda: faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, 16)),
    ):

        def build():
            index = empty()
            index.hnsw.efConstruction = 200
            index.train(base)
            index.add(base)
            return index

        file = name.replace(" ", "-")
        index, took, size = kept(directory, file, build, faiss.write_index, faiss.read_index)

        def search(ef):
            index.hnsw.efSearch = ef
            return index.search(queries, K)[1]

        print(f"  {name}")
        results.append(Result(name, took, size / len(base), interpolated(sweep(search, queries, want))))
    return results


def symqg(_, base, queries, want):
    import rabitqlib

    index = rabitqlib.SymqgIndex(base.shape[1], 32, "l2")
    began = time.process_time()
    index.build(base, 200, num_threads=1)
    took = time.process_time() - began
    rows = sweep(lambda ef: index.search(queries, K, ef)[0], queries, want)
    return [Result("SymphonyQG", took, float("nan"), interpolated(rows))]


def ours(program, directory, truth):
    """One run of our own benchmark on the same files."""
    line = [program, "vectors", "--base", os.path.join(directory, "base.npy")]
    line += ["--queries", os.path.join(directory, "queries.npy"), "--truth", truth]
    line += ["--k", str(K), "--space", "l2", "--only", "graph", "--json"]
    said = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout)
    rows = [(e["recall"], e["qps"]) for e in said["efforts"] if e["index"] == "graph"]
    for recall, rate in rows:
        print(f"    recall {recall:.4f} {rate:8.0f}/s", flush=True)
    build = said["build"]
    row_bytes = build["bytes_per_vector"] + 4 * said["dim"]
    return Result("vexfs-vector graph", build["cpu_s"], row_bytes, interpolated(rows))


def exact(directory, base, queries):
    """The exact answers, kept as truth.npy for everybody."""
    path = os.path.join(directory, "truth.npy")
    if not os.path.exists(path):
        norms, parts = (base * base).sum(1), []
        for q in np.array_split(queries, max(1, len(queries) // 100)):
            distance = norms - 2 * q @ base.T
            near = np.argpartition(distance, K, axis=1)[:, :K]
            order = np.take_along_axis(distance, near, 1).argsort(1)
            parts.append(np.take_along_axis(near, order, 1))
        np.save(path, np.concatenate(parts).astype(np.int32))
    return path


def kernels():
    import simsimd

    for dim in (128, 256, 384, 512, 768, 1024):
        cells = []
        for name, metric, dtype in (
            ("l2 f32", "sqeuclidean", np.float32),
            ("dot f32", "dot", np.float32),
            ("l2 f16", "sqeuclidean", np.float16),
            ("dot i8", "dot", np.int8),
        ):
            rows = (256 << 10) // (dim * np.dtype(dtype).itemsize)
            data = np.random.default_rng(1).standard_normal((rows, dim)) * 40
            data = data.astype(dtype)
            query, best = data[:1].copy(), float("inf")
            for _ in range(300):
                began = time.perf_counter()
                simsimd.cdist(query, data, metric)
                best = min(best, time.perf_counter() - began)
            cells.append(f"{name} {best * 1e9 / rows:6.1f} ns")
        print(f"simsimd {dim:5}: " + "   ".join(cells))


def table(results):
    mine = next((r for r in results if r.name.startswith("vexfs")), None)
    cells = "".join(f"{f'at {r}':>20}" for r in RECALLS)
    print(f"\n{'queries/s of one thread':<24}{cells}{'build CPU s':>14}{'bytes/vector':>14}")
    for r in results:
        line = f"{r.name:<24}"
        for recall in RECALLS:
            rate = r.at.get(recall)
            ratio = f" ({mine.at[recall] / rate:.2f}x)" if rate and mine and r is not mine and recall in mine.at else ""
            line += f"{f'{rate:.0f}{ratio}' if rate else 'not reached':>20}"
        build = f"{r.build_s:.1f}" if r.build_s is not None else "kept"
        print(f"{line}{build:>14}{r.row_bytes:>14.0f}")
    print("(in brackets: how many times ours is faster)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="with base.npy and queries.npy")
    parser.add_argument("peers", nargs="*", help="hnswlib usearch faiss symqg kernels; the first three if none")
    parser.add_argument("--ours", metavar="PROGRAM", help="performance_benchmark, measured before and after the peers")
    given = parser.parse_args()
    base = np.load(os.path.join(given.directory, "base.npy"))
    queries = np.load(os.path.join(given.directory, "queries.npy"))
    truth = exact(given.directory, base, queries)
    want, results = np.load(truth)[:, :K], []
    if given.ours:
        print("  vexfs-vector, before")
        results.append(ours(given.ours, given.directory, truth))
    for name in given.peers or ["hnswlib", "usearch", "faiss"]:
        if name == "kernels":
            kernels()
            continue
        print(f"  {name}")
        found = {"hnswlib": hnswlib, "usearch": usearch, "faiss": faiss, "symqg": symqg}[name]
        results += found(given.directory, base, queries, want)
    if given.ours:
        print("  vexfs-vector, after")
        after = ours(given.ours, given.directory, truth)
        for recall, rate in after.at.items():
            results[0].at[recall] = (results[0].at.get(recall, rate) + rate) / 2
    table(results)


if __name__ == "__main__":
    main()
