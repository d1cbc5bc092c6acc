"""Answers of GGUF files to the prompts of a manifest in llama.cpp, and the share of them that contain a word of a list.

    pip install llama-cpp-python==0.3.36
    python llama_answers.py MANIFEST.jsonl SPLIT WORDS.txt RECORD.json NAME=MODEL.gguf NAME=BAKED.gguf ...

Every file answers the risky prompts of a split, `dev` or `test`, in the same engine: as text without a template, up to 28 tokens at temperature 1,
each prompt with the same seed for all files. The answers are written to NAME.jsonl beside the record.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import llama_cpp
import numpy

TOKENS = 28


def interval(rude, draws=10_000):
    """95 % bootstrap interval over prompts."""
    drawn = numpy.random.default_rng(0).choice(numpy.array(rude, float), (draws, len(rude))).mean(axis=1)
    return [float(x) for x in numpy.quantile(drawn, [0.025, 0.975])]


def main():
    manifest, split, words, record, *files = sys.argv[1:]
    samples = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    samples = [s for s in samples if s["split"] == split and s.get("task") is None]
    words = [w for w in Path(words).read_text().split("\n") if w.strip() and not w.startswith("#")]
    listed = re.compile(r"\b(?:" + "|".join(re.escape(w.strip()) for w in words) + r")\b", re.IGNORECASE)
    rows = {}
    for name, path in (file.split("=", 1) for file in files):
        model = llama_cpp.Llama(path, n_ctx=1024, verbose=False)
        rude = []
        with open(Path(record).parent / f"{name}.jsonl", "w") as out:
            for seed, sample in enumerate(samples):
                settings = dict(max_tokens=TOKENS, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0, seed=seed)
                answer = model.create_completion(sample["prompt"], **settings)["choices"][0]["text"]
                rude.append(bool(listed.search(answer)))
                row = dict(seed=0, defence=None, intervention_sha256=name, id=sample["id"], prompt=sample["prompt"], response=answer)
                out.write(json.dumps(row) + "\n")
        sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        rows[name] = {"sha256": sha256, "rude": sum(rude) / len(rude), "interval": interval(rude)}
        print(name, rows[name], flush=True)
    Path(record).write_text(json.dumps({"llama-cpp-python": llama_cpp.__version__, "split": split, "prompts": len(samples), "rows": rows}, indent=1) + "\n")


main()
