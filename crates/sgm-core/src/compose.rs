//! Compositions and blends of interventions, and the difference of two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::strength::{single, times};
use crate::{Error, Intervention, Metadata, PatchNeuron, Projection, Result, Site, SiteIntervention};

/// Several interventions combined, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Composition {
    /// The combined intervention.
    pub intervention: Intervention,
    /// The neurons that more than one of them changes.
    pub conflicts: Conflicts,
}

/// Neurons that more than one of the composed interventions changes. Displays as a short report.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conflicts {
    /// The number of neurons of each site that more than one intervention changes.
    pub overlapping: BTreeMap<Site, usize>,
    /// The neurons that one intervention suppresses and another amplifies, by site and neuron.
    pub contradictions: Vec<Contradiction>,
}

/// A neuron that one intervention suppresses (a scale from 0 up to below 1) and another amplifies (above 1, or below 0).
#[derive(Debug, Clone, PartialEq)]
pub struct Contradiction {
    /// The neuron's site.
    pub site: Site,
    /// The neuron's index within the site.
    pub neuron: usize,
    /// The neuron's scale in each intervention that has the site, in order.
    pub scales: Vec<f32>,
}

/// The difference of an intervention from an earlier one. Displays as a table.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Diff {
    /// The differences at every site where the two differ.
    pub sites: BTreeMap<Site, SiteDiff>,
    /// The layers with different patch neurons.
    pub patches: BTreeSet<usize>,
}

/// The difference of two interventions at one site.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SiteDiff {
    /// Neurons changed by the later intervention alone.
    pub gained: usize,
    /// Neurons changed by the earlier one alone.
    pub lost: usize,
    /// Neurons changed by both, in different ways.
    pub changed: usize,
    /// The largest difference of scales.
    pub max_scale: f32,
    /// The largest difference of shifts.
    pub max_shift: f32,
}

impl SiteIntervention {
    /// The shift of a neuron; 0 if the site has none.
    pub(crate) fn shift_of(&self, neuron: usize) -> f32 {
        self.shift.as_ref().and_then(|shift| shift.get(neuron)).copied().unwrap_or(0.0)
    }

    /// The scale and shift of a neuron; 1 and 0 without a site.
    fn of(site: Option<&Self>, neuron: usize) -> (f32, f32) {
        site.map_or((1.0, 0.0), |s| (s.scale.get(neuron).copied().unwrap_or(1.0), s.shift_of(neuron)))
    }
}

impl Intervention {
    /// The weighted sum of the changes of several interventions: `scale = 1 + sum of w (scale - 1)`, `shift = sum of w shift`.
    ///
    /// A blend combines maps that were fitted to the same neurons in different ways; [`compose`](Self::compose) applies one after the
    /// other. Where all scales of a neuron are within 0..=1, the sum is not below 0. The metadata are those of a composition, with the
    /// weights in the entry `blend`; the condition is that of the first part. A part does not change sites that it does not have.
    ///
    /// # Errors
    ///
    /// [`Error::Width`] when a site has different widths, [`Error::Tokens`] when parts act on different tokens,
    /// [`Error::OtherModel`] when their models' configurations differ, [`Error::Value`] when a weight is not finite or a sum leaves the
    /// range of f32.
    pub fn blend(parts: &[(&Self, f32)]) -> Result<Self> {
        let Some((first, _)) = parts.first() else { return Ok(Self::default()) };
        let mut blended = merged(&parts.iter().map(|(part, _)| *part).collect::<Vec<_>>())?;
        blended.condition.clone_from(&first.condition);
        let weights = parts.iter().map(|(_, weight)| weight.to_string()).collect::<Vec<_>>();
        blended.metadata.other.insert("blend".to_owned(), weights.join(" + "));
        let mut sites: BTreeMap<Site, Vec<(&SiteIntervention, f64)>> = BTreeMap::new();
        for (part, weight) in parts {
            part.sites().iter().for_each(|(site, s)| sites.entry(*site).or_default().push((s, f64::from(*weight))));
        }
        for (site, parts) in sites {
            let width = parts.first().map_or(0, |(s, _)| s.scale.len());
            if let Some((other, _)) = parts.iter().find(|(s, _)| s.scale.len() != width) {
                return Err(Error::Width { site: site.to_string(), what: "scale", expected: width, got: other.scale.len() });
            }
            let (mut scale, mut shift, mut within) = (vec![1.0f64; width], vec![0.0f64; width], vec![true; width]);
            for (part, weight) in &parts {
                for ((sum, within), v) in scale.iter_mut().zip(&mut within).zip(&part.scale) {
                    *sum += weight * (f64::from(*v) - 1.0);
                    *within &= (0.0..=1.0).contains(v);
                }
                shift.iter_mut().zip(part.shift.iter().flatten()).for_each(|(sum, v)| *sum += weight * f64::from(*v));
            }
            let scale = scale.iter().zip(within).map(|(v, within)| single(if within { v.max(0.0) } else { *v })).collect();
            let shifts = parts.iter().any(|(part, _)| part.shift.is_some());
            let shift = shifts.then(|| shift.iter().map(|v| single(*v)).collect());
            blended.insert(site, SiteIntervention { shift, ..SiteIntervention::from_scale(scale) })?;
        }
        blended.add_patches(parts.iter().map(|(part, weight)| (*part, f64::from(*weight))))?;
        Ok(blended)
    }

    /// The interventions one after the other, the first one first: scales multiply, and a later scale also scales earlier shifts.
    ///
    /// A site that no part shifts has no shift. The patch neurons of all parts are added; later scales do not scale their contribution.
    /// The metadata keep the entries on which all parts agree; `method` lists the parts, and the entry `calibrations` the calibration data
    /// where they differ. Products below the range of f32 become 0.
    ///
    /// # Errors
    ///
    /// [`Error::Tokens`] when they act on different tokens, [`Error::Conditions`] when they act under different conditions,
    /// [`Error::OtherModel`] when their models' configurations differ, [`Error::Width`] when a site has different widths, [`Error::Value`]
    /// when a product exceeds f32.
    pub fn compose(parts: &[&Self]) -> Result<Composition> {
        let mut sites: BTreeMap<Site, Vec<&SiteIntervention>> = BTreeMap::new();
        for (site, s) in parts.iter().flat_map(|part| part.sites()) {
            sites.entry(*site).or_default().push(s);
        }
        let condition = parts.first().and_then(|part| part.condition.clone());
        if parts.iter().any(|part| part.condition != condition) {
            return Err(Error::Conditions);
        }
        let mut composed = merged(parts)?;
        composed.condition = condition;
        let mut conflicts = Conflicts::default();
        for (site, parts) in sites {
            let width = parts.first().map_or(0, |s| s.scale.len());
            if let Some(other) = parts.iter().find(|s| s.scale.len() != width) {
                return Err(Error::Width { site: site.to_string(), what: "scale", expected: width, got: other.scale.len() });
            }
            conflicts.find(site, &parts);
            let affine = |neuron: usize| {
                let after = |(scale, shift): (f64, f64), part: &&SiteIntervention| {
                    let (s, t) = SiteIntervention::of(Some(part), neuron);
                    (f64::from(s) * scale, f64::from(s) * shift + f64::from(t))
                };
                parts.iter().fold((1.0, 0.0), after)
            };
            let (scale, shift): (Vec<f32>, Vec<f32>) = (0..width).map(affine).map(|(scale, shift)| (single(scale), single(shift))).unzip();
            let shift = parts.iter().any(|part| part.shift.is_some()).then_some(shift);
            let auroc = agreed(parts.iter().map(|part| &part.auroc));
            let auroc_se = auroc.as_ref().and_then(|_| agreed(parts.iter().map(|part| &part.auroc_se)));
            composed.insert(site, SiteIntervention { scale, shift, auroc, auroc_se })?;
        }
        composed.add_patches(parts.iter().map(|part| (*part, 1.0)))?;
        Ok(Composition { intervention: composed, conflicts })
    }

    /// Adds the patch neurons of all parts.
    fn add_patches<'a>(&mut self, parts: impl Iterator<Item = (&'a Self, f64)>) -> Result<()> {
        let mut patches: BTreeMap<usize, Vec<PatchNeuron>> = BTreeMap::new();
        for (part, weight) in parts {
            part.patches().iter().for_each(|(layer, neurons)| patches.entry(*layer).or_default().extend(times(neurons, weight)));
        }
        patches.into_iter().try_for_each(|(layer, neurons)| self.insert_patches(layer, neurons))
    }

    /// The intervention at some sites only.
    ///
    /// The metadata entry `restricted_to` lists the remaining sites.
    #[must_use]
    pub fn restrict(&self, mut keep: impl FnMut(Site) -> bool) -> Self {
        let mut restricted = self.clone();
        restricted.retain_sites(|site| keep(*site));
        if restricted.sites().len() != self.sites().len() {
            let left: Vec<String> = restricted.sites().keys().map(ToString::to_string).collect();
            restricted.metadata.other.insert("restricted_to".to_owned(), left.join(" "));
        }
        restricted
    }

    /// The intervention in some layers and projections only; `None` stands for all.
    #[must_use]
    pub fn restrict_to(&self, layers: Option<std::ops::RangeInclusive<usize>>, projections: Option<&[Projection]>) -> Self {
        self.restrict(|site| {
            layers.as_ref().is_none_or(|layers| layers.contains(&site.layer)) && projections.is_none_or(|p| p.contains(&site.projection))
        })
    }

    /// The difference of `later` from this intervention.
    ///
    /// # Errors
    ///
    /// [`Error::Width`] when a site has different widths.
    pub fn diff(&self, later: &Self) -> Result<Diff> {
        let mut sites = BTreeMap::new();
        for site in self.sites().keys().chain(later.sites().keys()) {
            let (a, b) = (self.sites().get(site), later.sites().get(site));
            let width = a.or(b).map_or(0, |s| s.scale.len());
            if let Some(got) = b.map(|s| s.scale.len()).filter(|got| *got != width) {
                return Err(Error::Width { site: site.to_string(), what: "scale", expected: width, got });
            }
            let mut d = SiteDiff::default();
            for neuron in 0..width {
                let (before, after) = (SiteIntervention::of(a, neuron), SiteIntervention::of(b, neuron));
                match (before != (1.0, 0.0), after != (1.0, 0.0)) {
                    (false, true) => d.gained += 1,
                    (true, false) => d.lost += 1,
                    _ => d.changed += usize::from(before != after),
                }
                d.max_scale = d.max_scale.max((before.0 - after.0).abs());
                d.max_shift = d.max_shift.max((before.1 - after.1).abs());
            }
            if d != SiteDiff::default() {
                sites.insert(*site, d);
            }
        }
        let layers = self.patches().keys().chain(later.patches().keys()).copied();
        let patches = layers.filter(|layer| self.patches().get(layer) != later.patches().get(layer)).collect();
        Ok(Diff { sites, patches })
    }
}

impl Conflicts {
    /// Whether no neuron is changed by more than one intervention.
    pub fn is_empty(&self) -> bool {
        self.overlapping.is_empty()
    }

    /// The number of neurons that more than one intervention changes.
    pub fn overlaps(&self) -> usize {
        self.overlapping.values().sum()
    }

    fn find(&mut self, site: Site, parts: &[&SiteIntervention]) {
        let mut overlapping = 0;
        for neuron in 0..parts.first().map_or(0, |s| s.scale.len()) {
            let of: Vec<(f32, f32)> = parts.iter().map(|part| SiteIntervention::of(Some(part), neuron)).collect();
            if of.iter().filter(|affine| **affine != (1.0, 0.0)).count() < 2 {
                continue;
            }
            overlapping += 1;
            let suppressed = of.iter().any(|(scale, _)| (0.0..1.0).contains(scale));
            let amplified = of.iter().any(|(scale, _)| !(0.0..=1.0).contains(scale));
            if suppressed && amplified {
                self.contradictions.push(Contradiction { site, neuron, scales: of.iter().map(|(scale, _)| *scale).collect() });
            }
        }
        if overlapping > 0 {
            self.overlapping.insert(site, overlapping);
        }
    }
}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} neurons are changed by more than one, {} of them in opposite directions",
            self.overlaps(),
            self.contradictions.len()
        )?;
        for (site, count) in &self.overlapping {
            writeln!(f, "{site}: {count}")?;
        }
        for c in self.contradictions.iter().take(10) {
            writeln!(f, "{}, neuron {}: scales {:?}", c.site, c.neuron, c.scales)?;
        }
        match self.contradictions.len() {
            0..=10 => Ok(()),
            n => writeln!(f, "and {} more", n - 10),
        }
    }
}

impl Diff {
    /// Whether the two are equal in effect.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty() && self.patches.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| site | gained | lost | changed | largest difference of scales | of shifts |\n|---|---|---|---|---|---|")?;
        for (site, d) in &self.sites {
            writeln!(f, "| {site} | {} | {} | {} | {:.6} | {:.6} |", d.gained, d.lost, d.changed, d.max_scale, d.max_shift)?;
        }
        if !self.patches.is_empty() {
            let layers: Vec<String> = self.patches.iter().map(ToString::to_string).collect();
            writeln!(f, "\nOther neurons are added to the layers {}", layers.join(", "))?;
        }
        Ok(())
    }
}

/// The common value of all entries that have one; none if two differ.
fn agreed<'a, T: Clone + PartialEq + 'a>(values: impl Iterator<Item = &'a Option<T>>) -> Option<T> {
    let mut known = values.flatten();
    let first = known.next()?;
    known.all(|value| value == first).then(|| first.clone())
}

/// An intervention without sites, with the token selection of the parts and the metadata on which they agree.
fn merged(parts: &[&Intervention]) -> Result<Intervention> {
    let all = || parts.iter().map(|part| &part.metadata);
    if let Some((first, second)) = differing(parts.iter().map(|part| part.tokens)) {
        return Err(Error::Tokens { first, second });
    }
    if let Some((first, second)) = differing(all().filter_map(|m| m.config_sha256.as_deref()).filter(|sha| !sha.is_empty())) {
        return Err(Error::OtherModel { first: first.to_owned(), second: second.to_owned() });
    }
    let methods: Vec<serde_json::Value> = all().map(|m| m.method.clone().unwrap_or_default()).collect();
    let mut licences: Vec<&str> = all().filter_map(|m| m.licence.as_deref()).collect();
    licences.dedup();
    let mut metadata = Metadata {
        base_model: agreed(all().map(|m| &m.base_model)),
        base_model_revision: agreed(all().map(|m| &m.base_model_revision)),
        config_sha256: agreed(all().map(|m| &m.config_sha256)),
        scorer: agreed(all().map(|m| &m.scorer)),
        method: Some(serde_json::json!({ "name": "composed", "parts": methods })),
        pooling: agreed(all().map(|m| &m.pooling)),
        calibration: agreed(all().map(|m| &m.calibration)),
        created_by: Some(concat!("sgm ", env!("CARGO_PKG_VERSION")).to_owned()),
        licence: (!licences.is_empty()).then(|| licences.join(" AND ")),
        other: BTreeMap::new(),
    };
    if metadata.calibration.is_none() && all().any(|m| m.calibration.is_some()) {
        let calibrations: Vec<_> = all().map(|m| &m.calibration).collect();
        metadata.other.insert("calibrations".to_owned(), serde_json::json!(calibrations).to_string());
    }
    let tokens = parts.first().map_or_else(Default::default, |part| part.tokens);
    let mut merged = Intervention::new(metadata);
    merged.tokens = tokens;
    Ok(merged)
}

/// The first value and the first that differs from it.
fn differing<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<(T, T)> {
    let first = values.next()?;
    let second = values.find(|value| *value != first)?;
    Some((first, second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenSelection;
    use proptest::prelude::*;

    fn site() -> Site {
        Site::new(0, Projection::Gate)
    }

    fn glasses(scale: &[f32], shift: Option<&[f32]>) -> Intervention {
        let mut glasses = Intervention::new(Metadata::default());
        let s = SiteIntervention { shift: shift.map(<[f32]>::to_vec), ..SiteIntervention::from_scale(scale.to_vec()) };
        glasses.insert(site(), s).unwrap();
        glasses
    }

    #[test]
    fn a_blend_adds_what_its_parts_change() {
        let (a, b) = (glasses(&[0.5, 1.0, 0.25], Some(&[1.0, 0.0, 2.0])), glasses(&[0.75, 2.0, 0.0], None));
        let blended = Intervention::blend(&[(&a, 1.0), (&b, 0.5)]).unwrap();
        let site = blended.sites().values().next().unwrap();
        // 1 - 0.5 - 0.125; 1 + 0.5, unclamped because a part amplifies; 1 - 0.75 - 0.5, clamped at 0.
        assert_eq!(site.scale, [0.375, 1.5, 0.0]);
        assert_eq!(site.shift.as_deref(), Some(&[1.0, 0.0, 2.0][..]));
        assert_eq!(blended.metadata.other["blend"], "1 + 0.5");
        assert!(matches!(Intervention::blend(&[(&a, 1.0), (&glasses(&[0.5], None), 1.0)]), Err(Error::Width { .. })));
        assert!(Intervention::blend(&[(&a, f32::NAN)]).is_err());
    }

    proptest! {
        #[test]
        fn composed_is_one_after_the_other(
            parts in prop::collection::vec((prop::array::uniform3(-2f32..2.0), prop::array::uniform3(-2f32..2.0)), 1..5)
        ) {
            let interventions: Vec<_> = parts.iter().map(|(scale, shift)| glasses(scale, Some(shift))).collect();
            let composed = Intervention::compose(&interventions.iter().collect::<Vec<_>>()).unwrap().intervention;
            let s = &composed.sites()[&site()];
            for i in 0..3 {
                for x in [-1.5f32, 0.0, 2.0] {
                    let expected = parts.iter().fold(x, |x, (scale, shift)| scale[i] * x + shift[i]);
                    let got = s.scale[i] * x + s.shift.as_ref().unwrap()[i];
                    prop_assert!((got - expected).abs() < 1e-4, "{got} {expected}");
                }
            }
            if parts.len() == 1 {
                prop_assert_eq!(composed.sites(), interventions[0].sites());
            }
        }
    }

    #[test]
    fn overlaps_and_contradictions_are_reported() {
        let a = glasses(&[0.5, 0.5, 1.0, 1.4, 1.0], None);
        let b = glasses(&[0.5, 1.4, 0.5, 1.4, 1.0], Some(&[0.0, 0.0, 0.0, 0.0, 1.0]));
        let composed = Intervention::compose(&[&a, &b]).unwrap();
        assert_eq!(composed.conflicts.overlapping, [(site(), 3)].into());
        assert_eq!(composed.conflicts.contradictions, [Contradiction { site: site(), neuron: 1, scales: vec![0.5, 1.4] }]);
        let text = composed.conflicts.to_string();
        assert!(text.starts_with("3 neurons are changed by more than one, 1 of them in opposite directions\n"), "{text}");
        let s = &composed.intervention.sites()[&site()];
        assert_eq!(s.scale, [0.25, 0.7, 0.5, 1.4 * 1.4, 1.0]);
        assert_eq!(s.shift.as_deref().unwrap(), [0.0, 0.0, 0.0, 0.0, 1.0]);
        // A site of one part only is unchanged by the composition.
        let elsewhere = a.restrict(|_| false);
        assert_eq!(Intervention::compose(&[&elsewhere, &a]).unwrap().intervention.sites(), a.sites());
        assert!(Intervention::compose(&[&elsewhere, &a]).unwrap().conflicts.is_empty());
        assert_eq!(Intervention::compose(&[]).unwrap().intervention.neurons(), 0);
    }

    #[test]
    fn what_cannot_be_composed_is_refused() {
        let a = glasses(&[0.5, 1.0], None);
        let mut b = a.clone();
        assert!(Intervention::compose(&[&a, &b]).is_ok());
        b.tokens = TokenSelection::Response;
        assert!(matches!(Intervention::compose(&[&a, &b]), Err(Error::Tokens { first: TokenSelection::All, .. })));
        assert_eq!(Intervention::compose(&[&b, &b]).unwrap().intervention.tokens, TokenSelection::Response);
        let (mut c, mut d) = (a.clone(), a.clone());
        c.metadata.config_sha256 = Some("c".to_owned());
        assert!(Intervention::compose(&[&a, &c]).is_ok());
        d.metadata.config_sha256 = Some("d".to_owned());
        assert!(matches!(Intervention::compose(&[&a, &c, &d]), Err(Error::OtherModel { .. })));
        assert!(matches!(Intervention::compose(&[&a, &glasses(&[0.5], None)]), Err(Error::Width { .. })));
        let huge = glasses(&[f32::MAX], None);
        assert!(matches!(Intervention::compose(&[&huge, &huge]), Err(Error::Value { .. })));
    }

    #[test]
    fn differences_are_counted_by_site() {
        let a = glasses(&[0.5, 0.5, 1.0, 1.0], None);
        let b = glasses(&[0.5, 0.25, 1.0, 0.75], Some(&[0.0, 0.0, 2.0, 0.0]));
        let d = a.diff(&b).unwrap();
        assert_eq!(d.sites[&site()], SiteDiff { gained: 2, lost: 0, changed: 1, max_scale: 0.25, max_shift: 2.0 });
        assert_eq!(b.diff(&a).unwrap().sites[&site()].lost, 2);
        assert_eq!(a.diff(&Intervention::default()).unwrap().sites[&site()].lost, 2);
        assert!(a.diff(&a).unwrap().is_empty());
        assert!(a.diff(&glasses(&[1.0], None)).is_err());
        assert!(d.to_string().contains("| lm.layers.0.mlp.gate_proj | 2 | 0 | 1 | 0.250000 | 2.000000 |"), "{d}");
    }

    #[test]
    fn restriction_leaves_the_sites_asked_for() {
        let mut a = glasses(&[0.5], None);
        a.insert(Site::new(3, Projection::Up), SiteIntervention::from_scale(vec![0.0])).unwrap();
        assert_eq!(a.restrict_to(None, None), a);
        let up = a.restrict_to(Some(0..=3), Some(&[Projection::Up]));
        assert_eq!(up.sites().keys().copied().collect::<Vec<_>>(), [Site::new(3, Projection::Up)]);
        assert_eq!(up.metadata.other["restricted_to"], "lm.layers.3.mlp.up_proj");
        assert_eq!(a.restrict_to(Some(0..=2), None).neurons(), 1);
    }
}
