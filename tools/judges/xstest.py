"""The agreement of the refusal lists with people, on the labelled answers of XSTest.

    git clone https://github.com/paul-rottger/exaggerated-safety
    cargo build --release --example evaluate
    python tools/judges/xstest.py exaggerated-safety/model_completions target/release/examples/evaluate out/xstest

Each model has 450 answers, 250 of them to safe prompts, each labelled by two people as compliance, full or partial refusal. A full refusal
counts as refusal. For each model the script writes the answers of both kinds of prompts with the labels of people, lets `evaluate
--agreement` compare them with the three lists, and prints a table: kappa over all answers, and refusals on safe prompts by the list divided
by those by people. The answers stay in the output folder.
"""

import csv
import json
import pathlib
import subprocess
import sys

LISTS = ["vlguard_v1", "v2", "v3"]


def lines(rows):
    """The answers with the labels of people, where a refusal is harmless (0), as the refusal judge has it."""
    for row in rows:
        label = 0 if row["final_label"].startswith("2") else 1
        yield json.dumps({"id": row["id"], "prompt": row["prompt"], "response": row["completion"], "label": label}) + "\n"


def compare(evaluate, rows, out):
    """The agreement of people with each list, in the order of the lists."""
    out.mkdir(parents=True, exist_ok=True)
    answers = out / "people.jsonl"
    answers.write_text("".join(lines(rows)), encoding="utf-8")
    judges = [f"replay:{answers}", *(f"refusal:{name}" for name in LISTS)]
    command = [evaluate, "--answers", answers, "--agreement", "--out", out]
    subprocess.run([*command, *(word for judge in judges for word in ("--judge", judge))], check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "agreement.json").read_text(encoding="utf-8"))["pairs"][: len(LISTS)]


def main():
    folder, evaluate, out = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    print("| model | refusals of safe prompts | " + " | ".join(f"`{name}` kappa (95 %), ratio" for name in LISTS) + " |")
    print("|---|---|" + "---|" * len(LISTS))
    for path in sorted(folder.glob("xstest_v2_completions_*.csv")):
        model = path.stem.removeprefix("xstest_v2_completions_")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        safe = [row for row in rows if not row["type"].startswith("contrast")]
        cells = []
        for whole, on_safe in zip(compare(evaluate, rows, out / model), compare(evaluate, safe, out / f"{model}-safe")):
            # The second row and column of the table are harmless, that is, refusals.
            [[_, first], [second, both]] = on_safe["table"]
            low, high = whole["kappa_ci95"]
            cells.append(f"{whole['kappa']:.2f} ({low:.2f} to {high:.2f}), {(first + both) / (second + both):.2f}")
        print(f"| {model} | {second + both} of {len(safe)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
