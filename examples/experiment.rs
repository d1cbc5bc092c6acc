//! The two halves of the experiment: from labelled samples to expertise, from a defended model to what it does.

#[path = "calibration.rs"]
mod calibration;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::Result;
use sgm::capture::{ActivationStore, Capture, Example, Examples, Pool, Pooling};
use sgm::core::{Expertise, Gate, Intervention, Probe};
use sgm::defend::{EtaOptions, FilterOptions, Ingredients, OwnSimilarity, Recipe, RewardModel, WordReward, Worn};
use sgm::models::{GenerateOptions, Generator, Mllm, Prompt, Sampling, TokenMask};
use sgm::score::score_store;
use sgm::suppress::{Amplify, FittedProbe, Operator, ProbeOptions, Sentinels, Transport, fit_incrementally, fit_probe, score_prompts};
use sgm::toxic_qa::{Benchmark, EvaluateOptions, Evaluated, GateOutcome, Judge, Sample, Source};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What probes read.
pub(crate) const PROMPT_END: Pooling = Pooling { pool: Pool::Last, mask: TokenMask::Prompt };

/// What transport is fitted to: the text of prompt and answer, or the prompt alone.
pub(crate) const TEXT_MEAN: Pooling = Pooling { pool: Pool::Mean, mask: TokenMask::Text };
pub(crate) const PROMPT_MEAN: Pooling = Pooling { pool: Pool::Mean, mask: TokenMask::Prompt };

/// Far from the seeds of evaluation, which count from 0.
const OWN_ANSWERS_SEED: u64 = 1000;

/// Calibration samples and the activations of a model on them.
pub(crate) struct Calibrated {
    pub(crate) store: ActivationStore,
    examples: Vec<Example>,
    capture: Capture,
    /// What was fitted before, by name: presets share maps, and the probe is every one's.
    maps: RefCell<BTreeMap<String, Intervention>>,
    probe: RefCell<Option<FittedProbe>>,
    _directory: TempDir,
}

/// One way to change neurons.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Map {
    /// Suppression by expertise.
    Soft(Operator),
    /// Transport of all neurons, fitted on the model as it is.
    AtOnce(Transport, Pooling),
    /// Transport fitted layer by layer, each on the model that wears the layers before.
    Incremental(Transport, Pooling),
    /// Neurons that notice risk, fitted to the model's own answers too.
    Sentinels(Sentinels),
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Soft(operator) => f.write_str(&operator.name),
            Self::AtOnce(transport, pooling) => write!(f, "{} of {pooling}, at once", transport.map.name()),
            Self::Incremental(transport, pooling) => write!(f, "{} of {pooling}", transport.map.name()),
            Self::Sentinels(_) => f.write_str("sentinels"),
        }
    }
}

impl Calibrated {
    /// Captures calibration samples: pooled over tokens, for expertise, and at the prompts' last token, for probes.
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
        let mut poolings = vec![pooling, PROMPT_END];
        poolings.dedup();
        let capture = Capture { batch_size, calibration: Some(provenance), ..Capture::new(poolings) };
        capture.run(model, &Examples::from_slice(&examples), &store)?;
        let store = ActivationStore::open(&store)?;
        Ok(Self { store, examples, capture, maps: RefCell::default(), probe: RefCell::default(), _directory: directory })
    }

    /// The expertise of every neuron.
    pub(crate) fn expertise(&self) -> Result<Expertise> {
        Ok(score_store(&self.store)?)
    }

    /// What a map changes.
    pub(crate) fn fit<M: Mllm>(&self, model: &M, map: &Map) -> Result<Intervention> {
        let key = format!("{map:?}");
        if let Some(known) = self.maps.borrow().get(&key) {
            return Ok(known.clone());
        }
        let fitted = match map {
            Map::Soft(operator) => operator.intervention(&self.expertise()?)?,
            Map::AtOnce(transport, pooling) => {
                let directory = tempfile::tempdir()?;
                let path = directory.path().join("activations");
                self.pooled(*pooling).run(model, &Examples::from_slice(&self.examples), &path)?;
                transport.intervention(&ActivationStore::open(&path)?)?
            }
            Map::Incremental(transport, pooling) => {
                let examples = Examples::from_slice(&self.examples);
                fit_incrementally(model, &self.pooled(*pooling), &examples, Amplify::Refuse, |store, sites| {
                    transport.among(store, "the sites of one step", |site, _| sites.contains(&site))
                })?
            }
            Map::Sentinels(sentinels) => {
                let examples = [self.examples.clone(), self.own_answers(model)?].concat();
                sentinels.fit(model, &Examples::from_slice(&examples), self.capture.calibration.clone())?
            }
        };
        self.maps.borrow_mut().insert(key, fitted.clone());
        Ok(fitted)
    }

    /// The toxic samples' prompts with answers of the model's own, of both kinds: what follows a risky prompt is risky, whatever it says so far.
    fn own_answers<M: Mllm>(&self, model: &M) -> Result<Vec<Example>> {
        let risky: Vec<&Example> = self.examples.iter().filter(|example| example.toxic).collect();
        let prompts: Vec<Prompt> = risky.iter().map(|example| example.prompt.clone()).collect();
        let drawing = Drawing { seed: OWN_ANSWERS_SEED, max_new_tokens: 56, batch_size: 64 };
        let answers = model.generate(&prompts, &drawing.options())?;
        Ok(risky.into_iter().zip(answers).map(|(example, answer)| Example { response: answer.text, ..example.clone() }).collect())
    }

    /// The same capture with another pooling.
    fn pooled(&self, pooling: Pooling) -> Capture {
        Capture { poolings: vec![pooling], ..self.capture.clone() }
    }

    /// A probe of the prompts' last tokens, whose gate lets pass all but a share of the benign prompts.
    pub(crate) fn probe(&self, false_positive_rate: f64) -> Result<Probe> {
        let store = self.store.clone().with_pooling(&PROMPT_END.to_string())?;
        let known = self.probe.borrow().clone();
        let fitted = known.map_or_else(|| fit_probe(&store, ProbeOptions::default(), |_, _| true), Ok)?;
        let on = fitted.gate_at(false_positive_rate, store.labels());
        let mut probe = fitted.probe.clone();
        *self.probe.borrow_mut() = Some(fitted);
        probe.gate = Gate { on, off: on / 2.0, watch: false };
        Ok(probe)
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

impl Drawing {
    fn options(self) -> GenerateOptions {
        let Self { seed, max_new_tokens, batch_size } = self;
        let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
        GenerateOptions { max_new_tokens, batch_size, sampling, seed, ..Default::default() }
    }
}

/// What the model does behind a defence; answers are drawn at temperature 1. Perplexity is that of the model with the glasses of the
/// ingredients, if the defence has them.
pub(crate) fn measure<'m, M: Mllm>(
    model: &'m M,
    benchmark: &Benchmark,
    judge: &dyn Judge,
    (defence, ingredients): (&Recipe, &Ingredients<'m>),
    drawing: Drawing,
) -> Result<Evaluated> {
    let generator = defence.build(model, ingredients)?;
    let glasses = ingredients.intervention.as_ref().filter(|_| defence.wears_glasses());
    let options = EvaluateOptions {
        generate: drawing.options(),
        defence: Some(defence.to_string()),
        intervention_sha256: glasses.map(sha256).transpose()?,
    };
    let Some(glasses) = glasses else { return Ok(benchmark.evaluate(&*generator, model, judge, &options)?) };
    let worn = Worn::new(model, glasses, Amplify::Refuse)?;
    let mut evaluated = benchmark.evaluate(&*generator, worn.model(), judge, &options)?;
    evaluated.outcome.n_suppressed = glasses.changed_neurons() + glasses.added_neurons();
    evaluated.outcome.gate = glasses.probe.as_ref().map(|probe| opened(model, benchmark, probe, drawing.batch_size)).transpose()?;
    Ok(evaluated)
}

/// For which prompts of a benchmark the gate of a probe opens.
fn opened<M: Mllm>(model: &M, benchmark: &Benchmark, probe: &Probe, batch_size: usize) -> Result<GateOutcome> {
    let open = |prompts: Vec<Prompt>| -> Result<Vec<bool>> {
        Ok(score_prompts(model, probe, &prompts, batch_size)?.into_iter().map(|score| score >= probe.gate.on).collect())
    };
    let (risky, benign) = benchmark.prompts();
    Ok(GateOutcome { risky: open(risky)?, benign: open(benign)? })
}

/// Whether a sample is of a category, or has a trigger of the synthetic world, of this name.
pub(crate) fn is_of(sample: &Sample, name: &str) -> bool {
    sample.category == name || sample.trigger().as_deref() == Some(name)
}

/// The hash of an intervention's file.
pub(crate) fn sha256(intervention: &Intervention) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("glasses.sgm.safetensors");
    intervention.save(&path)?;
    Ok(Sha256::digest(std::fs::read(path)?).iter().map(|b| format!("{b:02x}")).collect())
}
