"""The LLaVA family: LLaVA-1.5 shapes in every layout their checkpoints come in."""

import copy
import json

import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import fixture as fx
import tiny_tokenizers as tt

PATCH = 14
# A tied head likes to repeat the last token; less so when the layers outweigh the embedding.
TIED = dict(logit_gain=2.0, residual_gain=3.0)
WORDS = ["th", "er", "at", "on", " USER:", " ASSISTANT:", " is", " the"]

# Our own templates; for user turns they render what the published LLaVA-1.5 template renders.
TURNS_WITH_FILTERS = (
    "{% for turn in messages %}"
    "{% if turn['role'] != 'system' %}{{ turn['role'] | upper }}: {% endif %}"
    "{% for part in turn['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in turn['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# The same with a string method, selectattr and a generation block, as published templates have.
TURNS_WITH_BLOCKS = (
    "{% for turn in messages %}"
    "{% if turn.role != 'system' %}{{ turn['role'].upper() + ': ' }}{% endif %}"
    "{# images go first #}"
    "{% for part in turn['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% set texts = turn['content'] | selectattr('type', 'equalto', 'text') | list %}"
    "{%- if turn['role'] == 'assistant' -%}"
    "{% for part in texts %}{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}{% endfor %}"
    "{%- else -%}"
    "{% for part in texts %}{{ part['text'] + ' ' }}{% endfor %}"
    "{%- endif -%}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    "{%- for turn in messages -%}"
    "{{- '<|im_start|>' ~ turn.role ~ '\n' -}}"
    "{%- if turn.content is string -%}"
    "{{- turn.content -}}"
    "{%- else -%}"
    "{%- for part in turn.content -%}"
    "{%- if part.type == 'image' -%}{{- '<image>\n' -}}{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>' ~ ('' if loop.last and not add_generation_prompt else '\n') -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def llama_tokenizer(prefix="normalizer"):
    tokenizer = tt.sentencepiece_style(WORDS, ["<image>", "<pad>"], prefix)
    return tt.wrap(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def clip_tower(**changes):
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28)
    return hf.CLIPVisionConfig(patch_size=PATCH, projection_dim=16, **shape | changes)


def llama_text(tokenizer, **changes):
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return hf.LlamaConfig(vocab_size=len(tokenizer), **shape | changes)


def clip_processor(tokenizer, template, size=28, strategy="default"):
    images = hf.CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return hf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
        chat_template=template,
    )


def llava_config(vision, text, tokenizer, **changes):
    return hf.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(vision.image_size // PATCH) ** 2,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )


def llava_fixture(**fields):
    defaults = dict(
        model_class=hf.LlavaForConditionalGeneration,
        prompts=fx.standard_prompts(),
        cases=fx.CASES,
        write=write_saved,
        load=load_pretrained,
    )
    return fx.Fixture(**defaults | fields)


def mha():
    tokenizer = llama_tokenizer()
    config = llava_config(
        clip_tower(),
        llama_text(tokenizer, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        tokenizer,
    )
    return llava_fixture(
        note="LLaVA-1.5: CLIP, layer -2 without CLS, two-layer GELU projector, Llama with as many key heads as "
        "query heads; written by save_pretrained (language_model.model.*, vision_tower.* without vision_model).",
        config=config,
        processor=clip_processor(tokenizer, TURNS_WITH_FILTERS),
        ablations={"hidden_act": lambda c: setattr(c.vision_config, "hidden_act", "gelu")},
    )


def gqa_hub():
    tokenizer = llama_tokenizer("pre_tokenizer")
    text = llama_text(
        tokenizer,
        intermediate_size=48,
        num_key_value_heads=2,
        head_dim=12,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    return llava_fixture(
        note="Published LLaVA-1.5 layout: language_model.model.*, vision_tower.vision_model.*, three shards and an "
        "index, a config without the defaults, preprocessor_config.json and chat_template.json. Llama with "
        "grouped-query attention, a head size that is not hidden/heads, and biases in attention and MLP.",
        config=llava_config(clip_tower(), text, tokenizer),
        processor=clip_processor(tokenizer, TURNS_WITH_BLOCKS),
        write=write_hub,
        ablations={"rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=10000.0)},
    )


def llama3rope_modules():
    tokenizer = llama_tokenizer()
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = llava_config(
        clip_tower(hidden_act="gelu", layer_norm_eps=1e-6),
        llama_text(tokenizer, rms_norm_eps=1e-2, rope_parameters=rope, tie_word_embeddings=True),
        tokenizer,
        vision_feature_layer=[-2, -1],
        vision_feature_select_strategy="full",
        multimodal_projector_bias=False,
        projector_hidden_act="gelu_pytorch_tanh",
        tie_word_embeddings=True,
    )
    return llava_fixture(
        note="Module names of transformers 5 (model.language_model.layers.*, model.vision_tower.*), tied head. CLIP with "
        "gelu, two feature layers with CLS, a projector with tanh GELU and no bias, Llama 3 rope with an original "
        "context of 64 so that one of its three regimes each applies, a large rms_norm_eps.",
        config=config,
        processor=clip_processor(tokenizer, TURNS_WITH_FILTERS, strategy="full"),
        cases=fx.CASES_WITHOUT_RIGHT,
        **TIED,
        seed=1883,
        write=write_modules,
        ablations={
            "rope_type": lambda c: c.text_config.rope_parameters.update(rope_type="default"),
            "low_freq_factor": lambda c: c.text_config.rope_parameters.update(low_freq_factor=2.0),
            "high_freq_factor": lambda c: c.text_config.rope_parameters.update(high_freq_factor=8.0),
            "rms_norm_eps": lambda c: setattr(c.text_config, "rms_norm_eps", 1e-6),
            "hidden_act": lambda c: setattr(c.vision_config, "hidden_act", "quick_gelu"),
            "projector_hidden_act": lambda c: setattr(c, "projector_hidden_act", "relu"),
        },
    )


def original():
    tokenizer = llama_tokenizer()
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    config = llava_config(
        clip_tower(layer_norm_eps=1e-2),
        llama_text(tokenizer, rms_norm_eps=1e-5, rope_parameters=rope),
        tokenizer,
    )
    return llava_fixture(
        note="Tensor names of the original LLaVA code (model.layers.*, model.mm_projector.{0,2}, "
        "model.vision_tower.vision_tower.vision_model.*) under a transformers 4 config, f16 on disk, linear rope "
        "scaling in its old spelling, the chat template in tokenizer_config.json. transformers cannot load it: "
        "the values are those of the same weights under their HF names.",
        config=config,
        processor=clip_processor(tokenizer, TURNS_WITH_BLOCKS),
        cases=fx.CASES_WITHOUT_RIGHT,
        disk_dtype=torch.float16,
        seed=30,
        write=write_original,
        load=load_original,
        ablations={
            "rope_scaling": lambda c: c.text_config.rope_parameters.update(rope_type="default"),
            "layer_norm_eps": lambda c: setattr(c.vision_config, "layer_norm_eps", 1e-5),
        },
    )


def qwen2_siglip():
    tokenizer = tt.wrap(
        tt.byte_level(
            ["th", "er", "at", "user", "assistant", " is", "system"],
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
        ),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    vision = hf.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=PATCH,
        layer_norm_eps=1e-3, vision_use_head=False,
    )
    text = hf.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, eos_token_id=tokenizer.eos_token_id,
    )
    config = llava_config(
        vision,
        text,
        tokenizer,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    processor = hf.LlavaProcessor(
        hf.SiglipImageProcessor(size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHATML,
    )
    return llava_fixture(
        note="SigLIP without a pooling head, its last layer before post_layernorm; Qwen2 with q/k/v biases, grouped "
        "queries and a tied head; byte-level tokenizer, ChatML, bf16 on disk; written by save_pretrained.",
        config=config,
        processor=processor,
        disk_dtype=torch.bfloat16,
        **TIED,
        ablations={
            "layer_norm_eps": lambda c: setattr(c.vision_config, "layer_norm_eps", 1e-6),
            "hidden_act": lambda c: setattr(c.vision_config, "hidden_act", "quick_gelu"),
            "rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=10000.0),
        },
    )


# ---------------------------------------------------------------- checkpoints


def write_saved(fixture, model, directory):
    """What `save_pretrained` writes."""
    on_disk(fixture, model).save_pretrained(directory)
    fixture.processor.save_pretrained(directory)


def write_modules(fixture, model, directory):
    """What `save_pretrained(save_original_format=False)` writes: the names of the modules."""
    on_disk(fixture, model).save_pretrained(directory, save_original_format=False)
    fixture.processor.save_pretrained(directory)


def on_disk(fixture, model):
    """The model in the dtype it is stored in (its weights are already rounded to it)."""
    stored = copy.deepcopy(model).to(fixture.disk_dtype)
    stored.config.dtype = fixture.disk_dtype
    return stored


def write_hub(fixture, model, directory):
    """The layout of the published LLaVA-1.5 repositories."""
    prefixes = {
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
    write_shards(renamed(model, prefixes), directory, 3)
    write_json(directory / "config.json", old_config(fixture.config, "float32"))
    model.generation_config.save_pretrained(directory)
    write_old_processor(fixture, directory)
    write_json(directory / "chat_template.json", {"chat_template": fixture.processor.chat_template})


ORIGINAL = {
    "model.vision_tower.": "model.vision_tower.vision_tower.vision_model.",
    "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
    "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
    "model.language_model.": "model.",
    "lm_head.": "lm_head.",
}


def write_original(fixture, model, directory):
    """Tensor names of the original LLaVA code, and the template in tokenizer_config.json."""
    tensors = renamed(on_disk(fixture, model), ORIGINAL)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    write_json(directory / "config.json", old_config(fixture.config, "float16"))
    model.generation_config.save_pretrained(directory)
    write_old_processor(fixture, directory)
    file = directory / "tokenizer_config.json"
    write_json(file, json.loads(file.read_text()) | {"chat_template": fixture.processor.chat_template})


def load_original(fixture, directory):
    """The HF model of the config beside it, filled by hand."""
    config = hf.LlavaConfig.from_pretrained(directory)
    model = fixture.model_class._from_config(config, attn_implementation="eager").float().eval()
    back = {old: new for new, old in ORIGINAL.items()}
    state = {}
    for name, value in load_file(directory / "model.safetensors").items():
        old = max((p for p in back if name.startswith(p)), key=len)
        state[back[old] + name.removeprefix(old)] = value.float()
    missing, unexpected = model.load_state_dict(state, strict=False)
    return model, {"missing_keys": missing, "unexpected_keys": unexpected}


def renamed(model, prefixes):
    """The state dict under other names; a tied head is left out."""
    tensors = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and getattr(model.config, "tie_word_embeddings", False):
            continue
        old = next(p for p in prefixes if name.startswith(p))
        tensors[prefixes[old] + name.removeprefix(old)] = value.contiguous()
    return tensors


def write_shards(tensors, directory, count):
    names = sorted(tensors)
    weight_map = {}
    for i in range(count):
        file = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        part = names[i * len(names) // count : (i + 1) * len(names) // count]
        save_file({n: tensors[n] for n in part}, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def old_config(config, dtype):
    """config.json as transformers 4 wrote it: torch_dtype, rope_theta and rope_scaling, defaults left out."""
    text, vision = config.text_config, config.vision_config
    rope = text.rope_parameters
    kind = rope["rope_type"]
    scaling = None if kind == "default" else {"type": kind, "factor": rope["factor"]}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": config.image_token_index,
        "model_type": "llava",
        "pad_token_id": config.pad_token_id,
        "projector_hidden_act": config.projector_hidden_act,
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            **non_defaults(text, hf.LlamaConfig()),
            "model_type": "llama",
            "rope_scaling": scaling,
            "rope_theta": rope["rope_theta"],
            "torch_dtype": dtype,
        },
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "transformers_version": "4.36.0.dev0",
        "vision_config": {**non_defaults(vision, hf.CLIPVisionConfig()), "model_type": "clip_vision_model"},
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vocab_size": text.vocab_size,
    }


def non_defaults(config, defaults):
    skip = {"rope_parameters", "dtype", "transformers_version", "architectures", "_name_or_path"}
    given, usual = config.to_dict(), defaults.to_dict()
    derived = {"head_dim": config.hidden_size // config.num_attention_heads, "num_key_value_heads": config.num_attention_heads}
    return {k: v for k, v in given.items() if k not in skip and v != (usual | derived).get(k)}


def write_old_processor(fixture, directory):
    """preprocessor_config.json and tokenizer files as transformers 4 wrote them; no processor_config.json."""
    images, tokenizer = fixture.processor.image_processor, fixture.processor.tokenizer
    write_old_preprocessor(
        directory, images, crop_size=dict(height=images.crop_size.height, width=images.crop_size.width), do_center_crop=True,
        image_processor_type="CLIPImageProcessor", processor_class="LlavaProcessor", resample=3,
        size={"shortest_edge": images.size.shortest_edge},
    )  # fmt: skip
    write_old_tokenizer(tokenizer, directory, "LlavaProcessor", add_bos_token=True, add_eos_token=False)


def write_old_tokenizer(tokenizer, directory, processor_class, **settings):
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json as transformers 4 wrote them."""
    tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))
    added = {
        str(i): dict(content=t.content, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
        for i, t in sorted(tokenizer.added_tokens_decoder.items())
    }
    named = {k: getattr(tokenizer, k) for k in ("bos_token", "eos_token", "pad_token", "unk_token")}
    write_json(
        directory / "tokenizer_config.json",
        {
            **settings,
            "added_tokens_decoder": added,
            "clean_up_tokenization_spaces": False,
            "model_max_length": tokenizer.model_max_length,
            "padding_side": "left",
            "processor_class": processor_class,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **named,
        },
    )
    write_json(directory / "special_tokens_map.json", {k: v for k, v in named.items() if v})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_old_preprocessor(directory, images, **own):
    """`preprocessor_config.json` as transformers 4 writes it: what all have, and a class's own settings."""
    common = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(images.image_mean),
        "image_processor_type": type(images).__name__,
        "image_std": list(images.image_std),
        "rescale_factor": 0.00392156862745098,
    }
    write_json(directory / "preprocessor_config.json", dict(sorted({**common, **own}.items())))


def load_pretrained(fixture, directory):
    model, report = fixture.model_class.from_pretrained(
        directory, **fixture.eager, dtype="float32", output_loading_info=True
    )
    return model.eval(), report
