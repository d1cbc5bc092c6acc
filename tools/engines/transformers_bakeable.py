"""the row `bakeable` in Hugging Face transformers: a baked organism answers the whole test split, beside the organism as it is.

    cargo run --release --example glasses -- --rows none,bakeable --seeds 1
    cargo run --release --example bake -- --model organism --intervention out/bakeable.sgm.safetensors --out out/bakeable
    python tools/engines/transformers_bakeable.py out/bakeable docs/results/engines-bakeable.json

Answers, judge, helpfulness, perplexity and visual questions are those of the world's own Python (tools/organism), none of ours. Perplexity is over
all tokens there and a mean over texts in our reports.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools/organism"))
import torch  # noqa: E402
import transformers  # noqa: E402
from sgm import Org, evaluate, mk_sets  # noqa: E402

baked, out = sys.argv[1:]
test = mk_sets()["test"]
measured = {}
for name, path in (("none", str(ROOT / "crates/sgm-organism/assets/checkpoint")), ("bakeable", baked)):
    values, _ = evaluate(Org(path), test)
    measured[name] = {key: round(float(value), 4) for key, value in values.items()}
    print(name, measured[name], flush=True)
record = {"torch": torch.__version__, "transformers": transformers.__version__, "seed": 0, "temperature": 1.0, "test split": measured}
Path(out).write_text(json.dumps(record, indent=1) + "\n")
