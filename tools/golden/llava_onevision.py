"""The LLaVA-OneVision family: SigLIP over the whole image and over tiles, with a limit on the features of the tiles."""

import torch
import transformers as hf

import fixture as fx
import internvl
import llava
import llava_next
import qwen_vl
import tiny_tokenizers as tt

PATCH, TILE = 7, 14
# [height, width]; grids of more than 2.42 tiles are reduced.
PINPOINTS = [[14, 28], [28, 14], [28, 28], [14, 42], [42, 14]]
LIMIT = "anyres_max_2"
WORDS = ["system", "assistant", "user", "What", " this", " is", "er"]


def tokenizer():
    made = tt.byte_level(WORDS, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"], qwen_vl.ALPHABET | {">", "<"})
    names = {"image_token": "<image>", "video_token": "<video>"}
    return tt.wrap(made, names, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def prompts():
    """A reduced grid; a whole one with rows cut off, and one with columns cut off; two images, which are not cut into tiles."""
    prompts = fx.standard_prompts()
    prompts["c"].messages = [fx.user("What is this?", 1)]
    prompts["a"].images, prompts["b"].images, prompts["c"].images, prompts["e"].images = ["a"], ["b"], ["c"], ["d", "c"]
    return prompts


def modules():
    words = tokenizer()
    text = hf.Qwen2Config(
        vocab_size=len(words), hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    vision = hf.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=TILE, patch_size=PATCH,
        vision_use_head=False,
    )
    config = hf.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio=LIMIT,
        pad_token_id=words.pad_token_id,
    )
    half = [0.5, 0.5, 0.5]
    size = {"height": TILE, "width": TILE}
    images = hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS, image_mean=half, image_std=half)
    processor = hf.LlavaOnevisionProcessor(
        images,
        words,
        hf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(TILE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=LIMIT,
        chat_template=llava.CHATML,
    )
    return fx.Fixture(
        note="LLaVA-OneVision with the names of transformers' modules (model.language_model.*, model.vision_tower.*, "
        "model.image_newline), bf16: tiles whose features are reduced bilinearly above 2.42 tiles, rows that end in a newline, "
        "images of a prompt with several padded to squares and not cut into tiles; Qwen2, untied.",
        model_class=hf.LlavaOnevisionForConditionalGeneration,
        config=config,
        processor=processor,
        prompts=prompts(),
        pictures=llava_next.pictures,
        cases=fx.CASES_WITHOUT_RIGHT,
        nested_images=True,
        disk_dtype=torch.bfloat16,
        record_layers=False,
        min_distinct=5,
        value=llava_next.newline,
        write=internvl.without_video(llava.write_modules),
        load=llava.load_pretrained,
        ablations={
            "vision_feature_layer": lambda c: setattr(c, "vision_feature_layer", -2),
            "rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=10000.0),
        },
    )
