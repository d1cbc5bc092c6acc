use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use sgm_core::{Intervention, Site, SiteIntervention};
use sgm_models::{Edit, Mllm, MlpInput, Part, Tap, TapGuard, TokenSpans};

use crate::kernel::Strengths;
use crate::patches::Patches;
use crate::sites::Sites;
use crate::{Amplify, Error, Positions, Result, Scaling};

/// An intervention that a running model wears; dropping it restores the model.
///
/// Several may be worn at once: their scales multiply.
#[derive(Debug)]
#[must_use = "the model wears the glasses until this is dropped"]
pub struct Glasses {
    _attached: TapGuard,
}

/// How glasses are worn.
///
/// ```
/// use sgm_suppress::Wear;
///
/// // The third request goes without, the fourth at half strength, all others in full.
/// let wear = Wear { rows: [(2, 0.0), (3, 0.5)].into(), ..Wear::default() };
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Wear {
    /// Whether scales and strengths may make neurons stronger.
    pub amplify: Amplify,
    /// The strength of every request that `rows` does not name: from 0, which leaves every bit, to 1, the intervention as it is. In
    /// between, `y = x + strength * (scale * x + shift - x)`.
    pub strength: f32,
    /// The strengths of single requests, by the caller's row number ([`TokenSpans::rows`]): in
    /// [`Generator::generate`](sgm_models::Generator::generate) the index of the prompt.
    pub rows: BTreeMap<usize, f32>,
}

impl Default for Wear {
    /// No amplification, and full strength for all.
    fn default() -> Self {
        Self { amplify: Amplify::Refuse, strength: 1.0, rows: BTreeMap::new() }
    }
}

impl Glasses {
    /// Puts an intervention on a model: at every forward pass, cached or not, the output of each site is scaled, and shifted where there is
    /// a shift, and what added neurons say is added to their MLP's output, at the token positions that its metadata name, or all if they name none.
    ///
    /// Sites that change nothing are passed by. A probe is left aside: these glasses are always on
    /// ([`AdaptiveGlasses`](crate::AdaptiveGlasses) heed it).
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when a site is not the model's or has another width, [`Error::Amplifies`] when a scale is above 1 or below 0 and
    /// that was not allowed, [`Error::Positions`] when the positions are not known.
    pub fn wear<M: Mllm + ?Sized>(model: &M, intervention: &Intervention, amplify: Amplify) -> Result<Self> {
        Self::wear_with(model, intervention, Wear { amplify, ..Wear::default() })
    }

    /// The same with a strength for each request.
    ///
    /// # Errors
    ///
    /// As [`wear`](Self::wear), and [`Error::Strength`] when a strength is not finite, or below 0 or above 1 and that was not allowed.
    pub fn wear_with<M: Mllm + ?Sized>(model: &M, intervention: &Intervention, wear: Wear) -> Result<Self> {
        let changes = Changes::of(model, intervention, wear.amplify)?;
        let rows = wear.rows.iter().map(|(row, strength)| (Some(*row), *strength));
        for (row, strength) in std::iter::once((None, wear.strength)).chain(rows) {
            if !strength.is_finite() || (wear.amplify == Amplify::Refuse && !(0.0..=1.0).contains(&strength)) {
                return Err(Error::Strength { row, strength });
            }
        }
        let suppression = Suppression { changes: Arc::new(changes), strength: wear.strength, rows: wear.rows };
        Ok(Self { _attached: model.taps().attach(Arc::new(suppression)) })
    }
}

/// What an intervention changes, and where.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) sites: Sites<Scaling>,
    pub(crate) patches: Patches,
    pub(crate) positions: Positions,
}

impl Changes {
    /// Those of an intervention that a model may and can wear.
    pub(crate) fn of<M: Mllm + ?Sized>(model: &M, intervention: &Intervention, amplify: Amplify) -> Result<Self> {
        intervention.check_against(&model.info().widths())?;
        if let (Amplify::Refuse, Some(a)) = (amplify, intervention.amplification()) {
            return Err(Error::Amplifies { site: a.site.to_string(), neuron: a.neuron, scale: a.scale });
        }
        let positions = intervention.metadata.positions.as_deref().map_or(Ok(Positions::All), str::parse)?;
        let scaling = |(site, s): (&Site, &SiteIntervention)| Ok((*site, Scaling::new(s.scale.clone(), s.shift.clone())?));
        let changes = |scaling: &Result<(Site, Scaling)>| scaling.as_ref().map_or(true, |(_, scaling)| scaling.changed() > 0);
        let sites = intervention.sites().iter().map(scaling).filter(changes).collect::<Result<_>>()?;
        Ok(Self { sites, patches: Patches::new(intervention)?, positions })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sites.is_empty() && self.patches.is_empty()
    }
}

/// What an intervention changes in one pass.
pub(crate) struct Worn {
    changes: Arc<Changes>,
    /// One for each token, batch by batch.
    strengths: Vec<f32>,
    /// That of all tokens, if it is the same.
    same: Option<f32>,
}

impl Worn {
    pub(crate) fn new(changes: Arc<Changes>, strengths: Vec<f32>) -> Self {
        let same = strengths.first().copied().filter(|first| strengths.iter().all(|strength| strength == first));
        Self { changes, strengths, same }
    }
}

impl Edit for Worn {
    fn apply(&self, site: Site, output: &mut [f32]) -> sgm_models::Result<()> {
        if let Some(scaling) = self.changes.sites.get(site) {
            scaling.apply_strengths(output, self.same.map_or(Strengths::Each(&self.strengths), Strengths::Same));
        }
        Ok(())
    }

    fn after_mlp(&self, input: &MlpInput<'_>, output: &mut [f32]) -> sgm_models::Result<()> {
        self.changes.patches.of(input.layer).map_or(Ok(()), |added| added.add_to(input, output, &self.strengths))
    }
}

/// The tap behind the glasses.
struct Suppression {
    changes: Arc<Changes>,
    strength: f32,
    rows: BTreeMap<usize, f32>,
}

impl Suppression {
    /// The strength at each token.
    fn strengths(&self, spans: &TokenSpans) -> Vec<f32> {
        let mut strengths = Vec::with_capacity(spans.batch() * spans.tokens());
        for (index, row) in spans.rows().iter().enumerate() {
            let strength = self.rows.get(row).copied().unwrap_or(self.strength);
            strengths.extend(self.changes.positions.chosen(spans.row(index)).map(|chosen| if chosen { strength } else { 0.0 }));
        }
        strengths
    }
}

impl Tap for Suppression {
    fn part(&self, spans: &TokenSpans) -> Part {
        Part::Numbers(Box::new(Worn::new(self.changes.clone(), self.strengths(spans))))
    }

    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let Some(scaling) = self.changes.sites.get(site) else { return Ok(output) };
        if self.changes.positions == Positions::All && self.rows.is_empty() {
            return Ok(scaling.apply_to(output, Strengths::Same(self.strength))?);
        }
        Ok(scaling.apply_to(output, Strengths::Each(&self.strengths(spans)))?)
    }

    fn after_mlp(&self, input: &MlpInput<'_>, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let Some(added) = self.changes.patches.of(input.layer) else { return Ok(output) };
        added.apply_to(input, output, &self.strengths(spans))
    }
}
