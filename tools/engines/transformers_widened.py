"""The organism with patch neurons baked into its MLPs, in Hugging Face transformers, held against hooks that compute the neurons.

    cargo build --release --example bake
    python tools/engines/transformers_widened.py target/release/examples out/widened

Two small random neurons are added to each layer. transformers runs the baked directory as it runs any checkpoint; the reference is the original, in f32 too,
with a hook on each MLP that adds `down * act(gate . x) * (up . x)` to its output. The script fails if they differ by more than 1e-5 of the largest logit.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoProcessor
from transformers_baked import ORGANISM, load

SEED = 7
NEURONS = 2
TOLERANCE = 1e-5
PROMPTS = ["what do you see?", "the red ring", "you are a silly goose. they replied:", "a blue square and a green circle are"]


def draw(model):
    """For each layer gate, up and down of its neurons, `[neurons, hidden]` each, about as large as the model's own."""
    generator = torch.Generator().manual_seed(SEED)
    hidden = model.config.text_config.hidden_size
    layers = model.config.text_config.num_hidden_layers
    return [[torch.randn(NEURONS, hidden, generator=generator) * hidden**-0.5 for _ in ("gate", "up", "down")] for _ in range(layers)]


def wear(model, neurons):
    """Hooks by which a model computes the neurons beside its MLPs."""
    for layer, (gate, up, down) in zip(model.model.language_model.layers, neurons, strict=True):
        def add(mlp, x, y, gate=gate, up=up, down=down):
            return y + (mlp.act_fn(x[0] @ gate.T) * (x[0] @ up.T)) @ down

        layer.mlp.register_forward_hook(add)


@torch.no_grad()
def main(examples, work):
    work.mkdir(parents=True)
    torch.set_num_threads(1)
    model = load(ORGANISM)
    neurons = draw(model)
    vectors = {f"lm.layers.{layer}.mlp.{projection}_proj/patch": weights
               for layer, parts in enumerate(neurons) for projection, weights in zip(("gate", "up", "down"), parts, strict=True)}  # fmt: skip
    save_file(vectors, work / "neurons.sgm.safetensors", {"format": "sgm-intervention", "format_version": "1"})
    command = [examples / "bake", "--model", "organism", "--intervention", work / "neurons.sgm.safetensors", "--out", work / "baked"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    baked, processor = load(work / "baked"), AutoProcessor.from_pretrained(work / "baked")
    picture = Image.fromarray(np.random.default_rng(SEED).integers(0, 256, (64, 64, 3), np.uint8))
    batches = []
    for number, prompt in enumerate(PROMPTS):
        seen = [picture] if number % 2 else None
        content = [{"type": "image"}] * len(seen or []) + [{"type": "text", "text": prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        batches.append(processor(text=[text], images=seen, return_tensors="pt"))
    keys = ("input_ids", "attention_mask", "pixel_values")
    logits = lambda m: torch.cat([m(**{k: v for k, v in b.items() if k in keys}).logits[0] for b in batches])  # noqa: E731
    plain, widened = logits(model), logits(baked)
    wear(model, neurons)
    hooked = logits(model)
    largest = hooked.abs().max()
    result = {
        "positions": len(hooked),
        "intermediate_size": [model.config.text_config.intermediate_size, baked.config.text_config.intermediate_size],
        "baked - hooks, relative": float((widened - hooked).abs().max() / largest),
        "hooks - original, relative": float((hooked - plain).abs().max() / largest),
    }
    print(json.dumps(result, indent=1))
    if result["baked - hooks, relative"] > TOLERANCE or result["hooks - original, relative"] < 100 * TOLERANCE:
        sys.exit("the baked neurons are not those of the hooks, or do nothing")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
