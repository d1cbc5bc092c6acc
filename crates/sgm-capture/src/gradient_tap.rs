//! A tap that gathers gradients.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Tensor, Var};
use sgm_core::Site;
use sgm_models::{Tap, TokenSpans, with_gradient, with_values};

use crate::derivative::{Derivative, Parameter};
use crate::rows::Responses;

/// A tap that gathers the gradients of sites' outputs and changes nothing.
///
/// When a pass is differentiated ([`sgm_models::backpropagate`]), the gradient of a site is summed over tokens, plain or multiplied by the
/// activations, and freed: only one site's gradient is in memory at a time. Sums are f64, in the order of the tokens. Padding is never
/// read. Activations are the outputs after earlier taps.
///
/// While the tap is attached, every pass keeps the tensors that its derivative needs: a few times the memory of its activations.
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
    /// A tap for several derivatives at once, at some sites, or at all but those of single experts.
    pub fn new(derivatives: Vec<Derivative>, sites: Option<BTreeSet<Site>>) -> Self {
        Self { gathered: Arc::new(Gathered { derivatives, sites, samples: Mutex::default() }) }
    }

    /// Takes the derivatives gathered since the last call: for each id and each derivative in order, `[neurons]` of each site; 0 without a
    /// selected token.
    pub fn take(&self) -> BTreeMap<usize, Responses> {
        std::mem::take(&mut self.gathered.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tap for GradientTap {
    /// Only if some of the sites are those of experts.
    fn expert_sites(&self) -> bool {
        self.gathered.sites.iter().flatten().any(|site| site.expert.is_some())
    }

    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        if self.gathered.sites.as_ref().is_some_and(|sites| !sites.contains(&site)) {
            return Ok(output);
        }
        // The graph of the derivative starts at the first site.
        let output = if output.track_op() { output } else { Var::from_tensor(&output)?.into_inner() };
        let gathered = self.gathered.clone();
        let of_row = |(index, id): (usize, &usize)| Row {
            id: *id,
            places: gathered.derivatives.iter().map(|d| d.tokens.positions(spans.row(index))).collect(),
        };
        let rows: Vec<Row> = spans.ids().iter().enumerate().map(of_row).collect();
        let receive = move |activations: &Tensor, gradient: &Tensor| {
            gathered.add(site, activations, gradient, &rows).map_err(candle_core::Error::wrap)?;
            Ok(gradient.clone())
        };
        Ok(with_gradient(&output, output.detach(), receive)?)
    }
}

/// One sequence of a batch.
struct Row {
    /// The caller's id.
    id: usize,
    /// The positions of each derivative's tokens.
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
            let sample = samples.entry(row.id).or_default();
            sample.resize_with(self.derivatives.len(), BTreeMap::new);
            for (sites, sums) in sample.iter_mut().zip(sums) {
                sites.insert(site, sums);
            }
        }
        Ok(())
    }

    /// The derivatives of one sequence from its activations and gradients `[tokens, neurons]`.
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
            #[allow(clippy::cast_possible_truncation, reason = "derivatives are stored in f32, like responses")]
            all.push(sums.into_iter().map(|sum| sum as f32).collect());
        }
        all
    }
}
