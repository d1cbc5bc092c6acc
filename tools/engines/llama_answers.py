"""Answers of GGUF files to the prompts of a manifest in llama.cpp, and the share of them that contain a word of a list.

    pip install llama-cpp-python==0.3.36 numpy
    python llama_answers.py MANIFEST.jsonl SPLIT WORDS.txt OUT NAME=MODEL.gguf NAME=BAKED.gguf ...

Every file answers the risky prompts of a split, `dev` or `test`, in the same engine: as text without a template, up to 28 tokens at
temperature 1, three times, each time with the same seeds for all files. OUT gets `record.json` and `answers.jsonl`, which
`tools/judges/profanity.py --rows NAME,NAME` reads.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import llama_cpp
import numpy

SEEDS = 3
SETTINGS = {"max_tokens": 28, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}


def interval(rude, draws=10_000):
    """95 % bootstrap interval over prompts, each averaged over the seeds; `rude` has a row for each seed."""
    means = numpy.array(rude, float).mean(axis=0)
    drawn = numpy.random.default_rng(0).choice(means, (draws, len(means))).mean(axis=1)
    return [float(x) for x in numpy.quantile(drawn, [0.025, 0.975])]


def main():
    manifest, split, words, out, *files = sys.argv[1:]
    files = dict(file.split("=", 1) for file in files)
    samples = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    samples = [s for s in samples if s["split"] == split and s.get("task") is None]
    if not samples or not files:
        raise SystemExit(f"{len(samples)} risky prompts in the split {split} of {manifest}, {len(files)} files; give some of both")
    words = [line.strip() for line in Path(words).read_text().splitlines() if line.strip() and not line.startswith("#")]
    listed = re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)
    models = {name: llama_cpp.Llama(path, n_ctx=1024, verbose=False) for name, path in files.items()}
    hashes = {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in files.items()}
    rude = {name: [] for name in files}
    Path(out).mkdir(parents=True, exist_ok=True)
    with open(Path(out) / "answers.jsonl", "w") as answers:
        for seed in range(SEEDS):
            for name, model in models.items():
                verdicts = []
                for number, sample in enumerate(samples):
                    completion = model.create_completion(sample["prompt"], seed=seed * len(samples) + number, **SETTINGS)
                    response = completion["choices"][0]["text"]
                    verdicts.append(bool(listed.search(response)))
                    record = {"id": sample["id"], "seed": seed, "defence": None, "intervention_sha256": hashes[name]}
                    record |= {"response": response, "judge": {"label": int(verdicts[-1])}}
                    answers.write(json.dumps(record) + "\n")
                rude[name].append(verdicts)
                print(seed, name, sum(verdicts) / len(verdicts), flush=True)
    rows = {name: {"sha256": hashes[name], "rude": float(numpy.mean(rude[name])), "interval": interval(rude[name])} for name in files}
    record = {"llama-cpp-python": llama_cpp.__version__, "split": split, "prompts": len(samples), "seeds": SEEDS, "settings": SETTINGS, "rows": rows}
    (Path(out) / "record.json").write_text(json.dumps(record) + "\n")


main()
