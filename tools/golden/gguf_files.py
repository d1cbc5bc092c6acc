"""GGUF files as llama.cpp's converters write them, with the values of the HF models that hold their dequantised weights."""

import json

import gguf
import numpy as np
import torch
import transformers as hf
from gguf import GGMLQuantizationType as Q
from tokenizers import Tokenizer
from transformers.tokenization_utils_base import generate_merges

import llava
import text

# ---------------------------------------------------------------- names

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Gemma 2 and 3 have norms on both sides of each block.
SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
VISION_LAYER = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_down",  # the converter for LLaVA-1.5 has these two the wrong way round
    "mlp.fc2": "ffn_up",
}
VISION = {
    "embeddings.class_embedding": "v.class_embd",
    "embeddings.patch_embedding.weight": "v.patch_embd.weight",
    "embeddings.position_embedding.weight": "v.position_embd.weight",
    "pre_layrnorm.weight": "v.pre_ln.weight",
    "pre_layrnorm.bias": "v.pre_ln.bias",
}
TOP = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}


def text_name(name, layer_names):
    """Name in the GGUF of a parameter of the decoder (without `model.`)."""
    if name in TOP:
        return TOP[name]
    _, layer, rest = name.split(".", 2)
    module, leaf = rest.rsplit(".", 1)
    return f"blk.{layer}.{layer_names[module]}.{leaf}"


def vision_name(name, layers):
    """Name of a parameter of the vision tower, or None for what the features do not need."""
    if name in VISION:
        return VISION[name]
    if not name.startswith("encoder.layers."):
        return None
    layer, rest = name.removeprefix("encoder.layers.").split(".", 1)
    module, leaf = rest.rsplit(".", 1)
    return f"v.blk.{layer}.{VISION_LAYER[module]}.{leaf}" if int(layer) < layers else None


def permuted(rows, heads):
    """Halves of each head interleaved, as llama.cpp rotates them for the architecture "llama"."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def unpermuted(rows, heads):
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


# ---------------------------------------------------------------- quantisation


def pack(values, kind):
    """The bytes of a tensor (f32 values) as type `kind`, and the values those bytes stand for."""
    if kind == Q.F32:
        return values, values
    if kind == Q.F16:
        return values.astype(np.float16), values.astype(np.float16).astype(np.float32)
    packed = {Q.Q4_K: pack_q4_k, Q.Q6_K: pack_q6_k}.get(kind, lambda v: gguf.quantize(v, kind))(values)
    return packed, gguf.dequantize(packed, kind)


# gguf-py reads K-quants but does not write them.


def half(x):
    return x.astype(np.float16)


def pack_q4_k(values):
    """Super-blocks of eight sub-blocks of 32, each with a 6-bit scale and minimum; plain rounding to the range."""
    rows = values.shape[0]
    x = values.reshape(-1, 8, 32).astype(np.float64)
    low = np.minimum(x.min(-1), 0)
    d = half((x.max(-1) - low).max(-1) / 15 / 63)
    dmin = half((-low).max(-1) / 63)
    scale = np.clip(np.ceil((x.max(-1) - low) / 15 / d[:, None]), 1, 63).astype(np.uint8)
    least = np.clip(np.round(-low / dmin[:, None]), 0, 63).astype(np.uint8)
    step = d.astype(np.float64)[:, None] * scale
    q = np.clip(np.round((x + (dmin.astype(np.float64)[:, None] * least)[..., None]) / step[..., None]), 0, 15)
    q = q.astype(np.uint8)
    first = np.concatenate(
        [scale[:, :4] | (scale[:, 4:] >> 4 << 6), least[:, :4] | (least[:, 4:] >> 4 << 6)], -1
    )
    scales = np.concatenate([first, (scale[:, 4:] & 15) | (least[:, 4:] << 4)], -1)
    nibbles = q[:, 0::2] | (q[:, 1::2] << 4)
    blocks = [d.view(np.uint8).reshape(-1, 2), dmin.view(np.uint8).reshape(-1, 2), scales, nibbles.reshape(-1, 128)]
    return np.concatenate(blocks, -1).reshape(rows, -1)


def pack_q6_k(values):
    """Super-blocks of sixteen sub-blocks of 16, each with an 8-bit scale; plain rounding to the range."""
    rows = values.shape[0]
    x = values.reshape(-1, 16, 16).astype(np.float64)
    largest = np.abs(x).max(-1)
    d = half(largest.max(-1) / 31 / 127)
    scale = np.clip(np.ceil(largest / 31 / d[:, None]), 1, 127).astype(np.int8)
    q = np.clip(np.round(x / (d.astype(np.float64)[:, None] * scale)[..., None]), -32, 31) + 32
    q = q.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.concatenate([q[:, :, :2] & 15 | (q[:, :, 2:] & 15) << 4], 2).reshape(-1, 128)
    high = (q >> 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = np.bitwise_or.reduce(high, 2).reshape(-1, 64)
    return np.concatenate([low, high, scale.view(np.uint8), d.view(np.uint8).reshape(-1, 2)], -1).reshape(rows, -1)


class Layout:
    """Where the parameters of an HF model go in GGUF files, and in which type."""

    def __init__(self, place, kind, to_file=None, from_file=None):
        self.place = place  # parameter name -> (file, tensor name), or None where no file holds it
        self.kind = kind  # tensor name, array -> type
        self.to_file = to_file or (lambda name, values: values)
        self.from_file = from_file or (lambda name, values: values)
        self.packed = {}  # file -> {tensor name: (bytes, type)} of the weights stored last

    def stored(self, name, parameter):
        if self.place(name) is None:
            return parameter
        file, tensor = self.place(name)
        values = np.ascontiguousarray(self.to_file(name, parameter.numpy().copy()))
        kind = self.kind(tensor, values)
        packed, unpacked = pack(values, kind)
        assert np.abs(unpacked - values).max() < 0.3 * np.abs(values).max(), tensor
        self.packed.setdefault(file, {})[tensor] = packed, kind
        return torch.from_numpy(np.ascontiguousarray(self.from_file(name, unpacked)))

    def add_tensors(self, writer, file):
        for name, (packed, kind) in self.packed[file].items():
            writer.add_tensor(name, packed, raw_dtype=None if kind in (Q.F32, Q.F16) else kind)

    def load(self, fixture, directory):
        """The HF model, filled with the dequantised tensors of the files."""
        model = fixture.model_class._from_config(fixture.config, attn_implementation="eager").float().eval()
        tensors = {}
        for path in sorted(directory.glob("*.gguf")):
            for t in gguf.GGUFReader(path).tensors:
                values = gguf.dequantize(t.data, t.tensor_type)
                tensors[path.name, t.name] = values.reshape([int(n) for n in reversed(t.shape)])
        extra = {name for name in tensors if name[1] != "rope_freqs.weight"}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if (place := self.place(name)) is not None:
                    values = np.array(self.from_file(name, tensors[place]))
                    parameter.copy_(torch.from_numpy(values))
                    extra.discard(place)
                else:
                    parameter.zero_()
        return model, {"unexpected": [f"{file} {name}" for file, name in extra]}


def write_file(path, writer):
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---------------------------------------------------------------- metadata

FILE = "model.gguf"
MMPROJ = "mmproj.gguf"


def add_text_metadata(writer, config, arch):
    writer.add_type("model")
    writer.add_name(f"Tiny {arch}")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def add_tokenizer(writer, tokenizer, kind, pre, bos, **more):
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {t["id"]: t["special"] for t in state["added_tokens"]}
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    types = [gguf.TokenType.NORMAL] * len(names)
    for i, name in enumerate(names):
        if name == tokenizer.unk_token:
            types[i] = gguf.TokenType.UNKNOWN
        elif i in added:
            types[i] = gguf.TokenType.CONTROL if added[i] else gguf.TokenType.USER_DEFINED
        elif kind == "llama" and name.startswith("<0x"):
            types[i] = gguf.TokenType.BYTE
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(names)
    if kind == "llama":
        writer.add_token_scores(token_scores(state, added))
    writer.add_token_types(types)
    if kind == "gpt2":
        writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id} | more
    for name, value in ids.items():
        if value is not None:
            getattr(writer, f"add_{name}_token_id")(value)
    writer.add_add_bos_token(bos)
    if kind == "llama":
        writer.add_unk_token_id(tokenizer.unk_token_id)
        writer.add_add_eos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def token_scores(state, added):
    """As in a SentencePiece BPE model: nought for special and byte tokens, then one less for each token; -1000 for
    tokens added later."""
    plain = lambda token, i: i not in added and not token.startswith("<0x")
    vocab = state["model"]["vocab"]
    scores = [-float(i) if plain(token, i) else 0.0 for token, i in sorted(vocab.items(), key=lambda x: x[1])]
    return scores + [-1000.0] * sum(i >= len(vocab) for i in added)


def with_all_merges(tokenizer):
    """Merges for every way to split a token, best score first: what a reader can recover from tokens and scores."""
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    vocab, added = state["model"]["vocab"], {t["id"] for t in state["added_tokens"]}
    scores = dict(zip(sorted(vocab, key=vocab.get), token_scores(state, added)))
    usable = {t: i for t, i in vocab.items() if i not in added and not t.startswith("<0x")}
    state["model"]["merges"] = [list(m) for m in generate_merges(usable, {t: scores[t] for t in usable})]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer


def load_and_compare(layout, arch_prefix, same_logits):
    """`load`, and a report on whether HF's own reader of GGUF files finds the same weights (and logits)."""

    def load(fixture, directory):
        model, report = layout.load(fixture, directory)
        auto = hf.AutoModelForCausalLM.from_pretrained(
            directory, gguf_file=FILE, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        theirs = auto.state_dict()
        ours = {n.replace(*arch_prefix): p for n, p in model.state_dict().items()}
        report["auto_differs"] = [n for n in theirs if not torch.equal(theirs[n], ours[n])]
        if same_logits:
            ids = torch.arange(1, 30)[None]
            if not torch.equal(auto(ids).logits, model(ids).logits):
                report["auto_logits"] = ["differ"]
        return model, report

    return load


def reload_text(directory):
    return hf.AutoTokenizer.from_pretrained(directory, gguf_file=FILE), None


# ---------------------------------------------------------------- fixtures


def by_leaf(kinds, first_layer=None):
    """Types by the name of a tensor; those of `first_layer` for layer 0; f32 for vectors."""

    def kind(tensor, values):
        if values.ndim == 1:
            return Q.F32
        part = tensor.removesuffix(".weight").rsplit(".", 1)[-1]
        return ((first_layer or {}) if tensor.startswith("blk.0.") else {}).get(part, kinds[part])

    return kind


MIXED = {
    "token_embd": Q.Q8_0, "output": Q.Q8_0, "attn_q": Q.Q4_0, "attn_k": Q.Q8_0, "attn_v": Q.F16, "attn_output": Q.Q4_0,
    "ffn_gate": Q.Q8_0, "ffn_up": Q.Q4_0, "ffn_down": Q.F16,
}  # fmt: skip
MIXED_FIRST = {"attn_q": Q.Q8_0, "attn_k": Q.Q4_0, "attn_v": Q.F32, "attn_output": Q.F16, "ffn_up": Q.Q8_0, "ffn_down": Q.Q4_0}


def llama_permute(config, turn):
    """q and k of the architecture "llama" are stored with the halves of each head interleaved."""

    def change(name, values):
        if ".self_attn.q_proj." in name and "vision" not in name:
            return turn(values, config.num_attention_heads)
        if ".self_attn.k_proj." in name and "vision" not in name:
            return turn(values, config.num_key_value_heads)
        return values

    return change


def rope_factors(config):
    """rope_freqs.weight: what each frequency is divided by."""
    rope = config.rope_parameters
    head_dim = config.head_dim
    plain = 1.0 / (rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    scaled = hf.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config)[0]
    return (plain.double() / scaled.double()).float().numpy()


def text_place(layer_names, prefix="model."):
    def place(name):
        if name == "lm_head.weight":
            return FILE, "output.weight"
        return FILE, text_name(name.removeprefix(prefix), layer_names)

    return place


def gguf_fixture(tokenizer, layout, arch, describe, **fields):
    def write(fixture, model, directory):
        writer = gguf.GGUFWriter(None, arch)
        add_text_metadata(writer, getattr(fixture.config, "text_config", fixture.config), arch)
        describe(writer, layout)
        layout.add_tensors(writer, FILE)
        write_file(directory / FILE, writer)

    defaults = dict(write=write, stored=layout.stored, reload=reload_text, disk_dtype=torch.float32)
    return text.text_fixture(tokenizer, **defaults | fields)


def llama():
    tokenizer = text.llama3_tokenizer()
    scaling = dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
    )
    config = hf.LlamaConfig(
        **text.shape(tokenizer, intermediate_size=64),
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 500.0, **scaling},
    )
    layout = Layout(
        text_place(LAYER), by_leaf(MIXED, MIXED_FIRST), llama_permute(config, permuted), llama_permute(config, unpermuted)
    )

    def describe(writer, layout):
        writer.add_rope_freq_base(500.0)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.head_dim)
        layout.packed[FILE] = {"rope_freqs.weight": (rope_factors(config), Q.F32)} | layout.packed[FILE]
        add_tokenizer(writer, tokenizer, "gpt2", "llama-bpe", True, eot=tokenizer.convert_tokens_to_ids("<|eot_id|>"))

    return gguf_fixture(
        tokenizer,
        layout,
        "llama",
        describe,
        note="GGUF, architecture llama: q and k permuted, Llama 3 rope as rope_freqs.weight, untied; F32, F16, Q8_0 and Q4_0; "
        "tokenizer gpt2 / llama-bpe with its template.",
        model_class=hf.LlamaForCausalLM,
        config=config,
        cases={"single": ["a"], "batch_left": ["b", "c"]},
        load=load_and_compare(layout, ("", ""), same_logits=False),
        ablations={
            "rope_type": text.rope(rope_type="default"),
            "rope_theta": text.rope(rope_theta=10000.0),
        },
    )


K_QUANTS = {
    "token_embd": Q.Q6_K, "attn_q": Q.Q4_K, "attn_k": Q.Q4_K, "attn_v": Q.Q6_K, "attn_output": Q.Q4_K, "ffn_gate": Q.Q4_K,
    "ffn_up": Q.Q4_K, "ffn_down": Q.Q6_K,
}  # fmt: skip


def qwen2():
    tokenizer = text.qwen_tokenizer(text.QWEN2, ["You"])
    config = hf.Qwen2Config(
        **text.shape(tokenizer, hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_key_value_heads=1),
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True,
    )
    layout = Layout(text_place(LAYER), by_leaf(K_QUANTS))

    def describe(writer, layout):
        writer.add_rope_freq_base(1000000.0)
        add_tokenizer(writer, tokenizer, "gpt2", "qwen2", False)

    return gguf_fixture(
        tokenizer,
        layout,
        "qwen2",
        describe,
        note="GGUF, architecture qwen2: q, k and v biases, nothing permuted, tied (no output.weight); hidden 256 with Q4_K and "
        "Q6_K; tokenizer gpt2 / qwen2 with ChatML.",
        model_class=hf.Qwen2ForCausalLM,
        config=config,
        cases={"single": ["b"], "batch_left": ["b", "d"]},
        load=load_and_compare(layout, ("", ""), same_logits=True),
        logit_gain=2.0,
        residual_gain=6.0,
        min_distinct=4,
        ablations={"rope_theta": text.rope(rope_theta=10000.0)},
    )


def gemma3():
    tokenizer = with_all_merges(text.gemma_tokenizer(text.GEMMA3))
    config = hf.Gemma3TextConfig(
        **text.shape(tokenizer, num_hidden_layers=6, head_dim=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1),
        query_pre_attn_scalar=16,
        sliding_window=4,
        rms_norm_eps=1e-6,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    )
    shift = lambda by: lambda name, values: values + np.float32(by) if name.endswith("norm.weight") else values
    layout = Layout(text_place(LAYER | SANDWICH), by_leaf(MIXED, MIXED_FIRST), shift(1), shift(-1))

    def describe(writer, layout):
        writer.add_rope_freq_base(1000.0)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
        add_tokenizer(
            writer, tokenizer, "llama", "default", True, eot=tokenizer.convert_tokens_to_ids("<end_of_turn>")
        )
        writer.add_add_space_prefix(False)

    def rope(layer_type, **values):
        return lambda c: c.rope_parameters[layer_type].update(values)

    return gguf_fixture(
        tokenizer,
        layout,
        "gemma3",
        describe,
        note="GGUF, architecture gemma3: norms stored plus one, tied, layers 0 to 4 slide over 4 tokens with base 10000, layer 5 sees all "
        "with base 1000 and positions divided by 8 (rope.scaling), scale 1/sqrt(key_length); Q8_0, Q4_0, F16, F32; tokenizer llama "
        "(tokens and scores, no merges, no space in front).",
        model_class=hf.Gemma3ForCausalLM,
        config=config,
        cases={"single": ["a"], "batch_left": ["b", "c"]},
        load=load_and_compare(layout, ("", ""), same_logits=False),
        value=text.sandwich_value,
        logit_gain=0.8,
        min_distinct=4,
        ablations={
            "rope_scaling": rope("full_attention", factor=1.0),
            "global_theta": rope("full_attention", rope_theta=10000.0),
            "local_theta": rope("sliding_attention", rope_theta=1000.0),
            "query_pre_attn_scalar": text.setting("query_pre_attn_scalar", 256),
            "sliding_window": text.setting("sliding_window", 5),
            "layer_types": text.setting("layer_types", ["sliding_attention"] * 6),
        },
    )


def llava_mmproj():
    """The language model in one file; the tower up to its feature layer and the projector in the other."""
    # A space in front of every segment, as llava-hf's tokenizer.json and llama.cpp have it.
    tokenizer = with_all_merges(llava.llama_tokenizer("normalizer"))
    tower = llava.clip_tower()
    decoder = llava.llama_text(tokenizer, num_key_value_heads=2, rms_norm_eps=1e-5)
    config = llava.llava_config(tower, decoder, tokenizer)
    layers = tower.num_hidden_layers - 1
    used = text_place(LAYER, "model.language_model.")

    def place(name):
        if name.startswith("model.vision_tower."):
            tensor = vision_name(name.removeprefix("model.vision_tower."), layers)
            return tensor and (MMPROJ, tensor)
        if name.startswith("model.multi_modal_projector."):
            rest = name.removeprefix("model.multi_modal_projector.")
            return MMPROJ, "mm." + rest.replace("linear_1", "0").replace("linear_2", "2")
        return used(name)

    text_kind = by_leaf(MIXED, MIXED_FIRST)

    def kind(tensor, values):
        if tensor.startswith(("v.", "mm.")):
            return Q.F16 if values.ndim > 1 else Q.F32
        return text_kind(tensor, values)

    layout = Layout(place, kind, llama_permute(decoder, permuted), llama_permute(decoder, unpermuted))
    processor = llava.clip_processor(tokenizer, llava.TURNS_WITH_FILTERS)
    tokenizer.chat_template = llava.TURNS_WITH_FILTERS

    def write(fixture, model, directory):
        writer = gguf.GGUFWriter(None, "llama")
        add_text_metadata(writer, decoder, "llama")
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(decoder.vocab_size)
        writer.add_rope_dimension_count(decoder.head_dim)
        add_tokenizer(writer, tokenizer, "llama", "default", True)
        layout.add_tensors(writer, FILE)
        write_file(directory / FILE, writer)

        writer = gguf.GGUFWriter(None, "clip")
        writer.add_bool("clip.has_text_encoder", False)
        writer.add_bool("clip.has_vision_encoder", True)
        writer.add_bool("clip.has_llava_projector", True)
        writer.add_file_type(1)
        writer.add_name("Tiny LLaVA")
        writer.add_description("image encoder for LLaVA")
        writer.add_string("clip.projector_type", "mlp")
        numbers = {
            "image_size": tower.image_size,
            "patch_size": tower.patch_size,
            "embedding_length": tower.hidden_size,
            "feed_forward_length": tower.intermediate_size,
            "projection_dim": tower.projection_dim,
            "attention.head_count": tower.num_attention_heads,
            "block_count": layers,
        }
        for name, value in numbers.items():
            writer.add_uint32(f"clip.vision.{name}", value)
        writer.add_float32("clip.vision.attention.layer_norm_epsilon", tower.layer_norm_eps)
        writer.add_array("clip.vision.image_mean", list(processor.image_processor.image_mean))
        writer.add_array("clip.vision.image_std", list(processor.image_processor.image_std))
        writer.add_bool("clip.use_gelu", tower.hidden_act == "gelu")
        layout.add_tensors(writer, MMPROJ)
        write_file(directory / MMPROJ, writer)

    def reload(directory):
        tokenizer = reload_text(directory)[0]
        # HF's reader of GGUF files has it in front of the text only.
        tokenizer.backend_tokenizer.normalizer = processor.tokenizer.backend_tokenizer.normalizer
        tokenizer.backend_tokenizer.pre_tokenizer = None
        return tokenizer, processor.image_processor

    return llava.llava_fixture(
        note="GGUF of LLaVA-1.5: model.gguf (architecture llama, tokenizer llama with scores) and mmproj.gguf as the LLaVA "
        "converter writes it (v.blk.N, mm.0 and mm.2, ffn_down for fc1 and ffn_up for fc2, only the layers up to the "
        "feature layer).",
        config=config,
        processor=processor,
        cases={"single": ["a"], "batch_left": ["b", "c"], "text": ["d"]},
        write=write,
        load=load_and_compare(layout, ("language_model.", ""), same_logits=False),
        stored=layout.stored,
        reload=reload,
        record_layers=False,
        ablations={"hidden_act": lambda c: setattr(c.vision_config, "hidden_act", "gelu")},
    )
