//! Grids of the settings of soft suppression.

use std::collections::BTreeSet;

use sgm_core::Projection;

use crate::SuppressionRule;

/// A grid of settings of soft suppression.
///
/// ```
/// use sgm_suppress::Grid;
///
/// let grid = Grid {
///     thresholds: vec![0.7, 0.8],
///     exponents: vec![2.0],
///     projections: vec![[].into()],
///     depths: vec![0.5, 1.0],
///     top_k: vec![None, Some(50)],
/// };
/// let names: Vec<String> = grid.rules().into_iter().map(|rule| rule.name).collect();
/// assert_eq!(names.len(), 8);
/// assert_eq!(names[..2], ["t0.7 e2 all d0.5", "t0.7 e2 all d0.5 k50"]);
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grid {
    /// AUROCs that an expert must exceed.
    pub thresholds: Vec<f32>,
    /// Powers to which a scale is raised.
    pub exponents: Vec<f32>,
    /// Sets of projections; an empty set stands for all.
    pub projections: Vec<BTreeSet<Projection>>,
    /// Shares of the layers, counted from the first.
    pub depths: Vec<f32>,
    /// Largest numbers of experts, the best first; none for no limit.
    pub top_k: Vec<Option<usize>>,
}

impl Grid {
    /// Every combination, named by its settings.
    pub fn rules(&self) -> Vec<SuppressionRule> {
        let mut rules = Vec::new();
        for depth in &self.depths {
            for projections in &self.projections {
                for threshold in &self.thresholds {
                    for (exponent, top_k) in self.exponents.iter().flat_map(|e| self.top_k.iter().map(move |k| (e, k))) {
                        let mut rule = SuppressionRule::soft(*threshold, *exponent);
                        rule.selection.depth = *depth;
                        rule.selection.top_k = *top_k;
                        let listed = projections.iter().map(|p| p.name()).collect::<Vec<_>>().join("+");
                        let among = if projections.is_empty() { "all" } else { &listed };
                        rule.selection.projections = Some(projections.clone()).filter(|p| !p.is_empty());
                        rule.name = format!("t{threshold} e{exponent} {among} d{depth}");
                        rule.name += &top_k.map(|k| format!(" k{k}")).unwrap_or_default();
                        rules.push(rule);
                    }
                }
            }
        }
        rules
    }
}
