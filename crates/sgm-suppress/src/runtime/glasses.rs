//! Glasses: an intervention that always acts on a running model.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use sgm_core::{Amplify, Intervention, Site, SiteIntervention, TokenSelection};
use sgm_models::{Access, InPlaceHook, Mllm, MlpInput, Tap, TapGuard, TokenKind, TokenSpans};

use crate::kernel::{TensorScaling, TokenStrengths};
use crate::{Error, Result, Scaling};

use super::patches::Patches;
use super::sites::Sites;

/// An intervention that a running model wears; dropping it restores the model.
///
/// Several may be worn at once: their scales multiply.
#[derive(Debug)]
#[must_use = "the model wears the glasses until this is dropped"]
pub struct Glasses {
    _attached: TapGuard,
}

/// The options of wearing glasses.
///
/// ```
/// use sgm_suppress::WearOptions;
///
/// // Strength 0 for the third request, 0.5 for the fourth, 1 for all others.
/// let options = WearOptions { strengths: [(2, 0.0), (3, 0.5)].into(), ..WearOptions::default() };
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct WearOptions {
    /// Whether scales and strengths may make neurons stronger.
    pub amplify: Amplify,
    /// The strength of every request that `strengths` does not name: from 0, which keeps every bit, to 1, the full intervention. In
    /// between, `y = x + strength * (scale * x + shift - x)`.
    pub strength: f32,
    /// The strengths of single requests, by the caller's id ([`TokenSpans::ids`]): in
    /// [`Generator::generate`](sgm_models::Generator::generate) the index of the prompt.
    pub strengths: BTreeMap<usize, f32>,
}

impl Default for WearOptions {
    /// No amplification, and full strength for all requests.
    fn default() -> Self {
        Self { amplify: Amplify::Refuse, strength: 1.0, strengths: BTreeMap::new() }
    }
}

impl Glasses {
    /// Puts an intervention on a model. In every forward pass, cached or not, the outputs of its sites are scaled and shifted, and the
    /// contributions of patch neurons are added to the outputs of their MLPs, at the tokens that the intervention selects.
    ///
    /// Unchanged sites have no cost. The condition is ignored: these glasses always act ([`ConditionalGlasses`](crate::ConditionalGlasses)
    /// check it).
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when the model lacks a site or has another width, [`Error::Amplifies`] when a scale is above 1 or below 0 and
    /// amplification is not allowed.
    pub fn wear<M: Mllm + ?Sized>(model: &M, intervention: &Intervention, amplify: Amplify) -> Result<Self> {
        Self::wear_with(model, intervention, WearOptions { amplify, ..WearOptions::default() })
    }

    /// Puts an intervention on a model with a strength for each request.
    ///
    /// # Errors
    ///
    /// As [`wear`](Self::wear), and [`Error::Strength`] when a strength is not finite, or below 0 or above 1 and amplification is not
    /// allowed.
    pub fn wear_with<M: Mllm + ?Sized>(model: &M, intervention: &Intervention, options: WearOptions) -> Result<Self> {
        let changes = Changes::of(model, intervention, options.amplify)?;
        let of_requests = options.strengths.iter().map(|(id, strength)| (Some(*id), *strength));
        for (id, strength) in std::iter::once((None, options.strength)).chain(of_requests) {
            if !strength.is_finite() || (options.amplify == Amplify::Refuse && !(0.0..=1.0).contains(&strength)) {
                return Err(Error::Strength { id, strength });
            }
        }
        let WearOptions { strength, strengths, .. } = options;
        let suppression = Suppression { changes: Arc::new(changes), strength, strengths, pass: Mutex::default() };
        Ok(Self { _attached: model.taps().attach(Arc::new(suppression)) })
    }
}

/// The scales, shifts and added neurons of an intervention, ready for a model.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) sites: Sites<TensorScaling>,
    pub(crate) patches: Patches,
    pub(crate) tokens: TokenSelection,
}

impl Changes {
    /// The changes of an intervention, after a check against the model.
    pub(crate) fn of<M: Mllm + ?Sized>(model: &M, intervention: &Intervention, amplify: Amplify) -> Result<Self> {
        intervention.check_against(&model.info().all_widths())?;
        if let (Amplify::Refuse, Some(a)) = (amplify, intervention.amplification()) {
            return Err(Error::Amplifies { site: a.site.to_string(), neuron: a.neuron, scale: a.scale });
        }
        let scaling = |(site, s): (&Site, &SiteIntervention)| Ok((*site, Scaling::new(s.scale.clone(), s.shift.clone())?));
        let changes = |scaling: &Result<(Site, Scaling)>| scaling.as_ref().map_or(true, |(_, scaling)| scaling.changed() > 0);
        let sites = intervention.sites().iter().map(scaling).filter(changes);
        let sites = sites.map(|scaling| scaling.map(|(site, scaling)| (site, scaling.into()))).collect::<Result<_>>()?;
        Ok(Self { sites, patches: Patches::new(intervention), tokens: intervention.tokens })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sites.is_empty() && self.patches.is_empty()
    }

    /// Whether each token of one sequence is changed. [`TokenSelection::All`] changes padding too, so that the kernel processes a batch in
    /// one piece; no token attends to padding.
    pub(crate) fn selected(&self, kinds: &[TokenKind]) -> impl Iterator<Item = bool> {
        let all = self.tokens == TokenSelection::All;
        self.tokens.selected(kinds).map(move |selected| all || selected)
    }
}

/// The in-place changes of one pass.
pub(crate) struct InPlaceSuppression {
    pub(crate) changes: Arc<Changes>,
    pub(crate) strengths: Arc<TokenStrengths>,
}

impl InPlaceHook for InPlaceSuppression {
    fn apply(&self, site: Site, output: &mut [f32]) -> sgm_models::Result<()> {
        if let Some(scaling) = self.changes.sites.get(site) {
            scaling.scaling().apply_strengths(output, self.strengths.strengths());
        }
        Ok(())
    }

    fn after_mlp(&self, input: &MlpInput<'_>, output: &mut [f32]) -> sgm_models::Result<()> {
        self.changes.patches.of(input.layer).map_or(Ok(()), |added| added.add_to(input, output, self.strengths.each()))
    }
}

/// The tap behind the glasses.
struct Suppression {
    changes: Arc<Changes>,
    strength: f32,
    strengths: BTreeMap<usize, f32>,
    /// The number of the latest pass and the strengths of its tokens.
    pass: Mutex<Option<(u64, Arc<TokenStrengths>)>>,
}

impl Suppression {
    /// The strength at each token of a pass, common to all sites.
    fn at_tokens(&self, spans: &TokenSpans) -> Arc<TokenStrengths> {
        let mut pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = pass.as_ref().filter(|(number, _)| *number == spans.pass()) {
            return known.clone();
        }
        let mut strengths = Vec::with_capacity(spans.batch() * spans.tokens());
        for (index, id) in spans.ids().iter().enumerate() {
            let strength = self.strengths.get(id).copied().unwrap_or(self.strength);
            strengths.extend(self.changes.selected(spans.row(index)).map(|selected| if selected { strength } else { 0.0 }));
        }
        let strengths = Arc::new(TokenStrengths::new(strengths));
        *pass = Some((spans.pass(), strengths.clone()));
        strengths
    }
}

impl Tap for Suppression {
    fn expert_sites(&self) -> bool {
        self.changes.sites.has_experts()
    }

    fn access(&self, spans: &TokenSpans) -> Access {
        Access::InPlace(Box::new(InPlaceSuppression { changes: self.changes.clone(), strengths: self.at_tokens(spans) }))
    }

    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let Some(scaling) = self.changes.sites.get(site) else { return Ok(output) };
        Ok(scaling.apply_to(output, &self.at_tokens(spans))?)
    }

    fn after_mlp(&self, input: &MlpInput<'_>, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let Some(added) = self.changes.patches.of(input.layer) else { return Ok(output) };
        added.apply_to(input, output, &self.at_tokens(spans))
    }
}
