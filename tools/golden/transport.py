"""Reference values of transport maps: numpy's quantiles and least squares, and scipy's, on small pools of responses.

    python tools/golden/transport.py crates/sgm-suppress/tests/golden/transport.safetensors

Per case: `<case>.toxic` and `<case>.non_toxic` f32, `<case>.mean` and `<case>.linear` f64 [scale, shift], `<case>.clamped` f64 [scale, shift]
with the scale within 0..1. Made with the versions in requirements.txt.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.stats import linregress

rng = np.random.default_rng(241023)
f32 = np.float32
normal = lambda n, mean=0.0, width=1.0: (rng.normal(size=n) * width + mean).astype(f32)
few = lambda n, values: rng.choice(np.array(values, f32), n)

CASES = {
    "equal_sizes": (normal(40, 2.0), normal(40, -1.0, 0.5)),
    "stretched": (normal(30, 0.0, 0.3), normal(30, 1.0, 2.0)),
    "more_toxic": (normal(37, 1.0), normal(13)),
    "more_non_toxic": (normal(7, 1.0), normal(50, -3.0, 0.1)),
    "ties": (few(25, [0.0, 0.0, 1.0, 2.0]), few(31, [-1.0, 0.5, 0.5])),
    "constant_toxic": (np.full(9, 0.1, f32), normal(12)),
    "constant_non_toxic": (normal(12), np.full(9, -0.3, f32)),
    "both_constant": (np.full(5, 3.0, f32), np.full(6, 1.0, f32)),
    "far_from_zero": (normal(20, 1e4, 3.0), normal(20, 1e4 - 5, 2.0)),
    "tiny": (normal(11, 0.0, 1e-20), normal(11, 0.0, 1e-20)),
    "one_each": (f32([2.0]), f32([5.0])),
    "one_against_many": (f32([2.0]), normal(10)),
    "many_against_one": (normal(10), f32([2.0])),
    "two": (f32([1.0, -1.0]), normal(17)),
}

tensors = {}
for name, (toxic, non_toxic) in CASES.items():
    x, y = np.sort(toxic.astype(np.float64)), np.sort(non_toxic.astype(np.float64))
    mean = [1.0, y.mean() - x.mean()]
    n = min(len(x), len(y))
    levels = np.linspace(0, 1, n) if n > 1 else np.array([0.5])
    x, y = np.quantile(x, levels), np.quantile(y, levels)
    if x[0] == x[-1]:
        linear = [1.0, y.mean() - x.mean()]
    else:
        # In units of the spread, about the mean: polyfit's powers of 1e4 would lose what is to be compared.
        centre, spread = x.mean(), x.std()
        w, b = np.polyfit((x - centre) / spread, y, 1)
        linear = [w / spread, b - w / spread * centre]
        other = linregress(x, y)
        assert abs(other.slope - linear[0]) < 1e-10 * max(1, abs(other.slope)), name
    w = min(max(linear[0], 0.0), 1.0)
    tensors |= {f"{name}.toxic": toxic, f"{name}.non_toxic": non_toxic}
    tensors |= {f"{name}.mean": np.array(mean), f"{name}.linear": np.array(linear)}
    tensors[f"{name}.clamped"] = np.array([w, y.mean() - w * x.mean()])

save_file({key: np.ascontiguousarray(value) for key, value in sorted(tensors.items())}, sys.argv[1])
Path(sys.argv[1]).chmod(0o644)
