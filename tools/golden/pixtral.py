"""Pixtral and Mistral Small 3.1: images of any size, rows of image tokens with a break between them, a Mistral decoder."""

import string

import torch
import transformers as hf

import fixture as fx
import llava
import text

WORDS = ["What", " is", " this", "er", "th", " a", " boat"]
ADDED = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
# Letters, a few marks, and the byte characters of the space, the newline and an accented letter: a small vocabulary.
ALPHABET = sorted({*(string.ascii_lowercase + "ABCISW?."), "\u0120", "\u010a", "\u00c3", "\u00a9"})

# Our own template: a system turn in brackets, images where they stand among the text.
TEMPLATE = """\
{{- bos_token }}
{%- macro parts(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] in ('image', 'image_url') -%}
                {{- '[IMG]' -}}
            {%- elif part['type'] == 'text' -%}
                {{- part['text'] -}}
            {%- else -%}
                {{- raise_exception('Only text and images can be shown.') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for turn in messages -%}
    {%- if turn['role'] == 'system' -%}
        {{- '[SYSTEM_PROMPT]' + parts(turn['content']) + '[/SYSTEM_PROMPT]' -}}
    {%- elif turn['role'] == 'user' -%}
        {{- '[INST]' + parts(turn['content']) + '[/INST]' -}}
    {%- else -%}
        {{- parts(turn['content']) + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""


def pictures():
    """Too large, lying and standing; smaller than the limit and no whole number of patches."""
    return {"a": fx.picture(60, 42, 1), "b": fx.picture(27, 70, 2), "c": fx.picture(19, 9, 3)}


def prompts():
    prompts = fx.standard_prompts()
    prompts["c"].images, prompts["e"].images = ["c"], ["b", "c"]
    return prompts


def tokenizer():
    made = text.byte_level(WORDS, ADDED, text.LLAMA3_SPLIT, "<s>", alphabet=ALPHABET)
    return text.wrap(made, None, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def decoder(words, **changes):
    special = {k: getattr(words, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = dict(
        hidden_size=24, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        sliding_window=None, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )  # fmt: skip
    return hf.MistralConfig(vocab_size=len(words), max_position_embeddings=512, **special, **sizes | changes)


def tower(**changes):
    sizes = dict(hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, hidden_act="silu")
    return hf.PixtralVisionConfig(**sizes | changes)


def processor(words, patch, merge, longest):
    images = hf.PixtralImageProcessor(size={"longest_edge": longest}, patch_size={"height": patch, "width": patch})
    return hf.PixtralProcessor(images, words, patch_size=patch, spatial_merge_size=merge, chat_template=TEMPLATE)


def value(name, parameter, noise):
    if name.endswith("ln_pre.weight"):
        return 1 + 0.2 * noise
    return None


def pixtral_fixture(**fields):
    defaults = dict(
        prompts=prompts(),
        pictures=pictures,
        cases={"single": ["a"], "batch_left": ["b", "c"], "two_images": ["e"]},
        value=value,
        load=llava.load_pretrained,
        encode_options={"add_special_tokens": False},
        disk_dtype=torch.bfloat16,
        record_layers=False,
    )
    return fx.Fixture(**defaults | fields)


def reload(directory, side):
    """The processors of a checkpoint whose image tokens cover several patches: `side` pixels, which is not in the image processor's file."""
    images = hf.AutoImageProcessor.from_pretrained(directory)
    return hf.AutoTokenizer.from_pretrained(directory), lambda shown, **settings: images(shown, patch_size=side, **settings)


def vision(name, new):
    return lambda config: setattr(config.vision_config, name, new)


def theta(new):
    return lambda config: config.vision_config.rope_parameters.update(rope_theta=new)


def hub():
    words = tokenizer()
    config = hf.LlavaConfig(
        vision_config=tower(image_size=24, patch_size=6, rope_parameters={"rope_type": "axial", "rope_theta": 100.0}),
        text_config=decoder(words),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=1,
    )
    return pixtral_fixture(
        note="Published Pixtral layout: LLaVA's class with a Pixtral tower (patches rotated by row and column, attention within "
        "each image, gated MLPs, RMS norms), configs as transformers 4 wrote them, preprocessor_config.json and "
        "processor_config.json, chat_template.json, two shards, bf16. Two images of different sizes in a batch are padded.",
        model_class=hf.LlavaForConditionalGeneration,
        config=config,
        processor=processor(words, 6, 1, 24),
        write=write_hub,
        ablations={
            "hidden_act": vision("hidden_act", "gelu"),
            "vision_theta": theta(10000.0),
            "vision_feature_layer": lambda c: setattr(c, "vision_feature_layer", -2),
        },
    )


def mistral3_modules():
    words = tokenizer()
    config = hf.Mistral3Config(
        vision_config=tower(image_size=24, patch_size=3, hidden_act="gelu"),
        text_config=decoder(words, rms_norm_eps=1e-2),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return pixtral_fixture(
        note="Mistral Small 3.1: four patches merged into a token, the norm of the projector with the decoder's epsilon, no bias "
        "in the projector; module names of transformers 5 (model.vision_tower.*, model.language_model.layers.*), bf16.",
        model_class=hf.Mistral3ForConditionalGeneration,
        config=config,
        processor=processor(words, 3, 2, 24),
        cases={"single": ["a"], "batch_left": ["b", "c"]},
        write=llava.write_modules,
        reload=lambda directory: reload(directory, 6),
        ablations={
            "hidden_act": vision("hidden_act", "silu"),
            "projector_hidden_act": lambda c: setattr(c, "projector_hidden_act", "relu"),
            "vision_theta": theta(100.0),
            "rms_norm_eps": lambda c: setattr(c.text_config, "rms_norm_eps", 1e-6),
        },
    )


HUB = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def write_hub(fixture, model, directory):
    """The layout of the published Pixtral repository."""
    config, words, images = fixture.config, fixture.tokenizer, fixture.processor.image_processor
    llava.write_shards(llava.renamed(llava.on_disk(fixture, model), HUB), directory, 2)
    rope = {"rope_theta": config.text_config.rope_parameters["rope_theta"]}
    tower = llava.non_defaults(config.vision_config, hf.PixtralVisionConfig())
    tower |= {"head_dim": 8, "model_type": "pixtral", "rope_theta": config.vision_config.rope_parameters["rope_theta"]}
    llava.write_json(
        directory / "config.json",
        {
            "architectures": ["LlavaForConditionalGeneration"],
            "ignore_index": -100,
            "image_seq_length": 1,
            "image_token_index": config.image_token_index,
            "model_type": "llava",
            "projector_hidden_act": "gelu",
            "text_config": {**llava.non_defaults(config.text_config, hf.MistralConfig()), "model_type": "mistral", "sliding_window": None} | rope,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.46.0.dev0",
            "vision_config": tower,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
    )
    model.generation_config.save_pretrained(directory)
    llava.write_old_preprocessor(
        directory, images, image_processor_type="PixtralImageProcessor", patch_size={"height": 6, "width": 6},
        processor_class="PixtralProcessor", resample=3, size={"longest_edge": images.size.longest_edge},
    )  # fmt: skip
    names = {"image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]", "image_token": "[IMG]"}
    llava.write_json(directory / "processor_config.json", {**names, "patch_size": 6, "processor_class": "PixtralProcessor"})
    llava.write_old_tokenizer(words, directory, "PixtralProcessor")
    llava.write_json(directory / "chat_template.json", {"chat_template": TEMPLATE})
