"""How far the f32 golden logits are from an f64 forward pass: the rounding floor of a comparison with them.

usage: rounding.py checkpoint_dir golden_dir
"""
import sys, torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration
ck, gold = sys.argv[1:3]
torch.set_num_threads(1)
g = load_file(gold + "/golden.safetensors")
m = LlavaForConditionalGeneration.from_pretrained(ck, dtype=torch.float32, attn_implementation="eager").eval().double()
for mod in m.modules():
    if hasattr(mod, "inv_freq"): mod.inv_freq = mod.inv_freq.float()     # as the model defines them
for scaled in (False, True):
    hooks = []
    for i, l in enumerate(m.model.language_model.layers):
        for p in ("gate_proj", "up_proj", "down_proj"):
            if scaled:
                a = g["alpha.layers.%d.%s" % (i, p)].double()
                hooks.append(getattr(l.mlp, p).register_forward_hook(lambda mod, inp, o, a=a: o * a))
    mask = g["single.attention_mask"]
    with torch.no_grad():
        lg = m(input_ids=g["single.input_ids"], attention_mask=mask, pixel_values=g["single.pixel_values"].double(), position_ids=mask.cumsum(1) - 1).logits
    for h in hooks: h.remove()
    ref = g["single.logits" + ("_scaled" if scaled else "")].double()
    print("scaled" if scaled else "plain", "relative difference %.1e" % ((lg - ref).abs().max() / ref.abs().max()).item())
