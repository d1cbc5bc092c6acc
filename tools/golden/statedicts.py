"""Tiny interventions in the layout of the AurA and AcT reference implementations, with what is to be read from them.

    python tools/golden/statedicts.py crates/sgm-suppress/tests/golden/statedicts

`alpha/` has scales, in nested directories, in every dtype, as views of a larger storage and as a state dictionary of a module; `auroc/` has
AUROCs. Made with the versions in requirements.txt.
"""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import torch

out = Path(sys.argv[1])
generator = torch.Generator().manual_seed(0)
draw = lambda n: torch.rand(n, generator=generator)


class Hook(torch.nn.Module):
    def __init__(self, alpha):
        super().__init__()
        self.register_buffer("alpha", alpha)


def save(path, entries, vectors):
    path = out / path
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(entries, path)
    expected[str(path.relative_to(out))] = {key: value.float().flatten().tolist() for key, value in vectors.items()}


expected = {}
layer = "model.language_model.layers"
values = draw(4).reshape(1, 1, 4)
save(f"alpha/aura/{layer}.0.mlp.gate_proj.statedict", {"alpha": values}, {"alpha": values})
values = draw(4)
save(f"alpha/aura/{layer}.0.mlp.up_proj.statedict", Hook(values.reshape(1, 1, 4)).state_dict(), {"alpha": values})
values = draw(12)[4:7]
save(f"alpha/aura/{layer}.0.mlp.down_proj.statedict", OrderedDict(alpha=values), {"alpha": values})
values, auroc = draw(4).half(), draw(4).double()
save(f"alpha/more/{layer}.1.mlp.gate_proj.statedict", {"auroc": auroc, "alpha": values, "note": "x"}, {"alpha": values, "auroc": auroc})
values = draw(8).bfloat16()[::2]
save(f"alpha/more/{layer}.1.mlp.up_proj.statedict", {"alpha": torch.nn.Parameter(values)}, {"alpha": values})
save(f"alpha/more/model.visual.blocks.0.mlp.gate_proj.statedict", {"alpha": draw(2)}, {})
for i in range(2):
    values = draw(3)
    save(f"auroc/language_model.model.layers.{i}.mlp.down_proj.statedict", {"auroc": values}, {"auroc": values})
(out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
