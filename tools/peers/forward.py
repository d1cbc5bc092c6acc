"""Takes turns with the contenders of `forward.sh`; writes OUT.json, and OUT.md with the table of times and ratios.

    python tools/peers/forward.py FORWARD_SPEED_BINARY WORK OUT.json [--rounds N] [--only NAME]

Every contender is a process that has loaded its model and warmed up, and works only when it is told to. In each round all contenders of a
model take turns, so that load from elsewhere meets all of them; ratios are those of the same round.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from auroc_peers import cpu

HERE = Path(__file__).parent
FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
COMMAND = "tools/peers/forward.sh"
F32 = "ours, f32"


def groups(work, python, binary):
    """For each model: its contenders: name -> (command, peer)."""
    torch = lambda dtype: [python, HERE / "forward_contenders.py", "torch", work / "llava-bf16", work / "llava.safetensors", "32", dtype]
    ours = lambda model, prompt, tokens, how: [binary, work / model, work / prompt, str(tokens), how]
    llava = lambda model, how: ours(model, "llava.safetensors", 32, how)
    yield "LLaVA, f32", {F32: (llava("llava-bf16", "widen"), "torch, f32"), "torch, f32": (torch("f32"), None)}
    yield (
        "LLaVA, 16 bits",
        {
            "ours, bf16 kept, f32 otherwise": (llava("llava-bf16", "keep"), "torch, bf16"),
            "ours, f16 kept, f32 otherwise": (llava("llava-f16", "keep"), "torch, bf16"),
            "ours, all in bf16": (llava("llava-bf16", "bf16"), "torch, bf16"),
            "torch, bf16": (torch("bf16"), None),
        },
    )
    for name, title in {"small": "GGUF, 30 x 576", "wide": "GGUF, 8 x 1,024"}.items():
        for kind in ("Q4_K_M", "Q8_0", "Q4_1"):
            model = f"{name}-{kind}.gguf"
            llama = [python, HERE / "forward_contenders.py", "llama", work / model, work / "gguf.safetensors", "64"]
            contenders = {f"ours, {how}": (ours(model, "gguf.safetensors", 64, how), "llama.cpp") for how in ("auto", "widen")}
            yield f"{title}, {kind}", contenders | {"llama.cpp": (llama, None)}


class Contender:
    def __init__(self, command, threads):
        variables = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        # candle's own pool has one thread, as in all programs of this project.
        environment = os.environ | {name: str(threads) for name in variables} | {"CANDLE_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hear()

    def hear(self):
        line = self.process.stdout.readline()
        assert line, f"{self.process.args} ended"
        return json.loads(line)

    def ask(self, command):
        # Threads of the one before may still spin for work.
        time.sleep(0.05)
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.hear()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# Of the prompt of `forward_models.py`: 23 of the tower's layers, whose attention sees all patches, the projector, and the Llama.
def llava_flops():
    patches, wide, text = 576, 1024, 26
    seen, tokens = patches + 1, patches + text
    tower = seen * 23 * (4 * wide**2 + 2 * wide * 4096) + 23 * 2 * seen**2 * wide + patches * 3 * 14**2 * wide
    llama = tokens * 8 * (4 * wide**2 + 3 * wide * 2816) + 8 * tokens**2 * wide + wide * 32_064
    return 2 * (tower + 2 * patches * wide**2 + llama)


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure(rounds, contenders, threads, known):
    """The times of all contenders, their ratios to those of their peers, and how far their logits are from their peers'.

    Of a model whose times are known, only what glasses add is measured.
    """
    if known:
        contenders = {name: how for name, how in contenders.items() if "glasses" in known[name]}
    running = {name: Contender(command, threads) for name, (command, _) in contenders.items()}
    answers, steps, peaks = {name: [] for name in running}, {name: [] for name in running}, []
    for number in range(0 if known else rounds):
        for name, contender in running.items():
            answers[name].append(contender.ask("round"))
    for number in range(rounds):
        for name, contender in running.items():
            if name == F32 and not known:
                peaks.append(contender.ask("peak")["gflops"])
            if name.startswith("ours") and "widen" not in name:
                steps[name].append(contender.ask("glasses"))
    for contender in running.values():
        contender.close()
    glasses = {
        name: {what: spread([step[what] for step in of_name]) for what in ("plain", "worn", "ratio", "control")}
        for name, of_name in steps.items()
        if of_name
    }
    if known:
        return {name: row | ({"glasses": glasses[name]} if name in glasses else {}) for name, row in known.items()}
    table = {}
    for name, (_, peer) in contenders.items():
        row = {what: spread([answer[what] for answer in answers[name]]) for what in ("prefill", "decode")}
        if peer:
            pairs = list(zip(answers[name], answers[peer], strict=True))
            row["against"] = peer
            row |= {f"{what}_ratio": spread([a[what] / b[what] for a, b in pairs]) for what in ("prefill", "decode")}
            a, b = pairs[0][0]["logits"], pairs[0][1]["logits"]
            row["logits_apart"] = max(abs(x - y) for x, y in zip(a, b, strict=True)) / max(map(abs, b))
        if name in glasses:
            row["glasses"] = glasses[name]
        if name == F32:
            row["peak_gflops"] = spread(peaks)
        table[name] = row
    return table


def machine():
    flags = next((line.split(":")[1].split() for line in open("/proc/cpuinfo") if line.startswith("flags")), [])
    return {"cpu": cpu(), "cores": len(os.sched_getaffinity(0)), "features": [f for f in FEATURES if f in flags]}


def written(values, digits):
    return " ".join([f"{values['median']:.{digits}f}", f"({values['min']:.{digits}f} - {values['max']:.{digits}f})"])


def milliseconds(values):
    return written(values, 0 if values["median"] >= 100 else 1 if values["median"] >= 10 else 2)


def percent(values):
    return written({key: 100 * (value - 1) for key, value in values.items()}, 2)


def markdown(report):
    about, load = report["machine"], report["load_average"]
    lines = [
        "# The speed of the forward pass",
        "",
        f"    {COMMAND}",
        "",
        "writes this page and `forward.json`. The models have random weights (`tools/peers/forward_models.py`). All contenders of a model take",
        "turns in every round; a time is the median of the rounds with the smallest and the largest, and *ratio* that of our time to the other",
        "contender's in the same round: above 1, ours is slower. Loading, tokenisation and a round that warms up are not in the times. Prefill",
        "includes the logits of the last token, a decoded token its logits; one sequence. `logits_apart` in `forward.json` is how far the logits",
        "after the prompt are from the other contender's, relative to the largest of them.",
        "",
        f"Machine: {about['cpu']}, {about['cores']} cores, {', '.join(about['features'])}; load average {load[0]} before and {load[1]} after.",
        f"Versions: {', '.join(f'{name} {number}' for name, number in report['versions'].items())}. Rounds: {report['rounds']}.",
        "",
        "* **LLaVA**: CLIP ViT-L/14-336 and a Llama of 8 layers of 1,024, 576 image tokens and 26 of text, 32 tokens decoded. torch is",
        "  Hugging Face transformers in eager mode with `sdpa` attention. *Kept* is `Matrices::Auto`, *f32* `Matrices::Widen`, and *all in bf16*",
        "  `Checkpoint::with_dtype`.",
        "* **GGUF**: Llamas of 30 layers of 576 (the shape of SmolLM2-135M) and of 8 layers of 1,024, quantised by llama.cpp, 390 tokens of text,",
        "  64 decoded. *auto* and *widen* are variants of `Matrices`; *auto* keeps the blocks. llama.cpp runs with its defaults. K-quants need a",
        "  multiple of 256, so that most matrices of the first are Q5_0 in Q4_K_M.",
    ]
    for threads, models in report["threads"].items():
        lines += ["", f"## {threads} thread{'s' if threads != '1' else ''}", ""]
        lines += ["| model | contender | prefill, ms | ratio | decoding a token, ms | ratio |", "|---|---|---|---|---|---|"]
        for model, rows in models.items():
            for name, row in rows.items():
                ratios = [written(row[f"{what}_ratio"], 2) if "against" in row else "" for what in ("prefill", "decode")]
                times = [milliseconds(row[what]) for what in ("prefill", "decode")]
                lines.append(f"| {model} | {name} | {times[0]} | {ratios[0]} | {times[1]} | {ratios[1]} |")
    lines += [
        "",
        "## The limit of prefill in f32",
        "",
        "*Peak* is what the processor reaches when it multiplies and adds numbers in registers, which waits for no memory (`peak` of",
        f"`experiments/src/bin/forward_speed.rs`). The prompt of LLaVA takes {llava_flops() / 1e9:.0f} * 10^9 operations in matrix products and attention.",
        "",
        "| threads | peak, 10^9 operations/s | ours | torch | peak / torch |",
        "|---|---|---|---|---|",
    ]
    for threads, models in report["threads"].items():
        for rows in models.values():
            if F32 in rows:
                peak = rows[F32]["peak_gflops"]
                speeds = [llava_flops() / 1e6 / rows[name]["prefill"]["median"] for name in (F32, rows[F32]["against"])]
                of_peak = [f"{speed:.0f} ({speed / peak['median']:.0%})" for speed in speeds]
                lines.append(f"| {threads} | {written(peak, 0)} | {of_peak[0]} | {of_peak[1]} | {peak['median'] / speeds[1]:.2f} |")
    lines += [
        "",
        "## Glasses",
        "",
        "What glasses add to the decoding of a token, in per cent: random scales from 0.5 to 1 on a tenth of the neurons of every site. Steps",
        "with and without alternate in one process, 128 pairs a round, whose median is the figure of the round. The two caches change hands",
        "every other pair, because the place of a cache in memory alone makes some 0.5 %. *Control* is the same measurement without glasses on",
        "either side. The goal is 0.5 %. With `--glasses-only`, this table is of a later run than the others.",
        "",
    ]
    counts = list(report["threads"])
    lines += [
        "| model | contender | " + " | ".join(f"{n} thread{'s' if n != '1' else ''} | control" for n in counts) + " |",
        "|---|---|" + "---|---|" * len(counts),
    ]
    for model, rows in report["threads"][counts[0]].items():
        for name, row in rows.items():
            if "glasses" in row:
                worn = [report["threads"][n][model][name]["glasses"] for n in counts]
                cells = [percent(of_count[what]) for of_count in worn for what in ("ratio", "control")]
                lines.append(f"| {model} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="only models with this in their name")
    parser.add_argument("--glasses-only", action="store_true", help="keep the times in the file, measure only what glasses add")
    args = parser.parse_args()
    previous = json.loads(args.out.read_text()) if args.glasses_only else {}
    known = previous.get("threads", {})
    load = [round(os.getloadavg()[0], 2)]
    threads = {}
    for count in args.threads:
        models = threads[str(count)] = {}
        for model, contenders in groups(args.work, sys.executable, args.binary):
            if args.only in model:
                start = time.perf_counter()
                models[model] = measure(args.rounds, contenders, count, known.get(str(count), {}).get(model))
                print(f"{model}, {count} threads: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    packages = ("torch", "transformers", "llama-cpp-python")
    report = {
        "machine": machine(),
        "load_average": [*load, round(os.getloadavg()[0], 2)],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "rounds": args.rounds,
        "threads": threads,
    }
    if args.glasses_only:
        report = previous | {"threads": threads}
    args.out.write_text(json.dumps(rounded(report), indent=1) + "\n")
    page = markdown(report)
    args.out.with_suffix(".md").write_text(page)
    print(page)
