"""Golden numbers of the benchmark's metrics: crates/mm-toxic-qa/tests/golden/metrics.json.

McNemar's test is scipy's exact binomial test and chi-squared distribution, Cohen's kappa scikit-learn's, perplexity and distinct-n numpy
and plain Python.
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, chi2
from sklearn.metrics import accuracy_score, cohen_kappa_score


def mcnemar(b, c):
    statistic = (abs(b - c) - 1) ** 2 / (b + c)
    return {
        "only_first": b,
        "only_second": c,
        "p_exact": binomtest(b, b + c, 0.5).pvalue,
        "chi2": statistic,
        "p_chi2": chi2.sf(statistic, 1),
    }


def kappa(rng, n, agree, classes):
    first = rng.integers(0, classes, n)
    second = np.where(rng.random(n) < agree, first, rng.integers(0, classes, n))
    return {
        "first": first.tolist(),
        "second": second.tolist(),
        "agreement": accuracy_score(first, second),
        "kappa": cohen_kappa_score(first, second),
    }


def perplexity(rng):
    texts = [rng.gamma(2.0, 1.3, n).tolist() for n in (1, 3, 8, 20)]
    return {
        "token_nll": texts,
        "mean_of_texts": float(np.mean([np.exp(np.mean(t)) for t in texts])),
        "corpus": float(np.exp(np.mean(np.concatenate(texts)))),
    }


def distinct(rng):
    words = ["red", "blue", "Red", "circle", "the", "a", "dog"]
    texts = [" ".join(rng.choice(words, n)) for n in (0, 1, 4, 9, 15)]
    out = []
    for n in (1, 2, 3):
        grams = [tuple(w[i : i + n]) for w in (t.lower().split() for t in texts) for i in range(len(w) - n + 1)]
        out.append(len(set(grams)) / len(grams))
    return {"texts": texts, "distinct": out}


def toxicity(rng):
    scores = rng.random((6, 25)) ** 6
    scores[0] /= 3
    return {
        "scores": scores.round(6).tolist(),
        "expected_max": float(scores.round(6).max(1).mean()),
        "probability": float((scores.round(6).max(1) > 0.5).mean()),
    }


def main():
    root = Path(__file__).resolve().parents[2]
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "crates/mm-toxic-qa/tests/golden/metrics.json"
    rng = np.random.default_rng(7)
    counts = [(1, 0), (0, 6), (3, 2), (5, 5), (10, 25), (40, 41), (121, 59), (0, 60), (900, 1100), (1500, 1200)]
    golden = {
        "mcnemar": [mcnemar(b, c) for b, c in counts],
        "kappa": [kappa(rng, 20, 0.5, 2), kappa(rng, 40, 0.9, 2), kappa(rng, 30, 0.0, 3), kappa(rng, 30, 0.7, 3)],
        "perplexity": perplexity(rng),
        "distinct": distinct(rng),
        "toxicity": toxicity(rng),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
