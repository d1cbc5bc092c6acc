#!/bin/sh
# Everything about speed in one run: the criterion benchmarks of scoring and capture, this project's AUROC beside
# scikit-learn's, numpy's and scipy's, and a store of the size of a 7B model's. Prints the ratios and writes
# docs/results/{criterion,auroc-peers,auroc-large-store}.json and docs/results/capture.txt. Python needs numpy, scipy, scikit-learn.
#
#     tools/peers/run.sh [--skip-large-store]
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
target="${CARGO_TARGET_DIR:-target}"
cargo build --release --example score
cargo bench -p sgm --bench auroc --bench capture --no-run
cargo bench -p sgm --bench auroc
RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo bench -p sgm --bench capture | tee "$target/capture.log"
grep -E ': [0-9]+ tokens$|% of a pass' "$target/capture.log" > docs/results/capture.txt
"$python" tools/peers/criterion.py "$target/criterion" docs/results/criterion.json
"$python" tools/peers/auroc_peers.py "$target/release/examples/score" docs/results/auroc-peers.json
[ "${1:-}" = "--skip-large-store" ] || "$python" tools/peers/large_store.py "$target/release/examples/score" docs/results/auroc-large-store.json
