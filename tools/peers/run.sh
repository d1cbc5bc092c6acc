#!/bin/sh
# This project's AUROC beside scikit-learn's, numpy's and scipy's, and a store of the size of a 7B model's.
# Writes docs/results/auroc-peers.json and docs/results/auroc-large-store.json. Python needs numpy, scipy, scikit-learn.
set -eu
cd "$(dirname "$0")/../.."
cargo build --release -p sgm --example score
binary="${CARGO_TARGET_DIR:-target}/release/examples/score"
python="${PYTHON:-python3}"
"$python" tools/peers/auroc_peers.py "$binary" docs/results/auroc-peers.json
[ "${1:-}" = "--skip-large-store" ] || "$python" tools/peers/large_store.py "$binary" docs/results/auroc-large-store.json
