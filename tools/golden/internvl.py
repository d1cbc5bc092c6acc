"""The InternVL family in the layout of transformers: tiles of the closest aspect ratio, squares of patches, Qwen2 or Qwen3."""

import json

import torch
import transformers as hf

import fixture as fx
import llava
import qwen_vl
import tiny_tokenizers as tt

PATCH, TILE = 4, 16  # four by four patches, two by two features
WORDS = ["system", "assistant", "user", "What", " this", " is", "er"]
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
TEMPLATE = llava.CHATML.replace("<image>", "<IMG_CONTEXT>")


def tokenizer():
    made = tt.byte_level(WORDS, ADDED, qwen_vl.ALPHABET)
    names = dict(start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>")
    return tt.wrap(made, names, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def pictures():
    """Two tiles; one; three; smaller than a tile."""
    return {"a": fx.picture(60, 30, 1), "b": fx.picture(23, 21, 2), "c": fx.picture(12, 40, 3), "d": fx.picture(13, 9, 4)}


def prompts():
    prompts = fx.standard_prompts()
    prompts["c"].images, prompts["e"].images = ["c"], ["d", "b"]
    return prompts


def value(name, parameter, noise):
    if name.endswith(("lambda_1", "lambda_2")):
        return 0.5 + 0.3 * noise
    if name.endswith(("cls_token", "position_embeddings")):
        return 0.5 * noise
    if "layernorm" in name and name.endswith("weight"):
        return 1 + 0.2 * noise
    return None


def internvl(text, words, vision, tied, **fields):
    shape = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=[TILE, TILE])
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(patch_size=[PATCH, PATCH], **shape, **vision),
        text_config=text,
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(TILE // PATCH // 2) ** 2,
        tie_word_embeddings=tied,
    )
    # The published files say false; InternVLProcessor cuts all the same.
    images = hf.GotOcr2ImageProcessor(size={"height": TILE, "width": TILE}, crop_to_patches=False, max_patches=3)
    processor = hf.InternVLProcessor(
        images,
        words,
        hf.InternVLVideoProcessor(size={"height": TILE, "width": TILE}),
        image_seq_length=config.image_seq_length,
        chat_template=TEMPLATE,
    )
    defaults = dict(
        model_class=hf.InternVLForConditionalGeneration,
        config=config,
        processor=processor,
        prompts=prompts(),
        pictures=pictures,
        nested_images=True,
        image_options={"crop_to_patches": True},
        disk_dtype=torch.bfloat16,
        record_layers=False,
        min_distinct=5,
        value=value,
        write=without_video(llava.write_saved),
        load=llava.load_pretrained,
    )
    return fx.Fixture(**defaults | fields)


def without_video(write):
    """What `write` writes, less the settings of videos."""

    def written(fixture, model, directory):
        write(fixture, model, directory)
        file = directory / "processor_config.json"
        config = json.loads(file.read_text())
        config.pop("video_processor")
        llava.write_json(file, config)

    return written


def text_shape(words, **changes):
    special = dict(bos_token_id=None, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    shape = dict(hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    return dict(vocab_size=len(words), max_position_embeddings=512, **special, **shape) | changes


def qwen2():
    words = tokenizer()
    rope = {"rope_type": "dynamic", "rope_theta": 1000000.0, "factor": 2.0}
    text = hf.Qwen2Config(**text_shape(words), rope_parameters=rope, tie_word_embeddings=False)
    return internvl(
        text,
        words,
        dict(attention_bias=True, layer_norm_eps=1e-3),
        False,
        note="InternVL3 as save_pretrained writes it (language_model.model.*, vision_tower.encoder.layer.*), bf16: a tower with "
        "biases and layer norms, tiles and the whole image, which the image processor's own settings do not ask for; Qwen2 "
        "with dynamic rotary scaling, which has no effect within the context; untied.",
        cases=fx.CASES_WITHOUT_RIGHT,
        ablations={
            "layer_norm_eps": lambda c: setattr(c.vision_config, "layer_norm_eps", 1e-6),
            "hidden_act": lambda c: setattr(c.vision_config, "hidden_act", "relu"),
            "projector_hidden_act": lambda c: setattr(c, "projector_hidden_act", "relu"),
            "rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=10000.0),
        },
    )


def qwen3_modules():
    words = tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1000000.0}
    shape = text_shape(words, head_dim=8, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1)
    text = hf.Qwen3Config(**shape, rope_parameters=rope, tie_word_embeddings=True)
    return internvl(
        text,
        words,
        dict(use_qk_norm=True, norm_type="rms_norm", use_mean_pooling=False),
        True,
        note="The larger tower of InternVL (root-mean-square norms, norms on queries and keys, no biases) with a last norm, and "
        "Qwen3, tied; names of transformers' modules (model.language_model.*), bf16.",
        prompts={letter: prompt for letter, prompt in prompts().items() if letter in "abc"},
        cases={"single": ["a"], "batch_left": ["b", "c"]},
        logit_gain=2.0,
        residual_gain=3.0,
        min_distinct=4,
        write=without_video(llava.write_modules),
        ablations={
            "vision_feature_layer": lambda c: setattr(c, "vision_feature_layer", 2),  # without the last norm
            "rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=10000.0),
        },
    )
