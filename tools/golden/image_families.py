"""What the image processors of every model family make of a few images, in both backends.

Called by make_images.py, which writes the images. families.json holds settings, shapes and the SHA-256 of every tensor;
families.safetensors holds the pixels of the cases in STORED.
"""

import hashlib
import json

import numpy as np
import transformers as hf
from PIL import Image
from safetensors.numpy import save_file
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.mllama.image_processing_mllama import get_all_supported_aspect_ratios

LANCZOS, BILINEAR, BICUBIC = 1, 2, 3
WIDE, TALL, TINY, LINE, DOT = "rgb_wide", "rgb_tall", "tiny", "line", "dot"
BACKENDS = {"torchvision": "", "pillow": "Pil"}


def clip(name="CLIP", **settings):
    return {"image_processor_type": f"{name}ImageProcessor"} | settings


def gemma3(**settings):
    return {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 28, "width": 28}} | settings


def llava_next(**settings):
    grid = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
    default = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}, "image_grid_pinpoints": grid}
    return {"image_processor_type": "LlavaNextImageProcessor"} | default | settings


def onevision(**settings):
    grid = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
    default = {"size": {"height": 28, "width": 28}, "image_grid_pinpoints": grid}
    return {"image_processor_type": "LlavaOnevisionImageProcessor"} | default | settings


def got_ocr(**settings):
    default = {"size": {"height": 28, "width": 28}, "crop_to_patches": True}
    return {"image_processor_type": "GotOcr2ImageProcessor"} | default | settings


def mllama(**settings):
    default = {"size": {"height": 28, "width": 28}, "max_image_tiles": 4}
    return {"image_processor_type": "MllamaImageProcessor"} | default | settings


def qwen(**settings):
    return {"image_processor_type": "Qwen2VLImageProcessor"} | settings


def idefics(name="Idefics3", **settings):
    default = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    return {"image_processor_type": f"{name}ImageProcessor"} | default | settings


def pixtral(**settings):
    return {"image_processor_type": "PixtralImageProcessor"} | settings


# name -> (settings, rows of images)
CASES = {
    "clip_rescale_only": (clip(size=30, crop_size=30, do_normalize=False), [[WIDE, TALL]]),
    "clip_normalise_only": (clip(size=30, crop_size=30, do_rescale=False, image_mean=[100.0, 110, 120.5]), [[WIDE]]),
    "clip_neither": (clip(size=30, crop_size=[20, 41], do_rescale=False, do_normalize=False, resample=LANCZOS), [[WIDE, TALL]]),
    "clip_two_edges": (clip(size={"shortest_edge": 30, "longest_edge": 45}, do_center_crop=False, do_pad=True), [[WIDE, TALL, TINY]]),
    "clip_within": (clip(size={"max_height": 40, "max_width": 30}, do_center_crop=False, do_pad=True, pad_size=[45, 33]), [[WIDE, TALL]]),
    "clip_no_resize": (clip(do_resize=False, crop_size=37, rescale_factor=1 / 127.5), [[WIDE, TALL, TINY, DOT]]),
    "llava_square": (clip("Llava", size=28, crop_size=28, do_pad=True), [[WIDE, TALL, LINE]]),
    "siglip_half": (clip("Siglip", size={"height": 24, "width": 32}, image_std=[0.25, 0.5, 0.75]), [[WIDE, TINY, DOT, LINE]]),
    "blip": (clip("Blip", size={"height": 28, "width": 28}), [[WIDE, TALL], [TINY]]),
    "blip_number": (clip("Blip", size=30, resample=BILINEAR), [[TALL]]),
    "gemma3": (gemma3(do_pan_and_scan=False), [[WIDE, TALL], [TINY, LINE]]),
    "gemma3_bicubic": (gemma3(size=24, resample=BICUBIC, image_mean=[0.1, 0.2, 0.3]), [[TALL, DOT]]),
    "next": (llava_next(), [[WIDE], [TALL, TINY]]),
    "next_degenerate": (llava_next(), [[LINE], [DOT]]),
    "next_uneven": (llava_next(image_grid_pinpoints=[[50, 90]], crop_size=28), [[WIDE, TALL]]),
    "next_square_size": (llava_next(size={"height": 20, "width": 24}, do_center_crop=False, resample=BILINEAR), [[WIDE]]),
    "next_no_resize": (llava_next(do_resize=False, do_normalize=False, do_pad=False), [[TALL]]),
    "onevision": (onevision(), [[WIDE], [TALL, TINY], []]),
    "onevision_degenerate": (onevision(image_mean=[0.5] * 3), [[LINE], [DOT, LINE], [TALL]]),
    "onevision_crop": (onevision(size={"shortest_edge": 30}, crop_size=28, do_center_crop=True), [[WIDE], [TALL, TALL]]),
    "onevision_default": (onevision(size={"height": 384, "width": 384}, image_grid_pinpoints=None), [[TINY]]),
    "got_ocr": (got_ocr(), [[WIDE, TALL], [TINY]]),
    "got_ocr_degenerate": (got_ocr(max_patches=6), [[LINE], [DOT]]),
    "got_ocr_at_least": (got_ocr(size={"height": 14, "width": 20}, min_patches=3, max_patches=5, resample=BILINEAR), [[WIDE, TINY]]),
    "got_ocr_one": (got_ocr(max_patches=1, do_resize=False, size=24), [[WIDE]]),
    "got_ocr_whole": (got_ocr(crop_to_patches=False), [[WIDE, DOT]]),
    "mllama": (mllama(), [[WIDE, TINY], [TALL]]),
    "mllama_degenerate": (mllama(), [[LINE], [DOT, TALL]]),
    "mllama_nine_tiles": (mllama(max_image_tiles=9, resample=BICUBIC), [[WIDE]]),
    "mllama_one_tile": (mllama(max_image_tiles=1, image_mean=[0.1, 0.2, 0.3]), [[TALL], [WIDE]]),
    "qwen": (qwen(min_pixels=784, max_pixels=3136), [[WIDE, TALL], [TINY]]),
    "qwen_degenerate": (qwen(size={"shortest_edge": 784, "longest_edge": 3136}), [[LINE], [DOT]]),
    "qwen3": (
        qwen(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3, size={"shortest_edge": 1024, "longest_edge": 8192}),
        [[WIDE]],
    ),
    "qwen_merge": (qwen(patch_size=4, merge_size=3, temporal_patch_size=1, min_pixels=100, max_pixels=2000), [[TINY, WIDE]]),
    "qwen_old": (qwen(min_pixels=784, max_pixels=1600, size={"min_pixels": 784, "max_pixels": 1600}), [[TALL]]),
    "idefics3": (idefics(), [[WIDE], [TALL, TINY]]),
    "idefics3_degenerate": (idefics(), [[LINE], [DOT, WIDE]]),
    "idefics3_whole": (idefics(do_image_splitting=False), [[WIDE, TALL], [TINY]]),
    "idefics3_no_resize": (idefics(do_resize=False, max_image_size={"longest_edge": 50}), [[WIDE, TINY]]),
    "pixtral": (pixtral(size={"longest_edge": 64}), [[WIDE, TALL], [TINY]]),
    "pixtral_degenerate": (pixtral(size={"longest_edge": 210}, patch_size={"height": 14, "width": 14}), [[LINE], [DOT]]),
    "pixtral_two_sides": (pixtral(size={"height": 40, "width": 70}, patch_size={"height": 8, "width": 12}), [[WIDE, TALL]]),
    "pixtral_no_pad": (pixtral(size=48, patch_size=5, do_pad=False, resample=BILINEAR), [[WIDE], [WIDE]]),
    "pixtral_no_resize": (pixtral(do_resize=False, patch_size=7, do_normalize=False), [[WIDE, TINY]]),
    "smolvlm": (idefics("SmolVLM", size={"longest_edge": 64}), [[WIDE, TALL]]),
    "smolvlm_bicubic": (idefics("SmolVLM", size={"longest_edge": 32}, resample=BICUBIC, do_pad=False), [[WIDE], [TALL]]),
}
STORED = ("clip_neither", "blip_number", "next_no_resize", "mllama_one_tile", "qwen_old", "smolvlm_bicubic")


def layout(settings, images, output):
    """Rows and columns of every image's grid."""
    kind = settings["image_processor_type"]
    count = sum(map(len, images))
    if kind.startswith(("Idefics3", "SmolVLM")):
        return [[r, c] for rows, columns in zip(output["rows"], output["cols"]) for r, c in zip(rows, columns)]
    if kind.startswith("Qwen"):
        return np.asarray(output["image_grid_thw"])[:, 1:].tolist()
    if kind.startswith("Mllama"):
        ratios = get_all_supported_aspect_ratios(settings["max_image_tiles"])
        return [list(ratios[i - 1]) for i in np.asarray(output["aspect_ratio_ids"]).flatten() if i > 0]
    if kind.startswith("Pixtral"):
        side = settings.get("patch_size", 16)
        height, width = (side["height"], side["width"]) if isinstance(side, dict) else (side, side)
        return (np.asarray(output["image_sizes"]) // [height, width]).tolist()
    if kind.startswith("GotOcr2") and settings["crop_to_patches"]:
        size = (settings["size"]["height"], settings["size"]["width"]) if isinstance(settings["size"], dict) else (settings["size"],) * 2
        bounds = settings.get("min_patches", 1), settings.get("max_patches", 12)
        grids = [get_optimal_tiled_canvas((i.height, i.width), size, *bounds) for row in images for i in row]
        return [[rows, columns] for columns, rows in grids]
    if kind.startswith("LlavaOnevision"):
        cut = [size for row in images for size in [(i.height, i.width) if len(row) == 1 else None for i in row]]
        side = settings["size"].get("height", 28)
        grid = settings["image_grid_pinpoints"] or hf.LlavaOnevisionImageProcessor.image_grid_pinpoints
        best = [size and select_best_resolution(size, grid) for size in cut]
        return [[-(-size[0] // side), -(-size[1] // side)] if size else [0, 0] for size in best]
    if kind.startswith("LlavaNext"):
        crop = settings["crop_size"]
        side = crop if isinstance(crop, int) else crop["height"]
        sizes = [(image.height, image.width) for row in images for image in row]
        best = [select_best_resolution(size, settings["image_grid_pinpoints"]) for size in sizes]
        return [[-(-height // side), -(-width // side)] for height, width in best]
    return [[1, 1]] * count


def run(settings, images, suffix):
    kind = settings["image_processor_type"]
    keywords = json.loads(json.dumps({k: v for k, v in settings.items() if k != "image_processor_type" and v is not None}))
    processor = getattr(hf, kind + suffix)(**keywords)
    nested = kind.startswith(("Mllama", "Idefics3", "SmolVLM", "LlavaOnevision"))
    extra = {"return_row_col_info": True} if kind.startswith(("Idefics3", "SmolVLM")) else {}
    output = processor(images if nested else sum(images, []), return_tensors="np" if suffix else "pt", **extra)
    tensors = {}
    for key, value in output.items():
        if key == "num_tiles":
            most = max(map(len, value))
            value = np.array([row + [0] * (most - len(row)) for row in value], np.int64)
        if key not in ("rows", "cols", "num_crops"):
            value = np.ascontiguousarray(np.asarray(value))
            tensors[key] = value.astype(np.float32) if value.dtype == np.uint8 else value
    return tensors, layout(settings, images, output)


def record(directory):
    cases, stored = {}, {}
    for name, (settings, rows) in CASES.items():
        images = [[Image.open(directory / f"{image}.png").convert("RGB") for image in row] for row in rows]
        case = {"config": settings, "rows": rows, "results": {}}
        for backend, suffix in BACKENDS.items():
            tensors, grid = run(settings, images, suffix)
            assert all(t.dtype in (np.float32, np.int64) for t in tensors.values()), name
            describe = lambda t: {"dtype": str(t.dtype), "shape": list(t.shape), "sha256": hashlib.sha256(t.tobytes()).hexdigest()}
            case["results"][backend] = {"grid": grid, "tensors": {key: describe(t) for key, t in sorted(tensors.items())}}
            if name in STORED:
                stored[f"{name}.{backend}"] = tensors["pixel_values"]
        cases[name] = case
    save_file(dict(sorted(stored.items())), directory / "families.safetensors")
    (directory / "families.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
