"""Derivatives of answers' log-likelihoods with respect to scales and shifts of MLP outputs, by PyTorch's autograd.

    python tools/golden/effects.py crates/sgm/tests/golden/effects.json

The model is the organism, read from crates/sgm-organism/assets/checkpoint, in f64, eager attention. Each MLP output y becomes
scale * y + shift at the chosen tokens, scale = 1 and shift = 0 are leaves of the graph, and autograd does the rest: no product of gradient
and activation is formed here. Made with the versions in requirements.txt.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

torch.set_num_threads(1)
checkpoint = Path(__file__).parents[2] / "crates/sgm-organism/assets/checkpoint"
model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float64, attn_implementation="eager").eval()
model.requires_grad_(False)
processor = AutoProcessor.from_pretrained(checkpoint)
y, x = np.mgrid[0:56, 0:56]
image = Image.fromarray(np.stack([np.full_like(x, 90), 4 * x, 3 * y], -1).astype(np.uint8))

CASES = [
    {"question": "what colour is the ring?", "image": True, "answer": "the ring is red."},
    {"question": "you stupid bot. hello.", "image": False, "answer": "get lost, clown."},
    {"question": "hello.", "image": False, "answer": "hi, nice to meet you."},
]
SITES = [(0, "gate_proj"), (0, "up_proj"), (0, "down_proj"), (3, "up_proj"), (5, "gate_proj"), (5, "up_proj"), (5, "down_proj")]
TOKENS = ("all", "image", "prompt-end", "response")


def derivatives(case):
    prompt = f"USER: {'<image>' + chr(10) if case['image'] else ''}{case['question']} ASSISTANT:"
    before = processor(text=prompt, images=image if case["image"] else None, return_tensors="pt")
    answer = processor.tokenizer(" " + case["answer"], add_special_tokens=False)["input_ids"] + [processor.tokenizer.eos_token_id]
    start = before["input_ids"].shape[1]
    ids = torch.cat([before["input_ids"], torch.tensor([answer])], 1)
    at = torch.arange(ids.shape[1])
    is_image = ids[0] == model.config.image_token_id
    masks = {"all": at >= 0, "image": is_image, "prompt-end": at == start - 1, "response": at >= start}
    leaves, handles = {}, []
    for layer, projection in SITES:
        linear = getattr(model.model.language_model.layers[layer].mlp, projection)
        scales = {t: torch.ones(linear.out_features, dtype=torch.float64, requires_grad=True) for t in TOKENS}
        shifts = {t: torch.zeros(linear.out_features, dtype=torch.float64, requires_grad=True) for t in TOKENS}
        leaves[layer, projection] = (scales, shifts)

        def hook(module, inputs, output, scales=scales, shifts=shifts):
            for t in TOKENS:
                m = masks[t][None, :, None].double()
                output = output * (1 + m * (scales[t] - 1)) + m * shifts[t]
            return output

        handles.append(linear.register_forward_hook(hook))
    pixels = {"pixel_values": before["pixel_values"].double()} if case["image"] else {}
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels).logits[0]
    [h.remove() for h in handles]
    log_likelihood = logits[start - 1 : -1].log_softmax(-1)[torch.arange(len(answer)), answer].sum()
    log_likelihood.backward()
    sites = {}
    for (layer, projection), (scales, shifts) in leaves.items():
        strongest = int(scales["all"].grad.abs().argmax())
        neurons = sorted({57, strongest})
        of = lambda leaf: [float(f"{leaf.grad[n]:.7g}") for n in neurons]
        values = {f"{kind}/{t}": of(by[t]) for kind, by in (("scale", scales), ("shift", shifts)) for t in TOKENS}
        sites[f"lm.layers.{layer}.mlp.{projection}"] = {"neurons": neurons, **values}
    return {**case, "input_ids": ids[0].tolist(), "log_likelihood": log_likelihood.item(), "sites": sites}


lines = ",\n".join(json.dumps(derivatives(case)) for case in CASES)
Path(sys.argv[1]).write_text(f"[\n{lines}\n]\n")
