#!/usr/bin/env python3
"""Logistic regressions by scikit-learn, for the fit of probes.

    python tools/golden/logistic.py crates/sgm-score/tests/golden/logistic.json
"""

import json
import sys

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

cases = []
for seed, (samples, features, c) in enumerate([(40, 3, 1.0), (30, 45, 0.01), (60, 8, 0.1)]):
    rng = np.random.default_rng(seed)
    y = np.arange(samples) % 3 == 0
    x = (rng.normal(size=(samples, features)) * rng.uniform(0.1, 20, features) + rng.normal(size=features)).astype(np.float32)
    x[:, 0] += 3 * y
    x[:, 1] = 0.25  # the same everywhere
    scaler = StandardScaler().fit(x.astype(np.float64))
    fit = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(scaler.transform(x.astype(np.float64)), y)
    weights = fit.coef_[0] / scaler.scale_
    bias = fit.intercept_[0] - weights @ scaler.mean_
    case = {"c": c, "x": x.tolist(), "y": y.tolist(), "weights": weights.tolist(), "bias": bias}
    cases.append(case | {"scores": fit.predict_proba(scaler.transform(x.astype(np.float64)))[:, 1].tolist()})
with open(sys.argv[1], "w") as file:
    json.dump({"scikit-learn": sklearn.__version__, "cases": cases}, file)
    file.write("\n")
