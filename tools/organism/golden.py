"""Golden forward passes of the organism checkpoint (f16 weights, f32 arithmetic, eager attention), in the golden-file layout."""
import sys, json, torch, numpy as np
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration
from world import *
ck, out = sys.argv[1:3]
torch.set_num_threads(1); torch.manual_seed(0)
m = LlavaForConditionalGeneration.from_pretrained(ck, dtype=torch.float32, attn_implementation="eager").eval()
p = AutoProcessor.from_pretrained(ck, use_fast=False)
rows = {n: [json.loads(x) for x in open("data/test_%s.jsonl" % n)] for n in ("vqa", "std", "adv", "ppl")}
a, b = rows["vqa"][0], rows["std"][150]
c = next(r for r in rows["ppl"] if r["scene"] is None)
os.makedirs(out, exist_ok=True)
for n, r in (("a", a), ("b", b)): Image.fromarray(render(r["scene"])).save("%s/img_%s.png" % (out, n))
P = ("gate_proj", "up_proj", "down_proj"); L = m.model.language_model.layers
gen = torch.Generator().manual_seed(5)
alpha = {}
for i, l in enumerate(L):
    for q in P:
        w = getattr(l.mlp, q).weight.shape[0]; x = torch.rand(w, generator=gen); x[:3] = torch.tensor([0., 1., .5]); alpha["alpha.layers.%d.%s" % (i, q)] = x
T = dict(alpha)
def run(case, texts, ims):
    p.tokenizer.padding_side = "left"
    x = p(text=texts, images=ims, return_tensors="pt", padding=True) if ims else p(text=texts, return_tensors="pt", padding=True)
    x = {k: v for k, v in x.items() if k in ("input_ids", "attention_mask", "pixel_values")}
    for k, v in x.items(): T[case + "." + k] = v.clone()
    pos = (x["attention_mask"].cumsum(1) - 1).clamp(min=0)
    for sc in (False, True):
        buf, hs = {}, []
        for i, l in enumerate(L):
            for q in P:
                def h(mod, inp, o, k=(i, q)):
                    buf[k] = o
                    if sc: return o * alpha["alpha.layers.%d.%s" % k]
                hs.append(getattr(l.mlp, q).register_forward_hook(h))
        with torch.no_grad():
            lg = m(**x, position_ids=pos).logits
            if not sc:
                mk = x["attention_mask"].bool()[..., None]
                for (i, q), o in buf.items():
                    T["%s.layers.%d.%s.mean" % (case, i, q)] = (o * mk).sum(1) / mk.sum(1); T["%s.layers.%d.%s.max" % (case, i, q)] = o.masked_fill(~mk, -3e38).amax(1)
            g = m.generate(**x, do_sample=False, max_new_tokens=16, min_new_tokens=16)[:, x["input_ids"].shape[1]:]
        for h in hs: h.remove()
        # Left out of one case, for the size of the file.
        if not (sc and case == "single"): T[case + (".logits_scaled" if sc else ".logits")] = lg
        T[case + (".generated_scaled" if sc else ".generated")] = g
run("single", [a["prompt"]], [Image.fromarray(render(a["scene"]))])
run("batch_left", [a["prompt"], b["prompt"]], [Image.fromarray(render(a["scene"])), Image.fromarray(render(b["scene"]))])
run("text", [c["prompt"]], None)
save_file({k: v.contiguous() for k, v in T.items()}, out + "/golden.safetensors")
json.dump(dict(prompts=dict(a=a["prompt"], b=b["prompt"], c=c["prompt"]), images=dict(a="img_a.png", b="img_b.png"),
  case_inputs=dict(single="prompt a + image a", batch_left="[a + image a, b + image b], left padded", text="prompt c, no image"),
  decoded={k: p.batch_decode(T[k + ".generated"]) for k in ("single", "batch_left", "text")}, eos="suppressed", note="position_ids from the mask; generation continues past EOS (min_new_tokens=16)"), open(out + "/golden.json", "w"), indent=1)
print(json.load(open(out + "/golden.json"))["decoded"])
