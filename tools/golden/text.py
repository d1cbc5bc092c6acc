"""Causal language models without images: Llama 3, Mistral, Qwen 2 and 3, Gemma 1 to 3, Phi-3 and Phi-4-mini."""

import json
import re

import torch
import transformers as hf
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import fixture as fx
import tiny_tokenizers as tt
from llava import load_pretrained, non_defaults, on_disk, renamed, write_json, write_saved, write_shards

CASES = {"single": ["a"], "batch_left": ["b", "c"], "text": ["d"]}
CASES_WITH_RIGHT = CASES | {"batch_right": ["b", "c"]}

# ---------------------------------------------------------------- prompts


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def prompts(**changes):
    """a: single; b, c: the batch; d: text; f to h: only rendered and tokenised."""
    chats = {
        "a": fx.Prompt([user("What is this?")]),
        "b": fx.Prompt([user("So?")]),
        "c": fx.Prompt([user("What is it?")]),
        "d": fx.Prompt([user("Caf\u00e9?")]),
        "f": fx.Prompt([user("A red boat on the sea.")], add_generation_prompt=False),
        "g": fx.Prompt([system("Be brief. "), user(" What is this? "), assistant("A boat.\n"), user("Is it old?")]),
        "h": fx.Prompt([user("So?"), assistant("It is old."), user("1 boat,  23 men;\n\n4567 oars!")]),
    }
    return {k: v for k, v in (chats | changes).items() if v}


# ---------------------------------------------------------------- templates: our own text, the published output

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined and date_format is defined %}
        {%- set date_string = strftime_now(date_format) %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- set first = 0 %}
{%- set instruction = "" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set instruction = messages[0]['content'] | trim %}
    {%- set first = 1 %}
{%- endif %}
{%- if not messages[first:] %}
    {{- raise_exception("There is no turn to answer.") }}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" ~ "Today Date: " ~ date_string ~ "\\n\\n" }}
{{- instruction + "<|eot_id|>" }}
{%- for turn in messages[first:] %}
    {%- if turn.role not in ['user', 'assistant', 'ipython', 'tool'] %}
        {{- raise_exception("No such role: " + turn.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n' + turn['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- set about = messages[0]["content"] if messages[0]["role"] == "system" else "" %}
{%- set turns = messages[1:] if about else messages %}
{%- set state = namespace(expected="user", last=-1) %}
{%- for turn in turns %}
    {%- if turn["role"] != state.expected %}
        {{- raise_exception("Turns must alternate, starting with the user.") }}
    {%- endif %}
    {%- if turn["role"] == "user" %}{% set state.last = loop.index0 %}{% endif %}
    {%- set state.expected = "assistant" if state.expected == "user" else "user" %}
{%- endfor %}
{{- bos_token }}
{%- for turn in turns %}
    {%- if turn["role"] == "user" %}
        {{- "[INST] " + (about + "\\n\\n" if about and loop.index0 == state.last else "") + turn["content"] + "[/INST]" }}
    {%- else %}
        {{- " " + turn["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

QWEN2 = (
    "{% for turn in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

QWEN3 = """\
{%- set state = namespace(seeking=true, last=messages | length - 1) %}
{%- for turn in messages[::-1] %}
    {%- if state.seeking and turn.role == "user" and not (turn.content.startswith('<tool_response>') and turn.content.endswith('</tool_response>')) %}
        {%- set state.seeking = false %}
        {%- set state.last = (messages | length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for turn in messages %}
    {%- set said = turn.content if turn.content is string else '' %}
    {%- if turn.role in ('user', 'system') %}
        {{- '<|im_start|>' + turn.role + '\\n' + said + '<|im_end|>' + '\\n' }}
    {%- elif turn.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if '</think>' in said %}
            {%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + turn.role + '\\n' }}
        {%- if loop.index0 > state.last and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + said.lstrip('\\n') }}
        {%- else %}
            {{- said }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('This model has no system role.') }}{% endif %}"
    "{% for turn in messages %}"
    "{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Turns must alternate.') }}{% endif %}"
    "{% set name = 'model' if turn['role'] == 'assistant' else turn['role'] %}"
    "{{ '<start_of_turn>' + name + '\n' + turn['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

# The system text and the order of turns, also of Gemma 3 with images.
GEMMA3_TURNS = """\
{{ bos_token }}
{%- set about = '' -%}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set told = messages[0]['content'] -%}
    {%- set about = (told if told is string else told[0]['text']) + '\n\n' -%}
    {%- set turns = messages[1:] -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Turns must alternate.") }}
    {%- endif -%}
"""

GEMMA3 = GEMMA3_TURNS + """\
    {%- set name = {'assistant': 'model'}.get(turn['role'], turn['role']) -%}
    {{ '<start_of_turn>' + name + '\n' + (about if loop.first else '') }}
    {%- if turn['content'] is string -%}
        {{ turn['content'] | trim }}
    {%- elif turn['content'] is iterable -%}
        {%- for part in turn['content'] if part['type'] == 'text' -%}
            {{ part['text'] | trim }}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Content is text or a list of parts.") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""

PHI3 = (
    "{% for turn in messages %}"
    "{% if turn['role'] in ['system', 'user', 'assistant'] and turn['content'] %}"
    "{{ '<|' ~ turn['role'] ~ '|>\n' ~ turn['content'] ~ '<|end|>\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

PHI4 = (
    "{% for turn in messages %}{{ '<|' + turn['role'] + '|>' + turn['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)

# ---------------------------------------------------------------- tokenizers

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3_SPLIT = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Printable ASCII, space, newline and the two bytes of an accented e, as byte characters: the vocabularies stay small.
BYTES = [chr(c) for c in range(33, 127)] + ["\u0120", "\u010a", "\u00c3", "\u00a9"]


def byte_level(words, added, split, bos=None, normalizer=None, alphabet=BYTES):
    """Byte-level BPE behind a regular expression, as Llama 3 and Qwen have it."""
    words = [w.replace(" ", "\u0120").replace("\n", "\u010a") for w in words]
    pieces, merges = tt.merge_chains(words, sorted(alphabet))
    tokenizer = Tokenizer(models.BPE(pieces, merges, ignore_merges=bos is not None))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tt.special(t) for t in added])
    if bos:
        begin = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return tokenizer


def gemma_style(words, added, fallback=range(256)):
    """BPE with byte fallback as the Gemmas have it: other first ids, no space in front, blanks end a segment."""
    first = ["<pad>", "<eos>", "<bos>", "<unk>", *added, "\n"] + [f"<0x{byte:02X}>" for byte in fallback]
    words = [w.replace(" ", tt.SPACE) for w in words]
    alphabet = sorted(set(tt.SPACE + tt.LETTERS + "".join(words)) - {"\n"})
    pieces, merges = tt.merge_chains(words, first + alphabet)
    tokenizer = Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", tt.SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(tt.SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([tt.special(t) for t in ["<pad>", "<eos>", "<bos>", "<unk>", *added]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    return tokenizer


def wrap(tokenizer, template, **special_tokens):
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **special_tokens,
    )


def llama3_tokenizer():
    words = ["Cutting", " Knowledge", " Date", " December", "Today", " Jul", "202", "\n\n"]
    added = [
        "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>",
        "<|eom_id|>", "<|eot_id|>",
    ]  # fmt: skip
    tokenizer = byte_level(["user", "assistant", "system", *words, " is", "What"], added, LLAMA3_SPLIT, added[0])
    return wrap(tokenizer, LLAMA3, bos_token=added[0], eos_token="<|eot_id|>", pad_token="<|finetune_right_pad_id|>")


def qwen_tokenizer(template, words, added=(), alphabet=BYTES):
    tokenizer = byte_level(
        ["user", "assistant", "system", " is", "What", "th", "er", *words],
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        QWEN2_SPLIT,
        normalizer=normalizers.NFC(),
        alphabet=alphabet,
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in added])
    return wrap(tokenizer, template, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def mistral_tokenizer(fallback=range(256)):
    tokenizer = tt.sentencepiece_style(["th", "er", "at", "What", " is", " the"], ["[INST]", "[/INST]"], fallback=fallback)
    return wrap(tokenizer, MISTRAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")


def gemma_tokenizer(template):
    words = ["user", "model", "What", "th", "er", " is", "boat", "\n\n"]
    tokenizer = gemma_style(words, ["<start_of_turn>", "<end_of_turn>"])
    return wrap(tokenizer, template, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")


def phi3_tokenizer():
    """The turn tokens of Phi-3 swallow the line break behind them."""
    tokenizer = tt.sentencepiece_style(["th", "er", "at", "What", " is", " the"], ["<|endoftext|>"])
    turns = ["<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False, rstrip=True) for t in turns])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return wrap(tokenizer, PHI3, bos_token="<s>", eos_token="<|endoftext|>", unk_token="<unk>", pad_token="<|endoftext|>")


def phi4_tokenizer():
    added = ["<|endoftext|>", "<|system|>", "<|end|>", "<|user|>", "<|assistant|>"]
    tokenizer = byte_level(["What", " is", "th", "er", "boat"], added, LLAMA3_SPLIT)
    return wrap(tokenizer, PHI4, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")


# ---------------------------------------------------------------- models


def text_fixture(tokenizer, **fields):
    defaults = dict(
        processor=tokenizer,
        prompts=prompts(),
        cases=CASES,
        write=write_saved,
        load=load_pretrained,
        decoder="model",
        image_features=None,
        disk_dtype=torch.bfloat16,
        record_layers=False,
    )
    if tokenizer.chat_template in (LLAMA3, MISTRAL, GEMMA, GEMMA3):  # they write the beginning token themselves
        defaults["encode_options"] = {"add_special_tokens": False}
    return fx.Fixture(**defaults | fields)


def shape(tokenizer, **changes):
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    ids = {k: getattr(tokenizer, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return dict(vocab_size=len(tokenizer), max_position_embeddings=512, **ids) | sizes | changes


def setting(name, value):
    return lambda config: setattr(config, name, value)


def rope(**values):
    return lambda config: config.rope_parameters.update(values)


def llama():
    tokenizer = llama3_tokenizer()
    scaling = dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
    )
    config = hf.LlamaConfig(
        **shape(tokenizer, hidden_size=24, head_dim=8),
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 500.0, **scaling},
        tie_word_embeddings=True,
    )
    config.eos_token_id = [tokenizer.convert_tokens_to_ids(t) for t in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]
    return text_fixture(
        tokenizer,
        note="Llama 3.2 in its published layout: rope llama3 in rope_scaling, several end tokens, head_dim 8 of hidden 24 "
        "with 4 heads, tied; two shards, template in tokenizer_config.json, a byte-level tokenizer that merges whole "
        "words first.",
        model_class=hf.LlamaForCausalLM,
        config=config,
        cases={"single": ["a"], "batch_left": ["b", "c"]},
        disk_dtype=torch.bfloat16,
        logit_gain=2.0,
        residual_gain=3.0,
        write=lambda f, m, d: write_hub(f, m, d, {"rope_theta": 500.0, "rope_scaling": scaling}, 2),
        ablations={
            "rope_type": rope(rope_type="default"),
            "low_freq_factor": rope(low_freq_factor=2.0),
            "high_freq_factor": rope(high_freq_factor=8.0),
        },
    )


def mistral():
    tokenizer = mistral_tokenizer()
    config = hf.MistralConfig(
        **shape(tokenizer, head_dim=12),
        sliding_window=5,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )
    return text_fixture(
        tokenizer,
        note="Mistral in its published layout: a sliding window of 5 on every layer, head_dim 12 of hidden 32 with 4 heads; "
        "f16 in two shards, rope_theta in the config, template in tokenizer_config.json.",
        model_class=hf.MistralForCausalLM,
        config=config,
        cases=CASES_WITH_RIGHT,
        prompts=prompts(g=fx.Prompt([system("Be brief."), user("What is this?"), assistant(" A boat.\n"), user("Is it old?")])),
        disk_dtype=torch.float16,
        write=lambda f, m, d: write_hub(f, m, d, {"rope_theta": 1000.0}, 2),
        ablations={
            "sliding_window": setting("sliding_window", None),
            "sliding_window_6": setting("sliding_window", 6),
            "rope_theta": rope(rope_theta=10000.0),
        },
    )


def qwen2():
    tokenizer = qwen_tokenizer(QWEN2, ["You", " are", " helpful"])
    config = hf.Qwen2Config(
        **shape(tokenizer, num_hidden_layers=3, intermediate_size=32),
        use_sliding_window=True,
        sliding_window=6,
        max_window_layers=1,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    )
    return text_fixture(
        tokenizer,
        note="Qwen 2 in its published layout: biases on q, k and v, layers 1 and 2 slide over 6 tokens (use_sliding_window, "
        "max_window_layers 1, no layer_types), untied; ChatML with a system turn of its own.",
        model_class=hf.Qwen2ForCausalLM,
        config=config,
        cases=CASES_WITH_RIGHT,
        disk_dtype=torch.bfloat16,
        write=lambda f, m, d: write_hub(
            f, m, d, {"rope_theta": 1000000.0, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
        ),
        ablations={
            "no_window": setting("layer_types", ["full_attention"] * 3),
            "all_slide": setting("layer_types", ["sliding_attention"] * 3),
            "sliding_window": setting("sliding_window", 7),
            "rope_theta": rope(rope_theta=10000.0),
        },
    )


def qwen3():
    tokenizer = qwen_tokenizer(QWEN3, ["boat"], ["<think>", "</think>"])
    config = hf.Qwen3Config(
        **shape(tokenizer, head_dim=16, intermediate_size=40),
        attention_bias=True,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True,
    )
    return text_fixture(
        tokenizer,
        note="Qwen 3 as save_pretrained writes it: norms on q and k per head, head_dim 16 of hidden 32 with 4 heads, biases "
        "on q, k, v and o, tied; f32. Thinking of earlier turns is cut out by the template.",
        model_class=hf.Qwen3ForCausalLM,
        config=config,
        prompts=prompts(
            h=fx.Prompt([user("So?"), assistant("<think>\nIt is old.\n</think>\n\nYes."), user("Why?")]),
            i=fx.Prompt([user("So?"), assistant("<think>\nIt is old.\n</think>\n\nYes.")], add_generation_prompt=False),
        ),
        disk_dtype=torch.float32,
        record_layers=True,
        logit_gain=2.0,
        residual_gain=6.0,
        min_distinct=4,
        ablations={"rms_norm_eps": setting("rms_norm_eps", 1e-1), "rope_theta": rope(rope_theta=10000.0)},
    )


def gemma_value(name, parameter, noise):
    """Norms are stored less one; the embedding is multiplied by sqrt(hidden), and is the head."""
    return 0.2 * noise if name.endswith("norm.weight") else None


def sandwich_value(name, parameter, noise):
    """As above; what a block adds outweighs the embedding, which is the head and would repeat the last token."""
    if re.search(r"post_\w+norm\.weight$", name):
        return 1.5 + 0.3 * noise
    return 3 + 0.2 * noise if name == "model.norm.weight" else gemma_value(name, parameter, noise)


GEMMA_TURNS = fx.Prompt([user(" What is this? "), assistant("A boat.\n"), user("Is it old?")])


def gemma():
    tokenizer = gemma_tokenizer(GEMMA)
    config = hf.GemmaConfig(
        **shape(tokenizer, num_key_value_heads=1, head_dim=12),
        hidden_act="gelu_pytorch_tanh",
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return text_fixture(
        tokenizer,
        note="Gemma 1 in its published layout (hidden_act gelu, which means tanh gelu): embeddings times sqrt(hidden), norms "
        "stored less one, one key head, head_dim 12, tied although the config does not say so.",
        model_class=hf.GemmaForCausalLM,
        config=config,
        prompts=prompts(g=GEMMA_TURNS),
        value=gemma_value,
        logit_gain=1.0,
        residual_gain=3.0,
        min_distinct=4,
        write=lambda f, m, d: write_hub(f, m, d, {"rope_theta": 10000.0, "rope_scaling": None, "hidden_act": "gelu"}, 2),
        seed=1213,
        ablations={
            "hidden_act": setting("hidden_act", "silu"),
            "hidden_act_exact": setting("hidden_act", "gelu"),
            "rope_theta": rope(rope_theta=100.0),
        },
    )


def gemma2():
    tokenizer = gemma_tokenizer(GEMMA)
    config = hf.Gemma2Config(
        **shape(tokenizer, num_hidden_layers=3, head_dim=12),
        query_pre_attn_scalar=4,
        sliding_window=4,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=10.0,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return text_fixture(
        tokenizer,
        note="Gemma 2 in its published layout: soft caps on scores (3) and logits (10), layers 0 and 2 slide over 4 tokens, "
        "query_pre_attn_scalar 4, norms before and after each block, tied.",
        model_class=hf.Gemma2ForCausalLM,
        config=config,
        prompts=prompts(g=GEMMA_TURNS),
        value=sandwich_value,
        logit_gain=0.8,
        min_distinct=4,
        write=lambda f, m, d: write_hub(
            f, m, d, {"rope_theta": 10000.0, "hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"}
        ),
        ablations={
            "attn_logit_softcapping": setting("attn_logit_softcapping", None),
            "final_logit_softcapping": setting("final_logit_softcapping", None),
            "query_pre_attn_scalar": setting("query_pre_attn_scalar", 12),
            "sliding_window": setting("sliding_window", 5),
            "layer_types": setting("layer_types", ["full_attention", "sliding_attention", "full_attention"]),
        },
    )


def gemma3():
    tokenizer = gemma_tokenizer(GEMMA3)
    config = hf.Gemma3TextConfig(
        **shape(tokenizer, num_hidden_layers=4, head_dim=12, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1),
        query_pre_attn_scalar=6,
        sliding_window=4,
        sliding_window_pattern=3,
        rms_norm_eps=1e-6,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    )

    def theta(layer_type, **values):
        return lambda c: c.rope_parameters[layer_type].update(values)

    old = {
        "rope_theta": 1000.0,
        "rope_local_base_freq": 100.0,
        "rope_scaling": {"factor": 4.0, "rope_type": "linear"},
        "sliding_window_pattern": 3,
    }
    return text_fixture(
        tokenizer,
        note="Gemma 3 (text) in its published layout: layers 0, 1 and 3 slide over 4 tokens with rope base 100, layer 2 sees "
        "all with base 1000 and positions divided by 4; norms on q and k, query_pre_attn_scalar 6, tied.",
        model_class=hf.Gemma3ForCausalLM,
        config=config,
        prompts=prompts(
            h=fx.Prompt([{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, fx.user(" What is this? ")])
        ),
        value=sandwich_value,
        logit_gain=0.8,
        min_distinct=4,
        write=lambda f, m, d: write_hub(f, m, d, old),
        ablations={
            "local_theta": theta("sliding_attention", rope_theta=1000.0),
            "global_theta": theta("full_attention", rope_theta=100.0),
            "global_factor": theta("full_attention", factor=1.0),
            "query_pre_attn_scalar": setting("query_pre_attn_scalar", 12),
            "sliding_window": setting("sliding_window", 5),
            "layer_types": setting("layer_types", ["sliding_attention"] * 3 + ["full_attention"]),
        },
    )


def fused_mlps(model, decoder="model"):
    """gate_proj and up_proj are the halves of one linear."""
    sites = {}
    for i, layer in enumerate(model.get_submodule(decoder).layers):
        fused, size = layer.mlp.gate_up_proj, layer.mlp.down_proj.in_features
        sites |= {(i, "gate_proj"): (fused, slice(0, size)), (i, "up_proj"): (fused, slice(size, 2 * size))}
        sites[i, "down_proj"] = (layer.mlp.down_proj, None)
    return sites


def phi3_value(name, parameter, noise):
    if "qkv_proj" in name:
        return 1.3 * noise / parameter.shape[-1] ** 0.5
    return None


def phi3():
    tokenizer = phi3_tokenizer()
    config = hf.Phi3Config(
        **shape(tokenizer, num_key_value_heads=4),
        sliding_window=6,
        rms_norm_eps=1e-5,
        original_max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    )
    return text_fixture(
        tokenizer,
        note="Phi-3 as save_pretrained writes it: qkv_proj and gate_up_proj fused, a sliding window of 6 on every layer, "
        "untied. The turn tokens swallow white space behind them.",
        model_class=hf.Phi3ForCausalLM,
        config=config,
        sites=fused_mlps,
        value=phi3_value,
        disk_dtype=torch.float16,
        ablations={"sliding_window": setting("sliding_window", None), "rope_theta": rope(rope_theta=100.0)},
    )


def phi3_longrope():
    tokenizer = phi4_tokenizer()
    factors = {"short_factor": [1.0, 1.5, 2.0], "long_factor": [1.25, 4.0, 9.0]}
    config = hf.Phi3Config(
        **shape(tokenizer, max_position_embeddings=512, intermediate_size=40),
        rms_norm_eps=1e-5,
        original_max_position_embeddings=32,
        rope_parameters={"rope_type": "longrope", "rope_theta": 100.0, "partial_rotary_factor": 0.75, **factors},
        tie_word_embeddings=True,
    )
    old = {
        "rope_theta": 100.0,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 32,
        "rope_scaling": {"type": "longrope", **factors},
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "attention_bias": False,
        "lm_head_bias": False,
        "mlp_bias": False,
    }
    return text_fixture(
        tokenizer,
        note="Phi-4-mini in its published layout: longrope over three quarters of each head (6 of 8), original context 32; "
        "the prompt of `single` is longer than that (long factors), `batch_left` stays below (short factors), `text` "
        "crosses it while generating; tied.",
        model_class=hf.Phi3ForCausalLM,
        config=config,
        prompts=prompts(
            a=fx.Prompt([user("What is this? It is the boat on the sea. Why?")]),
            d=fx.Prompt([user("The caf\u00e9 is on the sea?")]),
        ),
        sites=fused_mlps,
        value=phi3_value,
        stepwise=True,
        logit_gain=2.0,
        residual_gain=3.0,
        write=lambda f, m, d: write_hub(f, m, d, old),
        ablations={
            "long_factor": rope(long_factor=[1.0, 1.5, 2.0]),
            "attention_factor": rope(attention_factor=1.0),
            "partial_rotary_factor": rope(partial_rotary_factor=0.5, short_factor=[1.0, 1.5], long_factor=[1.25, 4.0]),
        },
    )


# ---------------------------------------------------------------- checkpoints


def write_hub(fixture, model, directory, extra, shards=1):
    """The layout of published repositories: a config of transformers 4, template in tokenizer_config.json."""
    stored = on_disk(fixture, model)
    tensors = renamed(stored, {"": ""})
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    else:
        write_shards(tensors, directory, shards)
    config = fixture.config
    derived = ("layer_types", "head_dim", "sliding_window", "use_sliding_window", "max_window_layers")
    given = {k: v for k, v in non_defaults(config, type(config)()).items() if k not in derived and k[0] != "_"}
    own = {k: getattr(config, k) for k in ("head_dim", "sliding_window") if getattr(config, k, None) is not None}
    if hasattr(config, "hidden_activation"):
        own["hidden_activation"] = config.hidden_activation
    write_json(
        directory / "config.json",
        {
            "architectures": [fixture.model_class.__name__],
            "model_type": config.model_type,
            "num_key_value_heads": config.num_key_value_heads,
            "torch_dtype": str(fixture.disk_dtype).removeprefix("torch."),
            "transformers_version": "4.44.0",
            "use_cache": True,
            **given,
            **own,
            **extra,
        },
    )
    settings = {"_from_model_config": True, "transformers_version": "4.44.0"}
    ids = {k: getattr(config, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(directory / "generation_config.json", settings | {k: v for k, v in ids.items() if v is not None})
    write_tokenizer(fixture.tokenizer, directory)


def write_tokenizer(tokenizer, directory):
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json as transformers 4 wrote them."""
    tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = {str(i): {k: getattr(t, k) for k in fields} for i, t in sorted(tokenizer.added_tokens_decoder.items())}
    named = {k: getattr(tokenizer, k) for k in ("bos_token", "eos_token", "pad_token", "unk_token")}
    named = {k: v for k, v in named.items() if v}
    write_json(
        directory / "tokenizer_config.json",
        {
            "added_tokens_decoder": added,
            "chat_template": tokenizer.chat_template,
            "clean_up_tokenization_spaces": False,
            "model_input_names": tokenizer.model_input_names,
            "model_max_length": tokenizer.model_max_length,
            "padding_side": "left",
            "tokenizer_class": "PreTrainedTokenizerFast",
            **named,
        },
    )
    write_json(directory / "special_tokens_map.json", named)
