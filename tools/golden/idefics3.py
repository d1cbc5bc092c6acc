"""The Idefics3 family (Idefics3 and SmolVLM): images cut into tiles, SigLIP, pixel shuffle, one projection, Llama."""

import json

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import fixture as fx
import llava
import tiny_tokenizers as tt

WORDS = ["User", "Assistant", "What", " is", " this", "th", "er", "at", " the", "So", "Both"]
TEXT = "abcdefghiklmnopqrstuvwyABCIJSUWé0246.:? \n"

# Our own templates; they render what the published ones do.
TURNS_WITH_METHOD = (
    "<|begin_of_text|>"
    "{% for turn in messages %}"
    "{{ turn['role'].capitalize() ~ (':' if turn['content'][0]['type'] == 'image' else ': ') }}"
    "{% for part in turn['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<image>' }}"
    "{% endfor %}"
    "<end_of_utterance>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TURNS_WITH_FILTER = (
    "<|im_start|>"
    "{% for turn in messages %}"
    "{{ turn['role'] | capitalize }}{% if turn['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in turn['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}"
    "<end_of_utterance>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# The same with a namespace and an error for roles that published templates do not know.
TURNS_WITH_NAMESPACE = (
    "{%- set seen = namespace(images=0) -%}"
    "{{- '<|im_start|>' -}}"
    "{%- for turn in messages -%}"
    "{%- if turn.role not in ['user', 'assistant', 'system'] -%}{{- raise_exception('unknown role ' + turn.role) -}}{%- endif -%}"
    "{{- turn.role.title() + ':' -}}"
    "{%- if turn.content[0].type != 'image' -%}{{- ' ' -}}{%- endif -%}"
    "{%- for part in turn.content -%}"
    "{%- if part.type == 'image' -%}{%- set seen.images = seen.images + 1 -%}{{- '<image>' -}}"
    "{%- else -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}"
    "{{- '<end_of_utterance>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
)


def byte_level(special, bos=None):
    """Byte-level BPE as in Llama 3 and SmolLM, with the bytes of the prompts only: the vocabulary stays at about 80."""
    start = sorted(set("".join(piece for piece, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(TEXT))))
    words = [word.replace(" ", "\u0120") for word in WORDS]
    pieces, merges = tt.merge_chains(words, start)
    tokenizer = Tokenizer(models.BPE(pieces, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tt.special(token) for token in special])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


TILES = ["<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>"]
TILES += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]


def llama3_tokenizer():
    tokenizer = byte_level(["<|begin_of_text|>", "<|end_of_text|>", *TILES], "<|begin_of_text|>")
    return tt.wrap(
        tokenizer, bos_token="<|begin_of_text|>", eos_token="<end_of_utterance>", pad_token="<|end_of_text|>"
    )


def smollm_tokenizer():
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", *TILES])
    return tt.wrap(tokenizer, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|endoftext|>")


def pictures():
    """Two by two tiles; two tiles above each other; two side by side."""
    return {"a": fx.picture(90, 70, 1), "b": fx.picture(50, 120, 2), "c": fx.picture(120, 50, 3)}


def prompts():
    return {
        "a": fx.Prompt([fx.user("What is this?", 1)], ["c"]),
        "b": fx.Prompt([fx.user("So?", 1)], ["b"]),
        "c": fx.Prompt([fx.user("What is?", 1)], ["a"]),
        "d": fx.Prompt([fx.user("Café?")]),
        "e": fx.Prompt([fx.user("Both?", 2)], ["b", "c"]),
        "f": fx.Prompt([fx.user("Is it old?", 1)], ["a"], add_generation_prompt=False),
        "g": fx.Prompt(
            [fx.system("Be brief."), fx.user("What is this?", 1), fx.assistant("A boat."), fx.user("Is it old?")], ["a"]
        ),
    }


def vision(kind, **changes):
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4)
    return kind(**shape | changes)


def text_config(tokens, **changes):
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    special = {key: getattr(tokens, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    return hf.LlamaConfig(
        vocab_size=len(tokens), max_position_embeddings=2048, **special, **shape | dict(rms_norm_eps=1e-5, rope_parameters=rope) | changes
    )


def model_config(kind, tokens, vision_config, text, scale, **changes):
    return kind(
        vision_config=vision_config,
        text_config=text,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=tokens.pad_token_id,
        scale_factor=scale,
        **changes,
    )


def sequence(config):
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side**2 // config.scale_factor**2


def idefics3_fixture(**fields):
    defaults = dict(
        decoder="model.text_model",
        image_features="model.connector",
        prompts=prompts(),
        pictures=pictures,
        cases=fx.CASES_WITHOUT_RIGHT,
        nested_images=True,
        encode_options={"add_special_tokens": False},
        write=llava.write_saved,
        load=llava.load_pretrained,
    )
    return fx.Fixture(**defaults | fields)


def saved():
    tokens = llama3_tokenizer()
    tower = vision(hf.models.idefics3.configuration_idefics3.Idefics3VisionConfig, layer_norm_eps=1e-3)
    config = model_config(hf.Idefics3Config, tokens, tower, text_config(tokens, intermediate_size=48), 2)
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    return idefics3_fixture(
        note="Idefics3: up to two by two tiles and the whole image, pixel shuffle by 2, Llama with grouped queries and an "
        "untied head; its tokenizer would add a second <|begin_of_text|>; written by save_pretrained.",
        model_class=hf.Idefics3ForConditionalGeneration,
        config=config,
        seed=78,
        processor=hf.Idefics3Processor(images, tokens, image_seq_len=sequence(config), chat_template=TURNS_WITH_METHOD),
        ablations={
            "layer_norm_eps": lambda c: setattr(c.vision_config, "layer_norm_eps", 1e-6),
            "hidden_act": lambda c: setattr(c.vision_config, "hidden_act", "quick_gelu"),
            "rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=10000.0),
        },
    )


def smolvlm_processor(kind, tokens, config, template, splitting=True):
    side = config.vision_config.image_size
    images = kind(size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side}, do_image_splitting=splitting)
    return hf.SmolVLMProcessor(
        images, tokens, hf.SmolVLMVideoProcessor(), image_seq_len=sequence(config), chat_template=template
    )


def value(name, _parameter, noise):
    """Random signs in the last norm, or a tied head would repeat the token it has just read."""
    return noise if name.endswith("text_model.norm.weight") else None


def smolvlm_whole():
    tokens = smollm_tokenizer()
    text = text_config(tokens, num_key_value_heads=1, tie_word_embeddings=True, rms_norm_eps=1e-2)
    tower = vision(hf.models.smolvlm.configuration_smolvlm.SmolVLMVisionConfig, image_size=18, patch_size=3)
    config = model_config(hf.SmolVLMConfig, tokens, tower, text, 3, tie_word_embeddings=True)
    return idefics3_fixture(
        note="SmolVLM with image splitting off: every image is squeezed into a square; pixel shuffle by 3, one key head for "
        "four query heads, tied head, PIL backend; written by save_pretrained.",
        model_class=hf.SmolVLMForConditionalGeneration,
        config=config,
        processor=smolvlm_processor(hf.SmolVLMImageProcessorPil, tokens, config, TURNS_WITH_NAMESPACE, splitting=False),
        cases=fx.CASES,
        record_layers=False,
        value=value,
        seed=49,
        write=write_saved_pil,
        ablations={"rms_norm_eps": lambda c: setattr(c.text_config, "rms_norm_eps", 1e-6)},
    )


def smolvlm_hub():
    tokens = smollm_tokenizer()
    text = text_config(tokens, intermediate_size=48, rope_parameters={"rope_type": "default", "rope_theta": 273768.0})
    tower = vision(hf.models.smolvlm.configuration_smolvlm.SmolVLMVisionConfig)
    config = model_config(hf.SmolVLMConfig, tokens, tower, text, 4)
    return idefics3_fixture(
        note="SmolVLM2 as published: transformers 4 config with keys of other models in it, preprocessor_config.json, "
        "processor_config.json, chat_template.json, two shards, bf16; tiles of one token (pixel shuffle by 4).",
        model_class=hf.SmolVLMForConditionalGeneration,
        config=config,
        processor=smolvlm_processor(hf.SmolVLMImageProcessor, tokens, config, TURNS_WITH_FILTER),
        record_layers=False,
        disk_dtype=torch.bfloat16,
        seed=60,
        write=write_hub,
        ablations={"rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=10000.0)},
    )


# ---------------------------------------------------------------- checkpoints


def write_saved_pil(fixture, model, directory):
    """What `save_pretrained` writes; it leaves the backend out of the name of the image processor's class."""
    llava.write_saved(fixture, model, directory)
    file = directory / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["image_processor_type"] = type(fixture.processor.image_processor).__name__
    llava.write_json(file, settings)


def write_hub(fixture, model, directory):
    """The layout of the published SmolVLM2 repositories."""
    llava.write_shards(llava.renamed(llava.on_disk(fixture, model), {"model.": "model.", "lm_head.": "lm_head."}), directory, 2)
    llava.write_json(directory / "config.json", old_config(fixture.config))
    model.generation_config.save_pretrained(directory)
    write_old_processor(fixture, directory)
    llava.write_json(directory / "chat_template.json", {"chat_template": fixture.processor.chat_template})


def old_config(config):
    text, tower = config.text_config, config.vision_config
    keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "vocab_size")
    special = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "rms_norm_eps")
    return {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "image_token_id": config.image_token_id,
        "model_type": "smolvlm",
        "pad_token_id": text.pad_token_id,
        "scale_factor": config.scale_factor,
        "text_config": {
            "_flash_attn_2_enabled": True,
            "architectures": ["VLlama3ForCausalLM"],
            "is_llama_config": True,
            "model_type": "llama",
            "neftune_noise_alpha": 0.0,
            "perceiver_config": {"attention_dropout": 0.0, "hidden_act": "silu", "model_type": "vllama3", "num_key_value_heads": 1},
            "pixel_shuffle_factor": config.scale_factor,
            "qk_layer_norms": False,
            "rope_interleaved": False,
            "rope_theta": text.rope_parameters["rope_theta"],
            "torch_dtype": "bfloat16",
            "use_resampler": False,
            **{key: getattr(text, key) for key in keys + special},
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.47.1",
        "use_cache": False,
        "use_reentrant_checkpointing": False,
        "vision_config": {
            "hidden_size": tower.hidden_size,
            "image_size": tower.image_size,
            "intermediate_size": tower.intermediate_size,
            "max_image_size": {"longest_edge": tower.image_size},
            "model_type": "smolvlm_vision",
            "num_attention_heads": tower.num_attention_heads,
            "num_hidden_layers": tower.num_hidden_layers,
            "patch_size": tower.patch_size,
            "size": {"longest_edge": 2 * tower.image_size},
            "tie_word_embeddings": False,
            "use_base_siglip": False,
        },
        "vocab_size": text.vocab_size,
    }


def write_old_processor(fixture, directory):
    """The processor files of transformers 4."""
    side, tokens = fixture.config.vision_config.image_size, fixture.processor.tokenizer
    llava.write_json(
        directory / "preprocessor_config.json",
        {
            "do_convert_rgb": True,
            "do_image_splitting": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SmolVLMImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "max_image_size": {"longest_edge": side},
            "processor_class": "SmolVLMProcessor",
            "resample": 1,
            "rescale_factor": 0.00392156862745098,
            "size": {"longest_edge": 2 * side},
        },
    )
    llava.write_json(
        directory / "processor_config.json",
        {"image_seq_len": fixture.processor.image_seq_len, "processor_class": "SmolVLMProcessor"},
    )
    tokens.backend_tokenizer.save(str(directory / "tokenizer.json"))
    added = {
        str(i): dict(content=t.content, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
        for i, t in sorted(tokens.added_tokens_decoder.items())
    }
    named = {key: getattr(tokens, key) for key in ("bos_token", "eos_token", "pad_token")}
    llava.write_json(
        directory / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "additional_special_tokens": ["<fake_token_around_image>", "<image>", "<end_of_utterance>"],
            "clean_up_tokenization_spaces": False,
            "legacy": False,
            "model_max_length": tokens.model_max_length,
            "processor_class": "SmolVLMProcessor",
            "tokenizer_class": "GPT2Tokenizer",
            "truncation_side": "left",
            "vocab_size": len(tokens),
            **named,
        },
    )
    llava.write_json(directory / "special_tokens_map.json", named)
