"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches of images of any size, positions with three axes."""

import json
import string

import torch
import transformers as hf

import fixture as fx
import llava
import llava_next
import tiny_tokenizers as tt

PATCH, MERGE = 4, 2
TOKEN = (PATCH * MERGE) ** 2  # pixels that become one token
ADDED = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip
WORDS = ["system", "assistant", "user", "You", " are", " helpful", " assistant", "What", " this", " is", " a", "er"]
# Letters, a few marks, and the byte characters of the space, the newline and an accented letter.
ALPHABET = {*(string.ascii_lowercase + "ABCISWY?.:"), "\u0120", "\u010a", "\u00c3", "\u00a9"}

# Our own templates; for system, user and assistant turns they render what the published ones render.
QWEN2 = (
    "{% set shown = namespace(images=0) %}"
    "{% for turn in messages %}"
    "{% if loop.first and turn.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + turn.role + '\n' }}"
    "{% if turn.content is string %}{{ turn.content }}"
    "{% else %}"
    "{% for part in turn.content %}"
    "{% if part.type == 'image' or 'image' in part or 'image_url' in part %}"
    "{% set shown.images = shown.images + 1 %}"
    "{% if add_vision_id %}Picture {{ shown.images }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part.text }}"
    "{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# In the manner of the later templates: indented, a macro, content that may be a string.
QWEN3 = """\
{%- set shown = namespace(images=0) %}
{%- macro parts(content, counted) -%}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content %}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
                {%- if counted %}
                    {%- set shown.images = shown.images + 1 %}
                {%- endif %}
                {%- if add_vision_id is defined and add_vision_id %}
                    {{- 'Picture ' ~ shown.images ~ ': ' }}
                {%- endif %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part['text'] }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + parts(messages[0].content, false) + '<|im_end|>\\n' }}
{%- endif %}
{%- for turn in messages %}
    {%- if turn.role == 'user' or (turn.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + turn.role + '\\n' + parts(turn.content, true) + '<|im_end|>' + '\\n' }}
    {%- elif turn.role == 'assistant' %}
        {%- generation %}
        {{- '<|im_start|>assistant\\n' + parts(turn.content, true) + '<|im_end|>\\n' }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def pictures():
    """Too large, lying and standing; 2.5 by 3.5 tokens; too small."""
    return {"a": fx.picture(90, 70, 1), "b": fx.picture(61, 113, 2), "c": fx.picture(28, 20, 3), "d": fx.picture(13, 9, 4)}


def prompts():
    prompts = fx.standard_prompts()
    prompts["c"].messages = [fx.user("What is this?", 1)]
    prompts["c"].images, prompts["e"].images = ["c"], ["d", "b"]
    return prompts


def tokenizer():
    made = tt.byte_level(WORDS, ADDED, ALPHABET)
    return tt.wrap(made, {}, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def ids(tokenizer):
    names = dict(
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def text_shape(tokenizer, rope, **changes):
    """Sizes of a decoder; `rope` are the settings beside the type."""
    special = dict(
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    shape = dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    return shape | dict(rope_parameters={"rope_type": "default", **rope}) | special | changes


def image_processor(fewest, most, images=hf.Qwen2VLImageProcessor, **changes):
    size = {"shortest_edge": fewest * TOKEN, "longest_edge": most * TOKEN}
    return images(size=size, patch_size=PATCH, merge_size=MERGE, **changes)


def positions(model, inputs):
    """What the model works out by itself, [3, B, T]: time, height, width."""
    if "image_grid_thw" not in inputs:
        return fx.attended_positions(inputs["attention_mask"]).expand(3, -1, -1)
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    return model.model.get_rope_index(**{name: inputs[name] for name in names})[0]


def value(name, parameter, noise):
    if name.endswith("pos_embed.weight"):
        return 0.5 * noise
    if name.endswith("ln_q.weight"):
        return 1 + 0.2 * noise
    return None


def qwen_fixture(**fields):
    defaults = dict(
        prompts=prompts(),
        pictures=pictures,
        cases=fx.CASES_WITHOUT_RIGHT,
        positions=positions,
        record_positions=True,
        image_features=None,
        value=value,
        load=llava.load_pretrained,
        probes={"image_features": ("model.visual", lambda out: out.pooler_output)},
    )
    return fx.Fixture(**defaults | fields)


def text_setting(name, new):
    return lambda config: setattr(config.text_config, name, new)


def vision_setting(name, new):
    return lambda config: setattr(config.vision_config, name, new)


def rope_setting(**new):
    return lambda config: config.text_config.rope_parameters.update(new)


# ---------------------------------------------------------------- Qwen2-VL


def qwen2_untied():
    words = tokenizer()
    rope = {"rope_theta": 1000000.0, "mrope_section": [2, 3, 3]}
    text = text_shape(words, rope, num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=1e-6)
    vision = dict(depth=2, embed_dim=16, hidden_size=32, num_heads=2, mlp_ratio=4, patch_size=PATCH)
    return qwen_fixture(
        note="Qwen2-VL: axial rope in the tower, quick_gelu, four patches merged into a token, positions with three axes, "
        "biases of q, k and v, one key head for two query heads; written by save_pretrained (visual.*, model.layers.*).",
        model_class=hf.Qwen2VLForConditionalGeneration,
        config=hf.Qwen2VLConfig(text_config=text, vision_config=vision, **ids(words)),
        processor=hf.Qwen2VLProcessor(image_processor(4, 8), words, hf.Qwen2VLVideoProcessor(), chat_template=QWEN2),
        write=llava.write_saved,
        ablations={
            "mrope_section": rope_setting(mrope_section=[3, 3, 2]),
            "rope_theta": rope_setting(rope_theta=10000.0),
            "hidden_act": vision_setting("hidden_act", "gelu"),
            "num_heads": vision_setting("num_heads", 1),
        },
    )


def qwen2_hub():
    words = tokenizer()
    rope = {"rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    text = text_shape(
        words, rope, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6, sliding_window=6, max_window_layers=1
    )
    vision = dict(depth=2, embed_dim=24, hidden_size=32, num_heads=2, mlp_ratio=2, patch_size=PATCH)
    return qwen_fixture(
        note="Published Qwen2-VL layout: a flat config with rope_scaling of type mrope and a sliding window that is not in "
        "use, preprocessor_config.json with min_pixels and max_pixels, chat_template.json, two shards; tied head, bf16.",
        model_class=hf.Qwen2VLForConditionalGeneration,
        config=hf.Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids(words)),
        processor=hf.Qwen2VLProcessor(image_processor(4, 6), words, hf.Qwen2VLVideoProcessor(), chat_template=QWEN2),
        disk_dtype=torch.bfloat16,
        record_layers=False,
        **llava.TIED,
        write=write_hub,
        ablations={
            "mrope_section": rope_setting(mrope_section=[2, 1, 1]),
            "rope_theta": rope_setting(rope_theta=1000000.0),
            "use_sliding_window": use_sliding_window,
        },
    )


def use_sliding_window(config):
    config.text_config.layer_types = ["full_attention", "sliding_attention"]
    config.text_config.sliding_window = 6


# ---------------------------------------------------------------- Qwen2.5-VL


def qwen2_5_modules():
    words = tokenizer()
    rope = {"rope_theta": 1000000.0, "mrope_section": [2, 3, 3]}
    text = text_shape(words, rope, num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=1e-6)
    vision = dict(
        depth=3, hidden_size=16, intermediate_size=24, num_heads=2, out_hidden_size=32, patch_size=PATCH,
        window_size=2 * PATCH * MERGE, fullatt_block_indexes=[1], tokens_per_second=2,
    )  # fmt: skip
    images = image_processor(4, 12, hf.Qwen2VLImageProcessorPil)
    return qwen_fixture(
        note="Qwen2.5-VL: windows of 2 by 2 tokens in images of 3 by 3, 4 by 2 and 2 by 4, one block of full attention "
        "between two of windows, gated MLPs with biases and RMS norms in the tower; PIL image processor; module names "
        "of transformers 5 (model.visual.*, model.language_model.layers.*), f16.",
        model_class=hf.Qwen2_5_VLForConditionalGeneration,
        config=hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids(words)),
        processor=hf.Qwen2_5_VLProcessor(images, words, hf.Qwen2VLVideoProcessor(), chat_template=QWEN2),
        disk_dtype=torch.float16,
        write=write_modules_pil,
        ablations={
            "window_size": vision_setting("window_size", 8 * PATCH * MERGE),
            "fullatt_block_indexes": vision_setting("fullatt_block_indexes", [2]),
            "mrope_section": rope_setting(mrope_section=[3, 3, 2]),
            "hidden_act": vision_setting("hidden_act", "gelu"),
        },
    )


def qwen2_5_hub():
    words = tokenizer()
    rope = {"rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    text = text_shape(words, rope, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6)
    vision = dict(
        depth=2, hidden_size=24, intermediate_size=20, num_heads=2, out_hidden_size=32, patch_size=PATCH,
        window_size=2 * PATCH * MERGE, fullatt_block_indexes=[1], tokens_per_second=2,
    )  # fmt: skip
    return qwen_fixture(
        note="Published Qwen2.5-VL layout: visual.*, model.layers.*, a flat config, two shards, preprocessor_config.json, the "
        "chat template in tokenizer_config.json; full attention in the last block, tied head, bf16.",
        model_class=hf.Qwen2_5_VLForConditionalGeneration,
        config=hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids(words)),
        processor=hf.Qwen2_5_VLProcessor(image_processor(4, 8), words, hf.Qwen2VLVideoProcessor(), chat_template=QWEN2),
        cases=fx.CASES,
        disk_dtype=torch.bfloat16,
        record_layers=False,
        **llava.TIED,
        write=write_hub,
        ablations={
            "window_size": vision_setting("window_size", 8 * PATCH * MERGE),
            "fullatt_block_indexes": vision_setting("fullatt_block_indexes", [0]),
            "rope_theta": rope_setting(rope_theta=1000000.0),
        },
    )


# ---------------------------------------------------------------- Qwen3-VL


def qwen3_deepstack():
    words = tokenizer()
    rope = {"rope_theta": 200.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = text_shape(
        words, rope, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        rms_norm_eps=1e-6,
    )  # fmt: skip
    vision = dict(
        depth=3, hidden_size=16, intermediate_size=24, num_heads=2, out_hidden_size=32, patch_size=PATCH,
        num_position_embeddings=16, deepstack_visual_indexes=[0, 2],
    )  # fmt: skip
    mean = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return qwen_fixture(
        note="Qwen3-VL: learned positions interpolated from a 4 by 4 grid, features of tower blocks 0 and 2 added after decoder "
        "layers 0 and 1 of 3, interleaved position axes with a tail, norms of queries and keys; written by save_pretrained.",
        model_class=hf.Qwen3VLForConditionalGeneration,
        config=hf.Qwen3VLConfig(text_config=text, vision_config=vision, **ids(words)),
        processor=hf.Qwen3VLProcessor(
            image_processor(4, 8, **mean), words, hf.Qwen3VLVideoProcessor(), chat_template=QWEN3
        ),
        write=llava.write_saved,
        probes={
            "image_features": ("model.visual", lambda out: out.pooler_output),
            "deepstack.0": ("model.visual.deepstack_merger_list.0", lambda out: out),
            "deepstack.1": ("model.visual.deepstack_merger_list.1", lambda out: out),
        },
        ablations={
            "deepstack_visual_indexes": vision_setting("deepstack_visual_indexes", [2, 0]),
            "deepstack_visual_indexes_1": vision_setting("deepstack_visual_indexes", [0, 1]),
            "mrope_section": rope_setting(mrope_section=[2, 3, 3]),
            "rope_theta": rope_setting(rope_theta=10000.0),
            "rms_norm_eps": text_setting("rms_norm_eps", 1e-2),
            "hidden_act": vision_setting("hidden_act", "quick_gelu"),
        },
    )


def qwen3_hub():
    words = tokenizer()
    rope = {"rope_theta": 100.0, "mrope_section": [2, 2, 2], "mrope_interleaved": True}
    text = text_shape(words, rope, num_attention_heads=4, num_key_value_heads=2, head_dim=12, rms_norm_eps=1e-6)
    vision = dict(
        depth=2, hidden_size=24, intermediate_size=32, num_heads=2, out_hidden_size=32, patch_size=PATCH,
        num_position_embeddings=9, deepstack_visual_indexes=[1],
    )  # fmt: skip
    mean = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return qwen_fixture(
        note="Published Qwen3-VL layout: nested config with rope_theta and rope_scaling, two shards, preprocessor_config.json "
        "with Qwen2VLImageProcessorFast and size, chat_template.json; bf16, a 3 by 3 grid of positions.",
        model_class=hf.Qwen3VLForConditionalGeneration,
        config=hf.Qwen3VLConfig(text_config=text, vision_config=vision, **ids(words)),
        processor=hf.Qwen3VLProcessor(
            image_processor(4, 8, **mean), words, hf.Qwen3VLVideoProcessor(), chat_template=QWEN3
        ),
        cases=fx.CASES,
        disk_dtype=torch.bfloat16,
        record_layers=False,
        write=write_hub,
        ablations={
            "deepstack_visual_indexes": vision_setting("deepstack_visual_indexes", [0]),
            "mrope_section": rope_setting(mrope_section=[4, 1, 1]),
            "rope_theta": rope_setting(rope_theta=10000.0),
        },
    )


# ---------------------------------------------------------------- checkpoints


def write_modules_pil(fixture, model, directory):
    """What `save_pretrained(save_original_format=False)` writes, and the backend in the image processor's name."""
    llava.write_modules(fixture, model, directory)
    llava_next.name_the_backend(directory)


def write_hub(fixture, model, directory):
    """The layouts of the published repositories."""
    family = fixture.config.model_type
    prefixes = {"model.visual.": "visual.", "model.language_model.": "model.", "lm_head.": "lm_head."}
    if family == "qwen3_vl":
        prefixes = {name: name for name in prefixes}
    llava.write_shards(llava.renamed(llava.on_disk(fixture, model), prefixes), directory, 2)
    llava.write_json(directory / "config.json", nested_config(fixture) if family == "qwen3_vl" else flat_config(fixture))
    model.generation_config.save_pretrained(directory)
    words, images = fixture.tokenizer, fixture.processor.image_processor
    limits = {"min_pixels": images.size.shortest_edge, "max_pixels": images.size.longest_edge}
    if family == "qwen3_vl":
        limits = {"size": {"longest_edge": images.size.longest_edge, "shortest_edge": images.size.shortest_edge}}
    name = type(fixture.processor).__name__
    llava.write_json(
        directory / "preprocessor_config.json",
        {
            **limits,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "merge_size": MERGE,
            "image_mean": list(images.image_mean),
            "image_std": list(images.image_std),
            "processor_class": name,
            "image_processor_type": "Qwen2VLImageProcessorFast" if family == "qwen3_vl" else "Qwen2VLImageProcessor",
        },
    )
    llava.write_old_tokenizer(words, directory, name, add_prefix_space=False)
    template = {"chat_template": fixture.processor.chat_template}
    if family == "qwen2_5_vl":
        file = directory / "tokenizer_config.json"
        llava.write_json(file, json.loads(file.read_text()) | template)
    else:
        llava.write_json(directory / "chat_template.json", template)


TEXT_KEYS = (
    "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "initializer_range", "intermediate_size",
    "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "use_cache",
    "vocab_size",
)  # fmt: skip


def flat_config(fixture):
    """config.json of Qwen2-VL and Qwen2.5-VL as transformers 4 wrote it: the decoder's keys at the root."""
    config, text = fixture.config, fixture.config.text_config
    vision = {k: v for k, v in config.vision_config.to_dict().items() if k in VISION_KEYS}
    return {
        "architectures": [fixture.model_class.__name__],
        **{key: getattr(text, key) for key in TEXT_KEYS},
        **ids(fixture.tokenizer),
        "vision_token_id": fixture.tokenizer.convert_tokens_to_ids("<|vision_pad|>"),
        "model_type": config.model_type,
        "rope_theta": text.rope_parameters["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": text.rope_parameters["mrope_section"]},
        "sliding_window": 6,
        "use_sliding_window": False,
        "max_window_layers": 1,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "vision_config": {**vision, "in_chans": 3, "spatial_patch_size": PATCH},
    }


VISION_KEYS = (
    "depth", "embed_dim", "fullatt_block_indexes", "hidden_act", "hidden_size", "intermediate_size", "mlp_ratio", "num_heads",
    "out_hidden_size", "patch_size", "spatial_merge_size", "temporal_patch_size", "tokens_per_second", "window_size",
)  # fmt: skip


def nested_config(fixture):
    """config.json of Qwen3-VL as transformers 4.57 wrote it."""
    config, text = fixture.config, fixture.config.text_config
    rope = dict(text.rope_parameters)
    theta = rope.pop("rope_theta")
    vision = {k: v for k, v in config.vision_config.to_dict().items() if k in (*VISION_KEYS, *QWEN3_VISION_KEYS)}
    return {
        "architectures": [fixture.model_class.__name__],
        **ids(fixture.tokenizer),
        "model_type": "qwen3_vl",
        "text_config": {
            **{key: getattr(text, key) for key in TEXT_KEYS},
            "attention_bias": False,
            "dtype": "bfloat16",
            "head_dim": text.head_dim,
            "model_type": "qwen3_vl_text",
            "rope_scaling": rope,
            "rope_theta": theta,
            "tie_word_embeddings": config.tie_word_embeddings,
        },
        "tie_word_embeddings": config.tie_word_embeddings,
        "transformers_version": "4.57.0.dev0",
        "vision_config": {**vision, "model_type": "qwen3_vl"},
    }


QWEN3_VISION_KEYS = ("deepstack_visual_indexes", "in_channels", "initializer_range", "num_position_embeddings")
