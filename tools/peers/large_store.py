#!/usr/bin/env python3
"""Scores a synthetic store of the size of LLaVA-1.5-7B's: 835,584 neurons, 2,261 samples, bf16, 3.8 GB on disk.

    python tools/peers/large_store.py SCORE_BINARY OUT.json [--directory DIR]

The store is made in a temporary directory below DIR and removed afterwards.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import files
from auroc_peers import cpu

SAMPLES, TOXIC, SHARD, LAYERS = 2261, 581, 512, 32
WIDTHS = {"gate_proj": 11008, "up_proj": 11008, "down_proj": 4096}


def make(directory):
    rng = np.random.default_rng(0)
    labels = np.zeros(SAMPLES, np.uint8)
    labels[rng.permutation(SAMPLES)[:TOXIC]] = 1
    sites = {f"lm.layers.{layer}.mlp.{name}": width for layer in range(LAYERS) for name, width in WIDTHS.items()}
    for shard, start in enumerate(range(0, SAMPLES, SHARD)):
        part = labels[start : start + SHARD]
        shapes = {site: ("BF16", [len(part), width], 2 * len(part) * width) for site, width in sites.items()}
        tensors = (files.to_bf16(files.responses(rng, part, width)) for width in sites.values())
        files.write(f"{directory}/shard-{shard:05}.safetensors", shapes, tensors)
        sidecar = {"ids": [str(i) for i in range(start, start + len(part))], "labels": part.tolist()}
        Path(f"{directory}/shard-{shard:05}.json").write_text(json.dumps(sidecar))


def run(binary, directory, threads, precision):
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".out") as out:
        command = [binary, "--responses", directory, "--out", out.name, "--threads", str(threads), "--memory", "64"]
        child = subprocess.Popen(command + ([] if precision else ["--no-average-precision"]), stdout=subprocess.PIPE, text=True)
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
    assert status == 0 and said.startswith("835584 neurons x 2261 samples"), said
    seconds = float(re.search(r"in ([\d.]+) s", said)[1])
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "max_rss_mib": usage.ru_maxrss / 1024}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("out", type=Path)
    parser.add_argument("--directory")
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    report = {"machine": {"cpu": cpu(), "cores": cores, "load_average": []}, "working_memory_mib": 64}
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        make(directory)
        runs = {}
        for repetition in range(args.repetitions + 1):
            report["machine"]["load_average"].append(round(os.getloadavg()[0], 2))
            for threads in sorted({1, cores}):
                result = run(args.binary, directory, threads, False)
                if repetition:  # the first one fills the page cache
                    runs.setdefault(f"{threads} threads", []).append(result)
    for name, results in runs.items():
        report[name] = {}
        for what in ("seconds", "cpu_seconds", "max_rss_mib"):
            values = [result[what] for result in results]
            report[name][what] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
            print(f"{name:12} {what:12} {statistics.median(values):8.2f} [{min(values):.2f} - {max(values):.2f}]")
    args.out.write_text(json.dumps(report, indent=1) + "\n")
