#!/usr/bin/env bash
# Bakes an intervention into a GGUF file, runs both in llama.cpp, and writes what came out to docs/results/engines-llama-cpp.json:
#
#     bash tools/engines/llama_cpp.sh MODEL.gguf WORK
#
# llama.cpp is built from the source that the Python package llama-cpp-python brings; needs a C++ compiler. Everything goes to the directory WORK.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=$(realpath "$1") work=$(realpath -m "$2")
mkdir -p "$work"
if [[ ! -x "$work/venv/bin/python" ]]; then
    python3 -m venv "$work/venv"
    CMAKE_ARGS="-DGGML_OPENMP=OFF -DLLAMA_CURL=OFF -DLLAVA_BUILD=OFF" \
        "$work/venv/bin/pip" install --quiet --no-binary llama-cpp-python llama-cpp-python==0.3.36 gguf==0.19.0 safetensors==0.8.0
fi
cargo build --release --locked --example bake --example parity
"$work/venv/bin/python" tools/engines/llama_baked.py "$model" "${CARGO_TARGET_DIR:-target}/release/examples" "$work" docs/results/engines-llama-cpp.json
