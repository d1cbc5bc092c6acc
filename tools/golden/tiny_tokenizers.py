"""Tokenizers of about 300 entries whose merges are written out, not trained, so they never change."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPACE = "\u2581"
LETTERS = "aehiostu.?"  # anything else goes through the byte tokens


def sentencepiece_style(words, added, prefix="normalizer", fallback=range(256)):
    """BPE with byte fallback as converted from SentencePiece (Llama 2): <unk>, <s>, </s>, 256 bytes, pieces.

    `words` become single tokens. `prefix` says who puts the leading space piece in front: the
    "normalizer" (before every segment between added tokens) or the "pre_tokenizer" (before the
    first segment only). `fallback` are the bytes that have a token.
    """
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in fallback]
    words = [w.replace(" ", SPACE) for w in words]
    alphabet = sorted(set(SPACE + LETTERS + "".join(words)))
    pieces, merges = merge_chains(words, first + alphabet)
    tokenizer = Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if prefix == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([special(t) for t in ["<unk>", "<s>", "</s>", *added]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def byte_level(words, added, alphabet=None):
    """Byte-level BPE (GPT-2, Qwen 2): 256 byte characters (or `alphabet`), merges, then the added tokens; no BOS."""
    alphabet = sorted(alphabet or pre_tokenizers.ByteLevel.alphabet())
    pieces, merges = merge_chains([w.replace(" ", "\u0120") for w in words], alphabet)
    tokenizer = Tokenizer(models.BPE(pieces, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([special(t) for t in added])
    return tokenizer


def merge_chains(words, tokens):
    """Merges that build each word from left to right: a+b, ab+c, ..."""
    merges = []
    tokens = list(tokens)
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    return {token: index for index, token in enumerate(tokens)}, merges


def special(text):
    return AddedToken(text, special=True, normalized=False)


def wrap(tokenizer, named={"image_token": "<image>"}, **special_tokens):
    """The transformers tokenizer around a `tokenizers` one; `named` are tokens a processor asks it for."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=named,
        **special_tokens,
    )
