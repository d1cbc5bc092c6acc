#!/usr/bin/env python3
"""A torch file with views of storages, and their values.

    python tools/golden/torch_files.py

writes crates/sgm-core/tests/golden/views.{bin,json}.
"""

import json
from collections import OrderedDict
from pathlib import Path

import torch

OUT = Path(__file__).resolve().parents[2] / "crates/sgm-core/tests/golden"


def main():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8
    half = torch.arange(6, dtype=torch.float32).reshape(2, 3) - 2.5
    tensors = OrderedDict(
        whole=base,
        shared=base,
        transposed=base.t(),
        part=base[1:3, 2:5],
        steps=base[::2, ::3],
        expanded=base[0, :3].expand(4, 3),
        row=base[3],
        parameter=torch.nn.Parameter(half),
        f16=half.half().t(),
        bf16=half.bfloat16()[:, 1:],
        f64=half.double(),
        i64=torch.tensor([[3, -4], [5, 2**40]]),
        u8=torch.tensor([1, 255], dtype=torch.uint8),
        flags=torch.tensor([True, False]),
        number=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
    )
    OUT.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, OUT / "views.bin")
    golden = {
        name: {"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape), "values": t.detach().double().flatten().tolist()}
        for name, t in tensors.items()
    }
    (OUT / "views.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
