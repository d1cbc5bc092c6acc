#!/usr/bin/env python3
"""SentencePiece models without tokenizer.json, and the token ids of the tokenizers that transformers builds from them.

    python tools/golden/sentence_piece.py [directory]

writes crates/sgm-models/tests/golden/sentence_piece/.
"""

import json
import sys
import tempfile
from pathlib import Path

import sentencepiece
from transformers import GemmaTokenizer, LlamaTokenizer

OUT = Path(__file__).resolve().parents[2] / "crates/sgm-models/tests/golden/sentence_piece"
WORDS = "What is this? A red boat on the sea. Is it old? The boat, the sea and the other boats: there are 23 of them. So?".split()
TEXTS = [
    "What is this?", " What is this?", "  two  spaces ", "", " ", "\n", "a\nb\n\nc", "\tTab", "Caf\u00e9 \u2192 \u4f60\u597d \U0001f6a4", "e\u0301",
    "<s>What</s> is", "</s>", "<s> What", "What<s>", "<unk>", "USER: <image>\nWhat is this? ASSISTANT:", "<image><image>", "<image> So",
    "<pad>", "\u2581What", "1,234.5", "ABCxyz", "the  sea\u00a0and", "<0x0A>", "\r\n", "zzzzzz", "[INST] So? [/INST]", "\u0000", "boats:boats",
    "<start_of_turn>user\nSo?<end_of_turn>\n", "A  <image>  red", "\u3000\u3042", "What\u200bis",
]  # fmt: skip


def train(path, **options):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        for start in range(200):
            text.write(" ".join(WORDS[(start * 7 + i * (start % 5 + 1)) % len(WORDS)] for i in range(12)) + "\n")
        text.flush()
        sentencepiece.SentencePieceTrainer.train(
            input=text.name, model_prefix=str(path.with_suffix("")), model_type="bpe", vocab_size=340, byte_fallback=True,
            character_coverage=1.0, split_digits=True, allow_whitespace_only_pieces=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, num_threads=1, minloglevel=2, hard_vocab_limit=False, **options,
        )  # fmt: skip
    path.with_suffix(".vocab").unlink()


def cases(vocabulary):
    image = {"content": "<image>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    both = {str(vocabulary): image, str(vocabulary + 1): image | {"content": "<pad>"}}
    stripped = {str(vocabulary): image | {"lstrip": True, "rstrip": True}}
    flags = {"add_bos_token": True, "add_eos_token": False}
    return {
        "plain": {"tokenizer_class": "LlamaTokenizer", **flags},
        "vicuna": {"tokenizer_class": "LlamaTokenizer", "legacy": False, "pad_token": "<unk>", **flags},
        "legacy": {"tokenizer_class": "LlamaTokenizer", "legacy": True, "added_tokens_decoder": both, "pad_token": "<pad>", **flags},
        "stripped": {"tokenizer_class": "LlamaTokenizerFast", "added_tokens_decoder": stripped, "add_bos_token": True, "add_eos_token": True},
        "no_prefix": {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False, "add_bos_token": False, "add_eos_token": False},
    }


def record(tokenizer_class, directory, settings):
    """The ids of every text, with and without the tokens at the ends, and the text that they decode to."""
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = tokenizer_class.from_pretrained(directory)
    assert not (directory / "tokenizer.json").exists()
    (directory / "tokenizer_config.json").unlink()
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    return {
        "settings": settings,
        "ids": ids,
        "plain_ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS],
        "decoded": [tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False) for row in ids],
    }


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    golden = {"texts": TEXTS, "cases": {}}
    for name in ("llama", "gemma"):
        directory = out / name
        directory.mkdir(parents=True, exist_ok=True)
        model = directory / "tokenizer.model"
        if name == "llama":
            train(model)
        else:
            ends = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3, add_dummy_prefix=False)
            train(model, user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n", "\u2581\u2581"], **ends)
        vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(model)).get_piece_size()
        if name == "llama":
            for case, settings in cases(vocabulary).items():
                golden["cases"][case] = {"model": name, **record(LlamaTokenizer, directory, settings)}
        else:
            settings = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False}
            golden["cases"]["gemma"] = {"model": name, **record(GemmaTokenizer, directory, settings)}
    (out / "ids.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
