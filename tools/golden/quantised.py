"""Weights in 8-bit floats with scales: of blocks as DeepSeek has them, of rows and of matrices as compressed-tensors has them.

The reference is torch: `float8_e4m3fn` widened to f32, times the scale of its block, run by transformers in f32.
"""

import json

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

import text
from llava import write_json, write_saved

LARGEST = torch.finfo(torch.float8_e4m3fn).max
CASES = {"single": ["a"], "batch_left": ["b", "c"]}


def spread(scales, rows, columns, block):
    """The scale of every value of a matrix; the last blocks are cut off at the edges."""
    return scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:rows, :columns]


class Layout:
    """How a model's linear layers are stored."""

    def __init__(self, block, suffix, dtype, config, skipped=()):
        self.block, self.suffix, self.dtype, self.config, self.skipped = block, suffix, dtype, config, skipped
        self.packed = {}  # name -> (8-bit floats, scales) of the weights stored last

    def block_of(self, name, rows, columns):
        block = self.block(name)
        return [block[0] or rows, block[1] or columns]

    def stored(self, name, parameter):
        module = name.removesuffix(".weight")
        if "_proj.weight" not in name or module in self.skipped:
            return parameter.to(torch.bfloat16).float()
        rows, columns = parameter.shape
        block = self.block_of(name, rows, columns)
        grid = [-(-rows // block[0]), -(-columns // block[1])]
        padded = torch.zeros(grid[0] * block[0], grid[1] * block[1])
        padded[:rows, :columns] = parameter.abs()
        largest = padded.reshape(grid[0], block[0], grid[1], block[1]).amax((1, 3))
        scales = (largest / LARGEST).to(self.dtype)
        wide = spread(scales.float(), rows, columns, block)
        packed = (parameter / wide).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
        self.packed[name] = packed, scales if scales.numel() > 1 else scales.reshape(())
        values = packed.float() * wide
        if rows % grid[0] == 0 and columns % grid[1] == 0 and block == [rows // grid[0], columns // grid[1]]:
            assert torch.equal(Fp8Dequantize(None)._dequantize_one(packed, scales, torch.float32), values), name
        return values

    def write(self, fixture, model, directory):
        write_saved(fixture, model, directory)
        path = directory / "model.safetensors"
        tensors = load_file(path)
        for name, (packed, scales) in self.packed.items():
            tensors[name] = packed
            tensors[name + self.suffix] = scales
            if self.skipped:
                tensors[name.removesuffix("weight") + "input_scale"] = torch.tensor(0.125)
        save_file(tensors, path, metadata={"format": "pt"})
        config = json.loads((directory / "config.json").read_text())
        write_json(directory / "config.json", config | {"quantization_config": self.config})

    def load(self, fixture, directory):
        """Reads the files back without this class's memory of them."""
        tensors = load_file(directory / "model.safetensors")
        model = fixture.model_class._from_config(fixture.config, attn_implementation="eager").float().eval()
        for name, parameter in model.named_parameters():
            value = tensors.pop(name)
            scales = tensors.pop(name + self.suffix, None)
            value = value.float()
            if scales is not None:
                rows, columns = value.shape
                grid = scales.float().reshape((scales.numel(), 1) if scales.dim() < 2 else scales.shape)
                value = value * spread(grid, rows, columns, self.block_of(name, rows, columns))
            parameter.data.copy_(value)
        left = [name for name in tensors if not name.endswith("input_scale")]
        return model, {"missing_keys": [], "unexpected_keys": left, "mismatched_keys": [], "error_msgs": []}


def fixture(layout, note):
    tokenizer = text.qwen_tokenizer(text.QWEN3, ["boat"], ["<think>", "</think>"])
    config = hf.Qwen3Config(
        **text.shape(tokenizer, head_dim=16, intermediate_size=40),
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True,
    )
    return text.text_fixture(
        tokenizer,
        note=note,
        model_class=hf.Qwen3ForCausalLM,
        config=config,
        cases=CASES,
        stored=layout.stored,
        write=layout.write,
        load=layout.load,
        disk_dtype=torch.bfloat16,
        logit_gain=2.0,
        residual_gain=6.0,
        min_distinct=4,
        ablations={"rope_theta": text.rope(rope_theta=10000.0)},
    )


def block():
    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 24]}
    layout = Layout(lambda name: [16, 24], "_scale_inv", torch.float32, config)
    return fixture(layout, "Qwen 3 in 8-bit floats, scales of blocks of 16 x 24 that the edges cut off, as DeepSeek stores them.")


def rows():
    """Layer 0 with a scale for each row, layer 1 with one for each matrix."""
    skipped = ("model.layers.1.self_attn.k_proj", "model.layers.0.mlp.down_proj")
    weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
    config = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head", *skipped],
        "config_groups": {
            "group_0": {"targets": ["re:.*layers.0.*"], "weights": weights},
            "group_1": {"targets": ["re:.*layers.1.*"], "weights": weights | {"strategy": "tensor"}},
        },
    }
    layout = Layout(lambda name: [1, None] if ".layers.0." in name else [None, None], "_scale", torch.bfloat16, config, skipped)
    note = (
        "Qwen 3 in 8-bit floats as compressed-tensors stores them: bf16 scales, one for each row of layer 0 and for each matrix of "
        "layer 1; two layers left out, scales of inputs beside."
    )
    return fixture(layout, note)
