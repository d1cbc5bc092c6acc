#!/usr/bin/env python3
"""Tiny random checkpoints with golden forward passes, for crates/sgm-models/tests/golden/<name>/.

    python tools/golden/make_models.py                       all of them
    python tools/golden/make_models.py llava_mha             some of them
    python tools/golden/make_models.py --verify [names]      reload what is on disk and compare

A family is a module with builder functions (see llava.py); list them in BUILDERS.
"""

import argparse
import json
import shutil
from pathlib import Path

import PIL
import torch
import torchvision
import transformers
from safetensors.torch import load_file, save_file

import fixture as fx
import gemma3
import gguf_files
import idefics3
import instructblip
import internvl
import llava
import llava_next
import llava_onevision
import mixture
import qwen_vl
import mllama
import paligemma
import pixtral
import quantised
import text

BUILDERS = {
    "llava_mha": llava.mha,
    "llava_gqa_hub": llava.gqa_hub,
    "llava_llama3rope_modules": llava.llama3rope_modules,
    "llava_original": llava.original,
    "llava_qwen2_siglip": llava.qwen2_siglip,
    "llava_next_mistral": llava_next.mistral,
    "llava_next_vicuna_hub": llava_next.vicuna_hub,
    "llava_onevision_modules": llava_onevision.modules,
    "internvl_qwen2": internvl.qwen2,
    "internvl_qwen3_modules": internvl.qwen3_modules,
    "qwen2_vl_untied": qwen_vl.qwen2_untied,
    "qwen2_vl_hub": qwen_vl.qwen2_hub,
    "qwen2_5_vl_modules": qwen_vl.qwen2_5_modules,
    "qwen2_5_vl_hub": qwen_vl.qwen2_5_hub,
    "qwen3_vl_deepstack": qwen_vl.qwen3_deepstack,
    "qwen3_vl_hub": qwen_vl.qwen3_hub,
    "gguf_llama": gguf_files.llama,
    "gguf_qwen2": gguf_files.qwen2,
    "gguf_gemma3": gguf_files.gemma3,
    "gguf_llava": gguf_files.llava_mmproj,
    "text_llama": text.llama,
    "text_mistral": text.mistral,
    "text_qwen2": text.qwen2,
    "text_qwen3": text.qwen3,
    "text_gemma": text.gemma,
    "text_gemma2": text.gemma2,
    "text_gemma3": text.gemma3,
    "text_phi3": text.phi3,
    "text_phi3_longrope": text.phi3_longrope,
    "moe_qwen3": mixture.qwen3_moe,
    "moe_mixtral": mixture.mixtral,
    "moe_qwen2": mixture.qwen2_moe,
    "qwen3_vl_moe": mixture.qwen3_vl_moe,
    "paligemma_saved": paligemma.saved,
    "paligemma_hub": paligemma.hub,
    "paligemma_gemma2_hub": paligemma.gemma2_hub,
    "gemma3_hub": gemma3.hub,
    "idefics3_saved": idefics3.saved,
    "smolvlm_whole": idefics3.smolvlm_whole,
    "smolvlm_hub": idefics3.smolvlm_hub,
    "pixtral_hub": pixtral.hub,
    "mistral3_modules": pixtral.mistral3_modules,
    "mllama_saved": mllama.saved,
    "mllama_hub": mllama.hub,
    "instructblip_saved": instructblip.saved,
    "instructblip_hub": instructblip.hub,
    "fp8_block": quantised.block,
    "fp8_rows": quantised.rows,
}
OUT = Path(__file__).resolve().parents[2] / "crates/sgm-models/tests/golden"
MIN_MARGIN = 0.02
# What a processor may return, and a model takes.
INPUTS = (
    "input_ids", "attention_mask", "pixel_values", "image_sizes", "batch_num_images", "image_grid_thw", "mm_token_type_ids", "token_type_ids",
    "pixel_attention_mask", "aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask", "qformer_input_ids",
    "qformer_attention_mask",
)  # fmt: skip


def build(name, out):
    fixture = BUILDERS[name]()
    directory = out / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shown = {letter for prompt in fixture.prompts.values() for letter in prompt.images}
    pictures = {letter: picture for letter, picture in fixture.pictures().items() if letter in shown}
    for letter, picture in pictures.items():
        picture.save(directory / f"img_{letter}.png", optimize=True)

    rendered = {letter: render(fixture, prompt) for letter, prompt in fixture.prompts.items()}
    sides = {case: "right" if case.endswith("_right") else "left" for case in fixture.cases}
    inputs = {case: fx.encode(fixture, letters, rendered, pictures, sides[case]) for case, letters in fixture.cases.items()}
    assert all((i["attention_mask"] == 0).any() == case.startswith("batch") for case, i in inputs.items()), "padding"

    model = fixture.model_class._from_config(fixture.config, **fixture.eager).float().eval()
    special = {k: getattr(fixture.tokenizer, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = transformers.GenerationConfig(**special)
    seed, alphas, tensors, reports = search(fixture, model, inputs)

    single = inputs["single"]
    logits = tensors["single.logits"]
    checks = {
        "cases": reports,
        "f64_vs_f32": f64_gap(fixture, model, single, logits),
        "image_mirrored": fx.gap(mirrored(fixture, model, single), logits) if pictures else None,
        "rows_alone_vs_batch": rows_gap(fixture, model, rendered, pictures, tensors),
        "config_ablations": ablations(fixture, model, single, tensors),
    }
    unused = fx.unused_parameters(fixture, model, single, logits)
    golden = {
        "note": fixture.note,
        "architecture": fixture.model_class.__name__,
        "prompts": rendered,
        "messages": {letter: p.messages for letter, p in fixture.prompts.items()},
        "add_generation_prompt": {letter: p.add_generation_prompt for letter, p in fixture.prompts.items()},
        "expected_rendered": rendered,
        "token_ids": {letter: token_ids(fixture, text) for letter, text in rendered.items()},
        **({"encode_options": fixture.encode_options} if fixture.encode_options else {}),
        "images": {letter: f"img_{letter}.png" for letter in pictures},
        "case_inputs": {
            case: {"padding_side": sides[case], "rows": [{"prompt": l, "images": fixture.prompts[l].images} for l in letters]}
            for case, letters in fixture.cases.items()
        },
        "decoded": {
            name: fixture.tokenizer.batch_decode(ids, skip_special_tokens=True)
            for name, ids in tensors.items()
            if "generated" in name
        },
        "image_backend": fixture.processor.image_processor.backend if pictures else None,
        "attn_implementation": "eager",
        "dtype": "float32",
        "disk_dtype": str(fixture.disk_dtype).removeprefix("torch."),
        "seed": seed,
        "min_greedy_margin": min(v for r in reports.values() for k, v in r.items() if k.endswith("margin")),
        "unused_parameters": unused,
        "checks": checks,
        "versions": versions(),
    }
    fixture.write(fixture, model, directory)
    tensors |= {f"alpha.layers.{layer}.{projection}": a for (layer, projection), a in alphas.items()}
    save_file(dict(sorted(tensors.items())), directory / "golden.safetensors")
    (directory / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    files = [file for file in directory.rglob("*") if file.is_file()]
    for file in files:
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in files)
    print(f"{name}: {size / 1000:.0f} KB, seed {seed}, margin {golden['min_greedy_margin']:.4f}, checks {json.dumps(checks)}")
    print(f"   unused: {unused}")


def ablations(fixture, model, inputs, tensors):
    logits = tensors["single.logits"]
    if fixture.ablate_generated:
        inputs = fx.extended(fixture, inputs, tensors["single.generated"])
        with torch.no_grad():
            logits = fx.forward(fixture, model, inputs)
    return fx.ablated(fixture, model, inputs, logits)


def render(fixture, prompt):
    if fixture.render:
        return fixture.render(prompt)
    return fixture.processor.apply_chat_template(
        prompt.messages, add_generation_prompt=prompt.add_generation_prompt, tokenize=False
    )


def token_ids(fixture, text):
    """Token ids before images are expanded; a template that writes the beginning token itself is told so."""
    more = {k: v for k, v in fixture.encode_options.items() if k == "add_special_tokens"}
    return fixture.tokenizer(text, **more)["input_ids"]


def search(fixture, model, inputs):
    """The first seed whose greedy choices are all clear."""
    quiet = fx.unreadable(fixture.tokenizer)
    for seed in range(fixture.seed, fixture.seed + 2000):
        fx.randomise(fixture, model, seed, quiet)
        for name, parameter in model.named_parameters():  # not model.to(...): that would round the rope frequencies too
            stored = fixture.stored(name, parameter.data) if fixture.stored else parameter.data.to(fixture.disk_dtype)
            parameter.data.copy_(stored)
        generator = torch.Generator().manual_seed(seed)
        alphas = {k: fx.make_alpha(fx.width(site), generator) for k, site in fixture.sites(model).items()}
        tensors, reports = {}, {}
        try:
            for case, case_inputs in inputs.items():
                got, reports[case] = fx.record_case(fixture, model, case, case_inputs, alphas, MIN_MARGIN)
                tensors |= got
        except fx.Unsuitable:
            continue
        return seed, alphas, tensors, reports
    raise SystemExit("no seed gives clear greedy margins")


@torch.no_grad()
def f64_gap(fixture, model, inputs, logits):
    doubled = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    out = fx.forward(fixture, model.double(), doubled)
    model.float()
    return fx.gap(out, logits)


@torch.no_grad()
def mirrored(fixture, model, inputs):
    return fx.forward(fixture, model, inputs | {"pixel_values": inputs["pixel_values"].flip(-1)})


@torch.no_grad()
def rows_gap(fixture, model, rendered, pictures, tensors):
    """Padding must not show: each row of a batch against the same row alone."""
    worst = 0.0
    for case in ("batch_left", "batch_right"):
        for row, letter in enumerate(fixture.cases.get(case, [])):
            alone = fx.forward(fixture, model, fx.encode(fixture, [letter], rendered, pictures))[0]
            keep = tensors[f"{case}.attention_mask"][row].bool()
            worst = max(worst, fx.gap(alone, tensors[f"{case}.logits"][row][keep]))
    return worst


def versions():
    return {m.__name__: m.__version__ for m in (torch, torchvision, transformers)} | {"pillow": PIL.__version__}


def hub_processors(directory, golden):
    tokenizer, backend = transformers.AutoTokenizer.from_pretrained(directory), golden["image_backend"]
    images = transformers.AutoImageProcessor.from_pretrained(directory, backend=backend) if golden["images"] else None
    return tokenizer, images


@torch.no_grad()
def verify(name, out):
    """Reload the directory and compare: logits bit for bit, token ids, pixels, rendered prompts."""
    directory, fixture = out / name, BUILDERS[name]()
    tensors, golden = load_file(directory / "golden.safetensors"), json.loads((directory / "golden.json").read_text())
    model, loading = fixture.load(fixture, directory)
    problems = {k: sorted(v) for k, v in loading.items() if v}
    for case in golden["case_inputs"]:
        inputs = {k: tensors[f"{case}.{k}"] for k in INPUTS if f"{case}.{k}" in tensors}
        if not torch.equal(fx.forward(fixture, model, inputs), tensors[f"{case}.logits"]):
            problems[case] = "logits differ"
    tokenizer, image_processor = fixture.reload(directory) if fixture.reload else hub_processors(directory, golden)
    for letter, text in golden["expected_rendered"].items():
        more = {k: v for k, v in fixture.encode_options.items() if k == "add_special_tokens"}
        ids = tokenizer(text, **more)["input_ids"]
        if ids != golden["token_ids"][letter]:
            problems[f"token_ids {letter}"] = ids
    for case, rows in golden["case_inputs"].items():
        shown = [[PIL.Image.open(directory / golden["images"][i]) for i in row["images"]] for row in rows["rows"]]
        shown = shown if fixture.nested_images else sum(shown, [])
        if any(shown) and not torch.equal(image_processor(shown, return_tensors="pt", **fixture.image_options)["pixel_values"], tensors[f"{case}.pixel_values"]):
            problems[f"pixels {case}"] = "differ"
    template = None if fixture.render or fixture.reload else fx.template_on_disk(directory)
    for letter, text in golden["expected_rendered"].items():
        if fixture.render:
            continue
        got = tokenizer.apply_chat_template(
            golden["messages"][letter],
            chat_template=template,
            add_generation_prompt=golden["add_generation_prompt"][letter],
            tokenize=False,
        )
        if got != text:
            problems[f"template {letter}"] = got
    print(f"{name}: {'ok' if not problems else problems}")
    return not problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *BUILDERS], help="fixtures to make, by default all")
    parser.add_argument("--verify", action="store_true", help="check the directories instead of writing them")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    names = args.names or list(BUILDERS)
    if args.verify:
        raise SystemExit(not all([verify(name, args.out) for name in names]))
    for name in names:
        build(name, args.out)


if __name__ == "__main__":
    main()
