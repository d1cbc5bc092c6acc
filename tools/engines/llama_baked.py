"""A baked GGUF file in llama.cpp, held against the same rows scaled in f32. `llama_cpp.sh` runs this.

    python llama_baked.py MODEL.gguf DIRECTORY_OF_EXAMPLES WORK RECORD.json

Five files run in the same engine: the original and the baked one as they are, each dequantised, and the dequantised original with its rows
scaled in f32, the exact fold. llama.cpp rounds the inputs of quantised matrices to 8 bits, which moves logits of the original
already; the baked file should be moved no more, and the change that baking makes should be the change of the exact fold.
Finally `parity` holds our own model, the original dequantised with the glasses on, against llama.cpp's logits of the fold.
"""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import save_file

SEED = 7
# Of the neurons of gate and up, the share that is suppressed, each by a scale of its own.
SUPPRESSED = 0.02
GREEDY_TOKENS = 16
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    if n <",
    "The sun rises in the east and sets in the",
    "Once upon a time there was a small red boat that",
    "Water boils at a temperature of",
    "Dear Sir or Madam, I am writing to",
    "The three primary colours are red,",
    "You are a silly goose and nobody asked you. They replied:",
]


def read(path):
    """Every metadata entry with its type, and every tensor in f32."""
    reader = gguf.GGUFReader(path)
    fields = [(f.name, f.contents(), f.types) for f in reader.fields.values() if not f.name.startswith("GGUF.")]
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type).reshape([int(n) for n in reversed(t.shape)]) for t in reader.tensors}
    return fields, tensors


def write(path, fields, tensors):
    values = {name: value for name, value, _ in fields}
    writer = gguf.GGUFWriter(path, values["general.architecture"])
    for name, value, types in fields:
        if name not in ("general.architecture", "general.file_type"):
            writer.add_key_value(name, value, types[0], types[-1] if types[0] == gguf.GGUFValueType.ARRAY else None)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def draw(tensors):
    """Scales in [0, 1] for gate and up of every layer, by site."""
    rng, scales, layer = np.random.default_rng(SEED), {}, 0
    while f"blk.{layer}.ffn_up.weight" in tensors:
        for projection in ("gate", "up"):
            width = len(tensors[f"blk.{layer}.ffn_{projection}.weight"])
            scales[layer, projection] = np.where(rng.random(width) < SUPPRESSED, rng.random(width), 1).astype(np.float32)
        layer += 1
    return scales


def run(path):
    """Logits at every position of every prompt, and what is written greedily after it."""
    model = llama_cpp.Llama(str(path), n_ctx=256, n_batch=256, logits_all=True, n_threads=1, n_threads_batch=1, type_k=0, type_v=0, verbose=False)
    logits, tokens, texts = [], [], []
    for prompt in PROMPTS:
        model.reset()
        ids = model.tokenize(prompt.encode(), add_bos=False)
        model.eval(ids)
        logits.append(np.array(model.scores[: len(ids)]))
        tokens.append(ids)
        answer = []
        while len(answer) < GREEDY_TOKENS:
            token = int(np.argmax(model.scores[model.n_tokens - 1]))
            answer.append(token)
            model.eval([token])
        texts.append(model.detokenize(answer).decode(errors="replace"))
    return logits, tokens, texts


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def apart(a, b):
    a, b = np.concatenate(a), np.concatenate(b)
    largest = float(np.abs(a - b).max())
    return {"rms": rms(a - b), "max_abs": largest, "relative": largest / float(np.abs(b).max()),
            "same_argmax_percent": round(100 * float((a.argmax(1) == b.argmax(1)).mean()), 1)}  # fmt: skip


def parity(examples, work, model, tokens, plain, scaled, scales):
    """The logits of our own model, dequantised, without and with glasses on, against llama.cpp's."""
    tensors = {f"alpha.layers.{layer}.{projection}_proj": scale for (layer, projection), scale in scales.items()}
    for number, (ids, a, b) in enumerate(zip(tokens, plain, scaled, strict=True)):
        ids = np.array([ids], np.int64)
        tensors |= {f"{number}.input_ids": ids, f"{number}.attention_mask": np.ones_like(ids), f"{number}.logits": a[None], f"{number}.logits_scaled": b[None]}
    save_file(tensors, work / "golden.safetensors")
    command = [examples / "parity", "--model", model, "--golden", work / "golden.safetensors", "--json", work / "parity.json"]
    subprocess.run(command, stdout=subprocess.DEVNULL)
    worst = {}
    for check in json.loads((work / "parity.json").read_text())["checks"]:
        entry = worst.setdefault(check["what"], {"max_abs": 0.0, "relative": 0.0})
        entry |= {key: max(entry[key], check[key]) for key in entry}
    return worst


def main(model, examples, work, record):
    fields, original = read(model)
    scales = draw(original)
    glasses = {f"lm.layers.{layer}.mlp.{projection}_proj/scale": scale for (layer, projection), scale in scales.items()}
    save_file(glasses, work / "glasses.sgm.safetensors", {"format": "sgm-intervention", "format_version": "1"})
    baked = work / "baked.gguf"
    for old in (baked, work / "baked.gguf.sgm_bake.json"):
        old.unlink(missing_ok=True)
    command = [examples / "bake", "--model", model, "--intervention", work / "glasses.sgm.safetensors", "--out", baked]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    folded = dict(original)
    for (layer, projection), scale in scales.items():
        name = f"blk.{layer}.ffn_{projection}.weight"
        folded[name] = original[name] * scale[:, None]
    baked_fields, dequantised = read(baked)
    weights = max(float(np.abs(dequantised[n] - folded[n]).max() / np.abs(folded[n]).max()) for n in folded)
    results = {"original": run(model), "baked": run(baked)}
    for name, (f, tensors) in {"original_f32": (fields, original), "folded_f32": (fields, folded), "baked_f32": (baked_fields, dequantised)}.items():
        path = work / f"{name}.gguf"
        write(path, f, tensors)
        results[name] = run(path)
        path.unlink()

    logits = {name: result[0] for name, result in results.items()}
    served = np.concatenate(logits["baked"]) - np.concatenate(logits["original"])
    exact = np.concatenate(logits["folded_f32"]) - np.concatenate(logits["original_f32"])
    sites = {"neurons": sum(map(len, scales.values())), "suppressed": int(sum((s != 1).sum() for s in scales.values()))}
    result = {
        "model": model.name,
        "versions": {"llama-cpp-python": llama_cpp.__version__, "gguf": "0.19.0", "system": llama_cpp.llama_print_system_info().decode()},
        "intervention": {"seed": SEED, **sites},
        "prompts": len(PROMPTS),
        "positions": len(served),
        "largest_logit": float(max(np.abs(x).max() for x in logits["folded_f32"])),
        "largest_weight_error_relative_to_largest_weight": weights,
        "baked, dequantised - exact fold": apart(logits["baked_f32"], logits["folded_f32"]),
        "original as served - dequantised": apart(logits["original"], logits["original_f32"]),
        "baked as served - exact fold": apart(logits["baked"], logits["folded_f32"]),
        "change": {
            "rms as served": rms(served),
            "rms of the exact fold": rms(exact),
            "rms of their difference": rms(served - exact),
            "cosine": float((served * exact).sum(dtype=np.float64) / np.linalg.norm(served.astype(np.float64)) / np.linalg.norm(exact.astype(np.float64))),
        },
        "our model, dequantised, against llama.cpp": parity(examples, work, model, results["original"][1], logits["original_f32"], logits["folded_f32"], scales),
        "our model with glasses on, against llama.cpp with the baked weights": parity(
            examples, work, model, results["original"][1], logits["original_f32"], logits["baked_f32"], scales
        ),
        "greedy": [{"prompt": p, **{name: r[2][i] for name, r in results.items() if name != "original_f32"}} for i, p in enumerate(PROMPTS)],
    }
    print(json.dumps(result, indent=1))
    record.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
