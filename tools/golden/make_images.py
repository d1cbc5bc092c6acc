#!/usr/bin/env python3
"""Source images and what the Hugging Face image processors make of them.

    python tools/golden/make_images.py

writes crates/sgm-models/tests/golden/images/: the images, images.safetensors and images.json, and through
image_families.py families.safetensors and families.json.
The README beside this script says what is in them and how the processors compute; every rule stated
there is implemented below in numpy and must reproduce both backends bit for bit.
"""

import json
import math
import shutil
from pathlib import Path

import image_families
import numpy as np
import PIL
import torch
import torchvision
import transformers as hf
from PIL import Image
from safetensors.numpy import save_file
from transformers.image_transforms import convert_to_rgb

OUT = Path(__file__).resolve().parents[2] / "crates/sgm-models/tests/golden/images"
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5, 0.5, 0.5]
BILINEAR, BICUBIC = 2, 3

# name -> (kind, size, crop or None, resample)
PROCESSORS = {
    "clip56": ("clip", {"shortest_edge": 56}, 56, BICUBIC),
    "clip41crop64": ("clip", {"shortest_edge": 41}, 64, BICUBIC),  # an odd number of missing rows or columns
    "siglip48": ("siglip", {"height": 48, "width": 48}, None, BICUBIC),
    "siglip48bilinear": ("siglip", {"height": 48, "width": 48}, None, BILINEAR),
}
GEOMETRY = ("rgb_wide", "rgb_tall", "tiny")  # through every processor; the others, which test decoding, through clip56
FLOATS = (("clip56", "rgb_wide"), ("siglip48", "rgb_wide"))  # pixel_values is stored for these; elementwise of the u8


def canvas(width, height, seed):
    """A gradient with a grating, tiles and a diagonal: smooth areas, edges and saturated pixels."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    a = np.stack([255 * x / (width - 1), 255 * y / (height - 1), 128 + 127 * np.sin(x / (3.0 + seed)) * np.cos(y / 5.0)], -1)
    a[(x // 12 + y // 12) % 5 == seed % 5] = [250, 250, 250]
    a[np.abs(x - y * width / height) < 1.5] = [0, 0, 0]
    return np.clip(np.round(a), 0, 255).astype(np.uint8)


def write_images():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    save = lambda image, name, **kw: image.save(OUT / name, **kw)
    save(Image.fromarray(canvas(160, 90, 1)), "rgb_wide.png", optimize=True)
    save(Image.fromarray(canvas(50, 130, 2)), "rgb_tall.png", optimize=True)
    save(Image.fromarray(canvas(20, 31, 3)), "tiny.png", optimize=True)
    alpha = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (45, 1))
    save(Image.fromarray(np.dstack([canvas(64, 45, 4), alpha])), "rgba.png", optimize=True)
    save(Image.fromarray(canvas(41, 60, 5)[..., 0]), "gray.png", optimize=True)
    palette = Image.fromarray(canvas(60, 40, 6)).quantize(32, dither=Image.Dither.NONE)
    save(palette, "palette.png", optimize=True)
    save(palette, "palette_trns.png", transparency=int(np.asarray(palette)[20, 30]))
    save(Image.fromarray(canvas(72, 50, 7)), "photo.jpg", quality=85, subsampling=2)
    written = sorted(p for p in OUT.iterdir())
    save(Image.fromarray(canvas(200, 2, 8)[:1]), "line.png", optimize=True)  # these are for image_families alone
    save(Image.fromarray(canvas(2, 2, 9)[:1, :1]), "dot.png", optimize=True)
    return written


def processors(kind, size, crop, resample):
    settings = dict(size=size, resample=resample)
    if kind == "clip":
        settings |= dict(crop_size={"height": crop, "width": crop})
        return hf.CLIPImageProcessor(**settings), hf.CLIPImageProcessorPil(**settings)
    return hf.SiglipImageProcessor(**settings), hf.SiglipImageProcessorPil(**settings)


# ------------------------------------------------------------------ the rules, in numpy


def composite_over_white(rgba):
    """PIL.Image.alpha_composite over an opaque white background."""
    colour, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    t = (colour * alpha + 255 * (255 - alpha)) * 128 + (128 << 7)
    return ((((t >> 8) + t) >> 8) >> 7).astype(np.uint8)


def output_size(height, width, size):
    if "height" in size:
        return size["height"], size["width"]
    short, long = min(height, width), max(height, width)
    new_long = int(size["shortest_edge"] * long / short)
    return (new_long, size["shortest_edge"]) if width <= height else (size["shortest_edge"], new_long)


def kernel(x, resample):
    x = abs(x)
    if resample == BILINEAR:
        return 1.0 - x if x < 1.0 else 0.0
    a = -0.5
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 2.0 else 0.0


def weights(inputs, outputs, resample):
    """Per output pixel: the first input pixel and the f64 weights, antialiased."""
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    support = (1.0 if resample == BILINEAR else 2.0) * stretch
    rows = []
    for i in range(outputs):
        centre = (i + 0.5) * scale
        start = max(int(centre - support + 0.5), 0)
        end = min(int(centre + support + 0.5), inputs)
        w = [kernel((j - centre + 0.5) * (1.0 / stretch), resample) for j in range(start, end)]
        total = 0.0
        for value in w:
            total += value
        rows.append((start, [value / total for value in w]))
    return rows


def precision(rows, backend):
    """Bits of the fixed-point weights: 22 in Pillow, as many as fit 16 bits in torch."""
    if backend == "pil":
        return 22
    largest = max(max(w) for _, w in rows)
    bits = 0
    while bits < 22 and int(0.5 + largest * (1 << (bits + 1))) < (1 << 15):
        bits += 1
    return bits


def resize_axis(image, outputs, resample, backend):
    """One pass along axis 1 of [rows, pixels, channels], u8 in and out."""
    if image.shape[1] == outputs:
        return image
    rows = weights(image.shape[1], outputs, resample)
    bits = precision(rows, backend)
    out = np.empty((image.shape[0], outputs, image.shape[2]), np.uint8)
    for i, (start, w) in enumerate(rows):
        fixed = np.array([math.trunc(v * (1 << bits) + math.copysign(0.5, v)) for v in w], np.int64)
        total = (image[:, start : start + len(w)].astype(np.int64) * fixed[:, None]).sum(1) + (1 << (bits - 1))
        out[:, i] = np.clip(total >> bits, 0, 255)
    return out


def resize(image, height, width, resample, backend):
    """Horizontal pass first, rounded to u8, then the vertical one."""
    wide = resize_axis(image, width, resample, backend)
    return resize_axis(wide.transpose(1, 0, 2), height, resample, backend).transpose(1, 0, 2)


def centre_crop(image, crop, backend):
    """Crop to a square; zeros where the image is smaller."""
    for axis in (0, 1):
        size = image.shape[axis]
        if size >= crop:
            start = (size - crop) // 2
            image = image.take(range(start, start + crop), axis)
        else:
            missing = crop - size
            before = missing // 2 if backend == "tv" else (missing + 1) // 2
            pad = [(0, 0)] * 3
            pad[axis] = (before, missing - before)
            image = np.pad(image, pad)
    return image


def to_float(image, mean, std, backend):
    """[H, W, 3] u8 to [3, H, W] f32."""
    f32 = np.float32
    if backend == "tv":
        mean, std = f32(mean) * f32(255), f32(std) * f32(255)
        return ((image.astype(f32) - mean) / std).transpose(2, 0, 1)
    scaled = (image.astype(np.float64) * (1 / 255)).astype(f32)
    return ((scaled - f32(mean)) / f32(std)).transpose(2, 0, 1)


def by_the_rules(rgb, kind, size, crop, resample, backend):
    out = resize(rgb, *output_size(*rgb.shape[:2], size), resample, backend)
    out = centre_crop(out, crop, backend) if crop else out
    mean, std = (CLIP_MEAN, CLIP_STD) if kind == "clip" else (HALF, HALF)
    return out.transpose(2, 0, 1), to_float(out, mean, std, backend)


# ------------------------------------------------------------------ recording


def main():
    torch.set_num_threads(1)
    tensors, report = {}, {}
    for path in write_images():
        name, image = path.stem, Image.open(path)
        plain = np.asarray(image.convert("RGB"))
        seen = convert_to_rgb(image, return_numpy=True)
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        expected = composite_over_white(np.asarray(image.convert("RGBA"))) if has_alpha else plain
        assert np.array_equal(seen, expected), name
        tensors[f"{name}.rgb"] = plain
        if has_alpha:
            tensors[f"{name}.tv_rgb"] = seen
        for processor, settings in PROCESSORS.items():
            if name not in GEOMETRY and processor != "clip56":
                continue
            got = {}
            for backend, hf_processor in zip(("tv", "pil"), processors(*settings)):
                pixels = hf_processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
                floats = hf_processor(image, return_tensors="np")["pixel_values"][0]
                assert pixels.dtype == np.uint8 and floats.dtype == np.float32
                want_pixels, want_floats = by_the_rules(seen, *settings, backend)
                assert np.array_equal(pixels, want_pixels), (processor, name, backend)
                assert np.array_equal(floats, want_floats), (processor, name, backend)
                got[backend] = pixels
                tensors[f"{processor}.{name}.{backend}"] = pixels
                if (processor, name) in FLOATS:
                    tensors[f"{processor}.{name}.pixel_values" + ("_pil" if backend == "pil" else "")] = floats
            difference = np.abs(got["tv"].astype(int) - got["pil"].astype(int))
            report[f"{processor}.{name}"] = {
                "shape": list(got["tv"].shape),
                "tv_pil_max": int(difference.max()),
                "tv_pil_differing": round(float((difference > 0).mean()), 5),
            }
    save_file({k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())}, OUT / "images.safetensors")
    meta = {
        "versions": {m.__name__: m.__version__ for m in (torch, torchvision, hf, PIL, np)},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processors": {
            name: {
                "kind": kind,
                "size": size,
                "crop": crop,
                "resample": resample,
                "image_mean": CLIP_MEAN if kind == "clip" else HALF,
                "image_std": CLIP_STD if kind == "clip" else HALF,
            }
            for name, (kind, size, crop, resample) in PROCESSORS.items()
        },
        "images": {p.stem: p.name for p in sorted(OUT.iterdir()) if p.suffix in (".png", ".jpg")},
        "results": report,
    }
    (OUT / "images.json").write_text(json.dumps(meta, indent=1) + "\n")
    image_families.record(OUT)
    for file in OUT.iterdir():
        file.chmod(0o644)
        print(f"{file.stat().st_size:8d} {file.name}")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
