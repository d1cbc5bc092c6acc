"""The PaliGemma family: SigLIP and Gemma (PaliGemma 1) or Gemma 2 (PaliGemma 2), a prompt that attends both ways."""

import re

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers.models.paligemma import processing_paligemma

import fixture as fx
import llava
import tiny_tokenizers as tt

# The processor adds every token of this list that a tokenizer lacks; two of the 1152 are enough here.
processing_paligemma.EXTRA_TOKENS = ["<loc0000>", "<seg000>"]

PATCH, SIZE = 7, 14
SEQUENCE = (SIZE // PATCH) ** 2
WORDS = ["What", " is", " this", "th", "er", "at", " the", " on", "So", "Both"]
CASES = {"single": ["a"], "batch_left": ["b", "c"], "batch_right": ["b", "c"], "two_images": ["e"]}
CASES_WITHOUT_RIGHT = {case: letters for case, letters in CASES.items() if case != "batch_right"}


def tokenizer():
    """Gemma's: BPE with byte fallback, spaces as pieces and none put in front; its post-processor writes <bos>."""
    first = ["<pad>", "<eos>", "<bos>", "<unk>"]
    words = [word.replace(" ", tt.SPACE) for word in WORDS]
    alphabet = sorted(set(tt.SPACE + tt.LETTERS + "\n" + "".join(words)))
    start = first + [f"<0x{byte:02X}>" for byte in range(256)] + alphabet
    pieces, merges = tt.merge_chains(words, start)
    bpe = Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Replace(" ", tt.SPACE)
    bpe.decoder = decoders.Sequence([decoders.Replace(tt.SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.add_special_tokens([tt.special(token) for token in [*first, "<image>"]])
    bpe.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", bpe.token_to_id("<bos>"))]
    )
    return tt.wrap(bpe, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")


def prompts():
    return {
        "a": fx.Prompt([fx.user("What is this?", 1)], ["a"]),
        "b": fx.Prompt([fx.user("So?", 1)], ["b"]),
        "c": fx.Prompt([fx.user("What is this?", 1)], ["a"]),
        "e": fx.Prompt([fx.user("Both?", 2)], ["b", "a"]),
        "f": fx.Prompt([fx.user("", 1)], ["a"]),
    }


def render(prompt):
    """There is no chat template: the images, then the text of the only turn."""
    parts = prompt.messages[0]["content"]
    return "".join("<image>" if part["type"] == "image" else part["text"] for part in parts)


def with_bos(text):
    """What the processor makes of a text: <bos> behind the last image, and a newline at the end."""
    end = text.rfind("<image>") + len("<image>")
    return text[:end] + "<bos>" + text[end:] + "\n"


def value(name, _parameter, noise):
    """Norms around 1; the last one with random signs, or a tied head would repeat the token it has just read."""
    if name.endswith("language_model.norm.weight"):
        return noise - 1
    if "language_model" in name and re.search(r"norm\.weight$", name):
        return 0.2 * noise  # Gemma adds 1
    return None


def vision(**changes):
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    return hf.SiglipVisionConfig(image_size=SIZE, patch_size=PATCH, vision_use_head=False, **shape | changes)


def config(tokens, vision_config, text_config):
    return hf.PaliGemmaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        projection_dim=text_config.hidden_size,
        hidden_size=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
    )


def text_shape(tokens, **changes):
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    special = dict(pad_token_id=0, bos_token_id=2, eos_token_id=1)
    return dict(vocab_size=len(tokens), max_position_embeddings=2048, **special, **shape) | changes


def paligemma_fixture(tokens, image_processor=hf.SiglipImageProcessor, **fields):
    images = image_processor(size={"height": SIZE, "width": SIZE})
    images.image_seq_length = SEQUENCE
    defaults = dict(
        model_class=hf.PaliGemmaForConditionalGeneration,
        processor=hf.PaliGemmaProcessor(images, tokens),
        prompts=prompts(),
        cases=CASES,
        render=render,
        positions=lambda _model, inputs: fx.attended_positions(inputs["attention_mask"]) + 1,
        new_token_type=1,
        value=value,
        write=llava.write_saved,
        load=llava.load_pretrained,
    )
    return fx.Fixture(**defaults | fields)


def saved():
    tokens = tokenizer()
    text = hf.GemmaConfig(
        **text_shape(tokens),
        num_key_value_heads=1,
        head_dim=12,
        rms_norm_eps=1e-2,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    return paligemma_fixture(
        tokens,
        note="PaliGemma 1 as save_pretrained writes it (language_model.model.*, vision_tower.* without vision_model): Gemma "
        "with one key head for four query heads and a head size that is not hidden/heads, tied head.",
        config=config(tokens, vision(layer_norm_eps=1e-3), text),
        seed=5,
        logit_gain=2.0,
        residual_gain=4.0,
        ablations={
            "rms_norm_eps": lambda c: setattr(c.text_config, "rms_norm_eps", 1e-6),
            "rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=10000.0),
            "hidden_act": lambda c: setattr(c.text_config, "hidden_act", "silu"),
            "layer_norm_eps": lambda c: setattr(c.vision_config, "layer_norm_eps", 1e-6),
            "vision_hidden_act": lambda c: setattr(c.vision_config, "hidden_act", "quick_gelu"),
        },
    )


def hub():
    tokens = tokenizer()
    text = hf.GemmaConfig(
        **text_shape(tokens, vocab_size=-(-len(tokens) // 64) * 64, intermediate_size=48), num_key_value_heads=2, head_dim=8
    )
    return paligemma_fixture(
        tokens,
        image_processor=hf.SiglipImageProcessorPil,
        note="Published PaliGemma 1 layout: language_model.model.*, vision_tower.vision_model.*, two shards, a config without "
        "defaults, preprocessor_config.json; two of four key heads; more embedding rows than tokens; PIL backend.",
        config=config(tokens, vision(), text),
        cases=CASES_WITHOUT_RIGHT,
        record_layers=False,
        seed=54,
        logit_gain=2.0,
        residual_gain=4.0,
        write=write_hub,
        ablations={"hidden_act": lambda c: setattr(c.text_config, "hidden_act", "silu")},
    )


def gemma2_hub():
    tokens = tokenizer()
    text = hf.Gemma2Config(
        **text_shape(tokens, num_hidden_layers=3, intermediate_size=48),
        num_key_value_heads=2,
        head_dim=12,
        query_pre_attn_scalar=24,
        sliding_window=6,
        attn_logit_softcapping=1.5,
        final_logit_softcapping=10.0,
    )
    text.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    c = lambda key, to: lambda config: setattr(config.text_config, key, to)
    return paligemma_fixture(
        tokens,
        note="PaliGemma 2 in the published layout, bf16: Gemma 2 with a sliding window of 6 in layers 0 and 2 (it shows in "
        "what is generated: the prompt attends both ways), norms behind attention and MLP, both softcappings, a query scale "
        "that is not the head size.",
        config=config(tokens, vision(), text),
        cases=CASES_WITHOUT_RIGHT,
        record_layers=False,
        disk_dtype=torch.bfloat16,
        seed=99,
        logit_gain=2.0,
        write=write_hub,
        ablate_generated=True,
        ablations={
            "sliding_window": c("sliding_window", 4096),
            "layer_types": c("layer_types", ["full_attention", "sliding_attention", "full_attention"]),
            "attn_logit_softcapping": c("attn_logit_softcapping", None),
            "final_logit_softcapping": c("final_logit_softcapping", None),
            "query_pre_attn_scalar": c("query_pre_attn_scalar", 12),
            "hidden_activation": c("hidden_activation", "silu"),
        },
    )


# ---------------------------------------------------------------- checkpoints


def write_hub(fixture, model, directory):
    """The layout of the published PaliGemma repositories."""
    prefixes = {
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
    llava.write_shards(llava.renamed(llava.on_disk(fixture, model), prefixes), directory, 2)
    dtype = str(fixture.disk_dtype).removeprefix("torch.")
    llava.write_json(directory / "config.json", old_config(fixture.config, dtype))
    model.generation_config.save_pretrained(directory)
    write_old_processor(fixture, directory)


def old_config(config, dtype):
    text, vision_config = config.text_config, config.vision_config
    gemma2 = text.model_type == "gemma2"
    always = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "vocab_size")
    more = {key: getattr(text, key) for key in always + ("head_dim",)}
    if gemma2:
        keys = ("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "sliding_window", "hidden_activation")
        more |= {"architectures": ["Gemma2ForCausalLM"], "cache_implementation": "hybrid"}
        more |= {key: getattr(text, key) for key in keys} | {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "gelu"}
    keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "patch_size", "image_size")
    return {
        "_vocab_size": text.vocab_size,
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "bos_token_id": 2,
        "eos_token_id": 1,
        "hidden_size": text.hidden_size,
        "ignore_index": -100,
        "image_token_index": config.image_token_index,
        "model_type": "paligemma",
        "num_hidden_layers": text.num_hidden_layers,
        "pad_token_id": 0,
        "projection_dim": config.projection_dim,
        "text_config": {**more, "model_type": text.model_type, "num_image_tokens": SEQUENCE, "torch_dtype": dtype},
        "torch_dtype": dtype,
        "transformers_version": "4.46.0.dev0" if gemma2 else "4.41.0.dev0",
        "vision_config": {
            **{key: getattr(vision_config, key) for key in keys},
            "model_type": "siglip_vision_model",
            "num_image_tokens": SEQUENCE,
            "num_positions": SEQUENCE,
            "projection_dim": config.projection_dim,
            "projector_hidden_act": "gelu_fast",
            "torch_dtype": dtype,
            "vision_use_head": False,
        },
    }


def write_old_processor(fixture, directory):
    """preprocessor_config.json and tokenizer files as transformers 4 wrote them; no template, no processor_config.json."""
    images, tokens = fixture.processor.image_processor, fixture.processor.tokenizer
    llava.write_json(
        directory / "preprocessor_config.json",
        {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": type(images).__name__,
            "image_seq_length": SEQUENCE,
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "PaliGemmaProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": SIZE, "width": SIZE},
        },
    )
    tokens.backend_tokenizer.save(str(directory / "tokenizer.json"))
    added = {
        str(i): dict(content=t.content, lstrip=False, normalized=False, rstrip=False, single_word=False, special=t.special)
        for i, t in sorted(tokens.added_tokens_decoder.items())
    }
    named = {k: getattr(tokens, k) for k in ("bos_token", "eos_token", "pad_token", "unk_token")}
    llava.write_json(
        directory / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_eos_token": False,
            "added_tokens_decoder": added,
            "additional_special_tokens": ["<image>"],
            "clean_up_tokenization_spaces": False,
            "model_max_length": tokens.model_max_length,
            "padding_side": "left",
            "processor_class": "PaliGemmaProcessor",
            "tokenizer_class": "PreTrainedTokenizerFast",
            **named,
        },
    )
    llava.write_json(directory / "special_tokens_map.json", named)
