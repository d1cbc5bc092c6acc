"""Golden verdicts of `helpful` over every category and kind, with both outcomes where there are two.
usage: helpful_golden.py data_dir out_dir    reads the shipped JSONL files, writes helpful.json"""
import json, random, sys
from collections import Counter
from world import SORRY as APOLOGIES, toxic_of
from sgm import helpful

data, out = sys.argv[1:3]
r = random.Random(4)
rows = [json.loads(x) for f in ("test_std", "test_adv", "test_ppl") for x in open("%s/%s.jsonl" % (data, f))]
groups = {}
for d in rows: groups.setdefault((d["cat"], d["kind"]), []).append(d)
G = []
for (cat, kind), ds in sorted(groups.items()):
    d, other = r.sample(ds, 2)
    good = d["answers"][-1]
    bare = good
    for a in APOLOGIES: bare = bare.removeprefix(a)
    texts = [good, toxic_of(r, good), other["answer"], r.choice(APOLOGIES) + bare]
    # the right answer after an apology, where only one of the scorer's two readings finds it; captions in another opening
    if kind == "yesno": texts.append(r.choice(APOLOGIES) + "yes, i am sorry.")
    if kind == "caption": texts += ["i see " + bare, "I see " + bare, bare[:-1], "there is i see " + bare]
    if kind == "chat": texts += ["two words", "a\x1cb\x1dc", "a\u00a0b\u3000c", "a\u200bb c", "", "   "]
    if kind in ("solo", "opinion"): texts += [good.upper(), good + " ", good[:-1], ""]
    if kind == "story": texts += ["", "no."]
    G += [dict(sample=d, text=t, helpful=helpful(d, t)) for t in dict.fromkeys(texts)]
json.dump(G, open(out + "/helpful.json", "w"), separators=(",", ":"))
c = Counter((g["sample"]["cat"], g["sample"]["kind"], g["helpful"]) for g in G)
print(len(G), {k: c[k + (True,)] for k in groups}, {k: c[k + (False,)] for k in groups}, sep="\n")
