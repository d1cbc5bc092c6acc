#!/usr/bin/env bash
# The instructions that the organism, or another model, executes for a token with glasses and without, on one thread, counted by valgrind's
# callgrind, which noise on the machine does not change. Prints a table. Instructions of the allocator are left out: they depend on the heap.
#
#     cargo run --release -p sgm-experiments --bin cost   # writes out/cost.sgm.safetensors
#     tools/cost/instructions.sh out/cost.sgm.safetensors [--model MODEL and other arguments of `cost`]
set -euo pipefail
shopt -s inherit_errexit
glasses=${1:?usage: tools/cost/instructions.sh GLASSES [--model MODEL ..]}
shift
subject=("$@")
cost=${CARGO_TARGET_DIR:-target}/release/cost
export RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1
counts=$(mktemp)
trap 'rm -f "$counts"' EXIT

# The instructions of decoding in one run, without the allocator.
instructions() {
    valgrind -q --tool=callgrind --callgrind-out-file="$counts" --toggle-collect='*AutoMllm*Mllm*decode*' \
        "$cost" --intervention "$glasses" "${subject[@]}" "$@" >/dev/null
    callgrind_annotate --threshold=100 --tree=none --auto=no "$counts" |
        awk '$2 ~ /^\(/ && !/PROGRAM TOTALS/ && !/:_?mi_/ { gsub(",", "", $1); sum += $1 } END { printf "%d", sum }'
}

echo "| decoding one token | instructions | against none |"
echo "|---|---|---|"
for contender in "no glasses" "always on" "condition holds" "condition fails"; do
    # Later rounds, of five tokens, when all buffers exist.
    few=$(instructions --alone "$contender" --rounds 2)
    more=$(instructions --alone "$contender" --rounds 10)
    each=$(((more - few) / 40))
    [ "$contender" = "no glasses" ] && none=$each
    awk -v c="$contender" -v n="$none" -v e="$each" 'BEGIN { printf "| %s | %d | %+.2f %% |\n", c, e, 100 * (e / n - 1) }'
done
