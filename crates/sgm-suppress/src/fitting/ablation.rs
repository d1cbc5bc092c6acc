//! The effect of an intervention on the likelihood of given answers.

use std::fmt;

use sgm_core::{Amplify, Intervention};
use sgm_models::{Mllm, Objective, Prompt, response_nll};

use crate::{Error, Glasses, Result};

/// A measurement of the exact effect of interventions on the likelihood of given answers.
///
/// The answers should be of one kind, such as toxic or polite. Their likelihoods without intervention are measured once; each intervention
/// costs one forward pass per answer. Scaling a group of neurons to 0 is the zero ablation of circuit analysis; scaling a few at a time
/// tests the first-order estimates of `sgm_capture::AttributionPatching`. Likelihoods are conditional on the prompts.
pub struct Ablation<'a, M: ?Sized> {
    model: &'a M,
    examples: &'a [(Prompt, String)],
    objective: Objective,
    batch_size: usize,
    before: Vec<f64>,
}

/// The change of the log-likelihoods of some answers, in nats: below 0 for answers that became less likely.
#[derive(Debug, Clone, PartialEq)]
pub struct LikelihoodChange {
    /// The change for each answer, of the whole answer or of the mean over its tokens.
    pub each: Vec<f64>,
    /// The mean over answers.
    pub mean: f64,
    /// The standard error of the mean; NaN for fewer than two answers.
    pub standard_error: f64,
}

impl<'a, M: Mllm + ?Sized> Ablation<'a, M> {
    /// Measures answers without intervention, `batch_size` at a time. Taps that are already attached stay active.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] for [`Objective::Entropy`], which is no likelihood, and the errors of [`response_nll`].
    pub fn new(model: &'a M, examples: &'a [(Prompt, String)], objective: Objective, batch_size: usize) -> Result<Self> {
        if objective == Objective::Entropy {
            let reason = "ablation measures likelihoods and no entropies; choose the objective Sum or Mean".to_owned();
            return Err(Error::Fit { reason });
        }
        let mut ablation = Self { model, examples, objective, batch_size, before: Vec::new() };
        ablation.before = ablation.log_likelihoods()?;
        Ok(ablation)
    }

    /// The log-likelihoods without intervention, in nats.
    pub fn before(&self) -> &[f64] {
        &self.before
    }

    /// The change caused by an intervention.
    ///
    /// # Errors
    ///
    /// The errors of [`Glasses::wear`] and [`response_nll`].
    pub fn change(&self, intervention: &Intervention, amplify: Amplify) -> Result<LikelihoodChange> {
        let worn = Glasses::wear(self.model, intervention, amplify)?;
        let after = self.log_likelihoods()?;
        drop(worn);
        let each: Vec<f64> = after.iter().zip(&self.before).map(|(after, before)| after - before).collect();
        let count = each.len() as f64;
        let mean = each.iter().sum::<f64>() / count;
        let variance = each.iter().map(|change| (change - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Ok(LikelihoodChange { mean, standard_error: (variance / count).sqrt(), each })
    }

    fn log_likelihoods(&self) -> Result<Vec<f64>> {
        let of_answer = |nll: Vec<f64>| match self.objective {
            Objective::Sum => -nll.iter().sum::<f64>(),
            Objective::Mean | Objective::Entropy => -nll.iter().sum::<f64>() / nll.len() as f64,
        };
        let nll = response_nll(self.model, self.examples, self.batch_size).map_err(Error::Model)?;
        Ok(nll.into_iter().map(of_answer).collect())
    }
}

impl<M: ?Sized> fmt::Debug for Ablation<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ablation({} answers)", self.before.len())
    }
}
