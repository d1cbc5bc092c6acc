#!/usr/bin/env python3
"""Checkpoints of crates/sgm-models/tests/golden as GGUF files, in crates/sgm-models/tests/gguf/<name>/.

    python tools/golden/gguf_converted.py              all of them
    python tools/golden/gguf_converted.py --verify     compare with transformers' reader of GGUF files and with llama.cpp

Names are those of gguf-py's tensor maps; metadata and changes of tensors are those of llama.cpp's converter. Weights keep
the type of the checkpoint, so the golden values of the checkpoint (transformers) are those of the files too.
`--verify` needs llama-cpp-python, which is not in requirements.txt.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers as hf
from gguf import GGMLQuantizationType as Q
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gguf_files

GOLDEN = Path(__file__).resolve().parents[2] / "crates/sgm-models/tests/golden"
OUT = GOLDEN.with_name("gguf")
FILE, MMPROJ = "model.gguf", "mmproj.gguf"
TYPES = {torch.float32: Q.F32, torch.float16: Q.F16, torch.bfloat16: Q.BF16}


class Source:
    """A checkpoint in the Hugging Face layout."""

    def __init__(self, name):
        self.path = GOLDEN / name
        self.tensors = {}
        for shard in sorted(self.path.glob("model*.safetensors")):
            self.tensors |= load_file(shard)
        self.config = self.json("config.json")
        self.text = hf.AutoConfig.from_pretrained(self.path).get_text_config()
        self.tokenizer = hf.AutoTokenizer.from_pretrained(self.path)
        template = self.path / "chat_template.json"
        if template.exists():
            self.tokenizer.chat_template = json.loads(template.read_text())["chat_template"]

    def json(self, name):
        return json.loads((self.path / name).read_text())


def add(writer, name, tensor, plus_one=False):
    """Vectors become f32, other tensors keep their type."""
    kind = TYPES[tensor.dtype] if tensor.ndim > 1 else Q.F32
    values = np.ascontiguousarray(tensor.float().numpy()) + (np.float32(1) if plus_one else np.float32(0))
    packed, unpacked = (values, values) if kind == Q.F32 else (gguf.quantize(values, kind), None)
    assert unpacked is not None or np.array_equal(gguf.dequantize(packed, kind), values), name
    writer.add_tensor(name, packed, raw_dtype=kind)


def text_name(name):
    """The name in a text model, or None for a tensor of the tower."""
    if name.startswith("model.text_model."):
        return "model." + name.removeprefix("model.text_model.")
    return None if name.startswith(("visual.", "model.vision_model.", "model.connector.")) else name


def heads_of(config, name):
    return config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads


def write_text(source, arch, path, describe, permute=False, plus_one=False, **writer_options):
    """The language model of a checkpoint as an architecture of llama.cpp."""
    config = source.text
    writer = gguf.GGUFWriter(None, arch, **writer_options)
    gguf_files.add_text_metadata(writer, config, arch)
    describe(writer)
    number = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for name, tensor in source.tensors.items():
        if (plain := text_name(name)) is None:
            continue
        if permute and (".q_proj." in name or ".k_proj." in name):
            heads = heads_of(config, name)
            shape = tensor.shape
            tensor = tensor.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).transpose(1, 2).reshape(shape).contiguous()
        found = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        assert found, plain
        add(writer, found, tensor, plus_one and plain.endswith("norm.weight"))
    gguf_files.write_file(path, writer)


def write_mmproj(source, path, vision, projector, describe, tensors):
    """The tower of a checkpoint; `tensors` gives names in the Hugging Face layout, or final ones, and values."""
    writer = gguf.GGUFWriter(None, "clip")
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(projector)
    writer.add_vision_projection_dim(source.text.hidden_size)
    for key in ("image_size", "patch_size", "embedding_length", "feed_forward_length", "block_count", "head_count"):
        getattr(writer, f"add_vision_{key}")(vision[key])
    preprocessor = source.json("preprocessor_config.json")
    writer.add_vision_image_mean(preprocessor["image_mean"])
    writer.add_vision_image_std(preprocessor["image_std"])
    describe(writer, preprocessor)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 128)
    for name, tensor in tensors:
        found = name if name.startswith("v.") else names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found, name
        add(writer, found, tensor)
    gguf_files.write_file(path, writer)


# ---------------------------------------------------------------- language models


def qwen3(out):
    source = Source("text_qwen3")

    def describe(writer):
        writer.add_rope_freq_base(source.text.rope_parameters["rope_theta"])
        writer.add_key_length(source.text.head_dim)
        writer.add_value_length(source.text.head_dim)
        gguf_files.add_tokenizer(writer, source.tokenizer, "gpt2", "qwen2", False)

    write_text(source, "qwen3", out / FILE, describe)


def gemma2(out):
    source = Source("text_gemma2")

    def describe(writer):
        writer.add_key_length(source.text.head_dim)
        writer.add_value_length(source.text.head_dim)
        writer.add_attn_logit_softcapping(source.text.attn_logit_softcapping)
        writer.add_final_logit_softcapping(source.text.final_logit_softcapping)
        writer.add_sliding_window(source.text.sliding_window)
        tokenizer = source.tokenizer
        gguf_files.add_tokenizer(
            writer, tokenizer, "llama", "default", True, eot=tokenizer.convert_tokens_to_ids("<end_of_turn>")
        )
        writer.add_add_space_prefix(False)

    write_text(source, "gemma2", out / FILE, describe, plus_one=True)
    ids, logits = changed("text_gemma2")
    # The last positions: beyond the sliding window.
    save_file({"input_ids": ids, "logits": logits[:, -6:].contiguous()}, out / "logits.safetensors")


def phi3_longrope(out):
    """In three parts, of which the first has no tensors."""
    source = Source("text_phi3_longrope")
    config = source.text
    rope = config.rope_parameters
    context = config.original_max_position_embeddings
    stretch = config.max_position_embeddings / context

    def describe(writer):
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_dimension_count(int(rope["partial_rotary_factor"] * config.hidden_size) // config.num_attention_heads)
        writer.add_rope_scaling_orig_ctx_len(context)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(stretch) / np.log(context))))
        writer.add_sliding_window(0)
        for length in ("long", "short"):
            factors = np.array(rope[f"{length}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", factors)
        # Its split is that of Llama 3, with merges of whole pieces too.
        gguf_files.add_tokenizer(writer, source.tokenizer, "gpt2", "dbrx", False)

    write_text(source, "phi3", out / FILE, describe, split_max_tensors=9, small_first_shard=True)


# ---------------------------------------------------------------- multimodal models


def qwen_vl(out, name, projector, describe_tower, vision):
    source = Source(name)

    def describe(writer):
        writer.add_rope_freq_base(source.text.rope_parameters["rope_theta"])
        writer.add_rope_dimension_sections([*source.text.rope_parameters["mrope_section"], 0])
        gguf_files.add_tokenizer(writer, source.tokenizer, "gpt2", "default", False)

    write_text(source, "qwen2vl", out / FILE, describe)

    def tensors():
        for name, tensor in source.tensors.items():
            if not name.startswith("visual."):
                continue
            if ".qkv." in name:
                for part, rows in zip("qkv", tensor.chunk(3)):
                    yield name.replace("qkv", part), rows
            elif name == "visual.patch_embed.proj.weight":
                yield "v.patch_embd.weight", tensor[:, :, 0].contiguous()
                yield "v.patch_embd.weight.1", tensor[:, :, 1].contiguous()
            else:
                yield name, tensor

    def tower(writer, preprocessor):
        writer.add_vision_attention_layernorm_eps(source.config["rms_norm_eps"])
        writer.add_vision_min_pixels(preprocessor["min_pixels"])
        writer.add_vision_max_pixels(preprocessor["max_pixels"])
        describe_tower(writer, source.config["vision_config"])

    write_mmproj(source, out / MMPROJ, vision(source.config["vision_config"]), projector, tower, tensors())


def qwen_tower(config, hidden, intermediate):
    return {
        "image_size": 560,
        "patch_size": config["patch_size"],
        "embedding_length": config[hidden],
        "feed_forward_length": config[intermediate],
        "block_count": config["depth"],
        "head_count": config["num_heads"],
    }


def qwen2_vl(out):
    # The converter writes the width of the language model into feed_forward_length.
    vision = lambda config: qwen_tower(config, "embed_dim", "hidden_size")
    qwen_vl(out, "qwen2_vl_hub", gguf.VisionProjectorType.QWEN2VL, lambda *_: None, vision)


def qwen2_5_vl(out):
    def tower(writer, config):
        writer.add_vision_use_silu(True)
        writer.add_vision_n_wa_pattern(config["fullatt_block_indexes"][0] + 1)
        writer.add_vision_window_size(config["window_size"])

    vision = lambda config: qwen_tower(config, "hidden_size", "intermediate_size")
    qwen_vl(out, "qwen2_5_vl_hub", gguf.VisionProjectorType.QWEN25VL, tower, vision)


def smolvlm(out):
    source = Source("smolvlm_hub")

    def describe(writer):
        writer.add_rope_freq_base(source.text.rope_parameters["rope_theta"])
        writer.add_vocab_size(source.text.vocab_size)
        writer.add_rope_dimension_count(source.text.hidden_size // source.text.num_attention_heads)
        gguf_files.add_tokenizer(writer, source.tokenizer, "gpt2", "default", False)

    write_text(source, "llama", out / FILE, describe, permute=True)
    config = source.config["vision_config"]
    vision = {
        "image_size": config["image_size"],
        "patch_size": config["patch_size"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "head_count": config["num_attention_heads"],
    }

    def tower(writer, preprocessor):
        # The default of the class in transformers; llama.cpp's converter would write 1e-5.
        writer.add_vision_attention_layernorm_eps(1e-6)
        writer.add_vision_projector_scale_factor(source.config["scale_factor"])
        writer.add_vision_use_gelu(True)
        writer.add_vision_preproc_image_size(preprocessor["size"]["longest_edge"])

    towers = ("model.vision_model.", "model.connector.")
    tensors = [(name, tensor) for name, tensor in source.tensors.items() if name.startswith(towers)]
    write_mmproj(source, out / MMPROJ, vision, gguf.VisionProjectorType.IDEFICS3, tower, tensors)


BUILDERS = {
    "text_qwen3": qwen3,
    "text_gemma2": gemma2,
    "text_phi3_longrope": phi3_longrope,
    "qwen2_vl_hub": qwen2_vl,
    "qwen2_5_vl_hub": qwen2_5_vl,
    "smolvlm_hub": smolvlm,
}


# ---------------------------------------------------------------- verification


def difference(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def without_vocabulary(paths, out, leave_out):
    """A copy in one file for llama.cpp: without the tiny vocabulary, which lacks what it looks for, and some tensors."""
    readers = [gguf.GGUFReader(path) for path in paths]
    arch = readers[0].fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(None, arch)
    for key, field in readers[0].fields.items():
        if not key.startswith(("GGUF.", "tokenizer.", "split.")) and key != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    writer.add_string("tokenizer.ggml.model", "none")
    for tensor in (t for reader in readers for t in reader.tensors):
        if tensor.name == "token_embd.weight" and f"{arch}.vocab_size" not in readers[0].fields:
            writer.add_uint32(f"{arch}.vocab_size", int(tensor.shape[1]))
        if leave_out not in tensor.name:
            # In f32, because llama.cpp rounds inputs to the type of the weights.
            values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in reversed(tensor.shape)])
            writer.add_tensor(tensor.name, np.ascontiguousarray(values, np.float32))
    gguf_files.write_file(out, writer)


def llama_cpp_logits(path, ids):
    import llama_cpp

    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    assert model, path
    params = llama_cpp.llama_context_default_params()
    # The rotation of Phi-3 is chosen by the size of the context.
    params.n_ctx = params.n_batch = params.n_ubatch = len(ids)
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, True
    assert llama_cpp.llama_decode(context, batch) == 0
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    return np.stack([np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (size,)).copy() for i in range(len(ids))])


def changed(name):
    """Logits of the text case where the file is not quite the checkpoint, with the token ids."""
    model = hf.AutoModelForCausalLM.from_pretrained(
        GOLDEN / name,
        dtype=torch.float32,
        attn_implementation="eager",
        # No file has this scale; readers take head_dim.
        **({"query_pre_attn_scalar": 12} if name == "text_gemma2" else {}),
    ).eval()
    with safe_open(GOLDEN / name / "golden.safetensors", "pt") as golden, torch.no_grad():
        ids = golden.get_tensor("text.input_ids")
        if name == "text_qwen3":
            # llama.cpp has no biases of attention's output for qwen3.
            for layer in model.model.layers:
                layer.self_attn.o_proj.bias.zero_()
        return ids, model(ids).logits


def verify(name):
    """Differences of logits, relative to the largest: of transformers' reader of GGUF files, and of llama.cpp, from the
    golden ones of a case without images."""
    paths = sorted((OUT / name).glob("model*.gguf"))
    report = {}
    with safe_open(GOLDEN / name / "golden.safetensors", "np") as golden:
        # Long enough for the long factors, which llama.cpp takes because of the size of its context.
        case = "single" if name == "text_phi3_longrope" else "text"
        ids, logits = golden.get_tensor(f"{case}.input_ids")[0], golden.get_tensor(f"{case}.logits")[0]
    if name == "text_gemma2":
        logits = changed(name)[1][0].numpy()
    try:
        auto = hf.AutoModelForCausalLM.from_pretrained(
            paths[0].parent, gguf_file=paths[0].name, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            report["transformers"] = difference(auto(torch.from_numpy(ids)[None]).logits[0].numpy(), logits)
    except Exception as error:  # it reads fewer architectures, and no split files
        report["transformers"] = f"{type(error).__name__}: {str(error)[:90]}"
    leave_out = "attn_output.bias" if name == "text_qwen3" else "\0"
    if name == "text_qwen3":
        logits = changed(name)[1][0].numpy()
    with tempfile.TemporaryDirectory() as place:
        without_vocabulary(paths, Path(place) / FILE, leave_out)
        theirs = llama_cpp_logits(Path(place) / FILE, ids.tolist())
    report["llama.cpp"] = difference(theirs, logits)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BUILDERS, []])
    parser.add_argument("--verify", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names or BUILDERS:
        if arguments.verify:
            print(name, verify(name))
            continue
        out = OUT / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        BUILDERS[name](out)
        print(name, {path.name: path.stat().st_size for path in sorted(out.iterdir())})


if __name__ == "__main__":
    main()
