use std::collections::BTreeSet;

use crate::Operator;

/// Settings of soft suppression to be tried, each with each.
///
/// ```
/// use sgm_suppress::Grid;
///
/// let grid = Grid { thresholds: vec![0.7, 0.8], exponents: vec![2.0], projections: vec![[].into()], depths: vec![0.5, 1.0], top_k: vec![None, Some(50)] };
/// let names: Vec<String> = grid.operators().into_iter().map(|operator| operator.name).collect();
/// assert_eq!(names.len(), 8);
/// assert_eq!(names[..2], ["t0.7 e2 all d0.5", "t0.7 e2 all d0.5 k50"]);
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grid {
    /// The AUROC that an expert must exceed.
    pub thresholds: Vec<f32>,
    /// Powers that a scale is raised to.
    pub exponents: Vec<f32>,
    /// Sets of projections, by their checkpoint names; an empty one stands for all.
    pub projections: Vec<BTreeSet<String>>,
    /// Shares of the layers, from the first on.
    pub depths: Vec<f32>,
    /// Numbers of experts, the best ones first; none for as many as the threshold lets in.
    pub top_k: Vec<Option<usize>>,
}

impl Grid {
    /// Every combination, named by what it is.
    pub fn operators(&self) -> Vec<Operator> {
        let mut operators = Vec::new();
        for depth in &self.depths {
            for projections in &self.projections {
                for threshold in &self.thresholds {
                    for (exponent, top_k) in self.exponents.iter().flat_map(|e| self.top_k.iter().map(move |k| (e, k))) {
                        let mut operator = Operator::soft(*threshold, *exponent);
                        operator.selection.depth = *depth;
                        operator.selection.top_k = *top_k;
                        let listed = projections.iter().map(String::as_str).collect::<Vec<_>>().join("+");
                        let among = if projections.is_empty() { "all" } else { &listed };
                        operator.selection.projections = Some(projections.clone()).filter(|p| !p.is_empty());
                        operator.name = format!("t{threshold} e{exponent} {among} d{depth}");
                        operator.name += &top_k.map(|k| format!(" k{k}")).unwrap_or_default();
                        operators.push(operator);
                    }
                }
            }
        }
        operators
    }
}
