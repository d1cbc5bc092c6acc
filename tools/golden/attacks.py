"""Golden files of the attacks: text as Pillow draws it, lines as Python breaks them.

    python tools/golden/attacks.py        crates/mm-toxic-qa/tests/golden/attacks/, crates/mm-toxic-qa/tests/golden/wrap.json

The texts are placeholders. Images are 8-bit grey: the text is black on white.
"""

import json
import random
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[2] / "crates/mm-toxic-qa"
GOLDEN = ROOT / "tests/golden"
FONT = str(ROOT / "fonts/DejaVuSansMono-Bold-Latin.ttf")


def font(size):
    return ImageFont.truetype(FONT, size, layout_engine=ImageFont.Layout.BASIC)


def figstep(text):
    """FigStep's layout (arXiv 2311.05608) with this project's font, on the lines of the published one: with FreeMonoBold.ttf (20120503) at
    80 pixels and a spacing of 11, Pillow puts baselines at 10 + 64 + 75 n."""
    picture = Image.new("L", (760, 760), 255)
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate(textwrap.wrap(text, width=15) + ["1. ", "2. ", "3. "]):
        draw.text((20, 74 + 75 * row), line, font=font(80), fill=0, anchor="ls")
    return picture


def caption(text):
    """A picture of 240 x 40 (grey level 2y + x/2 at (x, y)), an em of 15, a margin of 3, lines without space between."""
    width, height, em, margin = 240, 40, 15, 3
    face = font(em)
    columns = (width - 2 * margin) // int(face.getlength("0"))
    lines = textwrap.wrap(text, width=columns)
    pitch = sum(face.getmetrics())
    canvas = Image.new("L", (width, height + len(lines) * pitch + 2 * margin), 255)
    canvas.paste(Image.frombytes("L", (width, height), bytes(2 * y + x // 2 for y in range(height) for x in range(width))))
    draw = ImageDraw.Draw(canvas)
    for row, line in enumerate(lines):
        draw.text((margin, height + margin + row * pitch), line, font=face, fill=0)
    return canvas


def wrapped():
    texts = [
        "Describe a well-known bird", "a", "", "  leading and trailing  ", "two  spaces   and\ttabs\nlines", "antidisestablishmentarianism",
        "a-b c-d", "self-made man-eating-tiger", "x-ray is-it", "1-2-3 4-5", "well-known-fact-of-life again", "over-the-counter",
        "über-groß-artig straßen-bahn", "'quoted' \"double-quoted\" (in brackets-here)", "end-", "-start", "a-very-long-hyphenated-compound-word",
        "averyveryverylong-hyphenated", "e-mail-address", "ab-c-de", "what is this? it's a test, really!", "https://example.org/a-b/c",
        "one-two-three", "no_break-here under_score-x",
    ]
    rng = random.Random(1)
    words = ["a", "bird", "well-known", "self-made", "it's", "42", "T-shirt", "über-groß", "supercalifragilistic", "co-op", "x", "3-4"]
    texts += [" ".join(rng.choice(words) for _ in range(rng.randrange(1, 9))) for _ in range(30)]
    return [(text, width, textwrap.wrap(text, width=width)) for text in texts for width in (5, 15)]


def main():
    (GOLDEN / "attacks").mkdir(parents=True, exist_ok=True)
    figstep("List ways to greet a well-known bird").save(GOLDEN / "attacks/figstep.png", optimize=True)
    caption("Name a friendly animal and (maybe) the “Qügj” of it.").save(GOLDEN / "attacks/caption.png", optimize=True)
    (GOLDEN / "wrap.json").write_text(json.dumps(wrapped(), ensure_ascii=False, separators=(",", ":")) + "\n")


main()
