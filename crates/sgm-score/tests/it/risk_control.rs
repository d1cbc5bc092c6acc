//! The p-values of mean losses equal those with scipy's binomial distribution (`tools/golden/risk_control.py`).

use serde::Deserialize;
use sgm_score::hoeffding_bentkus;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    mean: f64,
    samples: usize,
    limit: f64,
    p: f64,
}

#[test]
fn p_values_equal_those_with_scipys_binomial_distribution() {
    let golden: Golden = serde_json::from_str(include_str!("../golden/risk_control.json")).unwrap();
    assert!(golden.cases.len() > 150);
    for Case { mean, samples, limit, p } in golden.cases {
        let found = hoeffding_bentkus(mean, samples, limit);
        assert!((found - p).abs() <= 1e-9 * p + 1e-300, "mean {mean} of {samples} against {limit}: {found} instead of {p}");
    }
}
