"""Goldens of sgm-bake: weight files before and after an intervention is folded into them.

    python bake.py ../../crates/sgm-bake/tests/golden

The expectation is computed here by NumPy and torch, and held against gguf-py's dequantisation before it is written: a
baked row must be the scale times the original row, within the rounding of the numbers that scale its blocks.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from gguf import quants
from safetensors.torch import save_file as save_torch

SCALES = np.array([0, 0.5, 0.1, 0.73, 1, 0.02] * 2, np.float32)
ROWS = len(SCALES)

# Byte offsets within a block of the numbers that its values are proportional to.
HALF = np.dtype("<f2")
NUMBERS = {
    Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0],
    Q.Q2_K: [80, 82], Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208],
    Q.IQ4_NL: [0], Q.IQ4_XS: [0],
}  # fmt: skip
TYPES = [*NUMBERS, Q.Q8_K, Q.F16, Q.BF16, Q.F32]


def blocks_of(kind, rng):
    """Rows of blocks u8 [ROWS, blocks, bytes]: quantised normal weights where gguf-py can, otherwise any integers with scales of that size."""
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    values = max(per_block, 64)
    # Weights of a large model are this small, and some rows smaller.
    weights = (rng.standard_normal((ROWS, values)) * 0.02 * 2.0 ** -(np.arange(ROWS) % 4)[:, None]).astype(np.float32)
    if kind == Q.F32:
        raw = weights
    elif kind == Q.F16:
        raw = weights.astype(np.float16)
    elif kind == Q.Q8_K or kind not in (Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.BF16):
        blocks = rng.integers(0, 256, (ROWS, values // per_block, size), dtype=np.uint8)
        spread = {Q.Q2_K: 6e-4, Q.Q3_K: 3e-5, Q.Q4_K: 6e-5, Q.Q5_K: 3e-5, Q.Q6_K: 2e-5, Q.IQ4_NL: 3e-4, Q.IQ4_XS: 2e-5, Q.Q8_K: 4e-4}[kind]
        # Large weights in the second half: their numbers stay normal at 0.5.
        size_of_row = spread * np.where(np.arange(ROWS) < ROWS // 2, 1, 64)[:, None]
        draw = lambda: (size_of_row * np.exp(rng.standard_normal(blocks.shape[:2]) / 2)).astype("<f4")  # noqa: E731
        for at in NUMBERS.get(kind, []):
            blocks[:, :, at : at + 2] = draw().astype(HALF)[:, :, None].view(np.uint8)
        if kind == Q.Q8_K:
            blocks[:, :, :4] = draw()[:, :, None].view(np.uint8)
        return blocks
    else:
        raw = quants.quantize(weights, kind)
    return np.ascontiguousarray(raw).view(np.uint8).reshape(ROWS, -1, size)


def read_numbers(blocks, kind):
    """The numbers of each block, f32 [ROWS, blocks, numbers]."""
    if kind in (Q.F32, Q.Q8_K):
        return np.ascontiguousarray(blocks[:, :, :4]).view("<f4")
    if kind == Q.F16:
        return np.ascontiguousarray(blocks).view(HALF).astype(np.float32)
    if kind == Q.BF16:
        return (np.ascontiguousarray(blocks).view("<u2").astype(np.uint32) << 16).view(np.float32)
    return np.concatenate([np.ascontiguousarray(blocks[:, :, a : a + 2]).view(HALF).astype(np.float32) for a in NUMBERS[kind]], axis=2)


def write_numbers(blocks, kind, numbers):
    blocks = blocks.copy()
    numbers = np.ascontiguousarray(numbers, dtype=np.float32)
    if kind in (Q.F32, Q.Q8_K):
        blocks[:, :, :4] = numbers.view(np.uint8)
    elif kind == Q.F16:
        blocks[:] = numbers.astype(HALF).view(np.uint8)
    elif kind == Q.BF16:
        blocks[:] = torch.from_numpy(numbers).to(torch.bfloat16).view(torch.uint8).numpy()
    else:
        for at, number in zip(NUMBERS[kind], np.moveaxis(numbers, 2, 0), strict=True):
            blocks[:, :, at : at + 2] = np.ascontiguousarray(number.astype(HALF))[:, :, None].view(np.uint8)
    return blocks


def dequantize(blocks, kind):
    if kind == Q.Q8_K:  # which gguf-py does not know: d, 256 signed bytes, sums
        return read_numbers(blocks, kind) * blocks[:, :, 4:260].view(np.int8).astype(np.float32)
    return quants.dequantize(blocks.reshape(ROWS, -1), kind).reshape(ROWS, blocks.shape[1], -1)


def half_step(numbers, kind):
    """Half the distance to the next number of the type."""
    if kind in (Q.F32, Q.Q8_K):
        return np.spacing(np.abs(numbers)) / 2
    if kind == Q.BF16:
        return np.spacing(np.abs(numbers)) * 2.0**15
    return np.spacing(np.abs(numbers).astype(HALF)).astype(np.float64) / 2


def baked(blocks, kind):
    """The blocks with row r times SCALES[r], held against the dequantised rows."""
    scales = SCALES[:, None, None]
    numbers = read_numbers(blocks, kind)
    result = write_numbers(blocks, kind, numbers * scales)
    result[SCALES == 1] = blocks[SCALES == 1]

    before, after = dequantize(blocks, kind).astype(np.float64), dequantize(result, kind).astype(np.float64)
    wanted = before * scales
    # What a value is per unit of each number.
    bound = 1e-6 * np.abs(wanted)
    for i in range(numbers.shape[2]):
        unit = np.zeros_like(numbers)
        unit[:, :, i] = 1
        bound += np.abs(dequantize(write_numbers(blocks, kind, unit), kind)) * half_step(numbers * scales, kind)[:, :, i : i + 1]
        bound += 1e-6 * np.abs(dequantize(write_numbers(blocks, kind, unit), kind) * (numbers * scales)[:, :, i : i + 1])
    difference = np.abs(after - wanted)
    assert (difference <= bound).all(), (kind, (difference / np.maximum(bound, 1e-300)).max())
    exact = np.isin(SCALES, [0, 1])
    assert (difference[exact] == 0).all(), kind
    smallest = {Q.F32: 2.0**-126, Q.Q8_K: 2.0**-126, Q.BF16: 2.0**-126}.get(kind, 2.0**-14)
    normal = (np.abs(numbers).min(axis=2) >= 2 * smallest) & (SCALES == 0.5)[:, None]
    assert (difference[normal] == 0).all(), kind
    for scale in np.unique(SCALES):
        rows = SCALES == scale
        rms = np.sqrt(np.mean(difference[rows] ** 2) / max(np.mean(wanted[rows] ** 2), 1e-300))
        print(f"{kind.name:8} scale {scale:4.2f}: relative rms error {rms:.1e}, exact blocks at 0.5: {int(normal.sum()) if scale == 0.5 else '-'}")
    return result


def write_gguf(path, tensors):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "every type that can be scaled")
    writer.add_array("tokenizer.ggml.tokens", ["<unk>", "a", ""])
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array.reshape(ROWS, -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_intervention(path, tensors):
    """A safetensors file; the library's own writer orders the metadata differently every time."""
    header, data = {"__metadata__": {"format": "sgm-intervention", "format_version": "1"}}, b""
    for name, values in sorted(tensors.items()):
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + values.nbytes]}
        data += np.asarray(values, "<f4").tobytes()
    header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def quantised(out):
    rng = np.random.default_rng(11)
    before, after, intervention = {}, {}, {}
    for layer, kind in enumerate(TYPES):
        blocks = blocks_of(kind, rng)
        name = f"blk.{layer}.ffn_up.weight"
        before[name], after[name] = (blocks, kind), (baked(blocks, kind), kind)
        intervention[f"lm.layers.{layer}.mlp.up_proj/scale"] = SCALES
    write_gguf(out / "types.gguf", before)
    write_gguf(out / "types_baked.gguf", after)
    save_intervention(out / "types.sgm.safetensors", intervention)


def floats(out):
    torch.manual_seed(11)
    scale = torch.from_numpy(SCALES)
    before, after, intervention = {}, {}, {}
    for layer, dtype in enumerate([torch.float32, torch.float16, torch.bfloat16]):
        for projection, sites, bias in [("down_proj", ["down_proj"], True), ("gate_up_proj", ["gate_proj", "up_proj"], False)]:
            module = f"language_model.model.layers.{layer}.mlp.{projection}"
            rows = torch.cat([scale] * len(sites))
            weight = (torch.randn(len(rows), 16) * 0.02).to(dtype)
            # Some that become subnormal, and a zero with a sign.
            weight[:, 0], weight[:, 1] = 7e-5, -0.0
            before[f"{module}.weight"], after[f"{module}.weight"] = weight, (weight.float() * rows[:, None]).to(dtype)
            for site in sites:
                intervention[f"lm.layers.{layer}.mlp.{site}/scale"] = SCALES
            if bias:
                values = torch.randn(ROWS).to(dtype)
                shift = torch.where(torch.arange(ROWS) % 3 == 0, torch.randn(ROWS), torch.zeros(ROWS))
                before[f"{module}.bias"] = values
                after[f"{module}.bias"] = torch.where(shift == 0, values.float() * scale, values.float() * scale + shift).to(dtype)
                intervention[f"lm.layers.{layer}.mlp.{projection}/shift"] = shift.numpy()
        for other in [f"language_model.model.layers.{layer}.self_attn.o_proj.weight", f"vision_tower.layers.{layer}.mlp.down_proj.weight"]:
            before[other] = after[other] = torch.randn(3, 4).to(dtype)
    save_torch(before, out / "floats.safetensors", {"format": "pt"})
    save_torch(after, out / "floats_baked.safetensors", {"format": "pt"})
    save_intervention(out / "floats.sgm.safetensors", intervention)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    quantised(out)
    floats(out)
