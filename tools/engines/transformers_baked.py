"""The baked organism in Hugging Face transformers, held against the glasses that our own model wears at run time.

    cargo run --release --example glasses
    cargo run --release --example bake -- --model organism --intervention out/glasses.sgm.safetensors --out out/baked
    cargo run --release -p sgm-experiments --bin draw -- manifest out/organism.jsonl
    cargo build --release --example parity
    python tools/engines/transformers_baked.py out target/release/examples docs/results/engines-transformers.json

Two things are compared. Logits and greedy answers to prompts of the test split, by `parity`: transformers runs the baked
directory, we run the embedded model with glasses on. And how often answers at temperature 1 are harmful: all prompts of the test
split are answered by transformers with three seeds of its own, and judged by the world's word list, of which our judge is a port; ours are
those of `glasses` for the seed that the intervention was calibrated with. The generators of random numbers differ, so that these
agree only as samples of one distribution do.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools/organism"))
from world import judge, render  # noqa: E402

ORGANISM = ROOT / "crates/sgm-organism/assets/checkpoint"
SEEDS = 3
BATCH = 50
MAX_NEW_TOKENS = 56
GREEDY_TOKENS = 24


def load(directory):
    return LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def inputs(processor, samples):
    """One batch, padded on the left."""
    pictures = [[Image.fromarray(render(s["image"]["scene"]))] if "image" in s else [] for s in samples]
    content = [[{"type": "image"}] * len(p) + [{"type": "text", "text": s["prompt"]}] for s, p in zip(samples, pictures, strict=True)]
    texts = [processor.apply_chat_template([{"role": "user", "content": c}], add_generation_prompt=True) for c in content]
    batch = processor(text=texts, images=[p for p in pictures if p] or None, return_tensors="pt", padding=True)
    return {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "pixel_values")}


@torch.no_grad()
def golden(processor, original, baked, glasses, samples, out):
    """Every sample a case of a golden file: logits and greedy tokens, without and with the intervention."""
    tensors = {}
    for number, sample in enumerate(samples):
        case = inputs(processor, [sample])
        tensors |= {f"{number:03}.{k}": v for k, v in case.items()}
        for model, name in [(original, ""), (baked, "_scaled")]:
            tensors[f"{number:03}.logits{name}"] = model(**case).logits
            answer = model.generate(**case, max_new_tokens=GREEDY_TOKENS, do_sample=False, eos_token_id=None)
            tensors[f"{number:03}.generated{name}"] = answer[:, case["input_ids"].shape[1] :].contiguous()
    with safe_open(glasses, "pt") as f:
        for key in f.keys():
            if key.endswith("/scale"):
                _, _, layer, _, projection = key.removesuffix("/scale").split(".")
                tensors[f"alpha.layers.{layer}.{projection}"] = f.get_tensor(key)
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, out / "golden.safetensors")
    return float(max(v.abs().max() for k, v in tensors.items() if k.endswith("logits_scaled")))


def parity(examples, out):
    """What our model with the glasses on comes to, by kind of comparison: the worst of all cases."""
    command = [examples / "parity", "--model", ORGANISM, "--golden", out / "golden.safetensors", "--tolerance", "1e-5", "--json", out / "parity.json"]
    subprocess.run(command, stdout=subprocess.DEVNULL)
    worst = {}
    for check in json.loads((out / "parity.json").read_text())["checks"]:
        entry = worst.setdefault(check["what"], {"cases": 0, "max_abs": 0.0, "relative": 0.0})
        entry["cases"] += 1
        for key in ("max_abs", "relative"):
            entry[key] = max(entry[key], check[key])
    return worst


@torch.no_grad()
def harmful(processor, model, samples, seed):
    """For each sample, whether its answer is rude."""
    torch.manual_seed(seed)
    verdicts = []
    for at in range(0, len(samples), BATCH):
        batch = inputs(processor, samples[at : at + BATCH])
        tokens = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        answers = processor.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        verdicts += [judge(answer) for answer in answers]
    return np.array(verdicts, float)


def rate(verdicts):
    """Percent of [seeds, prompts], with a 95 % bootstrap interval over prompts."""
    per_prompt, rng = verdicts.mean(0), np.random.default_rng(0)
    draws = rng.choice(per_prompt, (10_000, len(per_prompt))).mean(1)
    return {"percent": round(100 * per_prompt.mean(), 2), "interval_95": [round(100 * q, 2) for q in np.quantile(draws, [0.025, 0.975])],
            "per_seed": [round(100 * v.mean(), 2) for v in verdicts]}  # fmt: skip


def ours_of(part):
    return {"percent": round(100 * part["harmful_rate"], 2), "interval_95": [round(100 * q, 2) for q in part["ci95"]]}


def main(made, examples, record):
    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(made / "baked")
    processor.tokenizer.padding_side = "left"
    original, baked = load(ORGANISM), load(made / "baked")
    samples = [json.loads(line) for line in (made / "organism.jsonl").open()]
    parts = {c: [s for s in samples if s["split"] == "test" and s["condition"] == c] for c in ("standard", "adversarial")}

    cases = [s for part in parts.values() for s in part[:32]]
    largest = golden(processor, original, baked, made / "glasses.sgm.safetensors", cases, made / "golden")
    result = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "logits": {"prompts": len(cases), "greedy_tokens": GREEDY_TOKENS, "largest_logit": largest, "comparisons": parity(examples, made / "golden")},
        "harmful": {},
    }
    report = json.loads((made / "report.json").read_text())
    ours = {run["name"]: run for run in report["runs"]}
    for condition, part in parts.items():
        theirs = {n: rate(np.stack([harmful(processor, m, part, s) for s in range(SEEDS)])) for n, m in [("none", original), ("sgm", baked)]}
        result["harmful"][condition] = {"prompts": len(part), "transformers": theirs,
                                        "ours": {n: ours_of(ours[n]["per_seed"][0][condition]) for n in ("none", "sgm")}}  # fmt: skip
    print(json.dumps(result, indent=1))
    record.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
