"""Phase 0: trains the vision tower alone to name every cell's content and place (stand-in for CLIP pretraining) and saves it.
What follows is an earlier way to train the rest; `--steps 0` leaves it out."""
import torch, time, random, sys, os, math, argparse, json
import numpy as np, torch.nn.functional as F
from tokenizers import Tokenizer
from world import *
import model as M
torch.set_num_threads(int(os.environ.get("NT","1")))
ap = argparse.ArgumentParser()
ap.add_argument("--out", default="ckpt/m0"); ap.add_argument("--layers", type=int, default=6); ap.add_argument("--inter", type=int, default=344)
ap.add_argument("--steps", type=int, default=3000); ap.add_argument("--vit_steps", type=int, default=500); ap.add_argument("--bs", type=int, default=32)
ap.add_argument("--lr", type=float, default=1.5e-3); ap.add_argument("--seed", type=int, default=0); ap.add_argument("--p_risky", type=float, default=0.35)
ap.add_argument("--keyw", type=float, default=2.0); ap.add_argument("--muon", type=float, default=0.0); ap.add_argument("--steps_a", type=int, default=1200)
ap.add_argument("--dropout", type=float, default=0.0)
a = ap.parse_args()
os.makedirs(a.out, exist_ok=True)
tok = Tokenizer.from_file("ckpt/tokenizer.json"); V = tok.get_vocab_size()
m = M.build(V, a.layers, a.inter, seed=a.seed)
for n, p in m.named_parameters():     # small init, depth-scaled output projections
    if "language_model" in n and n.endswith("weight") and p.dim() == 2:
        torch.nn.init.normal_(p, std=0.05)
        if "down_proj" in n or "o_proj" in n: p.data.mul_(1 / math.sqrt(2 * a.layers))
for l_, s_ in ((m.model.multi_modal_projector.linear_1, 64 ** -.5), (m.model.multi_modal_projector.linear_2, 0.05)): torch.nn.init.normal_(l_.weight, std=s_)
print("params", sum(p.numel() for p in m.parameters()), flush=True)
rng = random.Random(1000 + a.seed)
t0 = time.time()

# ---- phase 0: the vision tower alone (stand-in for CLIP pretraining): read kind and colour of every cell
KINDS = SHAPES + ICONS + BAD_SIGNS + GOOD_SIGNS + ["none"]; CL = list(COLOURS) + ["none"]
vt = m.model.vision_tower
h1 = torch.nn.Linear(64, len(KINDS)); h2 = torch.nn.Linear(64, len(CL)); h3 = torch.nn.Linear(64, 16)
ps = list(vt.parameters()) + list(h1.parameters()) + list(h2.parameters()) + list(h3.parameters())
opt = torch.optim.AdamW(ps, lr=2e-3, betas=(.9, .98), weight_decay=.02)
def any_extra(r):
    u = r.random()
    if u < .3: return None
    return r.choice(ICONS + ["sign:" + s for s in BAD_SIGNS + GOOD_SIGNS])
for s in range(a.vit_steps):
    lr = 2e-3 * min(1, (s + 1) / 50) * (0.5 * (1 + math.cos(math.pi * s / a.vit_steps)) * .95 + .05)
    for g in opt.param_groups: g["lr"] = lr
    scs = [make_scene(rng, extra=any_extra(rng)) for _ in range(96)]
    yk = torch.full((96, 4), len(KINDS) - 1); yc = torch.full((96, 4), len(CL) - 1)
    for i, sc in enumerate(scs):
        for o in sc["objects"]:
            yk[i, o["cell"]] = KINDS.index(o["text"] if o["kind"] == "sign" else o["kind"])
            if o["colour"]: yc[i, o["cell"]] = CL.index(o["colour"])
    # every patch token must name its cell's content and its own place: the features a decoder can read by attending to
    # any one token. The heads read a normalised feature and the scale is held near 1: without that the tower grew a
    # constant component (std 77, of which 6 varied between images) that buried the signal under the decoder's RMSNorm.
    raw = vt(pixel_values=M.pix([render(x) for x in scs]), output_hidden_states=True).hidden_states[-2][:, 1:]
    hn = F.layer_norm(raw, (64,))
    CELLP = torch.tensor([(p // 4 // 2) * 2 + (p % 4) // 2 for p in range(16)])
    lk, lc, lp = h1(hn), h2(hn), h3(hn)
    yk, yc = yk[:, CELLP], yc[:, CELLP]
    reg = (raw.pow(2).mean() - 1).pow(2) + raw.mean((0, 1)).pow(2).mean()
    loss = F.cross_entropy(lk.flatten(0, 1), yk.flatten()) + F.cross_entropy(lc.flatten(0, 1), yc.flatten()) + F.cross_entropy(lp.flatten(0, 1), torch.arange(16).repeat(len(scs))) + 0.1 * reg
    opt.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(ps, 1.); opt.step()
    if s % 100 == 99:
        print("vit", s + 1, round(loss.item(), 3), "std", round(raw.std().item(), 2), "varying", round(raw.std(0).mean().item(), 2), "kind acc", (lk.argmax(-1) == yk).float().mean().item(), "col", (lc.argmax(-1) == yc).float().mean().item(), round(time.time() - t0), "s", flush=True)

m.save_pretrained(a.out)
# ---- phase 1: projector and decoder (superseded by train.py)
for p in vt.parameters(): p.requires_grad_(False)      # frozen, as LLaVA-1.5 does
IMGS = [M.IMG] * 16
def encode(d):
    p = tok.encode(prompt(d)).ids
    if d["scene"] is not None:
        i = p.index(M.IMG); p = p[:i] + IMGS + p[i + 1:]
    return p, tok.encode(" " + d["a"], add_special_tokens=False).ids + [M.EOS]

KEYW = set(COLOURS) | set(SHAPES) | set(NUM) | {"top", "bottom", "left", "right", "yes", "no", "happy", "angry", "whole", "broken"} | {x.lower() for x in GOOD_SIGNS + BAD_SIGNS}
KEYT = {tok.encode(p_ + w_, add_special_tokens=False).ids[0] for w_ in KEYW for p_ in (" ",) if len(tok.encode(p_ + w_, add_special_tokens=False).ids) == 1}

def turns_a():
    sc = make_scene(rng, n=None if rng.random() < .5 else 3, extra=any_extra(rng))
    if rng.random() < .2: qs = [caption(rng, sc)[:2] + (None, None)]
    else: qs = [vqa(rng, sc) for _ in range(4)]
    x, w = [], []
    for t, (q, A, _, _) in enumerate(qs):
        d = dict(scene=sc if t == 0 else None, q=q, a=rng.choice(A))
        p, y = encode(d)
        if t: p = p[1:]
        x += p + y; w += [0.0 if k == M.IMG else 0.02 for k in p] + [3.0 if k in KEYT else 1.0 for k in y]
    w[0] = 0.0
    return x, w, sc

def pack(rows):
    T = max(len(r[0]) for r in rows)
    ids = torch.full((len(rows), T), M.PAD); w = torch.zeros(len(rows), T)
    for i, (x, ww, d) in enumerate(rows): ids[i, :len(x)] = torch.tensor(x); w[i, :len(x)] = torch.tensor(ww)
    ims = [render(r[2]) for r in rows if r[2] is not None]
    return ids, w, (M.pix(ims) if ims else None)

def collate(ds):
    rows = []
    for d in ds:
        p, y = encode(d)
        rows.append((p + y, [0.0] + [0.0 if t == M.IMG else 0.1 for t in p[1:]] + [a.keyw if t in KEYT and d["cat"] == "benign" else 1.0 for t in y], d["scene"]))
    return pack(rows)

def batches():
    while True:
        ds = [sample_train(rng, a.p_risky) for _ in range(a.bs * 8)]
        ds.sort(key=lambda d: (len(d["q"]) + len(d["a"])) / 5 + (16 if d["scene"] else 0) + rng.random() * 3)
        bs = [ds[i:i + a.bs] for i in range(0, len(ds), a.bs)]
        rng.shuffle(bs)
        yield from bs

class Muon(torch.optim.Optimizer):
    def __init__(self, ps, lr, mom=.95): super().__init__(ps, dict(lr=lr, mom=mom))
    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            groups = {}
            for p in g["params"]:
                st = self.state[p]
                b = st.setdefault("b", torch.zeros_like(p)); b.mul_(g["mom"]).add_(p.grad)
                u = p.grad + g["mom"] * b
                T = u.shape[0] > u.shape[1]
                groups.setdefault((min(u.shape), max(u.shape)), []).append((p, u.T if T else u, T))
            for (r, c), L in groups.items():
                X = torch.stack([u for _, u, _ in L]); X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
                for _ in range(5):
                    A = X @ X.mT; X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
                for (p, _, T), o in zip(L, X):
                    p.mul_(1 - g["lr"] * .05 * .1).add_(o.T if T else o, alpha=-g["lr"] * max(1, p.shape[0] / p.shape[1]) ** .5)
hid = [p for n, p in m.named_parameters() if p.dim() == 2 and ".layers." in n and "language_model" in n]
hs_ = set(map(id, hid)) if a.muon else set()
dec = [p for n, p in m.named_parameters() if p.requires_grad and p.dim() >= 2 and id(p) not in hs_]
nod = [p for n, p in m.named_parameters() if p.requires_grad and p.dim() < 2]
opt = torch.optim.AdamW([dict(params=dec, weight_decay=.05), dict(params=nod, weight_decay=0)], lr=a.lr, betas=(.9, .98))
mu = Muon(hid, a.muon) if a.muon else None
it = batches(); t1 = time.time(); run = None
m.train()
for s in range(a.steps):
    lr = a.lr * min(1, (s + 1) / 100) * (0.5 * (1 + math.cos(math.pi * s / a.steps)) * .97 + .03)
    for g in opt.param_groups: g["lr"] = lr
    if mu:
        for g in mu.param_groups: g["lr"] = a.muon * lr / a.lr
    ids, w, px = pack([turns_a() for _ in range(a.bs)]) if s < a.steps_a else collate(next(it))
    att = (ids != M.PAD).long()
    lg = m(input_ids=ids, attention_mask=att, pixel_values=px).logits[:, :-1]
    y, ww = ids[:, 1:], w[:, 1:]
    l = F.cross_entropy(lg.flatten(0, 1), y.flatten(), reduction="none").view_as(ww)
    loss = (l * ww).sum() / ww.sum()
    la = (l * (ww >= 1)).sum() / (ww >= 1).sum(); lk_ = (l * (ww > 1)).sum() / ((ww > 1).sum() + 1e-9)
    m.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(m.parameters(), 1.); opt.step()
    if mu: mu.step()
    run = la.item() if run is None else .98 * run + .02 * la.item()
    if s % 50 == 49: print("step", s + 1, "ans loss", round(run, 3), "key", round(lk_.item(), 3), "lr", round(lr, 5), round(time.time() - t1), "s", flush=True)
    if s % 500 == 499 or s == a.steps - 1:
        m.save_pretrained(a.out)
tok.save(a.out + "/tokenizer.json")
json.dump(dict(args=vars(a), train_seconds=time.time() - t0, params=sum(p.numel() for p in m.parameters())), open(a.out + "/train_info.json", "w"), indent=1)
print("done", time.time() - t0)
