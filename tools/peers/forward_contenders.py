"""torch or llama.cpp as a contender of `forward.sh`; speaks as `experiments/src/bin/forward_speed.rs` does.

    python tools/peers/forward_contenders.py torch MODEL PROMPT.safetensors TOKENS f32|bf16
    python tools/peers/forward_contenders.py llama MODEL PROMPT.safetensors TOKENS

The number of threads is `OMP_NUM_THREADS`.
"""

import json
import os
import sys
import time


def torch_contender(model, prompt, threads, dtype):
    """Hugging Face transformers: eager mode, attention by `scaled_dot_product_attention`."""
    import torch
    import transformers
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    load = transformers.LlavaForConditionalGeneration.from_pretrained
    model = load(model, dtype=dtype, attn_implementation="sdpa").eval()
    inputs = load_file(prompt)
    inputs = {"input_ids": inputs["input_ids"], "pixel_values": inputs["pixel_values"].to(dtype)}
    token = torch.tensor([[5]])

    @torch.inference_mode()
    def round(tokens):
        start = time.perf_counter()
        out = model(**inputs, use_cache=True, logits_to_keep=1)
        logits, cache = out.logits.flatten(), out.past_key_values
        middle = time.perf_counter()
        for _ in range(tokens):
            model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return start, middle, time.perf_counter(), logits[:64].tolist()

    return round


def llama_contender(model, prompt, threads):
    """llama.cpp with its defaults: weights repacked for the processor, keys and values in f16."""
    import llama_cpp
    import numpy as np
    from safetensors.numpy import load_file

    ids = load_file(prompt)["input_ids"].flatten().tolist()
    model = llama_cpp.Llama(model, n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def feed(tokens):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        assert llama_cpp.llama_decode(model.ctx, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
        return llama_cpp.llama_get_logits_ith(model.ctx, -1)

    def round(tokens):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(model.ctx), False)
        start = time.perf_counter()
        logits = np.ctypeslib.as_array(feed(ids), (64,)).tolist()
        middle = time.perf_counter()
        for _ in range(tokens):
            feed([5])
        return start, middle, time.perf_counter(), logits

    return round


def main(kind, model, prompt, tokens, *dtype):
    tokens = int(tokens)
    round = {"torch": torch_contender, "llama": llama_contender}[kind](model, prompt, int(os.environ["OMP_NUM_THREADS"]), *dtype)
    round(2)
    print(json.dumps({"ready": model}), flush=True)
    for command in sys.stdin:
        assert command == "round\n", command
        start, middle, end, logits = round(tokens)
        print(json.dumps({"prefill": 1e3 * (middle - start), "decode": 1e3 * (end - middle) / tokens, "logits": logits}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
