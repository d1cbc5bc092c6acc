//! Interventions: a scale and a shift for each neuron, patch neurons to add, and a condition.

use std::collections::BTreeMap;

use crate::condition::PROBE;
use crate::expertise::check;
use crate::patch_neuron::{self, PATCH};
use crate::{Condition, Error, Metadata, PatchNeuron, Projection, Result, Site, TokenSelection, nearest};

/// A change of a model's neurons: `y = scale * x + shift` for the output of each site, and patch neurons to add.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Intervention {
    sites: BTreeMap<Site, SiteIntervention>,
    patches: BTreeMap<usize, Vec<PatchNeuron>>,
    /// The tokens that the intervention acts on; only [`TokenSelection::All`] can be folded into weights.
    pub tokens: TokenSelection,
    /// The condition under which the intervention acts on a sequence; it always acts without one. Only running models can check a
    /// condition: an intervention folded into weights always acts.
    pub condition: Option<Condition>,
    /// The origin of the intervention.
    pub metadata: Metadata,
}

/// The change of one site's neurons.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SiteIntervention {
    /// The factor of each neuron, f32 `[neurons]`: 1 leaves it unchanged, 0 silences it.
    pub scale: Vec<f32>,
    /// The summand after scaling, f32 `[neurons]`, in units of the neuron's output.
    pub shift: Option<Vec<f32>>,
    /// The AUROC from which the scale was computed, f32 `[neurons]`; a record without effect.
    pub auroc: Option<Vec<f32>>,
    /// The standard error of the AUROC, f32 `[neurons]`; a record without effect.
    pub auroc_se: Option<Vec<f32>>,
}

impl SiteIntervention {
    /// An intervention that only scales.
    pub fn from_scale(scale: Vec<f32>) -> Self {
        Self { scale, ..Self::default() }
    }
}

/// Permission to make neurons stronger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Amplify {
    /// Scales above 1 or below 0 are refused.
    #[default]
    Refuse,
    /// Such scales are applied: for research into the effects of neurons, never for protection.
    Allow,
}

/// A neuron that an intervention strengthens or inverts instead of suppressing it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Amplification {
    /// The neuron's site.
    pub site: Site,
    /// The neuron's index within the site.
    pub neuron: usize,
    /// The neuron's scale, above 1 or below 0.
    pub scale: f32,
}

impl Intervention {
    /// An intervention without sites, which changes nothing.
    pub fn new(metadata: Metadata) -> Self {
        Self { metadata, ..Self::default() }
    }

    /// Adds a site, or replaces it.
    ///
    /// # Errors
    ///
    /// [`Error::Width`] when the vectors differ in length, [`Error::Value`] when a scale or a shift is
    /// not finite or an AUROC is not in 0..=1.
    pub fn insert(&mut self, site: Site, intervention: SiteIntervention) -> Result<()> {
        let width = intervention.scale.len();
        check(site, "scale", width, &intervention.scale, "a finite number", f32::is_finite)?;
        if let Some(shift) = &intervention.shift {
            check(site, "shift", width, shift, "a finite number", f32::is_finite)?;
        }
        if let Some(auroc) = &intervention.auroc {
            check(site, "auroc", width, auroc, "a number from 0 to 1", |v| (0.0..=1.0).contains(&v))?;
        }
        if let Some(se) = &intervention.auroc_se {
            check(site, "auroc_se", width, se, "a finite number from 0 up", |v| v.is_finite() && v >= 0.0)?;
        }
        self.sites.insert(site, intervention);
        Ok(())
    }

    /// Sets the patch neurons of a layer's MLP; an empty list removes them.
    ///
    /// The intervention does not scale their contribution to the MLP's output.
    ///
    /// # Errors
    ///
    /// [`Error::Width`] when their vectors differ in length, [`Error::Value`] when a weight is not finite.
    pub fn insert_patches(&mut self, layer: usize, neurons: Vec<PatchNeuron>) -> Result<()> {
        patch_neuron::check(layer, &neurons)?;
        self.patches.remove(&layer);
        if !neurons.is_empty() {
            self.patches.insert(layer, neurons);
        }
        Ok(())
    }

    /// The patch neurons by layer.
    pub fn patches(&self) -> &BTreeMap<usize, Vec<PatchNeuron>> {
        &self.patches
    }

    /// The sites with their scales, by layer and projection.
    pub fn sites(&self) -> &BTreeMap<Site, SiteIntervention> {
        &self.sites
    }

    /// Keeps some sites, and the patch neurons of layers whose `down_proj` is kept.
    pub(crate) fn retain_sites(&mut self, mut keep: impl FnMut(&Site) -> bool) {
        self.sites.retain(|site, _| keep(site));
        self.patches.retain(|layer, _| keep(&Site::new(*layer, Projection::Down)));
    }

    /// The number of neurons of all sites.
    pub fn neurons(&self) -> usize {
        self.sites.values().map(|s| s.scale.len()).sum()
    }

    /// The number of neurons that are changed: scale not 1, or shift not 0.
    pub fn changed_neurons(&self) -> usize {
        self.sites
            .values()
            .map(|s| {
                let scaled = s.scale.iter().map(|v| *v != 1.0);
                match &s.shift {
                    None => scaled.filter(|c| *c).count(),
                    Some(shift) => scaled.zip(shift).filter(|(c, t)| *c || **t != 0.0).count(),
                }
            })
            .sum()
    }

    /// The number of patch neurons.
    pub fn added_neurons(&self) -> usize {
        self.patches.values().map(Vec::len).sum()
    }

    /// The first neuron whose scale is above 1 or below 0, if there is one.
    ///
    /// Such an intervention can make toxic behaviour stronger: code that applies interventions must refuse it unless amplification is
    /// allowed. Amplification by shifts or patch neurons is not detectable from the numbers alone.
    pub fn amplification(&self) -> Option<Amplification> {
        self.sites.iter().find_map(|(site, s)| {
            let (neuron, scale) = s.scale.iter().copied().enumerate().find(|(_, v)| *v > 1.0 || *v < 0.0)?;
            Some(Amplification { site: *site, neuron, scale })
        })
    }

    /// Checks that the model has every site of the intervention, its condition and its patch neurons, with the same width.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSite`] naming the nearest site of the model, or [`Error::Width`].
    pub fn check_against(&self, model: &BTreeMap<Site, usize>) -> Result<()> {
        let widths = self.sites.iter().map(|(site, s)| (*site, "scale", s.scale.len()));
        let probed =
            self.condition.iter().flat_map(|condition| condition.probe.weights()).map(|(site, weights)| (*site, PROBE, weights.len()));
        // The output of `down_proj` is as wide as the hidden states.
        let patched = self
            .patches
            .iter()
            .flat_map(|(layer, neurons)| neurons.iter().map(|neuron| (Site::new(*layer, Projection::Down), PATCH, neuron.down.len())));
        for (site, what, got) in widths.chain(probed).chain(patched) {
            let name = site.to_string();
            match model.get(&site) {
                None => {
                    let nearest = nearest(&name, model.keys().copied()).map(|n| n.to_string());
                    return Err(Error::UnknownSite { name, nearest });
                }
                Some(width) if *width != got => {
                    return Err(Error::Width { site: name, what, expected: *width, got });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glasses() -> Intervention {
        let mut i = Intervention::new(Metadata::default());
        i.insert(Site::new(0, Projection::Gate), SiteIntervention::from_scale(vec![1.0, 0.5, 0.0])).unwrap();
        let shifted = SiteIntervention { scale: vec![1.0, 1.0], shift: Some(vec![0.0, 0.25]), ..Default::default() };
        i.insert(Site::new(1, Projection::Down), shifted).unwrap();
        i
    }

    #[test]
    fn changed_neurons_are_those_scaled_or_shifted() {
        assert_eq!(glasses().neurons(), 5);
        assert_eq!(glasses().changed_neurons(), 3);
    }

    #[test]
    fn amplification_is_found_by_name() {
        let mut i = glasses();
        assert_eq!(i.amplification(), None);
        let site = Site::new(2, Projection::Up);
        i.insert(site, SiteIntervention::from_scale(vec![1.0, 1.4])).unwrap();
        assert_eq!(i.amplification(), Some(Amplification { site, neuron: 1, scale: 1.4 }));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let site = Site::new(0, Projection::Gate);
        for bad in [
            SiteIntervention::from_scale(vec![f32::NAN]),
            SiteIntervention { shift: Some(vec![1.0, 2.0]), ..SiteIntervention::from_scale(vec![1.0]) },
            SiteIntervention { auroc: Some(vec![1.5]), ..SiteIntervention::from_scale(vec![1.0]) },
        ] {
            assert!(glasses().insert(site, bad).is_err());
        }
    }

    #[test]
    fn a_model_without_the_site_or_of_another_width_is_told_so() {
        let mut model: BTreeMap<Site, usize> = [(Site::new(0, Projection::Gate), 3), (Site::new(1, Projection::Down), 2)].into();
        glasses().check_against(&model).unwrap();
        model.insert(Site::new(0, Projection::Gate), 4);
        assert!(matches!(glasses().check_against(&model), Err(Error::Width { expected: 4, got: 3, .. })));
        model.remove(&Site::new(0, Projection::Gate));
        let message = glasses().check_against(&model).unwrap_err().to_string();
        assert!(message.contains("did you mean `lm.layers.1.mlp.down_proj`"), "{message}");
    }
}
