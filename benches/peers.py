"""Other vector indexes on the files of `performance_benchmark vectors-data`, one thread, CPU time.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install numpy hnswlib usearch faiss-cpu simsimd rabitqlib
    cargo run --release --bin performance_benchmark -- vectors-data clustered --out /tmp/clustered
    /tmp/peers/bin/python benches/peers.py /tmp/clustered [hnswlib usearch faiss symqg kernels]

Parameters: hnswlib, usearch and faiss HNSW with M=16 and efConstruction=200; SymphonyQG with degree 32, ef 200.
The metric is squared L2. `kernels` times simsimd's one-to-many forms in the second-level cache.
"""

import os
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

K = 10
BEAMS = [10, 14, 20, 28, 40, 56, 80, 112, 160, 240, 360, 500, 700, 1000]


def truth(base, queries):
    norms = (base * base).sum(1)
    out = []
    for q in np.array_split(queries, max(1, len(queries) // 100)):
        d = norms - 2 * q @ base.T
        near = np.argpartition(d, K, axis=1)[:, :K]
        out.append(near)
    return np.concatenate(out)


def sweep(name, search, queries, want, build_s):
    print(f"{name}: build {build_s:.1f} CPU s")
    last = (0.0, 0.0)
    for ef in BEAMS:
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            found = search(ef)
            best = min(best, time.process_time() - began)
        hits = sum(len(set(f) & set(w)) for f, w in zip(np.asarray(found).tolist(), want.tolist()))
        recall, qps = hits / want.size, len(queries) / best
        note = ""
        for target in (0.90, 0.95, 0.99):
            if last[0] < target <= recall:
                at = last[1] + (qps - last[1]) * (target - last[0]) / (recall - last[0])
                note += f"  at {target}: {at:.0f}/s"
        print(f"  ef {ef:5} recall {recall:.4f} {qps:8.0f}/s{note}", flush=True)
        last = (recall, qps)
        if recall > 0.993:
            break


def timed(work):
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def hnswlib(base, queries, want):
    import hnswlib

    index = hnswlib.Index("l2", base.shape[1])
    index.init_index(len(base), ef_construction=200, M=16)
    _, took = timed(lambda: index.add_items(base, num_threads=1))

    def search(ef):
        index.set_ef(ef)
        return index.knn_query(queries, K, num_threads=1)[0]

    sweep("hnswlib", search, queries, want, took)


def usearch(base, queries, want):
    from usearch.index import Index

    index = Index(ndim=base.shape[1], metric="l2sq", dtype="f32", connectivity=16, expansion_add=200)
    _, took = timed(lambda: index.add(np.arange(len(base)), base, threads=1))

    def search(ef):
        index.expansion_search = ef
        return index.search(queries, K, threads=1).keys

    sweep("usearch f32", search, queries, want, took)


def faiss(base, queries, want):
    import faiss

    faiss.omp_set_num_threads(1)
    for name, index in (
        ("faiss HNSW f32", faiss.IndexHNSWFlat(base.shape[1], 16)),
        ("faiss HNSW SQ8", faiss.IndexHNSWSQ(base.shape[1], faiss.ScalarQuantizer.QT_8bit, 16)),
    ):
        index.hnsw.efConstruction = 200

        def add():
            index.train(base)
            index.add(base)

        _, took = timed(add)

        def search(ef):
            index.hnsw.efSearch = ef
            return index.search(queries, K)[1]

        sweep(name, search, queries, want, took)


def symqg(base, queries, want):
    import rabitqlib

    index = rabitqlib.SymqgIndex(base.shape[1], 32, "l2")
    _, took = timed(lambda: index.build(base, 200, num_threads=1))
    sweep("SymphonyQG", lambda ef: index.search(queries, K, ef)[0], queries, want, took)


def kernels(*_):
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
            data, query = data.astype(dtype), data[:1].astype(dtype)
            best = float("inf")
            for _ in range(200):
                began = time.perf_counter()
                simsimd.cdist(query, data, metric)
                best = min(best, time.perf_counter() - began)
            cells.append(f"{name} {best * 1e9 / rows:6.1f} ns")
        print(f"simsimd {dim:5}: " + "   ".join(cells))


def main():
    directory, names = sys.argv[1], sys.argv[2:] or ["hnswlib", "usearch", "faiss"]
    base = np.load(os.path.join(directory, "base.npy"))
    queries = np.load(os.path.join(directory, "queries.npy"))
    want = truth(base, queries)
    for name in names:
        globals()[name](base, queries, want)


if __name__ == "__main__":
    main()
