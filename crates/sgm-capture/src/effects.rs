use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sgm_core::Site;
use sgm_models::{Mllm, Objective, Padding, backpropagate};

use crate::derivative::Derivative;
use crate::{Error, Example, Examples, GradientTap, Manifest, Responses, Result, StoreWriter};

/// How the causal effects of neurons on given answers are measured, to first order and all at once.
///
/// For one answer with log-likelihood `L` and a neuron with activations `x_t` and gradients `g_t = dL/dx_t`, scaling the neuron by `1 - e`
/// at some tokens changes `L` by `-e * sum_t(g_t * x_t)` plus terms of higher order in `e`: gradient times activation, the first-order
/// Taylor criterion of Molchanov et al. (arXiv 1611.06440, section 2.2, without its absolute value), known in interpretability as attribution
/// patching, here towards zero (Nanda 2023; Syed et al., arXiv 2310.10348). Adding a shift `e` changes `L` by `e * sum_t(g_t)`. One forward
/// and one backward pass of a sample give both for every neuron, through everything downstream of it.
///
/// An AUROC says which neurons *detect* what is toxic; a positive effect on toxic answers says which *generate* it. The likelihood of an answer
/// is conditional on its prompt: a neuron has an effect on how likely the toxic answer is *given* the toxic prompt, not on how likely such
/// prompts are, and an answer that is certain already has next to none. Where prompts are the same, or alike, toxic and non-toxic answers can
/// be compared. How far first order goes must be tested by intervening.
///
/// Taps that are attached already act first: effects may be measured with glasses on.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects {
    /// The derivatives, all made in one pass.
    pub derivatives: Vec<Derivative>,
    /// Where; at all sites if not given. What comes before the first of them is not differentiated, so that a late site is done sooner.
    pub sites: Option<BTreeSet<Site>>,
    /// Whether answers count as wholes or by the token.
    pub objective: Objective,
    /// Samples run together, right-padded. As many batches are in flight as rayon has threads.
    pub batch_size: usize,
}

/// The effects on one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleEffects {
    /// The sample's id.
    pub id: String,
    /// Whether it is toxic.
    pub toxic: bool,
    /// The negative log-likelihood, in nats, of each token of the answer, end of sequence included.
    pub nll: Vec<f64>,
    /// For each derivative in order, those `[neurons]` of every site, in nats per unit of the parameter.
    pub derivatives: Responses,
}

/// The mean effects on the answers of one class.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MeanEffects {
    /// The number of answers.
    pub samples: usize,
    /// The mean of what was differentiated: log-likelihoods, in nats, of answers or of their tokens.
    pub log_likelihood: f64,
    /// Each derivative's moments over the answers, for every site.
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

impl Effects {
    /// The effects of some derivatives on whole answers, one sample at a time.
    pub fn new(derivatives: Vec<Derivative>) -> Self {
        Self { derivatives, sites: None, objective: Objective::Sum, batch_size: 1 }
    }

    /// Measures the effects on each sample's response and hands them on in the order of the samples, which decides all sums: results are the
    /// same to the bit for any number of threads.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyMask`] when a sample has no response, [`Error::NotFinite`] when a derivative overflows, what model and samples report,
    /// and what `each` does.
    pub fn for_each<M: Mllm + ?Sized>(
        &self,
        model: &M,
        examples: &Examples<'_>,
        mut each: impl FnMut(SampleEffects) -> Result<()>,
    ) -> Result<()> {
        let tap = Arc::new(GradientTap::new(self.derivatives.clone(), self.sites.clone()));
        let _attached = model.taps().attach(tap.clone());
        let numbers: Vec<usize> = (0..examples.len()).collect();
        let batch_size = self.batch_size.max(1);
        // A round is what runs in parallel.
        for round in numbers.chunks(batch_size.saturating_mul(rayon::current_num_threads())) {
            let run = |batch: &[usize]| self.batch(model, examples, batch);
            let samples = round.par_chunks(batch_size).map(run).collect::<Result<Vec<_>>>()?;
            for ((example, nll), derivatives) in samples.into_iter().flatten().zip(tap.take().into_values()) {
                for (site, values) in derivatives.iter().flatten() {
                    if let Some((neuron, value)) = values.iter().copied().enumerate().find(|(_, v)| !v.is_finite()) {
                        return Err(Error::NotFinite { sample: example.id, site: site.to_string(), neuron, value });
                    }
                }
                each(SampleEffects { id: example.id, toxic: example.toxic, nll, derivatives })?;
            }
        }
        Ok(())
    }

    /// The mean effects on toxic and on non-toxic answers, in this order.
    ///
    /// # Errors
    ///
    /// As [`for_each`](Self::for_each).
    pub fn means<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>) -> Result<[MeanEffects; 2]> {
        let [mut toxic, mut others] = [MeanEffects::default(), MeanEffects::default()];
        self.for_each(model, examples, |sample| {
            let class = if sample.toxic { &mut toxic } else { &mut others };
            class.samples += 1;
            let count = match self.objective {
                Objective::Sum => 1.0,
                Objective::Mean => sample.nll.len() as f64,
            };
            class.log_likelihood += (-sample.nll.iter().sum::<f64>() / count - class.log_likelihood) / class.samples as f64;
            for (derivative, sites) in self.derivatives.iter().zip(&sample.derivatives) {
                let moments = class.derivatives.entry(*derivative).or_default();
                sites.iter().for_each(|(site, values)| moments.entry(*site).or_default().add(values));
            }
            Ok(())
        })?;
        Ok([toxic, others])
    }

    /// Writes the effects on each sample into a new store, whose poolings are the derivatives by their names, such as `scale/all`: what reads
    /// and scores stores of activations reads and scores it.
    ///
    /// # Errors
    ///
    /// As [`for_each`](Self::for_each), and what [`StoreWriter`] reports.
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

    /// Runs one batch and back; returns its samples with the negative log-likelihoods of their tokens.
    fn batch<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, numbers: &[usize]) -> Result<Vec<(Example, Vec<f64>)>> {
        let batch = numbers.iter().map(|number| examples.get(*number)).collect::<Result<Vec<_>>>()?;
        let mut inputs = model.processor().responses(batch.iter().map(|e| (&e.prompt, e.response.as_str())), Padding::Right)?;
        inputs.rows = numbers.to_vec();
        let nll = backpropagate(model, &inputs, self.objective)?;
        if let Some((example, _)) = batch.iter().zip(&nll).find(|(_, nll)| nll.is_empty()) {
            return Err(Error::EmptyMask { sample: example.id.clone(), mask: sgm_models::TokenMask::Response.name() });
        }
        Ok(batch.into_iter().zip(nll).collect())
    }
}
