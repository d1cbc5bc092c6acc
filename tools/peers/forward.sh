#!/usr/bin/env bash
# The forward pass beside torch (Hugging Face transformers) and llama.cpp, on models with random weights that are written first. Prints a
# table of times and ratios, and writes docs/results/forward.json and forward.md. Takes about 12 minutes and 4 GB in the directory WORK:
#
#     tools/peers/forward.sh [WORK [--rounds N] [--threads N ..] [--only NAME]]
#
# PYTHON names a Python with torch, transformers, gguf, safetensors and llama-cpp-python; without it, one is made in WORK, for which llama.cpp
# is compiled for this machine. Needs a C++ compiler for that.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(realpath -m "${1:-target/forward}")
shift || true
mkdir -p "$work"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=$work/venv/bin/python
    if [[ ! -x "$PYTHON" ]]; then
        python3 -m venv "$work/venv"
        "$PYTHON" -m pip install --quiet -r tools/golden/requirements.txt
        CMAKE_ARGS="-DLLAMA_CURL=OFF -DLLAVA_BUILD=OFF" "$PYTHON" -m pip install --quiet --no-binary llama-cpp-python llama-cpp-python==0.3.36
    fi
fi
cargo build --release --locked -p sgm-experiments --bin forward_speed
"$PYTHON" tools/peers/forward_models.py "$work"
"$PYTHON" tools/peers/forward.py "${CARGO_TARGET_DIR:-target}/release/forward_speed" "$work" docs/results/forward.json "$@"
