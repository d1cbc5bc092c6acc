use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sgm_core::{Calibration, Site};
use sgm_models::{Mllm, ModelInputs, Padding};

use crate::manifest::NonFinite;
use crate::tap::Pooled;
use crate::{Error, Example, Examples, Manifest, PartialStore, Partition, PooledTap, Pooling, Result, ShardRows, StoreDtype};

/// How a model's pooled activations are captured into a store.
///
/// What the store holds depends on the model, the samples and their order, and the fields down to `shard_samples`, all of which
/// its manifest names; it does not depend on the number of threads or workers, nor on how often the capture was
/// interrupted and resumed. The fields after that say which part of the work is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Capture {
    /// The poolings, all made in one pass.
    pub poolings: Vec<Pooling>,
    /// Samples run together, right-padded. As many batches are in flight as rayon has threads.
    pub batch_size: usize,
    /// How responses are kept.
    pub dtype: StoreDtype,
    /// What is done about samples with responses that are NaN or infinite.
    pub non_finite: NonFinite,
    /// Samples in a shard, rounded up to whole batches; by default as many as take 256 MiB, up to 512. A shard is in memory
    /// while it is made, and is what is lost when a worker is killed.
    pub shard_samples: Option<usize>,
    /// Where the samples come from.
    pub calibration: Option<Calibration>,
    /// This worker's part of the work.
    pub partition: Partition,
    /// Whether to go on with a store that is there. One of several workers always does.
    pub resume: bool,
}

/// What a worker did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    /// The samples it ran.
    pub samples: usize,
    /// The shards it wrote.
    pub written: usize,
    /// The shards of its part that were there before.
    pub found: usize,
    /// Whether all shards of all workers are there now, and so the store is finished.
    pub finished: bool,
}

impl Capture {
    /// Capture of some poolings in f32, one sample at a time, all of the work, into a new store.
    pub fn new(poolings: Vec<Pooling>) -> Self {
        Self {
            poolings,
            batch_size: 1,
            dtype: StoreDtype::F32,
            non_finite: NonFinite::Refuse,
            shard_samples: None,
            calibration: None,
            partition: Partition::WHOLE,
            resume: false,
        }
    }

    /// Runs this worker's samples and writes their shards.
    ///
    /// Samples are run in order, shard by shard; padding is never pooled. Taps that are attached already act first, so a model
    /// that wears glasses is captured with them on.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyMask`] when a sample has no token to pool over, [`Error::NotFinite`] when a response overflows, and what
    /// model, samples and [`PartialStore::begin`] report. The shards written before stay, and the capture can be resumed.
    pub fn run<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, directory: &Path) -> Result<Captured> {
        let manifest = self.manifest(model, examples, model.info().widths());
        let store = PartialStore::begin(directory, manifest, self.resume || self.partition.count() > 1)?;
        let mine = (0..store.manifest().shards()).filter(|shard| self.partition.includes(*shard)).count();
        let missing: Vec<_> = store.missing()?.into_iter().filter(|shard| self.partition.includes(*shard)).collect();
        let mut captured = Captured { samples: 0, written: 0, found: mine - missing.len(), finished: false };
        let tap = Arc::new(PooledTap::new(self.poolings.clone()));
        let attached = model.taps().attach(tap.clone());
        for shard in missing {
            captured.samples += self.shard(model, examples, &store, shard, &tap)?;
            captured.written += 1;
        }
        drop(attached);
        captured.finished = store.finish()?;
        Ok(captured)
    }

    /// What a store of some sites will be.
    pub(crate) fn manifest<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, sites: BTreeMap<Site, usize>) -> Manifest {
        let info = model.info();
        let batch_size = self.batch_size.max(1);
        let mut manifest = Manifest::new(&info.name, &info.config_sha256, "", sites);
        manifest.poolings = self.poolings.iter().map(ToString::to_string).collect();
        manifest.dtype = self.dtype;
        manifest.weights = info.weights.clone();
        manifest.non_finite = self.non_finite;
        let usual = || manifest.usual_shard_samples(batch_size);
        manifest.shard_samples = self.shard_samples.map_or_else(usual, |samples| samples.max(1).next_multiple_of(batch_size));
        manifest.samples = examples.len();
        manifest.samples_sha256 = Some(examples.sha256().to_owned());
        manifest.calibration = self.calibration.clone();
        let settings =
            [("batch_size", batch_size.to_string()), ("compute_dtype", info.dtype.clone()), ("taps", model.taps().len().to_string())];
        manifest.settings = settings.map(|(key, value)| (key.to_owned(), value)).into();
        manifest
    }

    /// Runs the samples of a shard and writes it.
    fn shard<M: Mllm + ?Sized>(
        &self,
        model: &M,
        examples: &Examples<'_>,
        store: &PartialStore,
        shard: usize,
        tap: &PooledTap,
    ) -> Result<usize> {
        let mut rows = store.rows()?;
        let numbers: Vec<usize> = store.manifest().samples_of(shard).collect();
        let batch_size = self.batch_size.max(1);
        // A round is what runs in parallel: its responses are in the rows before the next one's are made.
        for round in numbers.chunks(batch_size.saturating_mul(rayon::current_num_threads())) {
            let run = |batch: &[usize]| self.batch(model, examples, batch);
            let names = round.par_chunks(batch_size).map(run).collect::<Result<Vec<_>>>()?;
            for ((id, toxic), pooled) in names.into_iter().flatten().zip(tap.take_pooled().into_values()) {
                self.push(&mut rows, &id, toxic, &pooled)?;
            }
        }
        store.write(shard, &rows)?;
        Ok(rows.len())
    }

    /// Adds what was pooled of one sample.
    pub(crate) fn push(&self, rows: &mut ShardRows, id: &str, toxic: bool, pooled: &Pooled) -> Result<()> {
        if let (NonFinite::Refuse, Some((site, first))) = (self.non_finite, pooled.non_finite.first_key_value()) {
            return Err(Error::NotFinite { sample: id.to_owned(), site: site.to_string(), neuron: first.neuron, value: first.value });
        }
        let counts = pooled.non_finite.iter().map(|(site, n)| (*site, n.count)).collect();
        rows.push_counted(id, toxic, &pooled.responses, Some(&counts))
    }

    /// Runs one batch past the tap, which tells its samples by their numbers; returns their ids and labels.
    fn batch<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, numbers: &[usize]) -> Result<Vec<(String, bool)>> {
        let (inputs, names) = self.inputs(model, examples, numbers)?;
        model.prefill(&inputs, &mut model.new_cache())?;
        Ok(names)
    }

    /// The samples of these numbers as a batch, with their ids and labels.
    pub(crate) fn inputs<M: Mllm + ?Sized>(
        &self,
        model: &M,
        examples: &Examples<'_>,
        numbers: &[usize],
    ) -> Result<(ModelInputs, Vec<(String, bool)>)> {
        let batch = numbers.iter().map(|number| examples.get(*number)).collect::<Result<Vec<_>>>()?;
        let mut inputs = model.processor().responses(batch.iter().map(|e| (&e.prompt, e.response.as_str())), Padding::Right)?;
        for (example, kinds) in batch.iter().zip(&inputs.kinds) {
            let empty = self.poolings.iter().find(|p| !kinds.iter().any(|kind| p.mask.includes(*kind)));
            if let Some(pooling) = empty {
                return Err(Error::EmptyMask { sample: example.id.clone(), mask: pooling.mask.name() });
            }
        }
        inputs.rows = numbers.to_vec();
        Ok((inputs, batch.into_iter().map(|e| (e.id, e.toxic)).collect()))
    }
}

/// Runs a model over labelled samples in memory and keeps their pooled activations in a new store, in f32.
///
/// # Errors
///
/// As [`Capture::run`]. The store is not finished then.
pub fn capture<M: Mllm + ?Sized>(
    model: &M,
    examples: &[Example],
    pooling: Pooling,
    calibration: Option<Calibration>,
    directory: &Path,
    batch_size: usize,
) -> Result<()> {
    let capture = Capture { batch_size, calibration, ..Capture::new(vec![pooling]) };
    capture.run(model, &Examples::from_slice(examples), directory)?;
    Ok(())
}
