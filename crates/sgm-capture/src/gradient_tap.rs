use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Tensor, Var};
use sgm_core::Site;
use sgm_models::{Tap, TokenSpans, with_gradient, with_values};

use crate::derivative::{Derivative, Parameter};
use crate::rows::Responses;

/// A tap that asks for the gradients of what passes and changes nothing.
///
/// When a pass is differentiated ([`sgm_models::backpropagate`]), the gradient that comes back to a site is summed over tokens, as it is or
/// times the activations, and let go: it is held for one site at a time. Sums are f64, in the order of the tokens. Padding is never looked
/// at. Activations are those this tap passes on, after what the taps before it did.
///
/// Every pass while it is attached keeps what its derivative will need: a few times the memory of its activations.
#[derive(Debug)]
pub struct GradientTap {
    gathered: Arc<Gathered>,
}

#[derive(Debug)]
struct Gathered {
    derivatives: Vec<Derivative>,
    sites: Option<BTreeSet<Site>>,
    samples: Mutex<BTreeMap<usize, Responses>>,
}

impl GradientTap {
    /// A tap that makes all of `derivatives` at once, at these sites, or at all.
    pub fn new(derivatives: Vec<Derivative>, sites: Option<BTreeSet<Site>>) -> Self {
        Self { gathered: Arc::new(Gathered { derivatives, sites, samples: Mutex::default() }) }
    }

    /// Takes what was gathered since the last call: for each row number, and each derivative in order, the derivatives `[neurons]` of each
    /// site. Over no token they are 0.
    pub fn take(&self) -> BTreeMap<usize, Responses> {
        std::mem::take(&mut self.gathered.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tap for GradientTap {
    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        if self.gathered.sites.as_ref().is_some_and(|sites| !sites.contains(&site)) {
            return Ok(output);
        }
        // What comes before the first site has no gradient: there it begins.
        let output = if output.track_op() { output } else { Var::from_tensor(&output)?.into_inner() };
        let gathered = self.gathered.clone();
        let of_row = |(index, row): (usize, &usize)| Row {
            number: *row,
            places: gathered.derivatives.iter().map(|d| d.tokens.places(spans.row(index))).collect(),
        };
        let rows: Vec<Row> = spans.rows().iter().enumerate().map(of_row).collect();
        let receive = move |activations: &Tensor, gradient: &Tensor| {
            gathered.add(site, activations, gradient, &rows).map_err(candle_core::Error::wrap)?;
            Ok(gradient.clone())
        };
        Ok(with_gradient(&output, output.detach(), receive)?)
    }
}

/// One row of a batch.
struct Row {
    /// The caller's number of it.
    number: usize,
    /// The tokens of each derivative.
    places: Vec<Vec<usize>>,
}

impl Gathered {
    /// Adds activations and gradients `[batch, tokens, neurons]` of a site.
    fn add(&self, site: Site, activations: &Tensor, gradient: &Tensor, rows: &[Row]) -> sgm_models::Result<()> {
        let (_, tokens, neurons) = activations.dims3()?;
        let sums: Vec<Vec<Vec<f32>>> = with_values(activations, |activations| {
            with_values(gradient, |gradient| {
                let size = (tokens * neurons).max(1);
                let rows = activations.chunks_exact(size).zip(gradient.chunks_exact(size)).zip(rows);
                rows.map(|((x, g), row)| self.sums(x, g, neurons, &row.places)).collect()
            })
        })??;
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, sums) in rows.iter().zip(sums) {
            let sample = samples.entry(row.number).or_default();
            sample.resize_with(self.derivatives.len(), BTreeMap::new);
            for (sites, sums) in sample.iter_mut().zip(sums) {
                sites.insert(site, sums);
            }
        }
        Ok(())
    }

    /// The derivatives of one row of activations and gradients `[tokens, neurons]`.
    fn sums(&self, activations: &[f32], gradient: &[f32], neurons: usize, places: &[Vec<usize>]) -> Vec<Vec<f32>> {
        let token = |values: &[f32], place: usize| place * neurons..values.len().min((place + 1) * neurons);
        let mut all = Vec::with_capacity(places.len());
        for (derivative, places) in self.derivatives.iter().zip(places) {
            let mut sums = vec![0f64; neurons];
            for place in places {
                let x = activations.get(token(activations, *place)).unwrap_or_default();
                let g = gradient.get(token(gradient, *place)).unwrap_or_default();
                match derivative.parameter {
                    Parameter::Scale => {
                        sums.iter_mut().zip(x.iter().zip(g)).for_each(|(sum, (x, g))| *sum += f64::from(*x) * f64::from(*g));
                    }
                    Parameter::Shift => sums.iter_mut().zip(g).for_each(|(sum, g)| *sum += f64::from(*g)),
                }
            }
            #[allow(clippy::cast_possible_truncation, reason = "kept in f32, as responses are")]
            all.push(sums.into_iter().map(|sum| sum as f32).collect());
        }
        all
    }
}
