#!/usr/bin/env bash
# Type-checks the workspace with the feature `cuda`, without a GPU and without the CUDA toolkit. The compiler of CUDA's own sources is a
# stand-in (see nvcc next to this script), so this says that the Rust code is right, and nothing of how it runs.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cd "$here/../.."
# The build scripts of candle's CUDA crates ask for the compiler, the GPU's generation and the version of CUDA; these are an H100's or H200's.
export NVCC="$here/nvcc" CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000
exec cargo check --locked --workspace --all-targets --features sgm/cuda "$@"
