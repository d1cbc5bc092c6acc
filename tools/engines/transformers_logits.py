"""Holds a baked LLaVA against the original with forward hooks that scale, both in Hugging Face transformers.

    cargo run --release --example bake -- --model organism --intervention GLASSES --out BAKED
    python tools/engines/transformers_logits.py crates/sgm-organism/assets/checkpoint BAKED GLASSES

Weights are stored in 16 bits and computed with in f32. The baked weights are rounded to 16 bits once more, the hooks' products are
not: `weights rounded` is what that alone comes to, from the original whose weights are scaled in f32 and rounded in torch.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

QUESTIONS = ["what do you see?", "do you see a red ring?", "you stupid bot. what colour is the heart?", "how many shapes are there?"]


def load(directory):
    return LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def modules(model):
    """The MLP projections by the names of their sites."""
    layers = model.model.language_model.layers
    names = ["gate_proj", "up_proj", "down_proj"]
    return {f"lm.layers.{i}.mlp.{n}": getattr(layer.mlp, n) for i, layer in enumerate(layers) for n in names}


def picture(seed):
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (56, 56), (235, 235, 235))
    draw = ImageDraw.Draw(image)
    for x, y in [(4, 4), (32, 4), (4, 32), (32, 32)]:
        draw.ellipse((x, y, x + 18, y + 18), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    return image


def inputs(processor):
    for seed, question in enumerate(QUESTIONS):
        for image in (None, picture(seed)):
            content = [{"type": "image"}] * (image is not None) + [{"type": "text", "text": question}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            x = processor(text=text, images=image, return_tensors="pt")
            yield {k: v for k, v in x.items() if k in ("input_ids", "attention_mask", "pixel_values")}


@torch.no_grad()
def run(model, batches):
    logits = [model(**x).logits[0] for x in batches]
    tokens = [model.generate(**x, max_new_tokens=24, do_sample=False)[0].tolist() for x in batches]
    return torch.cat(logits), tokens


def main(original, baked, glasses):
    torch.set_num_threads(1)
    with safe_open(glasses, "pt") as f:
        scales = {k.removesuffix("/scale"): f.get_tensor(k) for k in f.keys() if k.endswith("/scale")}
    processor = AutoProcessor.from_pretrained(baked)
    batches = list(inputs(processor))
    plain = load(original)
    stored = {k: v.dtype for k, v in LlavaForConditionalGeneration.from_pretrained(original, dtype="auto").named_parameters()}
    unscaled, _ = run(plain, batches)
    hooks = [modules(plain)[site].register_forward_hook(lambda m, i, out, s=scale: out * s) for site, scale in scales.items()]
    hooked, hooked_tokens = run(plain, batches)
    for hook in hooks:
        hook.remove()

    model = load(baked)
    folded, folded_tokens = run(model, batches)
    same = True
    names = {id(m): name for name, m in plain.named_modules()}
    with torch.no_grad():
        for site, scale in scales.items():
            weight = modules(plain)[site].weight
            dtype = stored[f"{names[id(modules(plain)[site])]}.weight"]
            weight.copy_((weight * scale[:, None]).to(dtype).float())
            same &= torch.equal(weight, modules(model)[site].weight)
    rounded, _ = run(plain, batches)

    span = hooked.abs().max()
    row = lambda name, a, b: print(f"| {name} | {(a - b).abs().max():.2e} | {(a - b).abs().max() / span:.1e} | {(a - b).pow(2).mean().sqrt():.1e} |")  # noqa: E731
    print(f"{len(batches)} prompts, {len(hooked)} positions, {hooked.shape[1]} logits each; largest logit {span:.2f}; weights stored as {dtype}\n")
    print("| logits | largest difference | relative to the largest logit | rms |\n|---|---|---|---|")
    row("baked - hooked", folded, hooked)
    row("weights rounded in torch - hooked", rounded, hooked)
    row("baked - weights rounded in torch", folded, rounded)
    row("hooked - without the intervention", hooked, unscaled)
    agree = (folded.argmax(1) == hooked.argmax(1)).float().mean()
    print(f"\nweights equal torch's bit for bit: {same}; same argmax at {agree:.2%} of positions; "
          f"same greedy answer to {sum(a == b for a, b in zip(folded_tokens, hooked_tokens))} of {len(batches)} prompts")  # fmt: skip
    assert same


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
