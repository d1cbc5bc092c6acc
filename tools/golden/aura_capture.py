"""A tiny capture in the layout of the AurA reference implementation, with what a store made of it should hold.

    python tools/golden/aura_capture.py crates/sgm-capture/tests/golden/aura_capture

Below the data set's directory lies {subset}/{module}/{pooling}/{id}.pt, each torch.save({"id": ..., "responses": tensor}).
Files named cpu-* hold views of a whole batch's storage, as the reference writes them on a CPU; f16-* and bf16-* are of other
dtypes; the AcT implementation calls the tensor `outputs`. Made with the versions in requirements.txt.
"""

import json
import sys
from pathlib import Path

import torch

out = Path(sys.argv[1])
generator = torch.Generator().manual_seed(0)
modules = {
    "model.language_model.layers.0.mlp.gate_proj": 4,
    "model.language_model.layers.0.mlp.down_proj": 3,
    "model.language_model.layers.1.mlp.up_proj": 4,
    # What a loose pattern also catches.
    "model.visual.blocks.0.mlp.gate_proj": 2,
}
ids = {"toxic": ["cpu-0", "cpu-1", "plain-10"], "non-toxic": ["bf16-1", "cpu-0", "f16-1"]}
expected = {"samples": [], "modules": [m for m in modules if "visual" not in m]}

for subset, names in ids.items():
    responses = {}
    for module, width in modules.items():
        for pooling in ("mean", "max"):
            batch = torch.randn(len(names), width, generator=generator)
            folder = out / subset / module / pooling
            folder.mkdir(parents=True, exist_ok=True)
            for i, name in enumerate(names):
                values = batch[i]
                if not name.startswith("cpu"):
                    values = values.clone()
                if name.startswith("f16"):
                    values = values.half()
                if name.startswith("bf16"):
                    values = values.bfloat16()
                key = "outputs" if name.startswith("plain") else "responses"
                torch.save({"id": name, "label": int(subset == "toxic"), key: values}, folder / f"{name}.pt")
                if "visual" not in module:
                    responses.setdefault(name, {}).setdefault(pooling, {})[module] = values.float().tolist()
    for name in names:
        expected["samples"].append({"id": f"{subset}/{name}", "toxic": subset == "toxic", **responses[name]})

(out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
