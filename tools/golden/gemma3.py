"""The Gemma 3 family with images: SigLIP, patches averaged in squares, images that attend both ways."""

import torch
import transformers as hf
from safetensors.torch import save_file

import fixture as fx
import llava
import text
import tiny_tokenizers as tt

PATCH, SIZE, TOKENS = 4, 16, 4  # four by four patches, two by two tokens
BEGIN, END, SOFT = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
WORDS = ["user", "model", "What", "th", "er", " is", "boat", "\n\n", "\n\n\n\n"]
# Bytes that no piece covers: the halves of an accented letter, and a few letters.
FALLBACK = sorted({*"\u00e9".encode(), *b"ABCISfnrlbwd"})

# Our own template; for system, user and assistant turns it renders what the published one renders.
TEMPLATE = text.GEMMA3_TURNS + """\
    {{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else turn['role']) + '\n' + (about if loop.first else '') }}
    {%- if turn['content'] is string -%}
        {{ turn['content'] | trim }}
    {%- elif turn['content'] is iterable -%}
        {%- for part in turn['content'] -%}
            {%- if part['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif part['type'] == 'text' -%}
                {{ part['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""


def tokenizer():
    made = text.gemma_style(WORDS, ["<start_of_turn>", "<end_of_turn>", BEGIN, END, SOFT], FALLBACK)
    names = {"image_token": SOFT, "boi_token": BEGIN, "eoi_token": END}
    return tt.wrap(made, names, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")


def value(name, parameter, noise):
    """Norms of the decoder and of the projector are stored less one."""
    if name.endswith("mm_input_projection_weight"):
        return noise / parameter.shape[0] ** 0.5
    if name.endswith("mm_soft_emb_norm.weight"):
        return 0.2 * noise
    if name.endswith("language_model.norm.weight"):
        return 3 + 0.2 * noise
    return text.sandwich_value(name, parameter, noise) if "language_model" in name else None


def hub():
    words = tokenizer()
    special = {k: getattr(words, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    decoder = hf.Gemma3TextConfig(
        vocab_size=len(words), hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=6, sliding_window=3, sliding_window_pattern=2,
        max_position_embeddings=512, **special,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    )  # fmt: skip
    vision = hf.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=PATCH,
        vision_use_head=False,
    )
    config = hf.Gemma3Config(
        text_config=decoder,
        vision_config=vision,
        mm_tokens_per_image=TOKENS,
        image_token_index=words.convert_tokens_to_ids(SOFT),
        boi_token_index=words.convert_tokens_to_ids(BEGIN),
        eoi_token_index=words.convert_tokens_to_ids(END),
        **special,
    )
    images = hf.Gemma3ImageProcessor(size={"height": SIZE, "width": SIZE})
    theta = lambda kind, **values: lambda c: c.text_config.rope_parameters[kind].update(values)
    part = lambda section, key, to: lambda c: setattr(getattr(c, section), key, to)
    return fx.Fixture(
        note="Published Gemma 3 layout, bf16: language_model.model.*, vision_tower.vision_model.*, multi_modal_projector.*, a "
        "config without defaults, preprocessor_config.json, chat_template.json. Images of 4 tokens that attend both "
        "ways, but in layers 0 and 2 not beyond a window of 3; patches averaged two by two; blank lines around an image merge "
        "with line breaks of the prompt.",
        model_class=hf.Gemma3ForConditionalGeneration,
        config=config,
        processor=hf.Gemma3Processor(images, words, image_seq_length=TOKENS, chat_template=TEMPLATE),
        prompts=fx.standard_prompts() | {"c": fx.Prompt([fx.user("What is this?", 1)], ["a"])},
        cases=fx.CASES_WITHOUT_RIGHT,
        nested_images=True,
        encode_options={"add_special_tokens": False},  # the template writes the beginning token
        disk_dtype=torch.bfloat16,
        record_layers=False,
        logit_gain=0.8,
        min_distinct=4,
        value=value,
        write=write_hub,
        load=llava.load_pretrained,
        ablations={
            "local_theta": theta("sliding_attention", rope_theta=1000.0),
            "global_factor": theta("full_attention", factor=1.0),
            "sliding_window": part("text_config", "sliding_window", 4),
            "layer_types": part("text_config", "layer_types", ["sliding_attention"] * 2 + ["full_attention"]),
            "query_pre_attn_scalar": part("text_config", "query_pre_attn_scalar", 12),
            "vision_hidden_act": part("vision_config", "hidden_act", "gelu"),
        },
    )


def write_hub(fixture, model, directory):
    """The layout of the published Gemma 3 repositories."""
    prefixes = {
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "model.language_model.": "language_model.model.",
    }
    tensors = llava.renamed(llava.on_disk(fixture, model), prefixes)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = fixture.config
    decoder, vision = config.text_config, config.vision_config
    keys = (
        "head_dim", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
        "query_pre_attn_scalar", "sliding_window", "vocab_size",
    )  # fmt: skip
    llava.write_json(
        directory / "config.json",
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "boi_token_index": config.boi_token_index,
            "eoi_token_index": config.eoi_token_index,
            "eos_token_id": [config.eos_token_id],
            "image_token_index": config.image_token_index,
            "mm_tokens_per_image": TOKENS,
            "model_type": "gemma3",
            "text_config": {
                **{key: getattr(decoder, key) for key in keys},
                "model_type": "gemma3_text",
                "rope_local_base_freq": 100.0,
                "rope_scaling": {"factor": 4.0, "rope_type": "linear"},
                "rope_theta": 1000.0,
                "sliding_window_pattern": 2,
            },
            "torch_dtype": "bfloat16",
            "transformers_version": "4.50.0.dev0",
            "vision_config": {**llava.non_defaults(vision, hf.SiglipVisionConfig()), "model_type": "siglip_vision_model"},
        },
    )
    model.generation_config.save_pretrained(directory)
    llava.write_json(
        directory / "preprocessor_config.json",
        {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_pan_and_scan": None,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "Gemma3ImageProcessor",
            "image_seq_length": TOKENS,
            "image_std": [0.5, 0.5, 0.5],
            "pan_and_scan_max_num_crops": None,
            "pan_and_scan_min_crop_size": None,
            "pan_and_scan_min_ratio_to_activate": None,
            "processor_class": "Gemma3Processor",
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": SIZE, "width": SIZE},
        },
    )
    llava.write_json(directory / "processor_config.json", {"image_seq_length": TOKENS, "processor_class": "Gemma3Processor"})
    llava.write_json(directory / "chat_template.json", {"chat_template": TEMPLATE})
    names = dict(boi_token=BEGIN, eoi_token=END, image_token=SOFT, add_bos_token=True, add_eos_token=False)
    llava.write_old_tokenizer(fixture.tokenizer, directory, "Gemma3Processor", **names)
