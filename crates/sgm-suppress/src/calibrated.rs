use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use sgm_capture::{ActivationStore, Capture, Example, Examples, Pool, Pooling};
use sgm_core::{Expertise, Gate, Intervention, Probe};
use sgm_models::{GenerateOptions, Generator, Mllm, Prompt, Sampling, TokenMask, View};
use sgm_score::score_store;
use tempfile::TempDir;

use crate::{
    Amplify, Error, FittedProbe, Glasses, Operator, ProbeOptions, Result, Sentinels, Steering, Transport, fit_incrementally, fit_probe,
};

/// One way to change neurons, to be fitted to calibration samples. Displays as a short name.
#[derive(Clone, Debug, PartialEq)]
pub enum Map {
    /// Suppression by expertise.
    Soft(Operator),
    /// Transport of all neurons by one pooling, fitted on the model as it is.
    AtOnce(Transport, Pooling),
    /// Transport fitted layer by layer, each on the model that wears the layers before ([`fit_incrementally`]).
    Incremental(Transport, Pooling),
    /// Neurons that notice risk, fitted to the samples and to the model's own answers to risky prompts.
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

/// Says of answers which are toxic.
type Judge = Arc<dyn Fn(&[Example]) -> std::result::Result<Vec<Option<bool>>, BoxError> + Send + Sync>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Calibration samples, the activations of a model on them, and what has been fitted to them before: [presets](crate::Preset) share maps, and the
/// probe is every one's.
pub struct Calibrated {
    /// How the model answers risky prompts itself, for [`Map::Sentinels`] and [`Steering`]: at temperature 1, seed 1000, up to 56 tokens,
    /// 64 prompts together.
    pub own_answers: GenerateOptions,
    judge: Option<Judge>,
    store: ActivationStore,
    examples: Vec<Example>,
    capture: Capture,
    maps: Mutex<Vec<(Map, Intervention)>>,
    probe: Mutex<Option<FittedProbe>>,
    answers: Mutex<Option<Vec<Example>>>,
    _directory: TempDir,
}

impl fmt::Debug for Calibrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let judged = self.judge.is_some();
        f.debug_struct("Calibrated").field("samples", &self.examples.len()).field("store", &self.store).field("judged", &judged).finish()
    }
}

impl Calibrated {
    /// What probes read: the last token of prompts.
    pub const PROMPT_END: Pooling = Pooling { pool: Pool::Last, mask: TokenMask::Prompt };

    /// Captures samples into a temporary directory: by the first pooling of `capture`, for expertise, and at the end of prompts, for probes.
    ///
    /// # Errors
    ///
    /// Those of [`Capture::run`], and [`Error::Fit`] when there is no room for temporary files.
    pub fn capture<M: Mllm + ?Sized>(model: &M, examples: Vec<Example>, mut capture: Capture) -> Result<Self> {
        capture.poolings.truncate(1);
        capture.poolings.push(Self::PROMPT_END);
        capture.poolings.dedup();
        let directory = temporary()?;
        let path = directory.path().join("activations");
        capture.run(model, &Examples::from_slice(&examples), &path)?;
        let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
        Ok(Self {
            judge: None,
            own_answers: GenerateOptions { max_new_tokens: 56, batch_size: 64, sampling, seed: 1000, ..GenerateOptions::default() },
            store: ActivationStore::open(&path)?,
            examples,
            capture,
            maps: Mutex::default(),
            probe: Mutex::default(),
            answers: Mutex::default(),
            _directory: directory,
        })
    }

    /// With a judge of the model's own answers, to which [`Steering`] is fitted: for each of the samples it is given, whose labels are those of
    /// their prompts, whether its response is toxic; none where it cannot say, and that answer is left out.
    #[must_use]
    pub fn with_judge(
        mut self,
        judge: impl Fn(&[Example]) -> std::result::Result<Vec<Option<bool>>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.judge = Some(Arc::new(judge));
        self
    }

    /// The samples.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// The expertise of every neuron.
    ///
    /// # Errors
    ///
    /// [`Error::Score`].
    pub fn expertise(&self) -> Result<Expertise> {
        Ok(score_store(&self.store)?)
    }

    /// What a map changes in the model that was captured; fitted once, and then remembered.
    ///
    /// # Errors
    ///
    /// Those of the map's own fit.
    pub fn fit<M: Mllm>(&self, model: &M, map: &Map) -> Result<Intervention> {
        let known = || self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, fitted)) = known().iter().find(|(other, _)| other == map) {
            return Ok(fitted.clone());
        }
        let fitted = match map {
            Map::Soft(operator) => operator.intervention(&self.expertise()?)?,
            Map::AtOnce(transport, pooling) => {
                let directory = temporary()?;
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
                // What follows a risky prompt is risky, whatever it says so far.
                let own = self.answers(model)?.into_iter().map(|example| Example { toxic: true, ..example });
                let examples: Vec<Example> = self.examples.iter().cloned().chain(own).collect();
                sentinels.fit(model, &Examples::from_slice(&examples), self.capture.calibration.clone())?
            }
        };
        known().push((map.clone(), fitted.clone()));
        Ok(fitted)
    }

    /// A probe of the prompts' last tokens, whose gate lets pass all but a share of the benign prompts.
    ///
    /// # Errors
    ///
    /// Those of [`fit_probe`].
    pub fn probe(&self, false_positive_rate: f64) -> Result<Probe> {
        let store = self.store.clone().with_pooling(&Self::PROMPT_END.to_string())?;
        let mut known = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        let fitted = match known.take() {
            Some(fitted) => fitted,
            None => fit_probe(&store, ProbeOptions::default(), |_, _| true)?,
        };
        let on = fitted.gate_at(false_positive_rate, store.labels());
        let mut probe = known.insert(fitted).probe.clone();
        probe.gate = Gate { on, off: on / 2.0, watch: false };
        Ok(probe)
    }

    /// Steering fitted to the model's own answers to risky prompts while it wears glasses, always on; those are not part of it.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] without a [judge](Self::with_judge), [`Error::Judge`], and those of [`Glasses::wear`] and [`Steering::fit`].
    pub fn steer<M: Mllm>(&self, model: &M, steering: &Steering, worn: &Intervention) -> Result<Intervention> {
        let Some(judge) = &self.judge else {
            let reason = "steering needs to know which of the model's own answers are toxic; see `Calibrated::with_judge`".to_owned();
            return Err(Error::Fit { reason });
        };
        let mut answers = self.answers(model)?;
        answers.retain(|answer| !answer.response.trim().is_empty());
        let verdicts = judge(&answers).map_err(Error::Judge)?;
        if verdicts.len() != answers.len() {
            let reason = format!("the judge of the model's own answers gave {} verdicts on {}", verdicts.len(), answers.len());
            return Err(Error::Fit { reason });
        }
        let judged = answers.into_iter().zip(verdicts).filter_map(|(answer, verdict)| Some(Example { toxic: verdict?, ..answer }));
        let answers: Vec<Example> = judged.collect();
        let view = View::new(model);
        let _worn = Glasses::wear(&view, worn, Amplify::Refuse)?;
        steering.fit(&view, &Examples::from_slice(&answers), self.capture.calibration.clone())
    }

    /// The toxic samples' prompts with answers of the model's own, which nobody has judged; drawn once, and then remembered.
    fn answers<M: Mllm>(&self, model: &M) -> Result<Vec<Example>> {
        let mut known = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answers) = &*known {
            return Ok(answers.clone());
        }
        let risky: Vec<&Example> = self.examples.iter().filter(|example| example.toxic).collect();
        let prompts: Vec<Prompt> = risky.iter().map(|example| example.prompt.clone()).collect();
        let answers = model.generate(&prompts, &self.own_answers)?;
        let answers = risky.into_iter().zip(answers).map(|(example, answer)| Example { response: answer.text, ..example.clone() });
        Ok(known.insert(answers.collect()).clone())
    }

    /// The same capture with another pooling.
    fn pooled(&self, pooling: Pooling) -> Capture {
        Capture { poolings: vec![pooling], ..self.capture.clone() }
    }
}

fn temporary() -> Result<TempDir> {
    let no_room =
        |error: std::io::Error| Error::Fit { reason: format!("no temporary directory for activations: {error}; make room or set TMPDIR") };
    tempfile::tempdir().map_err(no_room)
}
