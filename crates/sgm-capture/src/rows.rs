//! The samples of a shard before it is written.

use std::collections::BTreeMap;

use sgm_core::Site;

use crate::manifest::NonFinite;
use crate::{Error, Manifest, Result, StoreDtype};

/// The pooled responses of one sample: one map from sites to `[neurons]` for each of the store's poolings, in order.
pub type Responses = Vec<BTreeMap<Site, Vec<f32>>>;

/// The samples of an unwritten shard, rounded to the store's dtype.
#[derive(Debug)]
pub struct ShardRows {
    pub(crate) ids: Vec<String>,
    pub(crate) labels: Vec<u8>,
    /// The number of responses that are not finite, by site.
    pub(crate) non_finite: BTreeMap<Site, usize>,
    pub(crate) tensors: Vec<Column>,
    poolings: Vec<String>,
    dtype: StoreDtype,
    policy: NonFinite,
}

/// The tensor of one site and pooling, row by row.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) width: usize,
    pub(crate) bytes: Vec<u8>,
    site: Site,
    pooling: usize,
}

impl ShardRows {
    /// An empty shard.
    pub(crate) fn new(manifest: &Manifest) -> Result<Self> {
        let sites = manifest.sites()?;
        let numbered = manifest.poolings.iter().enumerate();
        let tensors = numbered.flat_map(|(pooling, name)| {
            sites.iter().map(move |(site, width)| Column {
                name: manifest.tensor_name(*site, name),
                width: *width,
                bytes: Vec::new(),
                site: *site,
                pooling,
            })
        });
        Ok(Self {
            ids: Vec::new(),
            labels: Vec::new(),
            non_finite: BTreeMap::new(),
            tensors: tensors.collect(),
            poolings: manifest.poolings.clone(),
            dtype: manifest.dtype,
            policy: manifest.non_finite,
        })
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Appends one sample: its id, whether it is toxic, and its responses, one map for each pooling.
    ///
    /// # Errors
    ///
    /// [`Error::Sample`] when a pooling or a site is missing or has another width, [`Error::NotFinite`] when a response is not finite, or
    /// not in the store's dtype, and the store refuses such responses. The rows are unchanged then.
    pub fn push(&mut self, id: &str, toxic: bool, responses: &[BTreeMap<Site, Vec<f32>>]) -> Result<()> {
        self.push_counted(id, toxic, responses, None)
    }

    /// Appends one sample as [`push`](Self::push). `counted` has the number of token responses that are not finite, if it is known; pooled
    /// responses are then counted only where the dtype cannot represent them.
    pub(crate) fn push_counted(
        &mut self,
        id: &str,
        toxic: bool,
        responses: &[BTreeMap<Site, Vec<f32>>],
        counted: Option<&BTreeMap<Site, usize>>,
    ) -> Result<()> {
        let wrong = |reason: String| Error::Sample { sample: id.to_owned(), reason };
        if responses.len() != self.poolings.len() {
            return Err(wrong(format!("{} poolings, expected {}", responses.len(), self.poolings.join(", "))));
        }
        let mut values = Vec::with_capacity(self.tensors.len());
        let mut non_finite = counted.cloned().unwrap_or_default();
        for tensor in &self.tensors {
            let (site, width) = (tensor.site, tensor.width);
            let given = responses.get(tensor.pooling).and_then(|sites| sites.get(&site));
            let given = given.ok_or_else(|| wrong(format!("no responses of {}", tensor.name)))?;
            if given.len() != width {
                return Err(wrong(format!("{} responses of {}, expected {width}", given.len(), tensor.name)));
            }
            let lost = |v: f32| !self.dtype.round(v).is_finite();
            if let Some((neuron, value)) = given.iter().copied().enumerate().find(|(_, v)| lost(*v)) {
                if self.policy == NonFinite::Refuse {
                    return Err(Error::NotFinite { sample: id.to_owned(), site: site.to_string(), neuron, value });
                }
                let count = given.iter().filter(|v| lost(**v) && (counted.is_none() || v.is_finite())).count();
                if count > 0 {
                    *non_finite.entry(site).or_insert(0) += count;
                }
            }
            values.push(given);
        }
        for (tensor, values) in self.tensors.iter_mut().zip(values) {
            self.dtype.encode(values, &mut tensor.bytes);
        }
        for (site, count) in non_finite {
            *self.non_finite.entry(site).or_insert(0) += count;
        }
        self.ids.push(id.to_owned());
        self.labels.push(u8::from(toxic));
        Ok(())
    }
}
