//! Intervention files: `*.sgm.safetensors`, each with its card beside it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::condition::PROBE;
use crate::expertise::missing;
use crate::patch_neuron::{self, PATCH};
use crate::sha256::hex_digest;
use crate::tensor_file::{Named, Vector};
use crate::{
    Condition, Error, Intervention, Projection, Result, Site, SiteIntervention, TokenSelection, card, tensor_file, write_atomically,
};

const FORMAT: &str = "sgm-intervention";
/// The metadata key of the token selection.
const TOKENS: &str = "positions";

impl Intervention {
    /// Writes the file atomically: `<site>/scale` f32 `[neurons]`, optionally `<site>/shift`, `<site>/auroc`, `<site>/auroc_se` and
    /// `<site>/probe`; for patch neurons `<site>/patch` f32 `[added, hidden]`, at `down_proj` too; and the metadata with
    /// `format = "sgm-intervention"`.
    ///
    /// Equal interventions give equal bytes. The [card](Self::card) `glasses.sgm.md` is written beside `glasses.sgm.safetensors`, unless a
    /// file of that name is not a card.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomically(path.as_ref(), &self.bytes(path.as_ref())?)?;
        card::save(path.as_ref(), self)
    }

    /// The SHA-256 of the file that [`save`](Self::save) writes, in lower-case hexadecimal.
    ///
    /// # Errors
    ///
    /// [`Error::NotSafetensors`] when the metadata cannot be written.
    pub fn sha256(&self) -> Result<String> {
        Ok(hex_digest(&self.bytes(Path::new("the intervention"))?))
    }

    /// The bytes of the file.
    fn bytes(&self, path: &Path) -> Result<Vec<u8>> {
        let mut sites: BTreeMap<Site, Vec<Named<'_>>> = BTreeMap::new();
        let patches: Vec<_> =
            self.patches().iter().map(|(layer, neurons)| (neurons.len(), patch_neuron::to_vectors(*layer, neurons))).collect();
        for (site, s) in self.sites() {
            let optional = [("shift", &s.shift), ("auroc", &s.auroc), ("auroc_se", &s.auroc_se)];
            let optional = optional.into_iter().filter_map(|(name, v)| v.as_deref().map(|v| (name, v)));
            let vectors = std::iter::once(("scale", s.scale.as_slice())).chain(optional);
            sites.insert(*site, vectors.map(|(name, values)| Named::vector(name, values)).collect());
        }
        let mut metadata = self.metadata.clone();
        metadata.other.insert(TOKENS.to_owned(), self.tokens.name().to_owned());
        if let Some(condition) = &self.condition {
            condition.check()?;
            let weights = condition.probe.weights().iter();
            weights.for_each(|(site, weights)| sites.entry(*site).or_default().push(Named::vector(PROBE, weights)));
            metadata.other.insert(PROBE.to_owned(), condition.to_json());
        }
        for (count, vectors) in &patches {
            for (site, values) in vectors {
                sites.entry(*site).or_default().push(Named { name: PATCH, values, rows: Some(*count) });
            }
        }
        tensor_file::bytes(path, FORMAT, &metadata, &sites)
    }

    /// Reads an intervention file.
    ///
    /// # Errors
    ///
    /// Any error of this crate, when the file is missing, damaged or of another kind.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_bytes(&path, &tensor_file::read(path.as_ref())?)
    }

    /// Parses the bytes of an intervention file; `path` names it in errors.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn from_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        let path = path.as_ref();
        let (mut metadata, sites) = tensor_file::parse(path, bytes, FORMAT, &["scale", "shift", "auroc", "auroc_se", PROBE, PATCH])?;
        let unreadable = |key: &str, reason: String| Error::Metadata { path: path.to_owned(), key: key.to_owned(), reason };
        let condition = metadata.other.remove(PROBE).map(|json| Condition::from_json(&json));
        let mut condition = condition.transpose().map_err(|reason| unreadable(PROBE, reason))?;
        let tokens = metadata.other.remove(TOKENS).map_or(Ok(TokenSelection::All), |name| name.parse());
        let tokens = tokens.map_err(|error| unreadable(TOKENS, error.to_string()))?;
        let mut intervention = Self::new(metadata);
        intervention.tokens = tokens;
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
                let missing = || unreadable(PROBE, format!("it is missing, but there are weights of {site}"));
                condition.as_mut().ok_or_else(missing)?.probe.insert(site, weights)?;
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
        if let Some(condition) = &condition {
            condition.check()?;
        }
        intervention.condition = condition;
        Ok(intervention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metadata, PatchNeuron, Probe};

    fn glasses() -> Intervention {
        let mut i = Intervention::new(Metadata::default());
        i.insert(Site::new(0, Projection::Gate), SiteIntervention::from_scale(vec![1.0, 0.5, 0.0])).unwrap();
        let shifted = SiteIntervention { scale: vec![1.0, 1.0], shift: Some(vec![0.0, 0.25]), ..Default::default() };
        i.insert(Site::new(1, Projection::Down), shifted).unwrap();
        i
    }

    #[test]
    fn a_condition_is_kept_in_the_file() {
        let mut probe = Probe::new(-0.5);
        probe.insert(Site::new(0, Projection::Gate), vec![1.0, 0.0, -2.0]).unwrap();
        probe.insert(Site::new(5, Projection::Down), vec![0.5]).unwrap();
        let mut glasses = glasses();
        glasses.condition = Some(Condition { probe, threshold: 0.75 });
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("glasses.sgm.safetensors");
        glasses.save(&path).unwrap();
        assert_eq!(Intervention::load(&path).unwrap(), glasses);
        // Refused: a threshold out of range, weights without a condition, a model without the site.
        let mut wrong = glasses.clone();
        wrong.condition.as_mut().unwrap().threshold = 1.5;
        assert!(matches!(wrong.save(&path), Err(Error::Threshold { .. })));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(9).position(|w| w == b"\"probe\":\"").unwrap();
        bytes[at + 3] = b's';
        assert!(matches!(Intervention::from_bytes(&path, &bytes), Err(Error::Metadata { key, .. }) if key == "probe"));
        let model = [(Site::new(0, Projection::Gate), 3), (Site::new(1, Projection::Down), 2)].into();
        assert!(matches!(glasses.check_against(&model), Err(Error::UnknownSite { .. })));
    }

    #[test]
    fn tokens_are_kept_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("glasses.sgm.safetensors");
        let mut glasses = glasses();
        glasses.tokens = TokenSelection::PromptEnd;
        glasses.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(Intervention::from_bytes(&path, &bytes).unwrap(), glasses);
        let named = |name: &str| {
            let at = bytes.windows(10).position(|w| w == b"prompt-end").unwrap();
            let mut bytes = bytes.clone();
            bytes[at..at + 10].copy_from_slice(name.as_bytes());
            Intervention::from_bytes(&path, &bytes)
        };
        assert!(matches!(named("prompt-END"), Err(Error::Metadata { key, .. }) if key == "positions"));
        // Without the entry the intervention acts on all tokens.
        let at = bytes.windows(9).position(|w| w == b"positions").unwrap();
        let mut without = bytes.clone();
        without[at..at + 9].copy_from_slice(b"elsewhere");
        assert_eq!(Intervention::from_bytes(&path, &without).unwrap().tokens, TokenSelection::All);
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
        // The file holds matrices, for readers in Python.
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("lm.layers.1.mlp.up_proj/patch").unwrap().shape(), [2, 2]);
        // Refused: a missing matrix, a missing neuron, a narrower model.
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
        // Half strength, composition, restriction, removal.
        assert_eq!(glasses.with_strength(0.5).unwrap().patches()[&1][1].down, [-1.5, 1.0]);
        assert_eq!(Intervention::compose(&[&glasses, &glasses]).unwrap().intervention.added_neurons(), 8);
        assert_eq!(glasses.restrict_to(Some(2..=2), None).added_neurons(), 1);
        let mut fewer = glasses.clone();
        fewer.insert_patches(2, Vec::new()).unwrap();
        assert_eq!((fewer.added_neurons(), glasses.diff(&fewer).unwrap().patches), (3, [2].into()));
        assert!(fewer.insert_patches(2, vec![PatchNeuron { gate: vec![f32::NAN], up: vec![0.0], down: vec![0.0] }]).is_err());
    }
}
