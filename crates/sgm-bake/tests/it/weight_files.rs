//! Small weight files built byte by byte, so that tests can damage any part.

use std::io::Cursor;
use std::path::Path;

use sgm_bake::{Amplify, Result, SiteTensors, TensorRecord};
use sgm_core::{Intervention, Metadata, PatchNeuron, Projection, Site, SiteIntervention};

/// The parts of a GGUF file.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) version: u32,
    /// Metadata entries: key, number of the type, bytes of the value.
    pub(crate) metadata: Vec<(String, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) alignment: usize,
    pub(crate) trailing: Vec<u8>,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) value_count: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Innermost first.
    pub(crate) dimensions: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
    /// An offset in place of the right one.
    pub(crate) offset: Option<u64>,
}

pub(crate) const F32: u32 = 0;
pub(crate) const F16: u32 = 1;

pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

pub(crate) fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

impl Gguf {
    pub(crate) fn new(architecture: &str) -> Self {
        Self {
            version: 3,
            metadata: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            trailing: Vec::new(),
            tensor_count: None,
            value_count: None,
        }
        .with("general.architecture", 8, string(architecture))
    }

    pub(crate) fn with(mut self, key: &str, kind: u32, value: Vec<u8>) -> Self {
        self.metadata.push((key.to_owned(), kind, value));
        self
    }

    pub(crate) fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, bytes: Vec<u8>) -> Self {
        self.tensors.push(Tensor { name: name.to_owned(), dimensions: dimensions.to_vec(), kind, bytes, offset: None });
        self
    }

    /// A matrix or vector of f32 0.0, 1.0, 2.0, ...
    pub(crate) fn counting(self, name: &str, dimensions: &[u64]) -> Self {
        let n: u64 = dimensions.iter().product();
        self.tensor(name, dimensions, F32, floats((0..n).map(|i| i as f32)))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.value_count.unwrap_or(self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            file.extend([string(key), kind.to_le_bytes().to_vec(), value.clone()].concat());
        }
        let (mut data, mut directory) = (Vec::new(), Vec::new());
        for t in &self.tensors {
            directory.extend(string(&t.name));
            directory.extend(u32::try_from(t.dimensions.len()).unwrap().to_le_bytes());
            directory.extend(t.dimensions.iter().flat_map(|n| n.to_le_bytes()));
            directory.extend(t.kind.to_le_bytes());
            directory.extend(t.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&t.bytes);
            // Padding, which must be preserved.
            data.resize(data.len().next_multiple_of(self.alignment), 0xEE);
        }
        file.extend(directory);
        file.resize(file.len().next_multiple_of(self.alignment), 0xDD);
        [file, data, self.trailing.clone()].concat()
    }
}

/// A safetensors file from a header as text.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

pub(crate) fn gguf(bytes: &[u8]) -> Result<SiteTensors> {
    SiteTensors::read_gguf(Path::new("test.gguf"), bytes, bytes.len() as u64)
}

/// Scales for sites.
pub(crate) fn glasses(sites: impl IntoIterator<Item = (Site, Vec<f32>)>) -> Intervention {
    let mut glasses = Intervention::new(Metadata::default());
    sites.into_iter().for_each(|(site, scale)| glasses.insert(site, SiteIntervention::from_scale(scale)).unwrap());
    glasses
}

/// Bakes an intervention into the bytes of a file.
pub(crate) fn baked(read: &SiteTensors, bytes: &[u8], intervention: &Intervention) -> Result<(Vec<u8>, Vec<TensorRecord>)> {
    let mut out = Vec::new();
    let records = read.bake(intervention, Amplify::Refuse, Cursor::new(bytes), &mut out)?;
    Ok((out, records))
}

/// Reads bytes and bakes into them: they are refused, or half of every site is silenced without a change of other bytes.
pub(crate) fn read_and_bake(again: impl Fn(&[u8]) -> Result<SiteTensors>, bytes: &[u8]) {
    let Ok(read) = again(bytes) else { return };
    let sites = read.sites();
    // Widths do not exceed the file.
    assert!(sites.values().all(|width| *width <= bytes.len()));
    let halves = sites.iter().map(|(site, width)| (*site, (0..*width).map(|i| [0.0, 1.0][i % 2]).collect()));
    match baked(&read, bytes, &glasses(halves)) {
        Ok((out, _)) => assert_eq!(out.len(), bytes.len()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let ones = sites.iter().map(|(site, width)| (*site, vec![1.0; *width]));
    if let Ok((out, records)) = baked(&read, bytes, &glasses(ones)) {
        assert!(records.is_empty() && out == bytes);
    }
    // An added neuron is refused, or makes the file wider when it is read again.
    let Some((site, hidden)) = sites.iter().find(|(site, _)| site.projection == Projection::Down) else { return };
    let weights = vec![0.5; *hidden];
    let mut wider = Intervention::default();
    wider.insert_patches(site.layer, vec![PatchNeuron { gate: weights.clone(), up: weights.clone(), down: weights }]).unwrap();
    match baked(&read, bytes, &wider) {
        Ok((out, _)) => {
            let up = Site::new(site.layer, Projection::Up);
            assert!(again(&out).unwrap().sites()[&up] > sites[&up]);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
