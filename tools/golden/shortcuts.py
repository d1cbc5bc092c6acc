#!/usr/bin/env python3
"""Estimates by scikit-learn of how well a prompt's text and an image's measures predict a label, with the folds of the benchmark.

    python tools/golden/shortcuts.py crates/mm-toxic-qa/tests/golden/shortcuts.json

The texts are placeholders.
"""

import json
import sys

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import MultinomialNB
from sklearn.preprocessing import StandardScaler

WORDS = "a the bird tree  house Green\nsmall quick über river stone 42 why? how! placeholder\t\tword".split(" ")


def fold_of(labels):
    """In turn within each class, up to 5."""
    n = min(5, sum(labels), len(labels) - sum(labels))
    seen, folds = [0, 0], []
    for label in labels:
        folds.append(seen[label] % n)
        seen[label] += 1
    return folds


cases = []
for seed, (size, share, signal) in enumerate([(30, 0.5, 0.0), (41, 0.3, 0.5), (24, 0.15, 1.0)]):
    rng = np.random.default_rng(seed)
    labels = (np.arange(size) < share * size)[rng.permutation(size)].astype(int)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 7))) + (" please" if y and rng.random() < signal else "") for y in labels]
    features = (rng.normal(size=(size, 9)) * rng.uniform(0.1, 90, 9)).astype(np.float32)
    features[:, 0] = 1.0  # the same everywhere
    features[:, 3] += (50 * signal * labels).astype(np.float32)
    folds = np.array(fold_of(labels.tolist()))
    log_odds, logistic = np.zeros(size), np.zeros(size)
    for fold in range(folds.max() + 1):
        train, test = folds != fold, folds == fold
        count = CountVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False)
        bayes = MultinomialNB().fit(count.fit_transform(np.array(texts)[train]), labels[train])
        joint = bayes.predict_joint_log_proba(count.transform(np.array(texts)[test]))
        log_odds[test] = joint[:, 1] - joint[:, 0]
        scaler = StandardScaler().fit(features[train].astype(np.float64))
        fit = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        fit.fit(scaler.transform(features[train].astype(np.float64)), labels[train])
        logistic[test] = fit.decision_function(scaler.transform(features[test].astype(np.float64)))
    cases.append({
        "texts": texts, "features": features.tolist(), "labels": [bool(y) for y in labels], "folds": folds.tolist(),
        "naive_bayes": roc_auc_score(labels, log_odds), "regression": roc_auc_score(labels, logistic), "log_odds": log_odds.tolist(),
    })
with open(sys.argv[1], "w") as file:
    json.dump(cases, file, ensure_ascii=False)
    file.write("\n")
