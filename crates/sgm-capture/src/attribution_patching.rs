//! Attribution patching: first-order effects of all neurons on the likelihood of given answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sgm_core::Site;
use sgm_models::{Mllm, Objective, backpropagate};

use crate::derivative::Derivative;
use crate::examples::batch;
use crate::{Error, Examples, GradientTap, Manifest, Responses, Result, StoreWriter};

/// A measurement of the causal effects of all neurons on given answers, to first order.
///
/// For one answer with log-likelihood `L` and a neuron with activations `x_t` and gradients `g_t = dL/dx_t`, scaling the neuron by `1 - e`
/// at some tokens changes `L` by `-e * sum_t(g_t * x_t)` plus terms of higher order in `e`: gradient times activation, the first-order
/// Taylor criterion of Molchanov et al. (arXiv 1611.06440, section 2.2, without its absolute value), known in interpretability as
/// attribution patching, here towards zero (Nanda 2023; Syed et al., arXiv 2310.10348). Adding a shift `e` changes `L` by
/// `e * sum_t(g_t)`. One forward and one backward pass of a sample give both for every neuron, including all effects downstream.
///
/// A high AUROC marks neurons that *detect* toxicity, a positive effect on toxic answers neurons that *generate* it. The likelihood of an
/// answer is conditional on its prompt, and answers that are nearly certain have small effects. Toxic and non-toxic answers are comparable
/// if their prompts are equal or similar. The accuracy of the first order must be tested by interventions.
///
/// Taps that are already attached act first: effects may be measured while the model wears glasses.
#[derive(Debug, Clone, PartialEq)]
pub struct AttributionPatching {
    /// The derivatives, all computed in one pass.
    pub derivatives: Vec<Derivative>,
    /// The sites; all but those of single experts if not given. Layers before the first of them are not differentiated, which saves time
    /// for late sites.
    pub sites: Option<BTreeSet<Site>>,
    /// The objective: the log-likelihood of whole answers, its mean over their tokens, or the entropy of their predictions.
    pub objective: Objective,
    /// Samples run together, right-padded. As many batches are in flight as rayon has threads.
    pub batch_size: usize,
}

/// The effects on one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleAttribution {
    /// The sample's id.
    pub id: String,
    /// Whether the sample is toxic.
    pub toxic: bool,
    /// The negative log-likelihood, in nats, of each token of the answer, end of sequence included.
    pub nll: Vec<f64>,
    /// The derivatives `[neurons]` of every site, for each of the requested derivatives in order, in nats per unit of the parameter.
    pub derivatives: Responses,
}

/// The mean effects on the answers of one class.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MeanAttribution {
    /// The number of answers.
    pub samples: usize,
    /// The mean log-likelihood, in nats, of answers, or of their tokens with another objective than [`Objective::Sum`].
    pub log_likelihood: f64,
    /// The moments of each derivative over the answers, for every site.
    pub derivatives: BTreeMap<Derivative, BTreeMap<Site, Moments>>,
}

/// Means and standard deviations over samples, for each neuron of a site.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moments {
    /// The number of samples.
    pub samples: usize,
    /// The mean, `[neurons]`.
    pub mean: Vec<f64>,
    /// The sum of squared deviations from the mean, `[neurons]`.
    squares: Vec<f64>,
}

impl Moments {
    /// The standard deviation of each neuron, with `samples - 1` degrees of freedom; NaN of fewer than two samples.
    pub fn standard_deviation(&self) -> Vec<f64> {
        self.squares.iter().map(|s| if self.samples < 2 { f64::NAN } else { (s / (self.samples as f64 - 1.0)).sqrt() }).collect()
    }

    /// The standard error of each mean.
    pub fn standard_error(&self) -> Vec<f64> {
        let root = (self.samples as f64).sqrt();
        self.standard_deviation().into_iter().map(|deviation| deviation / root).collect()
    }

    /// The mean square of each neuron.
    pub fn mean_square(&self) -> Vec<f64> {
        let variances = self.squares.iter().map(|squares| squares / self.samples.max(1) as f64);
        self.mean.iter().zip(variances).map(|(mean, variance)| mean * mean + variance).collect()
    }

    /// Adds a sample, by Welford's recurrence.
    fn add(&mut self, values: &[f32]) {
        self.samples += 1;
        self.mean.resize(values.len(), 0.0);
        self.squares.resize(values.len(), 0.0);
        for ((mean, squares), value) in self.mean.iter_mut().zip(&mut self.squares).zip(values) {
            let deviation = f64::from(*value) - *mean;
            *mean += deviation / self.samples as f64;
            *squares += deviation * (f64::from(*value) - *mean);
        }
    }
}

impl AttributionPatching {
    /// The measurement of some derivatives for whole answers, one sample at a time.
    pub fn new(derivatives: Vec<Derivative>) -> Self {
        Self { derivatives, sites: None, objective: Objective::Sum, batch_size: 1 }
    }

    /// Measures the effects on each sample's response and passes them to `each` in the order of the samples. Results are the same bits for
    /// any number of threads.
    ///
    /// # Errors
    ///
    /// [`Error::NoTokens`] when a sample has no response, [`Error::NotFinite`] when a derivative overflows, and the errors of the model,
    /// the samples and `each`.
    pub fn for_each<M: Mllm + ?Sized>(
        &self,
        model: &M,
        examples: &Examples<'_>,
        each: impl FnMut(SampleAttribution) -> Result<()>,
    ) -> Result<()> {
        let numbers: Vec<usize> = (0..examples.len()).collect();
        let batches: Vec<&[usize]> = numbers.chunks(self.batch_size.max(1)).collect();
        self.run(model, &batches, |numbers| self.batch(model, examples, numbers), each)
    }

    /// Runs batches and passes on the effects on their samples; `batch` runs one, forward and back.
    fn run<M: Mllm + ?Sized, B: Sync>(
        &self,
        model: &M,
        batches: &[B],
        batch: impl Fn(&B) -> Result<Vec<Answered>> + Sync,
        mut each: impl FnMut(SampleAttribution) -> Result<()>,
    ) -> Result<()> {
        let tap = Arc::new(GradientTap::new(self.derivatives.clone(), self.sites.clone()));
        let _attached = model.taps().attach(tap.clone());
        // One round is one batch per thread.
        for round in batches.chunks(rayon::current_num_threads()) {
            let samples = round.par_iter().map(&batch).collect::<Result<Vec<_>>>()?;
            for (Answered { id, toxic, nll }, derivatives) in samples.into_iter().flatten().zip(tap.take().into_values()) {
                for (site, values) in derivatives.iter().flatten() {
                    if let Some((neuron, value)) = values.iter().copied().enumerate().find(|(_, v)| !v.is_finite()) {
                        return Err(Error::NotFinite { sample: id, site: site.to_string(), neuron, value });
                    }
                }
                each(SampleAttribution { id, toxic, nll, derivatives })?;
            }
        }
        Ok(())
    }

    /// The mean effects on toxic and on non-toxic answers, in this order.
    ///
    /// # Errors
    ///
    /// As [`for_each`](Self::for_each).
    pub fn means<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>) -> Result<[MeanAttribution; 2]> {
        let mut means = Means::new(self.objective, &self.derivatives);
        self.for_each(model, examples, |sample| means.add(&sample))?;
        Ok(means.classes)
    }

    /// Writes the effects on each sample into a new store, whose poolings are named after the derivatives, such as `scale/all`. It is read
    /// and scored like a store of activations.
    ///
    /// # Errors
    ///
    /// As [`for_each`](Self::for_each), and the errors of [`StoreWriter`].
    pub fn store<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, directory: &Path) -> Result<()> {
        let info = model.info();
        let mut widths = info.widths();
        widths.retain(|site, _| self.sites.as_ref().is_none_or(|sites| sites.contains(site)));
        let mut manifest = Manifest::new(&info.name, &info.config_sha256, "", widths);
        manifest.poolings = self.derivatives.iter().map(ToString::to_string).collect();
        manifest.weights = info.weights.clone();
        manifest.shard_samples = manifest.usual_shard_samples(1);
        manifest.samples_sha256 = Some(examples.sha256().to_owned());
        let objective = match self.objective {
            Objective::Sum => "log-likelihood of answers",
            Objective::Mean => "mean log-likelihood of the tokens of answers",
            Objective::Entropy => "mean entropy of the predictions of the tokens of answers",
        };
        let settings = [
            ("batch_size", self.batch_size.max(1).to_string()),
            ("compute_dtype", info.dtype.clone()),
            ("objective", objective.to_owned()),
            ("taps", model.taps().len().to_string()),
        ];
        manifest.settings = settings.map(|(key, value)| (key.to_owned(), value)).into();
        let mut writer = StoreWriter::create(directory, manifest)?;
        self.for_each(model, examples, |sample| writer.push_all(&sample.id, sample.toxic, &sample.derivatives))?;
        writer.finish()
    }

    /// Runs one batch forward and back; returns its samples with the negative log-likelihoods of their tokens.
    fn batch<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, numbers: &[usize]) -> Result<Vec<Answered>> {
        let (inputs, batch) = batch(model, examples, numbers)?;
        let nll = backpropagate(model, &inputs, self.objective)?;
        answered(batch.into_iter().map(|example| (example.id, example.toxic)), nll)
    }
}

/// A sample with the negative log-likelihood of each token of its response.
struct Answered {
    id: String,
    toxic: bool,
    nll: Vec<f64>,
}

/// The samples of a batch, each of which must have a response.
fn answered(names: impl Iterator<Item = (String, bool)>, nll: Vec<Vec<f64>>) -> Result<Vec<Answered>> {
    let sample = |((id, toxic), nll): ((String, bool), Vec<f64>)| match nll.is_empty() {
        true => Err(Error::NoTokens { sample: id, tokens: sgm_core::TokenSelection::Response }),
        false => Ok(Answered { id, toxic, nll }),
    };
    names.zip(nll).map(sample).collect()
}

/// The mean effects on both classes, as samples come in.
struct Means<'a> {
    objective: Objective,
    derivatives: &'a [Derivative],
    /// Toxic, then non-toxic.
    classes: [MeanAttribution; 2],
}

impl<'a> Means<'a> {
    fn new(objective: Objective, derivatives: &'a [Derivative]) -> Self {
        Self { objective, derivatives, classes: Default::default() }
    }

    fn add(&mut self, sample: &SampleAttribution) -> Result<()> {
        let [toxic, others] = &mut self.classes;
        let class = if sample.toxic { toxic } else { others };
        class.samples += 1;
        let count = match self.objective {
            Objective::Sum => 1.0,
            Objective::Mean | Objective::Entropy => sample.nll.len() as f64,
        };
        class.log_likelihood += (-sample.nll.iter().sum::<f64>() / count - class.log_likelihood) / class.samples as f64;
        for (derivative, sites) in self.derivatives.iter().zip(&sample.derivatives) {
            let moments = class.derivatives.entry(*derivative).or_default();
            sites.iter().for_each(|(site, values)| moments.entry(*site).or_default().add(values));
        }
        Ok(())
    }
}
