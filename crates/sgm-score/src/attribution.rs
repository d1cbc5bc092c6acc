//! The attribution of experts to text, image or both.

use std::collections::BTreeMap;

use sgm_core::{Expertise, Site, SiteExpertise};

use crate::{Error, Result};

/// The modality that an expert detects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Modality {
    /// The responses at text tokens detect toxic samples; those at image tokens do not, or less well.
    Text,
    /// The responses at image tokens detect toxic samples; those at text tokens do not, or less well.
    Image,
    /// The responses at text and image tokens both detect toxic samples, neither significantly better.
    Both,
    /// Only the responses at response tokens, which attend to image and text together, detect toxic samples.
    CrossModal,
}

/// The criteria for experts, and for the difference of two AUROCs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttributionOptions {
    /// The AUROC that an expert must exceed.
    pub threshold: f64,
    /// The number of standard errors by which an expert's AUROC must exceed 0.5.
    pub z: f64,
    /// The number of standard errors by which the AUROCs of two experts must differ.
    pub z_difference: f64,
}

impl Default for AttributionOptions {
    /// An AUROC above 0.6, three standard errors above chance; a difference of two standard errors.
    fn default() -> Self {
        Self { threshold: 0.6, z: 3.0, z_difference: 2.0 }
    }
}

/// The modality of each expert.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attribution {
    /// The modality of every expert, by site and neuron.
    pub experts: BTreeMap<Site, BTreeMap<usize, Modality>>,
}

impl Attribution {
    /// Classifies the experts of one run by the pools of tokens in which they are experts.
    ///
    /// The three expertise sets are of the same samples, pooled over image tokens, text tokens of the prompt, and tokens of the response. A
    /// neuron is an expert in a pool if its AUROC a there exceeds the threshold and (a - 0.5) / SE exceeds z. Then:
    ///
    /// | image pool | text pool | response pool | class |
    /// |---|---|---|---|
    /// | expert | no | any | [`Image`](Modality::Image) |
    /// | no | expert | any | [`Text`](Modality::Text) |
    /// | expert | expert | any | the better if they differ by over `z_difference` standard errors, else [`Both`](Modality::Both) |
    /// | no | no | expert | [`CrossModal`](Modality::CrossModal) |
    /// | no | no | no | no expert |
    ///
    /// The standard error of a difference is sqrt(SE1^2 + SE2^2), as for independent pools. The pools share samples and mostly correlate
    /// positively, so that the test is biased towards `Both`. A neuron that is *not* an expert may still be better than chance: with few
    /// samples `CrossModal` includes neurons whose single-modality AUROC is not significant. In a causal decoder later tokens attend to
    /// earlier ones: if the image comes first, the text pool is text given the image.
    ///
    /// # Errors
    ///
    /// [`Error::Sites`] when the three do not describe the same neurons, [`Error::NoStandardErrors`].
    pub fn new(image: &Expertise, text: &Expertise, response: &Expertise, options: &AttributionOptions) -> Result<Self> {
        for (a, b) in [(image, text), (text, image), (image, response), (response, image)] {
            for (site, e) in a.sites() {
                let (expected, got) = (e.auroc.len(), b.sites().get(site).map_or(0, |e| e.auroc.len()));
                if expected != got {
                    return Err(Error::Sites { site: site.to_string(), expected, got });
                }
            }
        }
        let mut experts = BTreeMap::new();
        for (((site, image), text), response) in image.sites().iter().zip(text.sites().values()).zip(response.sites().values()) {
            let [image, text, response] = [image, text, response].map(|pool| with_errors(*site, pool));
            let neurons = image?.zip(text?).zip(response?).enumerate();
            let classed: BTreeMap<usize, Modality> =
                neurons.filter_map(|(neuron, ((i, t), r))| Some((neuron, options.class(i, t, r)?))).collect();
            if !classed.is_empty() {
                experts.insert(*site, classed);
            }
        }
        Ok(Self { experts })
    }

    /// The number of experts of each layer and modality.
    pub fn per_layer(&self) -> BTreeMap<usize, BTreeMap<Modality, usize>> {
        let mut layers: BTreeMap<usize, BTreeMap<Modality, usize>> = BTreeMap::new();
        for (site, experts) in &self.experts {
            let layer = layers.entry(site.layer).or_default();
            experts.values().for_each(|modality| *layer.entry(*modality).or_insert(0) += 1);
        }
        layers
    }
}

/// An AUROC and its standard error.
type Measured = (f64, f64);

fn with_errors(site: Site, pool: &SiteExpertise) -> Result<impl Iterator<Item = Measured>> {
    let missing = || Error::NoStandardErrors { site: site.to_string(), purpose: "attribution" };
    let se = pool.auroc_se.as_ref().ok_or_else(missing)?;
    Ok(pool.auroc.iter().zip(se).map(|(a, se)| (f64::from(*a), f64::from(*se))))
}

impl AttributionOptions {
    fn class(&self, image: Measured, text: Measured, response: Measured) -> Option<Modality> {
        let expert = |(auroc, se): Measured| auroc > self.threshold && auroc - 0.5 > self.z * se;
        let better = |a: Measured, b: Measured| a.0 - b.0 > self.z_difference * a.1.hypot(b.1);
        match (expert(image), expert(text)) {
            (true, false) => Some(Modality::Image),
            (false, true) => Some(Modality::Text),
            (true, true) if better(image, text) => Some(Modality::Image),
            (true, true) if better(text, image) => Some(Modality::Text),
            (true, true) => Some(Modality::Both),
            (false, false) => expert(response).then_some(Modality::CrossModal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sgm_core::Projection;

    fn pool(auroc: &[f32], se: f32) -> Expertise {
        let mut expertise = Expertise::default();
        let auroc_se = Some(vec![se; auroc.len()]);
        expertise.insert(Site::new(2, Projection::Gate), SiteExpertise { auroc: auroc.to_vec(), auroc_se }).unwrap();
        expertise
    }

    #[test]
    fn every_row_of_the_table() {
        let image = pool(&[0.8, 0.5, 0.9, 0.7, 0.8, 0.5, 0.5, 0.55], 0.03);
        let text = pool(&[0.5, 0.8, 0.7, 0.9, 0.8, 0.5, 0.5, 0.5], 0.03);
        let response = pool(&[0.5, 0.9, 0.5, 0.5, 0.5, 0.8, 0.5, 0.58], 0.03);
        let attribution = Attribution::new(&image, &text, &response, &AttributionOptions::default()).unwrap();
        let classes: Vec<_> = attribution.experts[&Site::new(2, Projection::Gate)].iter().map(|(n, m)| (*n, *m)).collect();
        use Modality::{Both, CrossModal, Image, Text};
        assert_eq!(classes, [(0, Image), (1, Text), (2, Image), (3, Text), (4, Both), (5, CrossModal)]);
        assert_eq!(attribution.per_layer()[&2][&Image], 2);
    }

    #[test]
    fn an_uncertain_auroc_is_no_expert() {
        let [one, other] = [0.03, 0.2].map(|se| pool(&[0.8], se));
        let chance = pool(&[0.5], 0.03);
        let options = AttributionOptions::default();
        assert_eq!(Attribution::new(&one, &chance, &chance, &options).unwrap().experts.len(), 1);
        assert!(Attribution::new(&other, &chance, &chance, &options).unwrap().experts.is_empty());
        assert!(matches!(Attribution::new(&one, &pool(&[0.5, 0.5], 0.1), &one, &options), Err(Error::Sites { .. })));
    }
}
