"""Writes the models of `forward.sh`, with random weights of a fixed seed, and their prompts.

    python tools/peers/forward_models.py WORK

`llava-bf16` and `llava-f16` are LLaVA checkpoints: CLIP's large tower with 576 image tokens before a Llama of 8 layers of 1,024. `small`
(the shape of SmolLM2-135M) and `wide` (8 layers of 1,024) are Llamas in GGUF files, quantised by llama.cpp. What exists is kept.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import gguf
import llama_cpp
import numpy as np
import torch
import transformers as hf
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import gguf_files  # noqa: E402
import llava  # noqa: E402

TEXT_TOKENS = 26
GGUF_TOKENS = 390
LLAVA_VOCABULARY = 32_064
SHAPES = {
    "small": dict(num_hidden_layers=30, hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3),
    "wide": dict(num_hidden_layers=8, hidden_size=1024, intermediate_size=2816, num_attention_heads=16, num_key_value_heads=16),
}
GGUF_VOCABULARY = 49_152
QUANTISATIONS = {
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
}


def write_llava(work):
    torch.manual_seed(0)
    tower = llava.clip_tower(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336
    )
    tokenizer = llava.llama_tokenizer()
    shape = SHAPES["wide"] | dict(vocab_size=LLAVA_VOCABULARY, max_position_embeddings=4096)
    config = llava.llava_config(tower, hf.LlamaConfig(**shape), tokenizer)
    model = hf.LlavaForConditionalGeneration._from_config(config).float().eval()
    processor = llava.clip_processor(tokenizer, llava.TURNS_WITH_FILTERS, size=336)
    # Both hold the same numbers, those rounded to bf16.
    for name, dtype in {"bf16": torch.bfloat16, "f16": torch.float16}.items():
        model.to(dtype).save_pretrained(work / f"llava-{name}")
        processor.save_pretrained(work / f"llava-{name}")
    image = (tower.image_size // llava.PATCH) ** 2
    ids = torch.cat([torch.tensor([1]), torch.full((image,), config.image_token_index), torch.randint(5, 250, (TEXT_TOKENS - 1,))])
    pixels = torch.randn(1, 3, tower.image_size, tower.image_size)
    kinds = (ids == config.image_token_index).long()
    save_file({"input_ids": ids[None], "mm_token_type_ids": kinds[None], "pixel_values": pixels}, work / "llava.safetensors")


def write_gguf(work, name):
    shape = SimpleNamespace(**SHAPES[name], max_position_embeddings=2048, rms_norm_eps=1e-5)
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(None, "llama")
    gguf_files.add_text_metadata(writer, shape, "llama")
    writer.add_vocab_size(GGUF_VOCABULARY)
    writer.add_rope_dimension_count(shape.hidden_size // shape.num_attention_heads)
    add_vocabulary(writer)

    def add(tensor, *shape):
        values = rng.standard_normal(shape, np.float32) / np.sqrt(shape[-1])
        writer.add_tensor(f"{tensor}.weight", values.astype(np.float16) if len(shape) > 1 else np.ones(shape, np.float32))

    hidden, mlp = shape.hidden_size, shape.intermediate_size
    keys = hidden // shape.num_attention_heads * shape.num_key_value_heads
    add("token_embd", GGUF_VOCABULARY, hidden)
    add("output_norm", hidden)
    for layer in range(shape.num_hidden_layers):
        matrices = {"attn_q": (hidden, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden), "attn_output": (hidden, hidden)}
        matrices |= {"ffn_gate": (mlp, hidden), "ffn_up": (mlp, hidden), "ffn_down": (hidden, mlp)}
        for part, dims in matrices.items():
            add(f"blk.{layer}.{part}", *dims)
        add(f"blk.{layer}.attn_norm", hidden)
        add(f"blk.{layer}.ffn_norm", hidden)
    original = work / f"{name}-F16.gguf"
    gguf_files.write_file(original, writer)
    for kind, number in QUANTISATIONS.items():
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype = number
        out = work / f"{name}-{kind}.gguf"
        assert llama_cpp.llama_model_quantize(str(original).encode(), str(out).encode(), options) == 0, out
    original.unlink()


def add_vocabulary(writer):
    """The characters that stand for bytes, and tokens that no text has."""
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    names += [f"<{i}>" for i in range(len(names), GGUF_VOCABULARY - 2)] + ["in", "</s>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(names)
    writer.add_token_types([gguf.TokenType.NORMAL] * (GGUF_VOCABULARY - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["i n"])
    writer.add_bos_token_id(GGUF_VOCABULARY - 1)
    writer.add_eos_token_id(GGUF_VOCABULARY - 1)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def main(work):
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "llava.safetensors").exists():
        write_llava(work)
    for name in SHAPES:
        if not (work / f"{name}-Q4_1.gguf").exists():
            write_gguf(work, name)
    ids = torch.randint(5, 250, (1, GGUF_TOKENS), generator=torch.Generator().manual_seed(0))
    save_file({"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}, work / "gguf.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
