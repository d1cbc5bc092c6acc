#!/bin/sh
# Everything about speed in one run: the criterion benchmarks of scoring, capture and calibration, this project's AUROC beside
# scikit-learn's, numpy's and scipy's, and a store of the size of a 7B model's. Prints the ratios and writes
# docs/results/{criterion,auroc-peers,auroc-large-store}.json and docs/results/{capture,calibration}.txt. Python needs numpy, scipy, scikit-learn.
#
#     tools/peers/run.sh [--skip-large-store]
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
target="${CARGO_TARGET_DIR:-target}"
cargo build --release --example score
cargo build --release -p sgm-experiments --bin random_checkpoint
cargo bench -p sgm-benches --bench auroc --bench capture --bench calibration --no-run
cargo bench -p sgm-benches --bench auroc
RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo bench -p sgm-benches --bench capture | tee "$target/capture.log"
grep -E ': [0-9]+ tokens$|% of a pass' "$target/capture.log" > docs/results/capture.txt
[ -d "$target/llava-8-layers" ] || "$target/release/random_checkpoint" --out "$target/llava-8-layers" --layers 8 --hidden 1024 --intermediate 2816 --heads 16
MODEL="$(cd "$target" && pwd)/llava-8-layers" cargo bench -p sgm-benches --bench calibration | tee "$target/calibration.log"
grep -E '^calibration|thrpt:' "$target/calibration.log" | sed 's/ *time:.*//' > docs/results/calibration.txt
"$python" tools/peers/criterion.py "$target/criterion" docs/results/criterion.json
"$python" tools/peers/auroc_peers.py "$target/release/examples/score" docs/results/auroc-peers.json
[ "${1:-}" = "--skip-large-store" ] || "$python" tools/peers/large_store.py "$target/release/examples/score" docs/results/auroc-large-store.json
