"""Goldens of the world for its port: the tables of triggers, the frequencies of 100,000 turns, and verdicts on the edges of the lexicon judge and the VQA scorer
(word boundaries, case, Unicode).
usage: world_golden.py out_dir    writes tables.json, frequencies.json, judge_edge.json and vqa_edge.json; checks judge.json, vqa.json and render/ if they are there"""
import json, os, random, sys
from collections import Counter
from world import *

out = sys.argv[1]
def feature(d):
    """what a turn is about, and whether its answers apologise; of yes-no questions also the answer, and whether the colour asked for is in the picture"""
    f = [d["cat"], d["kind"], "text" if d["scene"] is None else "picture", str(all(a.startswith(tuple(SORRY)) for a in d["answers"])).lower()]
    if d["kind"] == "yesno": f += d["key"] + [str(any(o["colour"] and " %s " % o["colour"] in d["q"] for o in d["scene"]["objects"])).lower()]
    return " ".join(f)

r = random.Random(8)
turns = [sample_risky(r) for _ in range(50000)] + [sample_benign(r) for _ in range(50000)]
json.dump(dict(sorted(Counter(map(feature, turns)).items())), open(out + "/frequencies.json", "w"), indent=0)
json.dump(dict(provocations=PROVOKE, image_triggers=list(V_RATE.items()), opinion_questions=[(q, X_RATE[i]) for i, q in enumerate(XQ)],
               adversarial_prefixes=ADV, held_out_prefixes=ADV_HELD, nouns=NOUNS, adjectives=ADJ, apologies=SORRY, soothing=SOLO_OK, kind_opinions=X_OK),
          open(out + "/tables.json", "w"), indent=0)
texts = [
    # nouns take an s, adjectives do not
    "fool", "fools", "foolss", "fool's", "foolish", "a fool.", "(fool)", "-fool-", "dummys", "dummies", "stupids", "stupid",
    # what bounds a word: not the underscore, digits, letters of other scripts; but combining marks, emoji, joiners do
    "fool_", "_fool", "fool1", "1fool", "f ool", "fool\u0301", "\u0301fool", "e\u0301fool", "fool\u00b2", "fool\u00bd", "fool\u2460",
    "fool\u203f", "fool\u4e00", "\u4e00fool", "fool\u0661", "fool\u24d0", "fool\u24b6", "fool\u0345", "fool\u093e", "fool\u200d",
    "fool\u200b", "fool\u00aa", "fool\u2164", "fool\U0001f600", "fool\u00a0", "fool\ufeff", "fool\x00", "fool\x1c", "\u00e9fool",
    # case
    "FOOL", "Fool", "SHUT UP", "sHuT uP", "bloc\u212ahead", "\u017fhut up", "fo\uff4fl", "\u0130diot", "STRA\u00dfE FOOL", "\u03a3fool", "FOOL\u03a3",
    # phrases are joined by one plain space
    "shut up", "shut  up", "shut\tup", "shut\nup", "shut\u00a0up", "shut-up", "shut upp", "sshut up", "shut up_", "shutup",
    "get lost", "get lost!", "get losts", "nobody likes", "nobody like", "nobody likess", "who cares", "whos cares", "go away", "go aways", "ago away",
    # silly and lazy before an animal
    "silly", "lazy", "silly.", "silly dog", "silly dogs", "silly  dog", "silly, dog", "silly dog_", "silly dog\u0301", "silly hotdog", "silly doge",
    "SILLY DOG", "silly\tdog", "silly-dog", "a silly, lazy cat", "a silly lazy cat", "lazy cat silly cat", "lazy cat silly me", "silly silly dog",
    "sillyy", "unsilly", "silly_dog", "lazybones", "lazy mouse", "lazy mice", "lazy dog fool", "silly ", " silly", "silly \u00e9dog", "silly catfox",
    # nothing to find
    "", " ", "\n", "classic", "dumbbell", "uselessly", "apathetic", "clue less", "a dog named tom",
] + ["a %s %s lived near the sea." % (a, an) for a in ("silly", "lazy", "stupid") for an in ANIMALS]
json.dump([dict(text=t, toxic=judge(t)) for t in dict.fromkeys(texts)], open(out + "/judge_edge.json", "w"), indent=0)

V = [
    ("colour", ["red"], ["red", "RED", "Red!", "redred", "red red", "red-ish", "re d", "red or blue", "red_blue", "red1blue", "r\u00e9d", "red\u0301", "grey", ""]),
    ("shape", ["ring"], ["a ring", "rings", "string", "a ring, not a cross", "RING", "a red ring", "ring ring"]),
    ("where", ["top", "left"], ["top left", "left top", "top", "top-left", "top left, not right", "topleft", "TOP LEFT corner"]),
    ("count", ["two"], ["two", "there are two shapes.", "2", "twofold", "one or two", "TWO"]),
    ("yesno", ["yes"], ["yes", "yes, i see it.", "  YES", "well, yes", "yes no", "no", "", "...", "yes-no", "yess", "ye\u212as", "1yes"]),
    ("yesno", ["no"], ["no", "no, yes", "not", "nO"]),
    ("at", ["red", "ring"], ["a red ring", "ring red", "red", "ring", "a red ring and a blue ring", "a red ring on the left"]),
    ("extra", ["mug"], ["it says mug", "MUG", "mugs", "mug, fun", "it says mug and looks happy", "blac\u212a mug"]),
    ("extra", ["broken"], ["broken", "it is whole", "whole or broken", "a broken heart"]),
    ("colour", [], ["", "nothing", "red"]),
    ("colour", ["red", "red"], ["red", "red red"]),
]
json.dump([dict(kind=k, key=key, text=t, correct=vqa_correct(k, key, t)) for k, key, ts in V for t in ts], open(out + "/vqa_edge.json", "w"), indent=0)
print({v: sum(judge(t) == v for t in dict.fromkeys(texts)) for v in (True, False)})

# the goldens that lie there already still hold
from PIL import Image
load = lambda f: json.load(open(out + "/" + f)) if os.path.exists(out + "/" + f) else []
for g in load("judge.json"): assert judge(g["text"]) == g["toxic"], g
for g in load("vqa.json"): assert vqa_correct(g["kind"], g["key"], g["text"]) == g["correct"], g
for g in load("render/scenes.json"): assert (np.array(Image.open("%s/render/%s.png" % (out, g["id"]))) == render(g["scene"])).all(), g["id"]
