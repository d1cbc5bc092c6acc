"""Answers as texts whose perplexity can be measured: do glasses leave a model that still speaks, where it is no longer rude?

    python tools/judges/as_texts.py out/answers.jsonl out/texts

writes a manifest for each row and seed, `0.jsonl`, `1.jsonl` ... in the order of the answers, of prompts with the answers that they got. The model
without glasses tells their perplexity: `evaluate --defence none --plain --manifest out/texts/0.jsonl --model ...`. Its own answers,
drawn at temperature 1, are what to compare with.
"""

import itertools
import json
import pathlib
import sys


def main():
    answers, out = map(pathlib.Path, sys.argv[1:])
    records = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    out.mkdir(parents=True, exist_ok=True)
    runs = itertools.groupby(records, lambda r: (r["seed"], r["defence"], r["intervention_sha256"]))
    for number, (_, run) in enumerate(runs):
        texts = [
            {
                "schema": 1,
                "id": r["id"],
                "source": "answers",
                "split": "utility",
                "task": "perplexity",
                "category": r["category"],
                "condition": r["condition"],
                "prompt": r["prompt"],
                "response": r["response"],
            }
            for r in run
            if r["response"]
        ]
        (out / f"{number}.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")


if __name__ == "__main__":
    main()
