"""Files of the formats that take a library to write, with the schemas of the published ones and placeholders in them.

    pip install pyarrow==26.0.1 openpyxl==3.1.5 pillow==11.3.0
    python tools/golden/datasets.py       crates/mm-toxic-qa/tests/golden/datasets/
"""

import io
import re
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

OUT = Path(__file__).parents[2] / "crates/mm-toxic-qa/tests/golden/datasets"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([("question", pa.string()), ("image", IMAGE), ("category", pa.string()), ("image_severity", pa.int64()),
                    ("response", pa.string()), ("is_response_safe", pa.string())])


def image(n, kind):
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (40 * n, 0, 0)).save(out, kind)
    return {"bytes": out.getvalue(), "path": None}


def table(rows, schema=SCHEMA):
    return pa.Table.from_pylist([dict(zip(schema.names, row)) for row in rows], schema)


def beavertails_v():
    rows = [
        ("placeholder question 1?", image(1, "PNG"), "animal_abuse", 1, "placeholder answer 1", "yes"),
        ("placeholder question 1?", image(1, "PNG"), "animal_abuse", 1, "placeholder answer 2", "no"),
        ("placeholder question 2?", image(2, "JPEG"), "horror_and_gore", 3, "placeholder answer 3", "no"),
    ]
    # Snappy is what the hub's converter writes; two row groups.
    pq.write_table(table(rows), OUT / "beavertails_v.parquet", compression="snappy", row_group_size=2)
    hole = rows[:1] + [("placeholder question 2?", None, "animal_abuse", 1, "placeholder answer 3", "no")]
    pq.write_table(table(hole), OUT / "no_image.parquet", compression="snappy")
    verdict = [rows[0][:-1] + ("maybe",)]
    pq.write_table(table(verdict), OUT / "verdict.parquet", compression="snappy")
    pq.write_table(table(rows[:1]).drop(["image"]), OUT / "no_column.parquet", compression="snappy")


def pairs():
    """The layout with two answers a row, in the folders of the hub."""
    names = ["category", "question", "image", "response_1", "response_2", "is_response_1_safe", "is_response_2_safe"]
    schema = pa.schema([(name, IMAGE if name == "image" else pa.string()) for name in names])
    rows = [("animal_abuse", f"placeholder question {n}?", image(n, "PNG"), f"first {n}", f"second {n}", "yes", "no") for n in range(3)]
    pq.write_table(table(rows, schema), OUT / "pairs.parquet", compression="snappy")


def compressions():
    rows = [("placeholder question?", image(1, "PNG"), "animal_abuse", 1, "placeholder answer", "yes")]
    for name in ("zstd", "gzip", "lz4", "brotli"):
        pq.write_table(table(rows), OUT / f"{name}.parquet", compression=name)


def spreadsheet(name, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    saved = io.BytesIO()
    book.save(saved)
    # The time of writing is in two places.
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(OUT / name, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.namelist():
            content = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"2000-01-01T00:00:00Z", old.read(part))
            new.writestr(zipfile.ZipInfo(part), content, zipfile.ZIP_DEFLATED)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    beavertails_v()
    pairs()
    compressions()
    header = ["name", "prompt", "output", "label"]
    spreadsheet("calibration.xlsx", [header, ["a.png", "placeholder 1?", "answer 1", 1], ["b.png", "placeholder 2?", "answer 2", 0],
                                     [None] * 4, [3, "placeholder 3?", 42, "1"]])
    spreadsheet("label.xlsx", [header, ["a.png", "placeholder 1?", "answer 1", 1], ["b.png", "placeholder 2?", "answer 2", 2]])
    # The forms of the author's sheets: a list of questions, and answers as whole conversations.
    spreadsheet("questions.xlsx", [header, ["animal_abuse__0.jpg", "placeholder question 0"], ["terrorism_or_extremism__25.jpg", "question 1"]])
    asked = "USER:  \nplaceholder question\nASSISTANT: placeholder toxic answer"
    spreadsheet("conversations.xlsx", [header, ["01-Illegal_Activitiy_0.jpg", "placeholder question", asked, 1],
                                       ["01-Illegal_Activitiy_0.jpg", "USER:", "USER:\nASSISTANT: placeholder description", 0],
                                       ["01-Illegal_Activitiy_1.jpg", "USER:", "USER:\nASSISTANT: ", 0],
                                       ["01-Illegal_Activitiy_2.jpg", "USER:", "USER: and no answer", 0]])


main()
