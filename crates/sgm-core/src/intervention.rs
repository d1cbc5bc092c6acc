use std::collections::BTreeMap;
use std::path::Path;

use crate::expertise::{check, missing};
use crate::patch_neuron::{self, PATCH};
use crate::tensor_file::{Named, Vector};
use crate::{Error, Metadata, PatchNeuron, Probe, Projection, Result, Site, card, nearest, tensor_file};

/// What to do with every neuron: `y = scale * x + shift` on the output of each site; and which neurons to add.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Intervention {
    sites: BTreeMap<Site, SiteIntervention>,
    patches: BTreeMap<usize, Vec<PatchNeuron>>,
    /// Where the scales came from.
    pub metadata: Metadata,
    /// The detector that switches the intervention on, if it is not to act always. Only running models can wear one: what is folded into
    /// weights acts always.
    pub probe: Option<Probe>,
}

/// What to do with the neurons of one site.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SiteIntervention {
    /// The factor of each neuron, f32 `[neurons]`: 1 leaves it alone, 0 silences it.
    pub scale: Vec<f32>,
    /// What is added after scaling, f32 `[neurons]`, in units of the neuron's output.
    pub shift: Option<Vec<f32>>,
    /// The AUROC the scale was made from, f32 `[neurons]`, kept for the record.
    pub auroc: Option<Vec<f32>>,
    /// Its standard error, f32 `[neurons]`, kept for the record.
    pub auroc_se: Option<Vec<f32>>,
}

impl SiteIntervention {
    /// An intervention that only scales.
    pub fn from_scale(scale: Vec<f32>) -> Self {
        Self { scale, ..Self::default() }
    }
}

/// A neuron that an intervention would strengthen or turn around instead of suppressing it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Amplification {
    /// The neuron's site.
    pub site: Site,
    /// The neuron's index within the site.
    pub neuron: usize,
    /// Its scale, above 1 or below 0.
    pub scale: f32,
}

const FORMAT: &str = "sgm-intervention";
/// The name of a probe's weights in a file, and of what its metadata say of it.
const PROBE: &str = "probe";

impl Intervention {
    /// An intervention on no site, which changes nothing.
    pub fn new(metadata: Metadata) -> Self {
        Self { sites: BTreeMap::new(), patches: BTreeMap::new(), metadata, probe: None }
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

    /// Adds neurons to the MLP of a layer, or replaces those that were added before; none takes them away.
    ///
    /// What they add to the MLP's output is not scaled by the intervention.
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

    /// The neurons that are added, by layer.
    pub fn patches(&self) -> &BTreeMap<usize, Vec<PatchNeuron>> {
        &self.patches
    }

    /// The sites with their scales, by layer and projection.
    pub fn sites(&self) -> &BTreeMap<Site, SiteIntervention> {
        &self.sites
    }

    /// Keeps some sites, and the neurons added to layers whose `down_proj` is kept.
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

    /// The number of neurons that are added to the model's own.
    pub fn added_neurons(&self) -> usize {
        self.patches.values().map(Vec::len).sum()
    }

    /// The first neuron whose scale is above 1 or below 0, if there is one.
    ///
    /// Such an intervention can make toxic behaviour stronger; whoever applies it has to refuse it
    /// unless amplification was asked for. What shifts and added neurons make stronger cannot be told from their numbers.
    pub fn amplification(&self) -> Option<Amplification> {
        self.sites.iter().find_map(|(site, s)| {
            let (neuron, scale) = s.scale.iter().copied().enumerate().find(|(_, v)| *v > 1.0 || *v < 0.0)?;
            Some(Amplification { site: *site, neuron, scale })
        })
    }

    /// Checks that every site of the intervention, of its probe and of the neurons it adds is one of a model's and has its width.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSite`] naming the nearest site of the model, or [`Error::Width`].
    pub fn check_against(&self, model: &BTreeMap<Site, usize>) -> Result<()> {
        let widths = self.sites.iter().map(|(site, s)| (*site, "scale", s.scale.len()));
        let probed = self.probe.iter().flat_map(Probe::weights).map(|(site, weights)| (*site, PROBE, weights.len()));
        // What a layer adds to its hidden states is as wide as they are.
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

    /// Writes the file, whole or not at all: `<site>/scale` f32 `[neurons]`, optionally `<site>/shift`,
    /// `<site>/auroc`, `<site>/auroc_se` and `<site>/probe`, and the metadata with `format = "sgm-intervention"`; of added neurons
    /// `<site>/patch` f32 `[added, hidden]`, at `down_proj` too.
    ///
    /// Equal interventions give equal bytes. Beside `glasses.sgm.safetensors` it then writes the [card](Self::card)
    /// `glasses.sgm.md`; a file of that name that is no card is left as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut sites: BTreeMap<Site, Vec<Named<'_>>> = BTreeMap::new();
        let patches: Vec<_> =
            self.patches.iter().map(|(layer, neurons)| (neurons.len(), patch_neuron::to_vectors(*layer, neurons))).collect();
        for (site, s) in &self.sites {
            let optional = [("shift", &s.shift), ("auroc", &s.auroc), ("auroc_se", &s.auroc_se)];
            let optional = optional.into_iter().filter_map(|(name, v)| v.as_deref().map(|v| (name, v)));
            let vectors = std::iter::once(("scale", s.scale.as_slice())).chain(optional);
            sites.insert(*site, vectors.map(|(name, values)| Named::vector(name, values)).collect());
        }
        let mut metadata = self.metadata.clone();
        if let Some(probe) = &self.probe {
            probe.check()?;
            probe.weights().iter().for_each(|(site, weights)| sites.entry(*site).or_default().push(Named::vector(PROBE, weights)));
            metadata.other.insert(PROBE.to_owned(), probe.to_json());
        }
        for (count, vectors) in &patches {
            for (site, values) in vectors {
                sites.entry(*site).or_default().push(Named { name: PATCH, values, rows: Some(*count) });
            }
        }
        tensor_file::save(path.as_ref(), FORMAT, &metadata, &sites)?;
        card::save(path.as_ref(), self)
    }

    /// Reads a file that [`save`](Self::save) or another program wrote.
    ///
    /// # Errors
    ///
    /// Any error of this crate, when the file is missing, of another kind or damaged.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_bytes(&path, &tensor_file::read(path.as_ref())?)
    }

    /// Parses the bytes of such a file; `path` says in errors where they came from.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn from_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        let path = path.as_ref();
        let (mut metadata, sites) = tensor_file::parse(path, bytes, FORMAT, &["scale", "shift", "auroc", "auroc_se", PROBE, PATCH])?;
        let unreadable = |reason: String| Error::Metadata { path: path.to_owned(), key: PROBE.to_owned(), reason };
        let probe = metadata.other.remove(PROBE);
        let mut probe = probe.map(|json| Probe::from_json(&json).map_err(|e| unreadable(e.to_string()))).transpose()?;
        let mut intervention = Self::new(metadata);
        let mut patches: BTreeMap<usize, BTreeMap<Projection, (Vec<f32>, usize)>> = BTreeMap::new();
        for (site, mut vectors) in sites {
            if let Some(Vector { values, width }) = vectors.remove(PATCH) {
                patches.entry(site.layer).or_default().insert(site.projection, (values, width));
                if vectors.is_empty() {
                    continue;
                }
            }
            let mut vectors: BTreeMap<String, Vec<f32>> = vectors.into_iter().map(|(name, vector)| (name, vector.values)).collect();
            if let Some(weights) = vectors.remove(PROBE) {
                let probe = probe.as_mut().ok_or_else(|| unreadable(format!("it is missing, but there are weights of {site}")))?;
                probe.insert(site, weights)?;
                if vectors.is_empty() {
                    continue;
                }
            }
            let scale = vectors.remove("scale").ok_or_else(|| missing(path, site, "scale"))?;
            let [shift, auroc, auroc_se] = ["shift", "auroc", "auroc_se"].map(|name| vectors.remove(name));
            intervention.insert(site, SiteIntervention { scale, shift, auroc, auroc_se })?;
        }
        for (layer, vectors) in patches {
            intervention.insert_patches(layer, patch_neuron::from_vectors(layer, &vectors)?)?;
        }
        if let Some(probe) = &probe {
            probe.check()?;
        }
        intervention.probe = probe;
        Ok(intervention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Projection;

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
    fn a_probe_is_kept_in_the_file() {
        let mut probe = Probe::new(-0.5, crate::Gate { on: 0.75, off: 0.25, watch: true });
        probe.insert(Site::new(0, Projection::Gate), vec![1.0, 0.0, -2.0]).unwrap();
        probe.insert(Site::new(5, Projection::Down), vec![0.5]).unwrap();
        let glasses = Intervention { probe: Some(probe), ..glasses() };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("glasses.sgm.safetensors");
        glasses.save(&path).unwrap();
        assert_eq!(Intervention::load(&path).unwrap(), glasses);
        // A gate that cannot be, weights without a gate, a model without the site.
        let mut wrong = glasses.clone();
        wrong.probe.as_mut().unwrap().gate.off = 0.9;
        assert!(matches!(wrong.save(&path), Err(Error::Gate { .. })));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(9).position(|w| w == b"\"probe\":\"").unwrap();
        bytes[at + 3] = b's';
        assert!(matches!(Intervention::from_bytes(&path, &bytes), Err(Error::Metadata { key, .. }) if key == "probe"));
        let model = [(Site::new(0, Projection::Gate), 3), (Site::new(1, Projection::Down), 2)].into();
        assert!(matches!(glasses.check_against(&model), Err(Error::UnknownSite { .. })));
    }

    #[test]
    fn added_neurons_are_kept_in_the_file() {
        let neuron = |v: f32| PatchNeuron { gate: vec![v, 1.0], up: vec![0.5, v], down: vec![-v, 2.0] };
        let mut glasses = glasses();
        glasses.insert_patches(1, vec![neuron(1.0), neuron(3.0)]).unwrap();
        glasses.insert_patches(2, vec![neuron(0.25)]).unwrap();
        assert_eq!((glasses.added_neurons(), glasses.changed_neurons()), (3, 3));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("glasses.sgm.safetensors");
        glasses.save(&path).unwrap();
        assert_eq!(Intervention::load(&path).unwrap(), glasses);
        // Python sees them as matrices.
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("lm.layers.1.mlp.up_proj/patch").unwrap().shape(), [2, 2]);
        // A part is missing; a neuron is; a model is narrower.
        let without = |name: &str, by: &str| {
            let at = bytes.windows(name.len()).position(|w| w == name.as_bytes()).unwrap();
            let mut bytes = bytes.clone();
            bytes[at..at + name.len()].copy_from_slice(by.as_bytes());
            Intervention::from_bytes(&path, &bytes)
        };
        assert!(matches!(without("lm.layers.1.mlp.up_proj/patch", "lm.layers.9.mlp.up_proj/patch"), Err(Error::Width { what: PATCH, .. })));
        assert!(matches!(without("lm.layers.1.mlp.up_proj/patch", "lm.layers.1.mlp.up_proj/scale"), Err(Error::Tensor { .. })));
        let model = |hidden| (0..3).flat_map(|l| [(Site::new(l, Projection::Gate), 3), (Site::new(l, Projection::Down), hidden)]).collect();
        glasses.check_against(&model(2)).unwrap();
        glasses.insert_patches(0, vec![PatchNeuron { gate: vec![0.0; 3], up: vec![0.0; 3], down: vec![0.0; 3] }]).unwrap();
        assert!(matches!(glasses.check_against(&model(2)), Err(Error::Width { what: PATCH, expected: 2, got: 3, .. })));
        // Half as strong, doubled, none.
        assert_eq!(glasses.with_strength(0.5).unwrap().patches()[&1][1].down, [-1.5, 1.0]);
        assert_eq!(Intervention::compose(&[&glasses, &glasses]).unwrap().intervention.added_neurons(), 8);
        assert_eq!(glasses.restrict_to(Some(2..=2), None).added_neurons(), 1);
        let mut fewer = glasses.clone();
        fewer.insert_patches(2, Vec::new()).unwrap();
        assert_eq!((fewer.added_neurons(), glasses.diff(&fewer).unwrap().patches), (3, [2].into()));
        assert!(fewer.insert_patches(2, vec![PatchNeuron { gate: vec![f32::NAN], up: vec![0.0], down: vec![0.0] }]).is_err());
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
