//! Causal experts: the neurons that detect toxic samples and cause toxic answers.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sgm_capture::{AttributionPatching, Derivative, Examples, MeanAttribution, Parameter};
use sgm_core::{Expertise, Intervention, Site, TokenSelection};
use sgm_models::Mllm;

use crate::{Error, Result, SuppressionRule};

/// The soft suppression of the experts among a small set of neurons that *cause* toxic answers.
///
/// An AUROC says that a neuron detects toxicity, and in a wide model every tenth neuron does. Which of them to suppress is a question of
/// what it brings and what it costs, to first and to second order ([`AttributionPatching`]):
///
/// * the *benefit* `b` of suppressing a neuron is the mean derivative by its scale of the log-likelihood of toxic answers, minus that of
///   non-toxic answers to prompts of the same kind;
/// * its *cost* `f` is the mean square of the same derivative on neutral texts: the diagonal of the Fisher information, of which half is the
///   divergence that a small change of the scale causes.
///
/// The neurons with the largest `b / sqrt(f)` are kept, up to [`most`](Self::most), if `b` is above twice its standard error. The
/// rule then decides, as without this set, which of them are experts and how far each is suppressed.
///
/// The choice of neurons by benefit and cost is this project's own. Gradient times activation as the first-order effect of a neuron is that
/// of Molchanov et al. (arXiv 1611.06440), the Fisher information as its cost that of Fisher pruning (Theis et al., arXiv 1801.05787).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CausalExperts {
    /// The rule for the neurons of the set.
    pub rule: SuppressionRule,
    /// The largest number of neurons in the set.
    pub most: usize,
    /// Samples run together.
    pub batch_size: usize,
}

impl CausalExperts {
    /// Fits the set to labelled answers to risky prompts, preferably the model's own, and to neutral texts, and applies the rule to it.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] when there are no answers of a class, no neutral texts, or no neurons to keep; the errors of the rule, the model and the
    /// samples.
    pub fn fit<M: Mllm + ?Sized>(
        &self,
        model: &M,
        expertise: &Expertise,
        answers: &Examples<'_>,
        neutral: &Examples<'_>,
    ) -> Result<Intervention> {
        let derivative = Derivative { parameter: Parameter::Scale, tokens: TokenSelection::All };
        let sites: BTreeSet<Site> = expertise.sites().keys().copied().collect();
        let patching =
            AttributionPatching { sites: Some(sites), batch_size: self.batch_size, ..AttributionPatching::new(vec![derivative]) };
        let [toxic, others] = patching.means(model, answers)?;
        let [_, neutral] = patching.means(model, neutral)?;
        for (attribution, what) in [(&toxic, "toxic answers"), (&others, "non-toxic answers"), (&neutral, "neutral texts")] {
            if attribution.samples == 0 {
                return Err(Error::Fit { reason: format!("causal experts take {what}, and there are none") });
            }
        }
        let of = |attribution: &MeanAttribution, site| attribution.derivatives.get(&derivative)?.get(site).cloned();
        let mut candidates: Vec<(Site, usize, f64)> = Vec::new();
        for site in expertise.sites().keys() {
            // Sites that answers never pass, such as experts that no token is routed to, cause nothing.
            let (Some(toxic), Some(others), Some(neutral)) = (of(&toxic, site), of(&others, site), of(&neutral, site)) else { continue };
            let benefits = toxic.mean.iter().zip(&others.mean).map(|(toxic, other)| toxic - other);
            let errors = toxic.standard_error().into_iter().zip(others.standard_error()).map(|(toxic, other)| toxic.hypot(other));
            let costs = neutral.mean.iter().zip(neutral.standard_deviation()).map(|(mean, deviation)| mean.hypot(deviation));
            let neurons = benefits.zip(errors).zip(costs).enumerate();
            let caused = neurons.filter(|(_, ((benefit, error), cost))| *benefit > 2.0 * error && *cost > 0.0);
            candidates.extend(caused.map(|(neuron, ((benefit, _), cost))| (*site, neuron, benefit / cost)));
        }
        candidates.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        candidates.truncate(self.most);
        tracing::info!(neurons = candidates.len(), "neurons that cause toxic answers");
        let set: BTreeSet<(Site, usize)> = candidates.into_iter().map(|(site, neuron, _)| (site, neuron)).collect();
        if set.is_empty() {
            let reason = format!(
                "no neuron makes toxic answers likelier than non-toxic ones by more than chance; give more risky prompts, or a larger number \
                 of neurons than {}",
                self.most
            );
            return Err(Error::Fit { reason });
        }
        let described = format!("neurons that cause toxic answers, at most {}", self.most);
        self.rule.among(expertise, &described, |site, neuron| set.contains(&(site, neuron)))
    }
}
