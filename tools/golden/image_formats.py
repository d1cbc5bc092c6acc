"""Images in many formats, as Pillow reads them, whole and cut off.

    python tools/golden/image_formats.py crates/sgm-core/tests/golden/images

writes each file and `images.json`: size, the SHA-256 of the pixels as RGB over white (as `convert_to_rgb` of transformers 5 makes them), the pixels
in hex for compression with losses, and for each of a list of lengths whether Pillow reads the file cut off there. Pillow 11.3.
"""

import hashlib
import io
import json
import pathlib
import struct
import sys
import zlib

import numpy
from PIL import Image
from transformers.image_transforms import convert_to_rgb

SIZE = (29, 21)


def picture():
    """A picture with smooth and rough parts."""
    w, h = SIZE
    y, x = numpy.mgrid[0:h, 0:w]
    rng = numpy.random.default_rng(0)
    rgb = numpy.stack([x * 255 // (w - 1), y * 255 // (h - 1), (x * y) % 256], -1)
    rgb[:8, :10] = rng.integers(0, 256, (8, 10, 3))
    return Image.fromarray(rgb.astype(numpy.uint8))


def files():
    """The name and the bytes of each file."""
    rgb = picture()
    grey = rgb.convert("L")
    alpha = Image.fromarray((numpy.mgrid[0 : SIZE[1], 0 : SIZE[0]][1] * 8 % 256).astype(numpy.uint8))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    palette = rgb.quantize(16, dither=Image.Dither.NONE)
    transparent = palette.copy()
    transparent.info["transparency"] = 3
    grey16 = Image.fromarray((numpy.asarray(grey).astype(numpy.uint16) * 257 + 3))
    frames = [rgb.quantize(16), rgb.rotate(180).quantize(16)]

    def save(image, kind, **options):
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    yield "baseline.jpg", save(rgb, "JPEG", quality=80)
    yield "progressive.jpg", save(rgb, "JPEG", quality=80, progressive=True)
    yield "grey.jpg", save(grey, "JPEG", quality=80)
    yield "cmyk.jpg", save(rgb.convert("CMYK"), "JPEG", quality=80)
    yield "restart.jpg", save(rgb, "JPEG", quality=80, restart_marker_blocks=1)
    yield "thumbnail.jpg", save(rgb, "JPEG", quality=80, exif=exif())
    yield "rgb.png", save(rgb, "PNG")
    yield "rgba.png", save(rgba, "PNG")
    yield "palette.png", save(palette, "PNG")
    yield "one_bit.png", save(rgb.convert("1"), "PNG")
    yield "grey16.png", save(grey16, "PNG")
    deep = numpy.asarray(rgb).astype(numpy.uint16) * 251 + 77
    yield "rgb16.png", png16(deep, 2)
    yield "rgba16.png", png16(numpy.dstack([deep, deep[:, :, 0]]), 6)
    yield "lossy.webp", save(rgb, "WEBP", quality=80)
    yield "lossless.webp", save(rgb, "WEBP", lossless=True)
    yield "alpha.webp", save(rgba, "WEBP", lossless=True, exact=True)
    yield "webp.jpg", save(rgb, "WEBP", lossless=True)
    yield "palette.gif", save(palette, "GIF")
    yield "transparent.gif", save(transparent, "GIF", transparency=3)
    yield "animated.gif", save(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    yield "interlaced.gif", save(palette, "GIF", interlace=1)
    yield "rgb.bmp", save(rgb, "BMP")
    yield "grey.bmp", save(grey, "BMP")
    yield "one_bit.bmp", save(rgb.convert("1"), "BMP")
    yield "palette.bmp", save(palette, "BMP")
    yield "rgba.bmp", save(rgba, "BMP")
    yield "raw.tiff", save(rgb, "TIFF")
    yield "lzw.tiff", save(rgb, "TIFF", compression="tiff_lzw")
    yield "deflate.tiff", save(grey, "TIFF", compression="tiff_deflate")
    yield "packbits.tiff", save(rgb, "TIFF", compression="packbits")
    yield "one_bit.tiff", save(rgb.convert("1"), "TIFF")
    yield "palette.tiff", save(palette, "TIFF")
    yield "rgba.tiff", save(rgba, "TIFF")
    yield "grey16.tiff", save(grey16, "TIFF")


def png16(samples, colour):
    """A PNG file of 16 bits a channel, which Pillow does not write."""
    h, w = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", w, h, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def exif():
    """An orientation, and bytes that look like the end of an image within a segment."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "\xff\xd9 not the end"
    return exif


def read(data):
    """The image as Pillow reads it; `None` for an error."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image
    except (OSError, SyntaxError, ValueError, EOFError):
        return None


def cuts(length):
    """Lengths to cut a file off at: every 5 %, and the last bytes."""
    return sorted({length * part // 20 for part in range(1, 20)} | {length - n for n in (1, 2, 3, 4, 8, 12, 16) if n < length})


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for name, data in files():
        (folder / name).write_bytes(data)
        image = read(data)
        pixels = convert_to_rgb(image, return_numpy=True)
        read_at = [cut for cut in cuts(len(data)) if read(data[:cut]) is not None]
        entry = {"mode": image.mode, "size": image.size, "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
        if data.startswith(b"\xff\xd8") or name == "lossy.webp":
            entry["rgb"] = pixels.tobytes().hex()
        entries[name] = entry | {"cuts": cuts(len(data)), "read": read_at}
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    (folder / "images.json").write_text("{\n" + text + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
