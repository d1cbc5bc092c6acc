//! The two halves of the experiment: from labelled samples to expertise, from a defended model to what it does.

#[path = "calibration.rs"]
mod calibration;

use std::sync::Arc;

use anyhow::Result;
use sgm::capture::{ActivationStore, Capture, Example, Examples, Pool, Pooling};
use sgm::core::{Expertise, Gate, Intervention, Probe};
use sgm::defend::{EtaOptions, FilterOptions, Ingredients, OwnSimilarity, Recipe, RewardModel, WordReward, Worn};
use sgm::models::{GenerateOptions, Mllm, Sampling, TokenMask};
use sgm::score::score_store;
use sgm::suppress::{Amplify, ProbeOptions, Transport, fit_incrementally, fit_probe};
use sgm::toxic_qa::{Benchmark, EvaluateOptions, Evaluated, Judge, Sample, Source};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What probes read.
pub(crate) const PROMPT_END: Pooling = Pooling { pool: Pool::Last, mask: TokenMask::Prompt };

/// What transport is fitted to: the text of prompt and answer, or the prompt alone.
pub(crate) const TEXT_MEAN: Pooling = Pooling { pool: Pool::Mean, mask: TokenMask::Text };
pub(crate) const PROMPT_MEAN: Pooling = Pooling { pool: Pool::Mean, mask: TokenMask::Prompt };

/// Calibration samples and the activations of a model on them.
pub(crate) struct Calibrated {
    pub(crate) store: ActivationStore,
    examples: Vec<Example>,
    capture: Capture,
    _directory: TempDir,
}

impl Calibrated {
    /// Captures calibration samples: pooled over tokens, for transport, and at the prompts' last token.
    pub(crate) fn capture<M: Mllm>(
        model: &M,
        source: &dyn Source,
        samples: Vec<Sample>,
        pooling: Pooling,
        batch_size: usize,
    ) -> Result<Self> {
        let provenance = calibration::provenance(source, &samples)?;
        let examples = samples.iter().map(calibration::example).collect::<Result<Vec<_>>>()?;
        let directory = tempfile::tempdir()?;
        let store = directory.path().join("activations");
        let mut poolings = vec![pooling, TEXT_MEAN, PROMPT_END];
        poolings.dedup();
        let capture = Capture { batch_size, calibration: Some(provenance), ..Capture::new(poolings) };
        capture.run(model, &Examples::from_slice(&examples), &store)?;
        Ok(Self { store: ActivationStore::open(&store)?, examples, capture, _directory: directory })
    }

    /// The expertise of every neuron.
    pub(crate) fn expertise(&self) -> Result<Expertise> {
        Ok(score_store(&self.store)?)
    }

    /// The store by what transport is fitted to.
    pub(crate) fn text_mean(&self) -> Result<ActivationStore> {
        Ok(self.store.clone().with_pooling(&TEXT_MEAN.to_string())?)
    }

    /// A transport fitted layer by layer, each on the model that wears the layers before.
    pub(crate) fn incremental<M: Mllm>(&self, model: &M, transport: &Transport, pooling: Pooling) -> Result<Intervention> {
        let capture = Capture { poolings: vec![pooling], ..self.capture.clone() };
        let examples = Examples::from_slice(&self.examples);
        Ok(fit_incrementally(model, &capture, &examples, Amplify::Refuse, |store, sites| {
            transport.among(store, "the sites of one step", |site, _| sites.contains(&site))
        })?)
    }

    /// The transport of adaptive glasses: two maps fitted in different ways, blended.
    pub(crate) fn blend<M: Mllm>(&self, model: &M) -> Result<Intervention> {
        let text = self.incremental(model, &Transport::linear_act(), TEXT_MEAN)?;
        let prompt = self.incremental(model, &Transport::mean_act(), PROMPT_MEAN)?;
        Ok(Intervention::blend(&[(&text, 0.94), (&prompt, 0.94)])?)
    }

    /// A probe of the prompts' last tokens, whose gate lets pass all but a share of the benign prompts.
    pub(crate) fn probe(&self, false_positive_rate: f64) -> Result<Probe> {
        let store = self.store.clone().with_pooling(&PROMPT_END.to_string())?;
        let mut fitted = fit_probe(&store, ProbeOptions::default(), |_, _| true)?;
        let on = fitted.gate_at(false_positive_rate, store.labels());
        fitted.probe.gate = Gate { on, off: on / 2.0, watch: false };
        Ok(fitted.probe)
    }

    /// What defences need that ask a scorer, fitted to the same samples: the words of toxic answers for a filter, and stand-ins for ETA's
    /// models, of which the one that looks at images is left out where there are none.
    pub(crate) fn ingredients<'m, M: Mllm>(&self, model: &'m M) -> Result<Ingredients<'m>> {
        let answers: Vec<(&str, bool)> = self.examples.iter().map(|e| (e.response.as_str(), e.toxic)).collect();
        let rewards = Arc::new(WordReward::fit(&answers, 2)?);
        let pictures = self.examples.iter().flat_map(|e| e.prompt.images().into_iter().map(|image| (image, e.toxic)));
        let pictures: Vec<_> = pictures.collect();
        let similarity = if pictures.is_empty() { None } else { Some(OwnSimilarity::fit(model, &pictures)?) };
        let judge = rewards.clone();
        let check = move |answer: &str| Ok(judge.rewards("", &[answer])?.first().is_none_or(|reward| *reward < 0.5));
        Ok(Ingredients {
            rewards: Some(rewards),
            similarity: similarity.map(|similarity| Arc::new(similarity) as _),
            eta: EtaOptions::for_local_scorers(),
            check: Some(Arc::new(check)),
            filter: FilterOptions { attempts: 4, ..FilterOptions::default() },
            ..Ingredients::default()
        })
    }
}

/// How answers are drawn.
#[derive(Clone, Copy)]
pub(crate) struct Drawing {
    pub(crate) seed: u64,
    pub(crate) max_new_tokens: usize,
    pub(crate) batch_size: usize,
}

/// What the model does behind a defence; answers are drawn at temperature 1. Perplexity is that of the model with the glasses of the
/// ingredients, if the defence has them.
pub(crate) fn measure<'m, M: Mllm>(
    model: &'m M,
    benchmark: &Benchmark,
    judge: &dyn Judge,
    (defence, ingredients): (&Recipe, &Ingredients<'m>),
    Drawing { seed, max_new_tokens, batch_size }: Drawing,
) -> Result<Evaluated> {
    let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
    let generate = GenerateOptions { max_new_tokens, batch_size, sampling, seed, ..Default::default() };
    let generator = defence.build(model, ingredients)?;
    let glasses = ingredients.intervention.as_ref().filter(|_| defence.wears_glasses());
    let options = EvaluateOptions { generate, defence: Some(defence.to_string()), intervention_sha256: glasses.map(sha256).transpose()? };
    let Some(glasses) = glasses else { return Ok(benchmark.evaluate(&*generator, model, judge, &options)?) };
    let worn = Worn::new(model, glasses, Amplify::Refuse)?;
    let mut evaluated = benchmark.evaluate(&*generator, worn.model(), judge, &options)?;
    evaluated.outcome.n_suppressed = glasses.changed_neurons();
    Ok(evaluated)
}

/// The hash of an intervention's file.
pub(crate) fn sha256(intervention: &Intervention) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("glasses.sgm.safetensors");
    intervention.save(&path)?;
    Ok(Sha256::digest(std::fs::read(path)?).iter().map(|b| format!("{b:02x}")).collect())
}
