"""p-values by Hoeffding and Bentkus with scipy's binomial distribution, for `hoeffding_bentkus` of sgm-score.

    python tools/golden/risk_control.py crates/sgm-score/tests/golden/risk_control.json
"""

import json
import sys
from pathlib import Path

import numpy as np
import scipy
from scipy.special import rel_entr
from scipy.stats import binom


def p_value(mean, n, limit):
    hoeffding = np.exp(-n * (rel_entr(mean, limit) + rel_entr(1 - mean, 1 - limit)))
    bentkus = np.e * binom.cdf(np.ceil(round(n * mean, 9)), n, limit)
    return float(min(hoeffding, bentkus, 1))


if __name__ == "__main__":
    cases = [
        {"mean": mean, "samples": n, "limit": limit, "p": p_value(mean, n, limit)}
        for n in (1, 10, 49, 200, 1000, 20_000)
        for limit in (0.01, 0.02, 0.1, 0.25, 0.5, 0.9)
        for mean in sorted({0.0, limit / 10, limit / 2, 0.8 * limit, limit, round(n * limit / 2) / n})
        if mean <= limit
    ]
    lines = ",\n".join(map(json.dumps, cases))
    Path(sys.argv[1]).write_text(f'{{"scipy": "{scipy.__version__}", "cases": [\n{lines}\n]}}\n')
