"""The Latin part of DejaVu Sans Mono Bold, which the attacks draw text with.

    pip install fonttools==4.68.0 matplotlib==3.11.2     (matplotlib brings the font, version 2.37, and its licence)
    python tools/font/subset.py

Hints are dropped, and the font says that it might have some: FreeType would otherwise make up its own, and Pillow's rendering,
which the tests compare with, would depend on them.
"""

import pathlib
import shutil

import matplotlib
from fontTools import subset

FONTS = pathlib.Path(matplotlib.get_data_path()) / "fonts/ttf"
OUT = pathlib.Path(__file__).parents[2] / "crates/mm-toxic-qa/fonts"
PUNCTUATION = [0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2026, 0x20AC]

options = subset.Options()
options.hinting = False
options.layout_features = []
options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 13, 14]
options.notdef_outline = True
options.recalc_timestamp = False
options.drop_tables += ["GSUB", "GPOS", "GDEF", "kern", "FFTM"]
font = subset.load_font(str(FONTS / "DejaVuSansMono-Bold.ttf"), options)
subsetter = subset.Subsetter(options)
subsetter.populate(unicodes=[*range(0x20, 0x7F), *range(0xA0, 0x180), *PUNCTUATION])
subsetter.subset(font)
font["maxp"].maxSizeOfInstructions = 1
OUT.mkdir(exist_ok=True)
subset.save_font(font, str(OUT / "DejaVuSansMono-Bold-Latin.ttf"), options)
shutil.copyfile(FONTS / "LICENSE_DEJAVU", OUT / "LICENSE_DEJAVU")
