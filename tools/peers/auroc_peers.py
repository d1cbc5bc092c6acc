#!/usr/bin/env python3
"""AUROC of many columns: this project beside scikit-learn, numpy and scipy, thread for thread.

    python tools/peers/auroc_peers.py SCORE_BINARY OUT.json

All read the same data; every repetition runs all contenders in turn, so that load from elsewhere meets all of them. Times
are per sample and neuron, wall clock and processor time of all threads (ours with the start of its process). scikit-learn is called as AurA's code does: one column at a time, in chunks of ten, in a process
pool. Only it is given fewer columns, because it takes a microsecond per response.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import multiprocessing
import platform
import re
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy
import sklearn
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

import files

BLOCK = 256


def from_ranks(ranks, y):
    positives = int(y.sum())
    return (ranks[:, y].sum(1) - positives * (positives + 1) / 2) / (positives * (len(y) - positives))


def numpy_block(block, y):
    """Mid-ranks of the rows by argsort."""
    order = np.argsort(block, axis=1)
    ordered = np.take_along_axis(block, order, 1)
    n = block.shape[1]
    place = np.arange(n)
    begins = np.ones(block.shape, bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.ones(block.shape, bool)
    ends[:, :-1] = begins[:, 1:]
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, n)[:, ::-1], axis=1)[:, ::-1]
    positives = int(y.sum())
    ranks = (((first + last) / 2 + 1) * y[order]).sum(1)
    return (ranks - positives * (positives + 1) / 2) / (positives * (n - positives))


def blocked(function, x, y):
    blocks = (np.ascontiguousarray(x[:, start : start + BLOCK].T) for start in range(0, x.shape[1], BLOCK))
    return np.concatenate([function(block, y) for block in blocks])


def sklearn_chunk(columns):
    return [roc_auc_score(DATA[1], DATA[0][:, column]) for column in columns]


def sklearn_pool(processes):
    columns = range(DATA[0].shape[1])
    before = children()
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        start = time.perf_counter()
        chunks = pool.map(sklearn_chunk, [columns[i : i + 10] for i in range(0, len(columns), 10)], chunksize=1)
        wall = time.perf_counter() - start
        pool.close()
        pool.join()
    return np.concatenate(chunks), wall, children() - before


def timed(function):
    start, before = time.perf_counter(), time.process_time()
    value = function()
    return value, time.perf_counter() - start, time.process_time() - before


def children():
    """Processor seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ours(binary, path, threads):
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as out:
        command = [binary, "--responses", path, "--out", out.name, "--threads", str(threads), "--no-average-precision"]
        before = children()
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        cpu_seconds = children() - before
        raw = Path(out.name).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8 : 8 + size])["auroc"]["data_offsets"]
    return np.frombuffer(raw[8 + size + begin : 8 + size + end], np.float64), float(re.search(r"in ([\d.]+) s", said)[1]), cpu_seconds


def cpu():
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--neurons", type=int, default=11008)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    rng = np.random.default_rng(0)
    labels = rng.random(args.samples) < 0.5
    x = files.responses(rng, labels, args.neurons)
    halves = files.to_bf16(x)
    rounded = (halves.astype(np.uint32) << 16).view(np.float32)
    few = min(512, args.neurons)
    load, results, agreement = [], {}, {}
    with tempfile.TemporaryDirectory() as directory:
        paths = {}
        for dtype, name, data in (("F32", "f32", x), ("BF16", "bf16", halves)):
            paths[name] = f"{directory}/{name}.safetensors"
            shapes = {"responses": (dtype, list(x.shape), data.nbytes), "labels": ("U8", [len(labels)], len(labels))}
            files.write(paths[name], shapes, [data, labels.astype(np.uint8)])
        for dtype, data in (("f32", x), ("bf16", rounded)):
            DATA = np.ascontiguousarray(data[:, :few]), labels
            contenders = {
                ("numpy argsort", 1): lambda: timed(lambda: blocked(numpy_block, data, labels)),
                ("scipy rankdata", 1): lambda: timed(lambda: blocked(lambda b, y: from_ranks(rankdata(b, axis=1), y), data, labels)),
            }
            for threads in sorted({1, cores}):
                contenders["scikit-learn", threads] = lambda t=threads: sklearn_pool(t)
                contenders["sgm-score", threads] = lambda t=threads: ours(args.binary, paths[dtype], t)
            reference = None
            for repetition in range(args.repetitions + 1):
                load.append(round(os.getloadavg()[0], 2))
                for (name, threads), run in contenders.items():
                    area, *seconds = run()
                    reference = area if reference is None else reference
                    gap = float(np.abs(area - reference[: len(area)]).max())
                    key = f"{dtype} {name}, {threads} threads"
                    agreement[key] = max(gap, agreement.get(key, 0.0))
                    if repetition:  # the first one warms up
                        results.setdefault(key, []).append([1e9 * s / (len(area) * len(labels)) for s in seconds])
    spread = lambda values: {"median": statistics.median(values), "min": min(values), "max": max(values)}
    clocks = ("wall", "processor")
    table, ratios = {}, {}
    for key, times in results.items():
        table[key] = {clock: spread([t[i] for t in times]) for i, clock in enumerate(clocks)} | {"max_difference": agreement[key]}
    for key in results:
        dtype, rest = key.split(" ", 1)
        name, threads = rest.rsplit(", ", 1)
        # Repetition by repetition: both met the same load.
        pairs = list(zip(results[key], results[f"{dtype} sgm-score, {threads}"]))
        ratios[key] = {clock: spread([theirs[i] / ours[i] for theirs, ours in pairs]) for i, clock in enumerate(clocks)}
        for clock in clocks:
            t, r = table[key][clock], ratios[key][clock]
            line = f"{key:30} {clock:9} {t['median']:8.2f} ns [{t['min']:.2f} - {t['max']:.2f}]"
            print(f"{line:75} {r['median']:6.1f} times sgm-score [{r['min']:.1f} - {r['max']:.1f}]")
    ratios = {key: ratio for key, ratio in ratios.items() if "sgm-score" not in key}
    report = {
        "samples": args.samples,
        "neurons": args.neurons,
        "neurons_given_to_scikit_learn": few,
        "repetitions": args.repetitions,
        "machine": {"cpu": cpu(), "cores": cores, "load_average_at_each_repetition": load},
        "versions": {"python": platform.python_version(), **{m.__name__: m.__version__ for m in (np, scipy, sklearn)}},
        "nanoseconds_per_response": table,
        "times_as_long_as_sgm_score": ratios,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
