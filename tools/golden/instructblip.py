"""The InstructBLIP family with a Llama (Vicuna) decoder: ViT, a Q-Former that reads the instruction too, one projection."""

import json

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import fixture as fx
import llava
import tiny_tokenizers as tt

PATCH, SIZE, QUERIES = 4, 8, 3
PIECES = ["what", "is", "this", "so", "?", ".", "th", "##is", "##at", "##er"]
CASES = {"single": ["a"], "batch_left": ["b", "c"], "batch_right": ["b", "c"]}
CASES_WITHOUT_RIGHT = {case: letters for case, letters in CASES.items() if case != "batch_right"}


def vicuna_tokenizer():
    words = ["What", " is", " this", " So", "th", "er", "at", " the"]
    tokenizer = tt.sentencepiece_style(words, ["<image>", "<pad>"], fallback=range(10, 11))
    special = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    return tt.wrap(tokenizer, {}, **special)


def qformer_tokenizer():
    """BERT's WordPiece, lower case, [CLS] text [SEP], padded on the right; [DEC] as BLIP adds it."""
    letters = "abdehiorstw"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *PIECES]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([tt.special(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")])
    named = dict(bos_token="[DEC]", pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    wrapped = tt.wrap(tokenizer, {}, mask_token="[MASK]", **named)
    wrapped.padding_side = "right"
    return wrapped


def prompts():
    return {
        "a": fx.Prompt([fx.user("What is this?", 1)], ["a"]),
        "b": fx.Prompt([fx.user("So?", 1)], ["b"]),
        "c": fx.Prompt([fx.user("What is that, the other?", 1)], ["a"]),
    }


def render(prompt):
    """There is no chat template and no token for the image in the text: the instruction is all."""
    return "".join(part["text"] for part in prompt.messages[0]["content"] if part["type"] == "text")


def value(name, parameter, noise):
    if name.endswith("LayerNorm.weight"):
        return 1 + 0.2 * noise
    if name == "query_tokens" or "position_embedding" in name or "class_embedding" in name:
        return 0.5 * noise
    if name.endswith("qkv.bias"):
        third = len(parameter) // 3
        noise[third : 2 * third] = 0  # keys have no bias
        return 0.2 * noise
    return None


def generator(model):
    """`generate` hands over to the language model, with that one's settings."""
    model.language_model.generation_config.pad_token_id = model.generation_config.pad_token_id
    return model.language_model


def model_config(tokens, reader, vision=None, qformer=None, **text):
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    special = {key: getattr(tokens, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tower = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    former = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=32)
    return hf.InstructBlipConfig(
        vision_config=tower | dict(image_size=SIZE, patch_size=PATCH) | (vision or {}),
        qformer_config=former | dict(vocab_size=len(reader)) | (qformer or {}),
        text_config=hf.LlamaConfig(vocab_size=len(tokens), max_position_embeddings=2048, **special, **shape | text),
        num_query_tokens=QUERIES,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )


def instructblip_fixture(tokens, reader, image_processor=hf.BlipImageProcessor, **fields):
    images = image_processor(size={"height": SIZE, "width": SIZE})
    defaults = dict(
        model_class=hf.InstructBlipForConditionalGeneration,
        processor=hf.InstructBlipProcessor(images, tokens, reader, num_query_tokens=QUERIES),
        decoder="language_model.model",
        image_features="language_projection",
        prompts=prompts(),
        cases=CASES,
        render=render,
        value=value,
        generator=generator,
        write=llava.write_saved,
        load=llava.load_pretrained,
    )
    return fx.Fixture(**defaults | fields)


def saved():
    tokens, reader = vicuna_tokenizer(), qformer_tokenizer()
    config = model_config(tokens, reader, vision=dict(layer_norm_eps=1e-3), qformer=dict(layer_norm_eps=1e-3))
    config.text_config.rope_parameters = {"rope_type": "default", "rope_theta": 500.0}
    return instructblip_fixture(
        tokens,
        reader,
        note="InstructBLIP as save_pretrained writes it: three Q-Former layers, cross attention in the first and the third, "
        "instructions of different lengths, image tokens in front of <s> and of left padding.",
        config=config,
        ablations={
            "layer_norm_eps": lambda c: setattr(c.vision_config, "layer_norm_eps", 1e-6),
            "qformer_layer_norm_eps": lambda c: setattr(c.qformer_config, "layer_norm_eps", 1e-12),
            "hidden_act": lambda c: setattr(c.vision_config, "hidden_act", "quick_gelu"),
            "qformer_hidden_act": lambda c: setattr(c.qformer_config, "hidden_act", "relu"),
            "rope_theta": lambda c: c.text_config.rope_parameters.update(rope_theta=10000.0),
        },
    )


def hub():
    tokens, reader = vicuna_tokenizer(), qformer_tokenizer()
    config = model_config(
        tokens,
        reader,
        qformer=dict(num_hidden_layers=2, cross_attention_frequency=1),
        intermediate_size=48,
        num_key_value_heads=2,
        rms_norm_eps=1e-2,
    )
    return instructblip_fixture(
        tokens,
        reader,
        image_processor=hf.BlipImageProcessorPil,
        note="Published InstructBLIP-Vicuna layout: transformers 4 config, preprocessor_config.json, processor_config.json with "
        "num_query_tokens, qformer_tokenizer/, two shards, f16, PIL backend; cross attention in every Q-Former layer.",
        config=config,
        cases=CASES_WITHOUT_RIGHT,
        record_layers=False,
        disk_dtype=torch.float16,
        write=write_hub,
        ablations={"rms_norm_eps": lambda c: setattr(c.text_config, "rms_norm_eps", 1e-6)},
    )


# ---------------------------------------------------------------- checkpoints


def write_hub(fixture, model, directory):
    """The layout of the published InstructBLIP-Vicuna repositories."""
    same = {f"{part}": part for part in ("language_model.", "language_projection.", "qformer.", "query_tokens", "vision_model.")}
    llava.write_shards(llava.renamed(llava.on_disk(fixture, model), same), directory, 2)
    llava.write_json(directory / "config.json", old_config(fixture.config))
    model.generation_config.save_pretrained(directory)
    write_old_processor(fixture, directory)


def old_config(config):
    def given(part, keys):
        return {key: getattr(part, key) for key in keys}

    text, tower, former = config.text_config, config.vision_config, config.qformer_config
    keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    special = ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size", "rms_norm_eps", "num_key_value_heads")
    reader = ("vocab_size", "max_position_embeddings", "cross_attention_frequency", "encoder_hidden_size", "layer_norm_eps")
    return {
        "architectures": ["InstructBlipForConditionalGeneration"],
        "image_token_index": config.image_token_index,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "model_type": "instructblip",
        "num_query_tokens": QUERIES,
        "qformer_config": {**given(former, keys + reader), "model_type": "instructblip_qformer", "position_embedding_type": "absolute"},
        "text_config": {
            **given(text, keys + special),
            "architectures": ["LlamaForCausalLM"],
            "max_sequence_length": 2048,
            "model_type": "llama",
            "torch_dtype": "float16",
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.47.0.dev0",
        "use_decoder_only_language_model": True,
        "vision_config": {
            **given(tower, keys + ("image_size", "patch_size", "qkv_bias", "hidden_act", "layer_norm_eps")),
            "model_type": "instructblip_vision_model",
        },
    }


def write_old_processor(fixture, directory):
    """The processor files of transformers 4."""
    images, processor = fixture.processor.image_processor, fixture.processor
    size = {"height": SIZE, "width": SIZE}
    llava.write_old_preprocessor(directory, images, processor_class="InstructBlipProcessor", resample=3, size=size)
    llava.write_json(
        directory / "processor_config.json", {"num_query_tokens": QUERIES, "processor_class": "InstructBlipProcessor"}
    )
    llava.write_old_tokenizer(processor.tokenizer, directory, "InstructBlipProcessor", add_bos_token=True, add_eos_token=False)
    folder = directory / "qformer_tokenizer"
    folder.mkdir()
    llava.write_old_tokenizer(processor.qformer_tokenizer, folder, "InstructBlipProcessor", do_lower_case=True)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"padding_side": "right", "tokenizer_class": "BertTokenizer"}
    more = {key: getattr(processor.qformer_tokenizer, key) for key in ("cls_token", "sep_token", "mask_token")}
    llava.write_json(file, settings | more)
