"""Synthetic responses in safetensors files, written without the safetensors package, which has no bf16 in numpy."""

import json
import struct

import numpy as np


def to_bf16(x):
    """Rounds f32 to the nearest bf16, ties to even; the bits as u16."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write(path, shapes, tensors):
    """Writes tensors one after the other; `shapes` is {name: (dtype, shape, bytes)}, `tensors` gives arrays in that order."""
    header, offset = {}, 0
    for name, (dtype, shape, size) in shapes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors:
            array.tofile(file)
        assert file.tell() == 8 + len(text) + offset


def responses(rng, labels, neurons):
    """Normal responses whose class means differ a little, by another amount in each neuron; f32 [samples, neurons]."""
    x = rng.standard_normal((len(labels), neurons), dtype=np.float32)
    x += labels[:, None] * rng.normal(0, 0.2, neurons).astype(np.float32)
    return x * rng.uniform(0.1, 2, neurons).astype(np.float32)
