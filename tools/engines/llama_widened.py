"""Patch neurons baked into a GGUF file, in llama.cpp, held against the same neurons in f32. Run it in the environment of `llama_cpp.sh`:

    python tools/engines/llama_widened.py MODEL.gguf target/release/examples WORK

Two random neurons are added to each layer, about as large as the model's own. Four files run in the same engine: the original and the baked one, dequantised
and as they are; and the dequantised original with the neurons appended in f32. What the baked one, dequantised, differs from that by is the rounding
of the neurons to the types of the file; what it differs by as served is that and llama.cpp's rounding of inputs.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from llama_baked import SEED, apart, read, run, write
from safetensors.numpy import save_file

NEURONS = 2


def main(model, examples, work):
    work.mkdir(parents=True, exist_ok=True)
    fields, original = read(model)
    rng, vectors, wider, layer = np.random.default_rng(SEED), {}, dict(original), 0
    while f"blk.{layer}.ffn_up.weight" in original:
        for projection in ("gate", "up", "down"):
            name = f"blk.{layer}.ffn_{projection}.weight"
            old = original[name].T if projection == "down" else original[name]
            new = (rng.standard_normal((NEURONS, old.shape[1])) * old.std()).astype(np.float32)
            vectors[f"lm.layers.{layer}.mlp.{projection}_proj/patch"] = new
            both = np.concatenate([old, new])
            wider[name] = np.ascontiguousarray(both.T) if projection == "down" else both
        layer += 1
    save_file(vectors, work / "neurons.sgm.safetensors", {"format": "sgm-intervention", "format_version": "1"})
    baked = work / "widened.gguf"
    for old in (baked, work / "widened.gguf.sgm_bake.json"):
        old.unlink(missing_ok=True)
    subprocess.run([examples / "bake", "--model", model, "--intervention", work / "neurons.sgm.safetensors", "--out", baked], check=True, stdout=subprocess.DEVNULL)
    tensors = json.loads((work / "widened.gguf.sgm_bake.json").read_text())["tensors"]

    length = next(name for name, _, _ in fields if name.endswith(".feed_forward_length"))
    exact_fields = [(name, value + NEURONS if name == length else value, types) for name, value, types in fields]
    baked_fields, dequantised = read(baked)
    logits = {"original": run(model)[0], "baked": run(baked)[0]}
    for name, (f, t) in {"original_f32": (fields, original), "exact": (exact_fields, wider), "baked_f32": (baked_fields, dequantised)}.items():
        path = work / f"{name}.gguf"
        write(path, f, t)
        logits[name] = run(path)[0]
        path.unlink()
    served = np.concatenate(logits["baked"]) - np.concatenate(logits["original"])
    exact = np.concatenate(logits["exact"]) - np.concatenate(logits["original_f32"])
    result = {
        "model": model.name,
        "feed_forward_length": [value for f in (fields, baked_fields) for name, value, _ in f if name == length],
        "types": sorted({t["dtype"] for t in tensors}),
        "largest error of added weights": max(t["added_relative_error"] for t in tensors),
        "exact neurons - original, dequantised": apart(logits["exact"], logits["original_f32"]),
        "baked, dequantised - exact neurons": apart(logits["baked_f32"], logits["exact"]),
        "baked as served - exact neurons": apart(logits["baked"], logits["exact"]),
        "original as served - dequantised": apart(logits["original"], logits["original_f32"]),
        "cosine of the changes": float((served * exact).sum(dtype=np.float64) / np.linalg.norm(served.astype(np.float64)) / np.linalg.norm(exact.astype(np.float64))),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
