"""The Mllama family (Llama 3.2 Vision): tiles, a gated global encoder, decoder layers that attend to the image."""

import re

import torch
import transformers as hf

import fixture as fx
import idefics3
import llava
import tiny_tokenizers as tt

SPECIAL = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|python_tag|>", "<|image|>",
]  # fmt: skip
SIZE, PATCH = 8, 4

# Our own templates. Both render what the published one does for user and assistant turns; it leaves the system turn out
# where there is an image, and otherwise puts dates in front of it.
TURNS = (
    "{{ bos_token }}"
    "{% for turn in messages %}"
    "{{ '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\n\n' }}"
    "{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|image|>' }}{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}"
    "{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TURNS_WITH_DATES = (
    "{{- bos_token -}}"
    "{%- if not date_string is defined -%}"
    "{%- if strftime_now is defined and always_today is defined -%}{%- set date_string = strftime_now('%d %b %Y') -%}"
    "{%- else -%}{%- set date_string = '26 Jul 2024' -%}{%- endif -%}"
    "{%- endif -%}"
    "{%- set image = namespace(seen=false) -%}"
    "{%- for turn in messages -%}{%- for part in turn['content'] -%}"
    "{%- if part['type'] == 'image' -%}{%- set image.seen = true -%}{%- endif -%}"
    "{%- endfor -%}{%- endfor -%}"
    "{%- set turns = messages -%}"
    "{%- set about = '' -%}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set about = messages[0]['content'][0]['text'].strip() -%}{%- set turns = messages[1:] -%}"
    "{%- endif -%}"
    "{%- if about and image.seen -%}"
    "{{- raise_exception('a system turn cannot go with an image') if strict_images is defined -}}"
    "{%- elif about -%}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nIt is ' ~ date_string ~ '.\n\n' ~ about ~ '<|eot_id|>' -}}"
    "{%- endif -%}"
    "{%- for turn in turns -%}"
    "{{- '<|start_header_id|>' ~ turn.role ~ '<|end_header_id|>\n\n' -}}"
    "{%- for part in turn.content -%}"
    "{%- if part.type == 'image' -%}{{- '<|image|>' -}}{%- else -%}{{- part.text | trim -}}{%- endif -%}"
    "{%- endfor -%}"
    "{{- '<|eot_id|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
)


def tokenizer():
    """Llama 3's, with <|image|> last: its id is the vocabulary size that the config states."""
    bpe = idefics3.byte_level(SPECIAL, "<|begin_of_text|>")
    special = dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>")
    return tt.wrap(bpe, {"image_token": "<|image|>"}, **special)


def pictures():
    """Wide, tall, nearly square: other canvases, and different numbers of tiles."""
    return {"a": fx.picture(90, 40, 1), "b": fx.picture(30, 70, 2), "c": fx.picture(33, 31, 3)}


def prompts():
    return {
        "a": fx.Prompt([fx.user("What is this?", 1)], ["a"]),
        "b": fx.Prompt([fx.user("So?", 1)], ["b"]),
        "c": fx.Prompt([fx.user("What is?", 1)], ["c"]),
        "d": fx.Prompt([fx.user("Café?")]),
        "e": fx.Prompt([fx.user("Both?", 2)], ["b", "c"]),
        "f": fx.Prompt([fx.user("Is it old?", 1)], ["a"], add_generation_prompt=False),
        "g": fx.Prompt([fx.system("Be brief."), fx.user("What is this?"), fx.assistant("A boat."), fx.user("Is it old?")]),
        "h": fx.Prompt([fx.user("What?", 1), fx.assistant("So."), fx.user("Both?", 1)], ["c", "a"]),
    }


CASES = {
    "single": ["a"],
    "batch_left": ["b", "c"],
    "batch_right": ["b", "c"],
    "text": ["d"],
    "two_images": ["e"],  # one behind the other: both are seen by all of the text
    "two_turns": ["h"],  # each is seen until the next one
}
MIXED = {"batch_mixed": ["d", "a"]}  # a row without an image; the torchvision backend of the processor cannot do that


def value(name, parameter, noise):
    """Gates well away from 0 and 1, embeddings that show."""
    if name.endswith("_gate") or re.search(r"\.gate(_attn|_ffn)?$", name):
        return 0.6 + 0.3 * noise.clamp(-1, 1)
    if "positional_embedding" in name:
        return 0.5 * noise
    return None


def vision(**changes):
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_global_layers=2, attention_heads=2)
    taken = dict(intermediate_layers_indices=[0, 2], vision_output_dim=48)
    return hf.MllamaVisionConfig(**shape | taken | dict(image_size=SIZE, patch_size=PATCH, max_num_tiles=4) | changes)


def text_config(tokens, **changes):
    shape = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2)
    special = {key: getattr(tokens, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    layers = dict(cross_attention_layers=[1, 3], rope_parameters=rope, max_position_embeddings=2048)
    vocabulary = tokens.convert_tokens_to_ids("<|image|>")
    return hf.MllamaTextConfig(vocab_size=vocabulary, **special, **shape | layers | changes)


def mllama_fixture(tokens, vision_config, text, template, image_processor=hf.MllamaImageProcessor, **fields):
    mean = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
    images = image_processor(size={"height": SIZE, "width": SIZE}, max_image_tiles=vision_config.max_num_tiles, **mean)
    config = hf.MllamaConfig(
        vision_config=vision_config, text_config=text, image_token_index=tokens.convert_tokens_to_ids("<|image|>")
    )
    defaults = dict(
        model_class=hf.MllamaForConditionalGeneration,
        config=config,
        processor=hf.MllamaProcessor(images, tokens, chat_template=template),
        prompts=prompts(),
        pictures=pictures,
        cases=CASES,
        nested_images=True,
        encode_options={"add_special_tokens": False},
        value=value,
        write=llava.write_saved,
        load=llava.load_pretrained,
    )
    return fx.Fixture(**defaults | fields)


def saved():
    tokens = tokenizer()
    return mllama_fixture(
        tokens,
        vision(norm_eps=1e-3),
        text_config(tokens),
        TURNS,
        cases={case: letters for case, letters in CASES.items() if case != "batch_right"},
        seed=102,
        note="Llama 3.2 Vision as save_pretrained writes it: up to four tiles, two gated global layers, the outputs of layers 0 "
        "and 2 beside the last, cross attention in decoder layers 1 and 3, Llama 3 rope, every gate away from 0.",
        ablations={
            "norm_eps": lambda c: setattr(c.vision_config, "norm_eps", 1e-6),
            "intermediate_layers_indices": lambda c: setattr(c.vision_config, "intermediate_layers_indices", [1, 2]),
            "intermediate_layers_order": lambda c: setattr(c.vision_config, "intermediate_layers_indices", [2, 0]),
            "vision_hidden_act": lambda c: setattr(c.vision_config, "hidden_act", "quick_gelu"),
            "rms_norm_eps": lambda c: setattr(c.text_config, "rms_norm_eps", 1e-2),
            "rope_type": lambda c: c.text_config.rope_parameters.update(rope_type="default"),
        },
    )


def hub():
    tokens = tokenizer()
    tower = vision(
        num_hidden_layers=2, num_global_layers=1, intermediate_layers_indices=[1], vision_output_dim=32, max_num_tiles=2,
        supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
    )  # fmt: skip
    text = text_config(tokens, num_hidden_layers=3, num_key_value_heads=1, cross_attention_layers=[1], rms_norm_eps=1e-2)
    return mllama_fixture(
        tokens,
        tower,
        text,
        TURNS_WITH_DATES,
        image_processor=hf.MllamaImageProcessorPil,
        note="Published Llama 3.2 Vision layout: transformers 4 config (rope_theta, rope_scaling), preprocessor_config.json, "
        "chat_template.json, two shards, bf16, PIL backend; at most two tiles, one global layer, cross attention in layer 1.",
        cases={case: letters for case, letters in CASES.items() if case != "two_turns"} | MIXED,
        record_layers=False,
        disk_dtype=torch.bfloat16,
        seed=74,
        write=write_hub,
        ablations={"rms_norm_eps": lambda c: setattr(c.text_config, "rms_norm_eps", 1e-5)},
    )


# ---------------------------------------------------------------- checkpoints


def write_hub(fixture, model, directory):
    """The layout of the published Llama 3.2 Vision repositories."""
    prefixes = {
        "model.vision_model.": "vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
    llava.write_shards(llava.renamed(llava.on_disk(fixture, model), prefixes), directory, 2)
    llava.write_json(directory / "config.json", old_config(fixture.config))
    model.generation_config.save_pretrained(directory)
    write_old_processor(fixture, directory)
    llava.write_json(directory / "chat_template.json", {"chat_template": fixture.processor.chat_template})


def old_config(config):
    text, tower = config.text_config, config.vision_config
    rope = dict(text.rope_parameters)
    theta = rope.pop("rope_theta")
    keys = (
        "bos_token_id", "cross_attention_layers", "dropout", "eos_token_id", "hidden_act", "hidden_size", "intermediate_size",
        "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id",
        "rms_norm_eps", "tie_word_embeddings", "vocab_size",
    )  # fmt: skip
    vision_keys = (
        "attention_heads", "hidden_act", "hidden_size", "image_size", "intermediate_layers_indices", "intermediate_size",
        "max_num_tiles", "norm_eps", "num_channels", "num_global_layers", "num_hidden_layers", "patch_size",
        "supported_aspect_ratios", "vision_output_dim",
    )  # fmt: skip
    return {
        "architectures": ["MllamaForConditionalGeneration"],
        "image_token_index": config.image_token_index,
        "model_type": "mllama",
        "text_config": {
            **{key: getattr(text, key) for key in keys},
            "model_type": "mllama_text_model",
            "rope_scaling": rope,
            "rope_theta": theta,
            "torch_dtype": "bfloat16",
            "use_cache": True,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0",
        "vision_config": {
            **{key: getattr(tower, key) for key in vision_keys},
            "model_type": "mllama_vision_model",
            "torch_dtype": "bfloat16",
        },
    }


def write_old_processor(fixture, directory):
    """The processor files of transformers 4."""
    images = fixture.processor.image_processor
    size = {"height": SIZE, "width": SIZE}
    llava.write_old_preprocessor(
        directory, images, do_pad=True, max_image_tiles=images.max_image_tiles, resample=2, size=size
    )
    llava.write_old_tokenizer(fixture.processor.tokenizer, directory, "MllamaProcessor")
