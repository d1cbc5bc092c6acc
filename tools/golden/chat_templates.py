"""Chat templates of the shapes that are published, rendered by transformers.

The templates in crates/sgm-models/tests/golden/chat_templates/*.jinja are our own texts with the control flow, the
filters and the special tokens of published ones. This script renders them with `apply_chat_template` and writes
cases.json beside them:

* `conversations`: name -> messages; an image is {"type": "image"};
* `templates`: name -> {"tokens", "placeholder" (of models that take images), "rendered": conversation -> text with the
  opening of the model's turn, or null where the template refuses; "closed": conversation -> the text without it, or the
  number of characters at the end that belong to the opening};
* `sources`: [files that have a template, the file that AutoProcessor takes it from, the one that AutoTokenizer does], null
  where transformers has no template or refuses;
* `special_tokens`: [tokenizer_config.json, special_tokens_map.json or null, what `TOKENS_TEMPLATE` renders];
* `features`: [template, what it renders for `features_messages`, or null where it fails].

Dates are rendered for 3 February 2019. What a text model is given is a text; the content of a template with pictures is
a list of parts, or, where the template takes texts only, the placeholders on lines of their own, then the text.
"""

import datetime as dt
import itertools
import json
import pathlib
import shutil
import tempfile

import jinja2
import tokenizers
import transformers
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).resolve().parents[2] / "crates/sgm-models/tests/golden/chat_templates"


class Date(dt.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2019, 2, 3)


def user(*content):
    return {"role": "user", "content": list(content)}


def assistant(text):
    return {"role": "assistant", "content": [text]}


def system(text):
    return {"role": "system", "content": [text]}


IMAGE = None
CONVERSATIONS = {
    "single": [user("What is this?")],
    "multi": [user("So?"), assistant("It is a boat."), user("And?"), assistant("It is old."), user("Why?")],
    "system": [system("Be brief."), user("What is this?")],
    "system_multi": [system(" Be kind.\n"), user("So?"), assistant(" Yes. \n"), user("And <b>?")],
    "empty_system": [system(""), user("What is this?")],
    "non_ascii": [user("Où est le café ? 日本語 🙂 \u00a0é\u200d!"), assistant("naïve ﬁn Ⅷ"), user("ÀÉß İ")],
    "special": [user("a <b> & \"c\" 'd' {{ x }} {% if y %} \\n {# z #} </s> 100% %s $1 `q` <|im_end|>")],
    "spaces": [user("  first \n\n second\t "), assistant("\n\n yes \n"), user("\n")],
    "thought": [user("So?"), assistant("<think>\nhm\n</think>\n\nyes"), user("And?")],
    "answered": [user("So?"), assistant("Yes.")],
    "image": [user(IMAGE, "What is this?")],
    "image_system": [system("Be brief."), user(IMAGE, "What is this?")],
    "image_multi": [user(IMAGE, IMAGE, " Both?\n"), assistant("Yes."), user("Which?"), assistant("One."), user(IMAGE, "And <this>?")],
    "image_last": [user("Before ", IMAGE)],
}

BOS_EOS = {"bos_token": "<s>", "eos_token": "</s>"}
IM = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
LLAMA3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
DEEPSEEK = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
COHERE = {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"}
TOKENS = {
    "llama3": LLAMA3, "llama3_1_tools": LLAMA3, "llama3_2_vision": LLAMA3, "llama_guard_3": LLAMA3, "llama_guard_4": LLAMA3,
    "llama4": LLAMA3, "llava_llama3_text": LLAMA3, "openchat": LLAMA3, "chatml": IM, "qwen2": IM, "qwen2_5_tools": IM, "qwen2_vl": IM,
    "qwen3": IM, "qwen3_vl": IM, "smollm3": IM, "internvl": IM, "llava_onevision": IM, "kimi_vl": IM, "gemma": GEMMA, "gemma3": GEMMA,
    "shieldgemma": GEMMA, "deepseek_v2": DEEPSEEK, "deepseek_r1": DEEPSEEK, "deepseek_v3_1": DEEPSEEK, "command_r": COHERE,
    "command_r_tool_use": COHERE, "aya": COHERE, "aya_vision": COHERE,
}  # fmt: skip

# The placeholder of an image in the prompts of models that take images.
PARTS = {
    "llama3_2_vision": "<|image|>", "llama_guard_4": "<|image|>", "llama4": "<|image|>", "mistral_v7": "[IMG]", "pixtral": "[IMG]",
    "gemma3": "<start_of_image>", "qwen2_vl": "<|image_pad|>", "qwen3_vl": "<|image_pad|>", "smolvlm": "<image>", "idefics3": "<image>",
    "llava_1_5": "<image>", "llava_next_mistral": "<image>", "llava_onevision": "<image>", "internvl": "<IMG_CONTEXT>",
    "aya_vision": "<image>", "kimi_vl": "<|media_pad|>",
}  # fmt: skip
TEXTS = {"llava_llama3_text": "<image>", "vicuna": "<image>", "phi3_vision": "<|image_1|>", "chatml": "<image>", "mistral_v1": "<image>"}
# Templates that print a system text only if it is a text, although the other turns are lists of parts.
SYSTEM_TEXT = {"llama3_2_vision", "pixtral"}


def content(name, message):
    """The content in the form that the template is written for."""
    texts = [part for part in message["content"] if part is not IMAGE]
    pictures = len(message["content"]) - len(texts)
    if name in PARTS and not (name in SYSTEM_TEXT and message["role"] == "system"):
        return [{"type": "image"} if part is IMAGE else {"type": "text", "text": part} for part in message["content"]]
    return f"{TEXTS.get(name)}\n" * pictures + "".join(texts)


def tokenizer(tokens):
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, **tokens)


def render(template, tokens, messages, opening):
    try:
        return tokenizer(tokens).apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=opening
        )
    except (jinja2.exceptions.TemplateError, TypeError):
        return None


def on_disk(messages):
    def part(p):
        return {"type": "image"} if p is IMAGE else {"type": "text", "text": p}

    return [m | {"content": [part(p) for p in m["content"]]} for m in messages]


FILES = ["processor_config.json", "chat_template.json", "chat_template.jinja", "additional_chat_templates", "tokenizer_config.json"]
TOKENS_TEMPLATE = (
    "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}|{{ image_token }}|{{ boi_token }}|"
    "{{ messages[0].content }}"
)


def copy_of(fixture, directory):
    for path in (HERE.parent / fixture).iterdir():
        if path.name.startswith(("config", "generation", "processor", "tokenizer", "preprocessor")):
            shutil.copy(path, directory)


def set_key(path, key, value):
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | {key: value}))


def sources():
    """Every combination of files; named templates in a folder and in tokenizer_config.json are two more."""
    kinds = FILES + ["additional_chat_templates/other.jinja", "tokenizer_config.json, named"]
    rows = []
    for bits in itertools.product([False, True], repeat=len(kinds)):
        present = [kind for kind, bit in zip(kinds, bits) if bit]
        if {"tokenizer_config.json", "tokenizer_config.json, named"} <= set(present):
            continue
        with tempfile.TemporaryDirectory() as name:
            directory = pathlib.Path(name)
            copy_of("llava_mha", directory)
            for kind in present:
                match kind:
                    case "chat_template.jinja":
                        (directory / kind).write_text(kind)
                    case "additional_chat_templates" | "additional_chat_templates/other.jinja":
                        path = directory / (kind if kind.endswith(".jinja") else kind + "/default.jinja")
                        path.parent.mkdir(exist_ok=True)
                        path.write_text(kind)
                    case "tokenizer_config.json, named":
                        named = [{"name": "rag", "template": "rag"}, {"name": "default", "template": kind}]
                        set_key(directory / "tokenizer_config.json", "chat_template", named)
                    case _:
                        set_key(directory / kind, "chat_template", kind)
            row = [present]
            for auto in (transformers.AutoProcessor, transformers.AutoTokenizer):
                try:
                    loaded = auto.from_pretrained(directory)
                    messages = [user("x")] if auto is transformers.AutoProcessor else [{"role": "user", "content": "x"}]
                    row.append(loaded.apply_chat_template(messages, tokenize=False))
                except ValueError:
                    row.append(None)
            rows.append(row)
    return rows


def special_tokens():
    added = {"content": "<x>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    decoder = {"1": added}
    rows = []
    for config, legacy in [
        ({"bos_token": "<b>", "eos_token": {"__type": "AddedToken"} | added, "pad_token": None}, None),
        ({"tokenizer_class": "LlamaTokenizer"}, None),
        ({"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<b>", "unk_token": None}, None),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "image_token": "<i>", "boi_token": "<boi>"}, None),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": {"image_token": "<i>"}}, None),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"bos_token": added, "eos_token": "<e>"}),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<b>"}, {"bos_token": added}),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<b>", "added_tokens_decoder": decoder}, {"bos_token": added}),
    ]:
        with tempfile.TemporaryDirectory() as name:
            directory = pathlib.Path(name)
            copy_of("text_llama", directory)
            (directory / "tokenizer_config.json").write_text(json.dumps(config))
            if legacy:
                (directory / "special_tokens_map.json").write_text(json.dumps(legacy))
            loaded = transformers.AutoTokenizer.from_pretrained(directory)
            messages = [{"role": "user", "content": "x"}]
            rows.append([config, legacy, loaded.apply_chat_template(messages, chat_template=TOKENS_TEMPLATE, tokenize=False)])
    return rows


def main():
    chat_template_utils.datetime = Date
    templates = {}
    for path in sorted(HERE.glob("*.jinja")):
        name, source = path.stem, path.read_text()
        tokens = TOKENS.get(name, BOS_EOS)
        placeholder = PARTS.get(name) or TEXTS.get(name)
        rendered, closed = {}, {}
        for conversation, messages in CONVERSATIONS.items():
            if any(IMAGE in m["content"] for m in messages) and not placeholder:
                continue
            given = [{"role": m["role"], "content": content(name, m)} for m in messages]
            opened, shut = render(source, tokens, given, True), render(source, tokens, given, False)
            rendered[conversation] = opened
            if opened is not None and shut is not None and opened.startswith(shut):
                shut = len(opened) - len(shut)
            closed[conversation] = shut
        templates[name] = {"tokens": tokens, "placeholder": placeholder, "rendered": rendered, "closed": closed}
    features_messages = [user("hello"), assistant("yes"), user(" <b>é?</b>\n")]
    plain = [{"role": m["role"], "content": m["content"][0]} for m in features_messages]
    features = [
        [line, render(line, BOS_EOS, plain, True)] for line in (HERE / "features.txt").read_text().split("\n") if line
    ]
    cases = {
        "versions": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "conversations": {name: on_disk(messages) for name, messages in CONVERSATIONS.items()},
        "templates": templates,
        "sources": sources(),
        "tokens_template": TOKENS_TEMPLATE,
        "special_tokens": special_tokens(),
        "features_messages": on_disk(features_messages),
        "features": features,
    }
    (HERE / "cases.json").write_text(json.dumps(cases, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
