"""Tiny random BERT and RoBERTa sequence classifiers, and what transformers makes of some texts with them.

crates/mm-toxic-qa/tests/golden/{bert_multi,roberta_single}/: config.json, model.safetensors, tokenizer.json, tokenizer_config.json and golden.json:
`texts`, `logits_alone` of each text by itself, `logits_batch` of all padded to the longest, `probabilities` of each label by the pipeline.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    TextClassificationPipeline,
)

WORDS = "the a is it red blue circle dog you fool silly not and see do what placeholder".split()
TEXTS = [
    "it is red",
    "you silly fool",
    "the dog",
    "",
    "A Blue circle and a red circle and a blue dog and you see it and it is not the dog , fool and more",
    "caf\u00e9 z\u4e2d!?",
    "not",
    "what do you see , silly placeholder",
]
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.4,
}


def bert():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, ",", "!", "?", *"acdefz", "##a", "##c", "##e", "##f"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=16,
    )
    labels = ["toxic", "severe_toxic", "insult"]
    config = BertConfig(
        vocab_size=len(pieces),
        max_position_embeddings=16,
        problem_type="multi_label_classification",
        id2label=dict(enumerate(labels)),
        label2id={l: i for i, l in enumerate(labels)},
        **SMALL,
    )
    return fast, BertForSequenceClassification(config)


def roberta():
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces, merges = special + alphabet, []
    for word in ["\u0120" + w for w in WORDS[:10]]:
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>", bos_token="<s>", eos_token="</s>"
    )
    config = RobertaConfig(
        vocab_size=len(pieces),
        max_position_embeddings=24,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        id2label={0: "neutral", 1: "toxic"},
        label2id={"neutral": 0, "toxic": 1},
        **SMALL,
    )
    # No limit in the tokenizer's files: it follows from the 24 - 2 positions.
    return fast, RobertaForSequenceClassification(config)


def main():
    torch.set_num_threads(1)
    root = Path(__file__).resolve().parents[2] / "crates/mm-toxic-qa/tests/golden"
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else root
    for name, build, seed, limit in (("bert_multi", bert, 3, 16), ("roberta_single", roberta, 4, 22)):
        torch.manual_seed(seed)
        tokenizer, model = build()
        model.eval()
        for name_of, parameter in model.named_parameters():
            if parameter.ndim == 1:  # biases and norms that are not 0 and 1
                torch.nn.init.normal_(parameter, 1.0 if "LayerNorm.weight" in name_of else 0.0, 0.3)
            if name_of in ("classifier.weight", "classifier.out_proj.weight"):
                parameter.data *= 3
        folder = root / name

        def logits(texts):
            inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=limit)
            inputs.pop("token_type_ids", None)
            with torch.no_grad():
                return model(**inputs).logits.tolist()

        last = dict(model.named_parameters())["classifier.bias" if name == "bert_multi" else "classifier.out_proj.bias"]
        last.data -= torch.tensor(logits(TEXTS)).mean(0)  # texts on either side of a half
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        pipeline = TextClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")
        probabilities = [
            {s["label"]: s["score"] for s in pipeline(text, top_k=None, truncation=True, max_length=limit)} for text in TEXTS
        ]
        golden = {
            "texts": TEXTS,
            "logits_alone": [logits([text])[0] for text in TEXTS],
            "logits_batch": logits(TEXTS),
            "probabilities": probabilities,
        }
        (folder / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
