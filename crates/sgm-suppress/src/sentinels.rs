//! Patch neurons that notice risk token by token and move what the MLP says to where it is without risk.

use std::ops::RangeInclusive;

use argmin::core::{Executor, Operator, State};
use argmin::solver::conjugategradient::ConjugateGradient;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sgm_capture::{Capture, Examples, MlpTokens};
use sgm_core::{Calibration, Intervention, Metadata, PatchNeuron};
use sgm_models::{Mllm, TokenKind, View};

use crate::logistic::{dot, logistic};
use crate::{Amplify, Error, Glasses, Result};

/// How patch neurons are fitted: one for each layer, whose gate is a probe of the MLP's input and whose output is a shift.
///
/// In each layer, on the model that wears the neurons of the layers before:
///
/// * A logistic regression tells tokens of toxic samples from tokens of non-toxic ones by the MLP's input x: of the former the last token
///   of the prompt and the response (what toxic answers are predicted from), of the latter all text and some of the image. Its
///   log-odds, minus the quantile that `false_positive_rate` of the non-toxic tokens exceed, are the neuron's gate.
/// * MLPs mostly have no bias, so that the constants come from x itself: the least-squares solution of `u . x = 1` over all these tokens.
///   It is the neuron's row in `up_proj`, and the threshold is taken off the gate through it. The neuron is then about `act(log-odds - threshold)`:
///   nothing where there is no risk, and more the plainer it is.
/// * Its column in `down_proj` is the difference between the MLP's mean output at the end of non-toxic and of toxic prompts (the shift of Mean-AcT,
///   arXiv 2410.23054), divided by the mean activation of toxic tokens that are noticed.
///
/// So the intervention is a few more neurons, folds into any checkpoint, and needs nothing to be switched on. The samples of the two classes should
/// be of risky and of harmless prompts, with their answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sentinels {
    /// The share of non-toxic tokens that the neurons may notice, softly.
    pub false_positive_rate: f64,
    /// How far tokens that are noticed are moved, in differences of means.
    pub strength: f64,
    /// The layers; all if not given.
    pub layers: Option<RangeInclusive<usize>>,
    /// The weight of the tokens against that of the penalty in the logistic regression (scikit-learn's `C`).
    pub c: f64,
    /// Of image tokens, only every so many-th is read, at least every one.
    pub image_stride: usize,
    /// Samples run together.
    pub batch_size: usize,
}

impl Default for Sentinels {
    fn default() -> Self {
        Self { false_positive_rate: 0.1, strength: 1.0, layers: None, c: 0.1, image_stride: 8, batch_size: 16 }
    }
}

impl Sentinels {
    /// Fits the neurons to labelled samples, which go through the model [layer by layer](sgm_capture::Layerwise): as long as two runs of it.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] when there are no samples of a class or a setting is out of range, and what model and samples report.
    pub fn fit<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, calibration: Option<Calibration>) -> Result<Intervention> {
        if !(0.0..1.0).contains(&self.false_positive_rate) || !self.strength.is_finite() {
            let (rate, strength) = (self.false_positive_rate, self.strength);
            let reason = format!("a false positive rate of {rate} and a strength of {strength}; expected one in 0..1 and a finite number");
            return Err(Error::Fit { reason });
        }
        let info = model.info();
        let mut fitted = Intervention::new(Metadata {
            base_model: Some(info.name.clone()),
            config_sha256: Some(info.config_sha256.clone()),
            operator: Some(serde_json::json!({"name": "sentinels", "settings": self})),
            positions: Some("all".to_owned()),
            calibration,
            created_by: Some(concat!("sgm ", env!("CARGO_PKG_VERSION")).to_owned()),
            ..Metadata::default()
        });
        let mut layers: Vec<usize> = info.sites.iter().map(|info| info.site.layer).collect();
        layers.dedup();
        let capture = Capture { batch_size: self.batch_size, ..Capture::new(Vec::new()) };
        let mut samples = capture.layerwise(model, examples)?;
        for layer in layers.into_iter().filter(|layer| self.layers.as_ref().is_none_or(|layers| layers.contains(layer))) {
            let view = View::new(model);
            let worn = Glasses::wear(&view, &fitted, Amplify::Refuse)?;
            let stride = self.image_stride.max(1);
            let chosen = move |toxic: bool, kind: TokenKind, end: bool, place: usize| match (toxic, kind) {
                (true, kind) => end || kind == TokenKind::Response,
                (false, TokenKind::Image) => place.is_multiple_of(stride),
                (false, _) => true,
            };
            samples.advance_to(&view, layer)?;
            let tokens = samples.mlp_tokens(&view, chosen)?;
            drop(worn);
            let neuron = self.neuron(&tokens)?;
            fitted.insert_patches(layer, vec![neuron])?;
        }
        Ok(fitted)
    }

    /// The neuron of one layer.
    fn neuron(&self, samples: &[MlpTokens]) -> Result<PatchNeuron> {
        let mut tokens: Vec<(&[f32], bool)> = Vec::new();
        let (mut toxic_end, mut other_end) = (Mean::default(), Mean::default());
        for sample in samples {
            for (_, end, input, output) in sample.tokens() {
                tokens.push((input, sample.toxic));
                if end {
                    if sample.toxic { &mut toxic_end } else { &mut other_end }.add(output);
                }
            }
        }
        if toxic_end.count == 0 || other_end.count == 0 {
            let reason = format!("there are {} toxic and {} non-toxic samples, expected some of both", toxic_end.count, other_end.count);
            return Err(Error::Fit { reason });
        }
        let log_odds = logistic(&tokens, self.c, 1e-3)?.weights;
        let one = constant(&tokens.iter().map(|(input, _)| *input).collect::<Vec<_>>())?;
        let mut unnoticed: Vec<f64> = tokens.iter().filter(|(_, toxic)| !toxic).map(|(input, _)| product(&log_odds, input)).collect();
        unnoticed.sort_unstable_by(|a, b| b.total_cmp(a));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the number of tokens")]
        let threshold = unnoticed.get((self.false_positive_rate * unnoticed.len() as f64) as usize).copied().unwrap_or_default();
        let gate: Vec<f64> = log_odds.iter().zip(&one).map(|(w, one)| w - threshold * one).collect();
        let activations = tokens.iter().filter(|(_, toxic)| *toxic).map(|(x, _)| (product(&gate, x), product(&one, x)));
        // By the sigmoid linear unit: other activation functions of the family differ from it by little where the gate is open.
        let noticed: Vec<f64> = activations.map(|(gate, one)| gate / (1.0 + (-gate).exp()) * one).filter(|a| *a > 0.0).collect();
        let mean = noticed.iter().sum::<f64>() / noticed.len().max(1) as f64;
        let factor = if noticed.is_empty() { 0.0 } else { self.strength / mean };
        let down = other_end.values.iter().zip(&toxic_end.values).map(|(other, toxic)| factor * (other - toxic));
        #[allow(clippy::cast_possible_truncation, reason = "interventions are kept in f32")]
        let single = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
        Ok(PatchNeuron { gate: single(gate), up: single(one), down: single(down.collect()) })
    }
}

/// A mean of vectors as they come.
#[derive(Default)]
struct Mean {
    count: usize,
    values: Vec<f64>,
}

impl Mean {
    fn add(&mut self, values: &[f32]) {
        self.count += 1;
        self.values.resize(values.len(), 0.0);
        self.values.iter_mut().zip(values).for_each(|(mean, value)| *mean += (f64::from(*value) - *mean) / self.count as f64);
    }
}

fn product(weights: &[f64], x: &[f32]) -> f64 {
    weights.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum()
}

/// The least-squares solution u of `u . x = 1` for rows x, by conjugate gradients on the normal equations.
fn constant(rows: &[&[f32]]) -> Result<Vec<f64>> {
    let width = rows.first().map_or(0, |row| row.len());
    // Parts of a fixed size, added up in order: the same bits for any number of threads.
    let parts: Vec<(Vec<f64>, Vec<f64>)> = rows
        .par_chunks(1024)
        .map(|rows| {
            let (mut gram, mut sums) = (vec![0.0; width * width], vec![0.0; width]);
            for row in rows {
                let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
                for (gram, x) in gram.chunks_exact_mut(width.max(1)).zip(&row) {
                    gram.iter_mut().zip(&row).for_each(|(gram, y)| *gram += x * y);
                }
            }
            (gram, sums)
        })
        .collect();
    let (mut gram, mut sums) = (vec![0.0; width * width], vec![0.0; width]);
    for (part_gram, part_sums) in &parts {
        gram.iter_mut().zip(part_gram).for_each(|(gram, part)| *gram += part);
        sums.iter_mut().zip(part_sums).for_each(|(sum, part)| *sum += part);
    }
    let failed = |error: argmin::core::Error| Error::Fit { reason: format!("no constant could be made of an MLP's inputs: {error}") };
    let solver: ConjugateGradient<Vec<f64>, f64> = ConjugateGradient::new(sums);
    let most = 4 * u64::try_from(width).unwrap_or(u64::MAX);
    let solved = Executor::new(Gram { width, values: gram }, solver);
    let solved = solved.configure(|state| state.param(vec![0.0; width]).target_cost(1e-9).max_iters(most)).run().map_err(failed)?;
    Ok(solved.state().get_best_param().cloned().unwrap_or_default())
}

/// A symmetric matrix.
struct Gram {
    width: usize,
    values: Vec<f64>,
}

impl Operator for Gram {
    type Param = Vec<f64>;
    type Output = Vec<f64>;

    fn apply(&self, u: &Vec<f64>) -> std::result::Result<Vec<f64>, argmin::core::Error> {
        Ok(self.values.chunks_exact(self.width.max(1)).map(|row| dot(row, u)).collect())
    }
}
