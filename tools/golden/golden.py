"""A golden file for a checkpoint of yours: python golden.py MODEL_DIR OUT_DIR "question" [image]"""

import json, re, shutil, sys
from pathlib import Path
import torch, transformers as hf
from PIL import Image
from safetensors.torch import save_file

source, out, question, image = sys.argv[1], Path(sys.argv[2]), sys.argv[3], (sys.argv[4:] or [None])[0]
auto = (hf.AutoProcessor, hf.AutoModelForImageTextToText) if image else (hf.AutoTokenizer, hf.AutoModelForCausalLM)
processor, model = auto[0].from_pretrained(source), auto[1].from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
content = [{"type": "image"}, {"type": "text", "text": question}] if image else question
text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
tokenizer = getattr(processor, "tokenizer", processor)
special = {"add_special_tokens": not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))}
inputs = processor(text=[text], return_tensors="pt", **({"images": [[Image.open(image)]]} if image else {}), **special)
inputs = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)}

decoder = re.compile(r"(?:model\.)?(?:language_model\.|text_model\.)*(?:model\.)?layers\.(\d+)\.mlp\.(gate|up|down|gate_up)_proj")
modules = {tuple(m.groups()): module for name, module in model.named_modules() if (m := decoder.fullmatch(name))}
parts = lambda name, x: zip(("gate", "up"), x.chunk(2, -1)) if name == "gate_up" else [(name, x)]
tensors, alpha = {f"single.{k}": v for k, v in inputs.items()}, {}

def run(name, hook):  # logits and 16 greedy tokens, the outputs of all sites passing through `hook`
    handles = [m.register_forward_hook(lambda _m, _i, y, at=at: torch.cat([hook(at[0], n, x) for n, x in parts(at[1], y)], -1)) for at, m in modules.items()]
    with torch.no_grad():
        tensors[f"single.logits{name}"] = model(**inputs).logits
        pools.append(dict(tensors))  # activations of the forward pass, before generation overwrites them
        model.generation_config.eos_token_id = None
        tensors[f"single.generated{name}"] = model.generate(**inputs, max_new_tokens=16, do_sample=False)[:, inputs["input_ids"].shape[1]:].contiguous()
    [h.remove() for h in handles]

def watch(layer, name, x):
    alpha.setdefault(f"alpha.layers.{layer}.{name}_proj", (torch.rand(x.shape[-1]) * 1.2).clamp(max=1))
    tensors[f"single.layers.{layer}.{name}_proj.mean"], tensors[f"single.layers.{layer}.{name}_proj.max"] = x.mean(1), x.amax(1)
    return x

pools, _ = [], torch.manual_seed(0)
run("", watch), run("_scaled", lambda layer, name, x: x * alpha[f"alpha.layers.{layer}.{name}_proj"])
out.mkdir(parents=True, exist_ok=True)
save_file({k: v.clone().contiguous() for k, v in (tensors | pools[0] | alpha).items()}, out / "golden.safetensors")
shutil.copy(image, out) if image else None
shown = {"a": Path(image).name} if image else {}
rows = [{"prompt": "a", "images": list(shown)}]
golden = dict(prompts={"a": text}, images=shown, case_inputs={"single": {"padding_side": "left", "rows": rows}}, token_ids={"a": tokenizer(text, **special)["input_ids"]})
(out / "golden.json").write_text(json.dumps(golden))
