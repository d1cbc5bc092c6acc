#!/usr/bin/env python3
"""AUROC, average precision, errors and effect sizes by scikit-learn, scipy and definition; the published operators.

    python tools/golden/make_auroc.py

writes crates/sgm-score/tests/golden/auroc.{safetensors,json} and
crates/sgm-suppress/tests/golden/alphas.{safetensors,json}.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import scipy
import sklearn
from safetensors.numpy import save_file
from scipy.stats import false_discovery_control, rankdata, ttest_ind
from sklearn.metrics import average_precision_score, roc_auc_score

CRATES = Path(__file__).resolve().parents[2] / "crates"
F32 = np.finfo(np.float32)
EFFECTS = ("continuous", "ties", "bf16", "imbalance_5_995")


def labels(n, positives, rng):
    y = np.zeros(n, np.uint8)
    y[rng.permutation(n)[:positives]] = 1
    return y


def shifted(n, d, y, rng):
    """Normal responses whose class means differ by -1 to 1."""
    return (rng.normal(size=(n, d)) + y[:, None] * np.linspace(-1, 1, d)).astype(np.float32)


def to_bf16(x):
    """Round to nearest even at 8 bits of significand, kept as f32."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def degenerate(y, rng):
    """Columns at the edges of f32: equality must be exact, -0.0 equals 0.0, subnormals are not flushed."""
    n = len(y)
    pick = lambda *values: rng.choice(np.array(values, np.float32), n)
    ulp = np.float32(1)
    steps = [ulp]
    for _ in range(7):
        steps.append(np.nextafter(steps[-1], np.float32(2)))
    tiny = F32.smallest_subnormal
    return np.stack(
        [
            np.zeros(n, np.float32),
            np.full(n, 3.25, np.float32),
            np.full(n, -F32.max, np.float32),
            pick(-0.0, 0.0),
            pick(-0.0, 0.0, 1.0, -1.0),
            pick(tiny, -tiny, 0.0, -0.0),
            (rng.integers(1, 50, n) * np.float64(tiny)).astype(np.float32),
            pick(*steps),
            -pick(*steps),
            pick(F32.max, -F32.max, 0.0),
            pick(F32.max, np.nextafter(F32.max, np.float32(0))),
            y.astype(np.float32),  # perfect
            -y.astype(np.float32),  # perfectly wrong
            np.where(rng.permutation(n) == 0, 1, 0).astype(np.float32),  # one sample differs
            np.arange(n, dtype=np.float32),
            -np.arange(n, dtype=np.float32),
        ],
        1,
    )


def infinite(y, rng):
    n = len(y)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    x[rng.random((n, 6)) < 0.1] = np.inf
    x[rng.random((n, 6)) < 0.1] = -np.inf
    x[:, 4] = np.where(rng.random(n) < 0.5, np.inf, -np.inf)
    x[:, 5] = np.where(rng.random(n) < 0.2, np.inf, F32.max)
    return x


def mid_rank_auroc(y, x):
    """Mann-Whitney: the share of positive-negative pairs in the right order, ties counting half."""
    positives = int(y.sum())
    negatives = len(y) - positives
    return (rankdata(x)[y == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def step_average_precision(y, x):
    """Sum over distinct thresholds, from the largest, of precision times the gain in recall."""
    order = np.argsort(-x, kind="stable")
    x, hits = x[order], np.cumsum(y[order], dtype=np.float64)
    last = np.append(x[1:] != x[:-1], True)
    precision, recall = hits[last] / (np.flatnonzero(last) + 1), hits[last] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def delong_error(y, x):
    """Standard error from the structural components of DeLong et al. (1988), by their definition: every pair is compared."""
    toxic, other = x[y == 1][:, None], x[y == 0][None, :]
    pairs = (toxic > other) + 0.5 * (toxic == other)
    v10, v01 = pairs.mean(1), pairs.mean(0)
    if min(len(v10), len(v01)) < 2:
        return np.nan
    return np.sqrt(v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01))


def effects(y, x):
    """Mean difference, Cohen's d, Welch's t and its p-value; NaN or infinite where the formulas are."""
    toxic, other = x[y == 1].astype(np.float64), x[y == 0].astype(np.float64)
    difference = toxic.mean() - other.mean()
    squares = ((toxic - toxic.mean()) ** 2).sum() + ((other - other.mean()) ** 2).sum()
    t, p = ttest_ind(toxic, other, equal_var=False)
    return difference, difference / np.sqrt(squares / (len(x) - 2)), t, p


def auroc_cases():
    rng = np.random.default_rng(20240)
    y = labels(200, 107, rng)
    base = shifted(200, 32, y, rng)
    rare, rarest = labels(1000, 5, rng), labels(1001, 1, rng)
    few, pair = np.array([0, 0, 1, 0, 0, 0, 0], np.uint8), np.array([1, 0], np.uint8)
    pairs = rng.normal(size=(2, 8)).astype(np.float32)
    pairs[:, 3] = 0.5
    return {
        "continuous": (y, base),
        "ties": (y, np.round(base[:, ::-1] * 2) / 2),
        "bf16": (y, to_bf16(base + 16)),  # about 50 distinct values a column
        "degenerate": (y, degenerate(y, rng)),
        "imbalance_5_995": (rare, shifted(1000, 8, rare, rng)),
        "imbalance_1_1000": (rarest, shifted(1001, 4, rarest, rng)),
        "imbalance_1_6": (few, np.round(shifted(7, 16, few, rng) * 2)),
        "imbalance_1_1": (pair, pairs),
        "infinite": (y, infinite(y, rng)),
    }


def auroc():
    tensors, report = {}, {}
    for name, (y, x) in auroc_cases().items():
        x = np.ascontiguousarray(x, np.float32)
        rank = np.array([mid_rank_auroc(y, column) for column in x.T])
        steps = np.array([step_average_precision(y, column) for column in x.T])
        area, precision, gap = rank, steps, None
        if name != "infinite":  # scikit-learn refuses infinities
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # differences of extreme values overflow
                area = np.array([roc_auc_score(y, column) for column in x.T])
                precision = np.array([average_precision_score(y, column) for column in x.T])
            gap = [float(np.abs(area - rank).max()), float(np.abs(precision - steps).max())]
            assert max(gap) < 1e-14, (name, gap)
        tensors |= {f"{name}.responses": x, f"{name}.labels": y, f"{name}.auroc": area, f"{name}.average_precision": precision}
        tensors[f"{name}.auroc_se"] = np.array([delong_error(y, column) for column in x.T])
        if name in EFFECTS:
            tensors[f"{name}.effect"] = np.array([effects(y, column) for column in x.T])
        distinct = [len(np.unique(column)) for column in x.T]
        report[name] = {
            "samples": len(y),
            "neurons": x.shape[1],
            "positives": int(y.sum()),
            "distinct_values": [min(distinct), max(distinct)],
            "source": "sklearn" if gap else "mid-ranks",
            "sklearn_vs_mid_ranks": gap and gap[0],
            "sklearn_vs_step_sum": gap and gap[1],
        }
    p = np.random.default_rng(20242).beta(0.5, 1, 200)
    p[10:20] = p[10]
    tensors |= {"p_values": p, "q_values": false_discovery_control(p, method="bh")}
    write(CRATES / "sgm-score/tests/golden/auroc", tensors, {"cases": report})


SITES = {
    "lm.layers.0.mlp.gate_proj": 48,
    "lm.layers.0.mlp.down_proj": 24,
    "lm.layers.1.mlp.up_proj": 57,
    "lm.layers.2.mlp.gate_proj": 33,
}
TOP_K = (1, 5, 20, 22, 100)


def expertise():
    """AUROC values in f32: exact 0, 1 and 0.5, neighbours of 0.5, and sorted places 17 to 22 all equal."""
    rng = np.random.default_rng(20241)
    total = sum(SITES.values())
    values = np.sort(rng.beta(6, 6, total).astype(np.float32))[::-1].copy()
    values[0], values[-1] = 1.0, 0.0
    values[17:23] = values[17]
    half = np.searchsorted(-values, -0.5)
    values[half - 1 : half + 2] = np.nextafter(np.float32(0.5), np.float32(1)), 0.5, np.nextafter(np.float32(0.5), np.float32(0))
    assert (np.diff(values) <= 0).all()
    flat = values[rng.permutation(total)]
    ends = np.cumsum(list(SITES.values()))
    return dict(zip(SITES, np.split(flat, ends[:-1])))


def alphas():
    auroc = expertise()
    descending = np.sort(np.concatenate(list(auroc.values())))[::-1]
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    proportional = lambda a: one - two * (a - half)
    rules = {
        "aura": (half, proportional),
        "aura_vl": (np.float32(0.3), proportional),
        "det0": (half, np.zeros_like),
        "damp": (half, lambda a: np.full_like(a, half)),
    }
    for k in TOP_K:
        rules |= {f"det0_top{k}": (descending[k], rules["det0"][1]), f"damp_top{k}": (descending[k], rules["damp"][1])}
    tensors, report = {f"{site}/auroc": a for site, a in auroc.items()}, {}
    for rule, (threshold, scale) in rules.items():
        selected = {site: a > threshold for site, a in auroc.items()}
        tensors |= {f"{rule}/{site}": np.where(selected[site], scale(a), one) for site, a in auroc.items()}
        report[rule] = {"threshold": float(threshold), "selected": int(sum(s.sum() for s in selected.values()))}
    assert all(t.dtype == np.float32 for t in tensors.values())
    assert report["det0_top20"]["selected"] == report["det0_top22"]["selected"] == 17
    notes = {
        "selection": "strictly above the threshold; top-k: threshold = sorted_descending[k] over all sites (so ties select fewer)",
        "arithmetic": "f32: aura and aura_vl scale by 1 - 2 * (a - 0.5), det0 by 0, damp by 0.5; not selected: 1",
        "widths": SITES,
        "rules": report,
    }
    write(CRATES / "sgm-suppress/tests/golden/alphas", tensors, notes)


def write(stem, tensors, notes):
    stem.parent.mkdir(parents=True, exist_ok=True)
    file = stem.with_suffix(".safetensors")
    save_file({k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())}, file)
    file.chmod(0o644)
    notes["versions"] = {m.__name__: m.__version__ for m in (np, scipy, sklearn)}
    stem.with_suffix(".json").write_text(json.dumps(notes, indent=1) + "\n")
    print(f"{file.stat().st_size:8d} {file.name}")
    print(json.dumps(notes, indent=1))


if __name__ == "__main__":
    auroc()
    alphas()
