"""The LLaVA-NeXT family: LLaVA-1.5 parts, tiles of images of any aspect ratio, rows that end in a learned newline."""

import json

import torch
import transformers as hf

import fixture as fx
import llava
import tiny_tokenizers as tt

PATCH, TILE = 7, 14
# [height, width]; an image is cut into as many tiles as fit the best of them.
PINPOINTS = [[14, 28], [28, 14], [28, 28], [42, 14], [14, 42]]
WORDS = ["What", " USER:", " ASSISTANT:", " is", " this", " boat", "th", "[INST]", "[/INST]", "the", "er", "on"]
# Bytes that no piece covers: the newline, the halves of an accented letter, and a few letters.
FALLBACK = sorted({*b"\n<>S/Y", *"\u00e9".encode(), *b"ABCIfnrlbwd"})

# Our own templates; for system, user and assistant turns they render what the published ones render.
INST = (
    "{% for turn in messages %}"
    "{% if turn['role'] == 'system' %}{{ '<<SYS>>\n' + turn['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif turn['role'] == 'user' %}"
    "{{ '[INST] ' }}"
    "{# images go first #}"
    "{% for part in turn['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in turn['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}"
    "{% elif turn['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + turn['content'][0]['text'] + '</s> ' }}{% endgeneration %}"
    "{% else %}{{ raise_exception('A turn is of the system, the user or the assistant.') }}"
    "{% endif %}"
    "{% endfor %}"
)
VICUNA = (
    "{% for turn in messages %}"
    "{% if turn['role'] != 'system' %}{{ turn['role'].upper() + ': ' }}{% endif %}"
    "{% for part in turn['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if turn['role'] != 'assistant' %}"
    "{% for part in turn['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% else %}"
    "{% for part in turn['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}"
    "{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def pictures():
    """Four tiles without padding; columns to cut off; rows to cut off in three tiles; smaller than every resolution."""
    return {"a": fx.picture(90, 70, 1), "b": fx.picture(61, 113, 2), "c": fx.picture(44, 100, 3), "d": fx.picture(12, 9, 4)}


def prompts():
    """As the standard ones, with a picture for each kind of tiling."""
    prompts = fx.standard_prompts()
    prompts["a"].images, prompts["b"].images, prompts["c"].images, prompts["e"].images = ["b"], ["a"], ["c"], ["d", "c"]
    return prompts


def tokenizer(prefix="normalizer"):
    made = tt.sentencepiece_style(WORDS, ["<image>", "<pad>"], prefix, FALLBACK)
    return tt.wrap(made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def processor(tokenizer, template, images=hf.LlavaNextImageProcessor):
    images = images(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}, image_grid_pinpoints=PINPOINTS
    )
    return hf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def next_config(vision, text, tokenizer, **changes):
    return hf.LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=(TILE // PATCH) ** 2,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )


def clip_tower(**changes):
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2)
    return hf.CLIPVisionConfig(image_size=TILE, patch_size=PATCH, projection_dim=16, **shape | changes)


def next_fixture(**fields):
    defaults = dict(
        model_class=hf.LlavaNextForConditionalGeneration,
        prompts=prompts(),
        pictures=pictures,
        cases=fx.CASES_WITHOUT_RIGHT,
        value=newline,
        load=llava.load_pretrained,
    )
    return fx.Fixture(**defaults | fields)


def newline(name, parameter, noise):
    return 0.8 * noise if name.endswith("image_newline") else None


def mistral():
    words = tokenizer("pre_tokenizer")
    text = hf.MistralConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, rms_norm_eps=1e-5, sliding_window=None, max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )  # fmt: skip
    return next_fixture(
        note="LLaVA-1.6 with Mistral: tiles of any aspect ratio, rows of tile features with padding cut off and a newline "
        "after each, the whole image first; grouped-query attention with its own head size, no sliding window; "
        "PIL image processor; written by save_pretrained (image_newline, language_model.model.*, vision_tower.*).",
        config=next_config(clip_tower(), text, words),
        processor=processor(words, INST, hf.LlavaNextImageProcessorPil),
        write=write_saved_pil,
        ablations={
            "rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=10000.0),
            "sliding_window": lambda c: setattr(c.text_config, "sliding_window", 8),
            "hidden_act": lambda c: setattr(c.vision_config, "hidden_act", "gelu"),
        },
    )


def vicuna_hub():
    words = tokenizer()
    text = llava.llama_text(
        words, intermediate_size=48, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}
    )
    return next_fixture(
        note="Published LLaVA-1.6 layout with Vicuna: image_newline, language_model.model.*, vision_tower.vision_model.*, "
        "three shards and an index, f16, a config without defaults, preprocessor_config.json, processor_config.json and "
        "chat_template.json; as many key heads as query heads.",
        config=next_config(clip_tower(num_attention_heads=4), text, words),
        processor=processor(words, VICUNA),
        cases=fx.CASES,
        disk_dtype=torch.float16,
        record_layers=False,
        write=write_hub,
        ablations={
            "rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=100.0),
            "vision_heads": lambda c: setattr(c.vision_config, "num_attention_heads", 2),
            "vision_feature_layer": lambda c: setattr(c, "vision_feature_layer", -1),
        },
    )


# ---------------------------------------------------------------- checkpoints


def write_saved_pil(fixture, model, directory):
    """What `save_pretrained` writes, and the backend, which it drops, in the image processor's name."""
    llava.write_saved(fixture, model, directory)
    name_the_backend(directory)


def name_the_backend(directory):
    file = directory / "processor_config.json"
    config = json.loads(file.read_text())
    config["image_processor"]["image_processor_type"] += "Pil"
    llava.write_json(file, config)


def write_hub(fixture, model, directory):
    """The layout of the published LLaVA-1.6 repositories."""
    prefixes = {
        "model.image_newline": "image_newline",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
    llava.write_shards(llava.renamed(llava.on_disk(fixture, model), prefixes), directory, 3)
    config = llava.old_config(fixture.config, "float16") | {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "model_type": "llava_next",
        "image_grid_pinpoints": PINPOINTS,
        "transformers_version": "4.39.0.dev0",
        "use_image_newline_parameter": True,
    }
    llava.write_json(directory / "config.json", config)
    model.generation_config.save_pretrained(directory)
    llava.write_old_processor(fixture, directory)
    file = directory / "preprocessor_config.json"
    images = json.loads(file.read_text()) | {
        "aspect_ratio_setting": "anyres",
        "image_grid_pinpoints": PINPOINTS,
        "image_processor_type": "LlavaNextImageProcessor",
        "processor_class": "LlavaNextProcessor",
    }
    llava.write_json(file, images)
    own = {
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": PATCH,
        "processor_class": "LlavaNextProcessor",
        "vision_feature_select_strategy": "default",
    }
    llava.write_json(directory / "processor_config.json", own)
    llava.write_json(directory / "chat_template.json", {"chat_template": fixture.processor.chat_template})
