#!/usr/bin/env python3
"""Collects what criterion measured last: the median time of each benchmark with its 95 % interval, per element where there are some.

    python tools/peers/criterion.py target/criterion OUT.json
"""

import json
import os
import sys
from pathlib import Path

from auroc_peers import cpu

directory, out = Path(sys.argv[1]), Path(sys.argv[2])
benchmarks = {}
for path in sorted(directory.rglob("new/benchmark.json")):
    about = json.loads(path.read_text())
    median = json.loads(path.with_name("estimates.json").read_text())["median"]
    interval = median["confidence_interval"]
    nanoseconds = [median["point_estimate"], interval["lower_bound"], interval["upper_bound"]]
    elements = (about["throughput"] or {}).get("Elements")
    name = about["full_id"] + (", ns per element" if elements else ", ns")
    benchmarks[name] = [round(ns / (elements or 1), 3) for ns in nanoseconds]
    print(f"{name:75} {benchmarks[name][0]:14.3f} [{benchmarks[name][1]:.3f} - {benchmarks[name][2]:.3f}]")
machine = {"cpu": cpu(), "cores": len(os.sched_getaffinity(0)), "load_average": round(os.getloadavg()[0], 2)}
out.write_text(json.dumps({"machine": machine, "median_and_95_percent_interval": benchmarks}, indent=1) + "\n")
