//! The capture of a model's pooled activations.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sgm_core::{Calibration, Site, SkippedSample};
use sgm_models::{Mllm, ModelInputs, TappedModel};

use crate::examples::batch;
use crate::manifest::NonFinite;
use crate::prefix::Prefix;
use crate::tap::Pooled;
use crate::{Error, Example, Examples, Manifest, PartialStore, Partition, PooledTap, Pooling, Result, ShardRows, StoreDtype};

/// A capture of a model's pooled activations into a store.
///
/// The contents of the store depend on the model, the samples and their order, and the fields up to `skipped`, all of which its
/// manifest records; they do not depend on the number of threads or workers, nor on interruptions. The other fields select a part of the
/// work.
#[derive(Debug, Clone, PartialEq)]
pub struct Capture {
    /// The poolings, all computed in one pass.
    pub poolings: Vec<Pooling>,
    /// Whether the sites of single experts of mixtures are captured too, which are very many. They are pooled over the tokens routed to
    /// each expert; the response of an expert that no selected token is routed to is 0.
    pub experts: bool,
    /// Samples run together, right-padded: those of a shard that are similar in size. As many batches are in flight as rayon has threads.
    pub batch_size: usize,
    /// The dtype of stored responses.
    pub dtype: StoreDtype,
    /// The treatment of samples with responses that are NaN or infinite.
    pub non_finite: NonFinite,
    /// Samples in a shard, rounded up to whole batches; by default as many as take 256 MiB, up to 512. A shard is in memory until it is
    /// written, and is lost when the worker is killed before.
    pub shard_samples: Option<usize>,
    /// The origin of the samples.
    pub calibration: Option<Calibration>,
    /// The samples that were left out beforehand, for the manifest.
    pub skipped: Vec<SkippedSample>,
    /// This worker's part of the work.
    pub partition: Partition,
    /// Whether to continue an existing store. One of several workers always does.
    pub resume: bool,
}

/// What all batches of a capture share.
struct Run<'a, M: ?Sized> {
    model: &'a M,
    examples: &'a Examples<'a>,
    prefix: Option<Prefix>,
    tap: Arc<PooledTap>,
}

/// The work of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureSummary {
    /// The number of samples run.
    pub samples: usize,
    /// The number of shards written.
    pub written: usize,
    /// The number of shards of the worker's part that existed before.
    pub found: usize,
    /// The number of tokens that all samples begin with and that were run once; 0 if that was not worth it or not possible.
    pub shared_tokens: usize,
    /// Whether all shards of all workers are present, so that the store is finished.
    pub finished: bool,
}

impl Capture {
    /// A whole capture of some poolings into a new store, in f32, one sample at a time.
    pub fn new(poolings: Vec<Pooling>) -> Self {
        Self {
            poolings,
            experts: false,
            batch_size: 1,
            dtype: StoreDtype::F32,
            non_finite: NonFinite::Refuse,
            shard_samples: None,
            calibration: None,
            skipped: Vec::new(),
            partition: Partition::WHOLE,
            resume: false,
        }
    }

    /// Runs this worker's samples and writes their shards.
    ///
    /// Samples are run shard by shard; padding is never pooled. Tokens of prompt text that the first eight samples have in common, such as a
    /// system prompt, are run once if nothing else is attached to the model. Taps that are already attached act first, so that a model that
    /// wears glasses is captured with them.
    ///
    /// # Errors
    ///
    /// [`Error::NoTokens`] when a sample has no token to pool over, [`Error::NotFinite`] when a response overflows, and the errors of the
    /// model, the samples and [`PartialStore::begin`]. Shards written before are kept, and the capture can be resumed.
    pub fn run<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, directory: &Path) -> Result<CaptureSummary> {
        let widths = if self.experts { model.info().all_widths() } else { model.info().widths() };
        let manifest = self.manifest(model, examples, widths);
        let store = PartialStore::begin(directory, manifest, self.resume || self.partition.count() > 1)?;
        let mine = (0..store.manifest().shards()).filter(|shard| self.partition.includes(*shard)).count();
        let missing: Vec<_> = store.missing()?.into_iter().filter(|shard| self.partition.includes(*shard)).collect();
        let mut captured = CaptureSummary { samples: 0, written: 0, found: mine - missing.len(), shared_tokens: 0, finished: false };
        let tap = PooledTap::new(self.poolings.clone());
        let tap = Arc::new(if self.experts { tap.with_experts() } else { tap });
        let prefix = if self.experts || missing.is_empty() { None } else { Prefix::find(model, examples)? };
        captured.shared_tokens = prefix.as_ref().map_or(0, |prefix| prefix.shared.tokens());
        let run = Run { model, examples, prefix, tap };
        for shard in missing {
            captured.samples += self.shard(&run, &store, shard)?;
            captured.written += 1;
        }
        captured.finished = store.finish()?;
        Ok(captured)
    }

    /// The manifest of a store of some sites.
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
        manifest.skipped.clone_from(&self.skipped);
        let settings =
            [("batch_size", batch_size.to_string()), ("compute_dtype", info.dtype.clone()), ("taps", model.taps().len().to_string())];
        manifest.settings = settings.map(|(key, value)| (key.to_owned(), value)).into();
        manifest
    }

    /// Runs the samples of a shard and writes it.
    fn shard<M: Mllm + ?Sized>(&self, run: &Run<'_, M>, store: &PartialStore, shard: usize) -> Result<usize> {
        let mut numbers: Vec<usize> = store.manifest().samples_of(shard).collect();
        let batch_size = self.batch_size.max(1);
        if batch_size > 1 {
            // Samples of similar size share a batch, so that the batch has little padding.
            let size = |number: &usize| Ok((run.examples.get(*number)?.size(), *number));
            let mut sized = numbers.par_iter().map(size).collect::<Result<Vec<_>>>()?;
            sized.sort_unstable();
            numbers = sized.into_iter().map(|(_, number)| number).collect();
        }
        // Batches of several samples are not in the order of the samples, so all must have run before the first response is stored.
        let round = if batch_size > 1 { numbers.len() } else { rayon::current_num_threads() };
        let mut rows = store.rows()?;
        for numbers in numbers.chunks(round.max(1)) {
            let batches = numbers.par_chunks(batch_size).map(|batch| self.batch(run, batch)).collect::<Result<Vec<_>>>()?;
            let names: BTreeMap<usize, (String, bool)> = numbers.iter().copied().zip(batches.into_iter().flatten()).collect();
            for ((id, toxic), pooled) in names.into_values().zip(run.tap.take_pooled().into_values()) {
                self.push(&mut rows, &id, toxic, &pooled)?;
            }
        }
        store.write(shard, &rows)?;
        Ok(rows.len())
    }

    /// Adds the pooled responses of one sample.
    pub(crate) fn push(&self, rows: &mut ShardRows, id: &str, toxic: bool, pooled: &Pooled) -> Result<()> {
        if let (NonFinite::Refuse, Some((site, first))) = (self.non_finite, pooled.non_finite.first_key_value()) {
            return Err(Error::NotFinite { sample: id.to_owned(), site: site.to_string(), neuron: first.neuron, value: first.value });
        }
        let counts = pooled.non_finite.iter().map(|(site, n)| (*site, n.count)).collect();
        rows.push_counted(id, toxic, &pooled.responses, Some(&counts))
    }

    /// Runs one batch; returns the ids and labels of its samples.
    fn batch<M: Mllm + ?Sized>(&self, run: &Run<'_, M>, numbers: &[usize]) -> Result<Vec<(String, bool)>> {
        let (inputs, names) = self.inputs(run.model, run.examples, numbers)?;
        let view = TappedModel::new(run.model);
        let mut cache = view.new_cache();
        match &run.prefix {
            Some(prefix) if prefix.shared.begins(&inputs)? => {
                let _attached = view.taps().attach(Arc::new(prefix.tap(run.tap.clone())));
                view.prefill_after(&prefix.shared, &inputs, &mut cache)?;
            }
            _ => {
                let _attached = view.taps().attach(run.tap.clone());
                view.prefill(&inputs, &mut cache)?;
            }
        }
        Ok(names)
    }

    /// The samples of these indices as a batch, with their ids and labels.
    pub(crate) fn inputs<M: Mllm + ?Sized>(
        &self,
        model: &M,
        examples: &Examples<'_>,
        numbers: &[usize],
    ) -> Result<(ModelInputs, Vec<(String, bool)>)> {
        let (inputs, batch) = batch(model, examples, numbers)?;
        for (example, kinds) in batch.iter().zip(&inputs.kinds) {
            let empty = self.poolings.iter().find(|p| !p.tokens.selected(kinds).any(|selected| selected));
            if let Some(pooling) = empty {
                return Err(Error::NoTokens { sample: example.id.clone(), tokens: pooling.tokens });
            }
        }
        Ok((inputs, batch.into_iter().map(|e| (e.id, e.toxic)).collect()))
    }
}

/// Runs a model over labelled samples in memory and writes their pooled activations to a new store, in f32.
///
/// # Errors
///
/// As [`Capture::run`]; the store is left unfinished then.
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
