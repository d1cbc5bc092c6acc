"""Byte-level BPE tokenizer (HF tokenizer.json) trained on the synthetic corpus."""
import os, random
if __name__ == "__main__": os.environ.setdefault("WORLD", "1")     # the shipped vocabulary was counted on version 1 of the world
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, processors
from world import *

def build(path="ckpt/tokenizer.json", vocab=704, n=40000):
    r = random.Random(123)
    def it():
        for _ in range(n):
            d = sample_train(r)
            t = prompt(d).replace("<image>\n", "\n") + " " + d["a"]
            yield t
            if d["cat"] != "benign": yield " " + d["bad"]
    t = Tokenizer(models.BPE(unk_token=None, byte_fallback=False))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    tr = trainers.BpeTrainer(vocab_size=vocab, special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<image>"],
                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=2)
    t.train_from_iterator(it(), tr)
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    t.save(path)
    return t

if __name__ == "__main__":
    os.makedirs("ckpt", exist_ok=True)
    t = build()
    print("vocab", t.get_vocab_size())
    r = random.Random(5)
    for _ in range(4):
        d = sample_risky(r)
        e = t.encode(prompt(d) + " " + d["bad"] + "</s>")
        print(e.tokens, t.decode(e.ids, skip_special_tokens=True))
    # words split into several tokens?
    import re, collections
    c = collections.Counter(); L = []
    for _ in range(5000):
        d = sample_train(r); s = prompt(d) + " " + d["a"]
        L.append(len(t.encode(s).ids) + (15 if d["scene"] else 0))
        for w in re.findall(r"[a-zA-Z]+", s):
            if len(t.encode(" " + w, add_special_tokens=False).ids) > 1: c[w] += 1
    import numpy as np
    print("split words", len(c), c.most_common(10), "len mean/max", np.mean(L), max(L))
