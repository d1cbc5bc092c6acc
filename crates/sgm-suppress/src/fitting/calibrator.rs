//! The fitting of components and conditions to calibration samples and a model's activations.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use sgm_capture::{ActivationStore, Capture, Example, Examples, Pool, Pooling};
use sgm_core::{Amplify, Calibration, Condition, Expertise, Intervention, TokenSelection};
use sgm_models::{FinishReason, GenerateOptions, Generator, Mllm, Prompt, Sampling, TappedModel};
use sgm_score::{FittedProbe, ProbeOptions, conformal_threshold, fit_probe, score_store};
use tempfile::TempDir;

use crate::{
    Budget, CausalEffects, CausalExperts, CausalSteering, ConditionalPatches, Error, Result, SuppressionRule, Transport, fit_incrementally,
    score_prompts,
};

use crate::runtime::Worn;

use super::budget::{Answers, StrengthWithin, evenly};
use super::held_out::{Part, parts};
use super::neutral_texts::NeutralTexts;

/// A component of glasses that can be fitted to calibration samples. Displays as a short name.
#[derive(Clone, Debug, PartialEq)]
pub enum Component {
    /// Suppression by expertise.
    Soft(SuppressionRule),
    /// Transport of all neurons by one pooling, fitted on the unchanged model.
    AtOnce(Transport, Pooling),
    /// Transport fitted layer by layer, each on the model with the layers before ([`fit_incrementally`]).
    Incremental(Transport, Pooling),
    /// Suppression of neurons that cause toxic answers: the model's own answers to risky prompts, as the [judge](Calibrator::with_judge)
    /// labels them. What it costs is measured on neutral texts and on non-toxic samples whose prompts no toxic one has.
    CausalExperts(CausalExperts),
    /// Steering away from toxic answers of the model's own.
    CausalSteering(CausalSteering),
    /// Conditional patch neurons, fitted to the samples and to the model's own answers to risky prompts.
    ConditionalPatches(ConditionalPatches),
    /// Conditional patch neurons with the outputs of causal steering.
    CausalPatches(ConditionalPatches, CausalSteering),
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Soft(rule) => f.write_str(&rule.name),
            Self::AtOnce(transport, pooling) => write!(f, "{} of {pooling}, at once", transport.map.name()),
            Self::Incremental(transport, pooling) => write!(f, "{} of {pooling}", transport.map.name()),
            Self::CausalExperts(_) => f.write_str("causal experts"),
            Self::CausalSteering(_) => f.write_str("causal steering"),
            Self::ConditionalPatches(_) => f.write_str("conditional patches"),
            Self::CausalPatches(..) => f.write_str("causal patches"),
        }
    }
}

/// The least number of answers of the model's own, if no prompt has to be answered more than eight times.
const OWN_ANSWERS: usize = 480;
/// Answers that go forward and back together.
const TOGETHER: usize = 4;

/// A judge of answers.
type Judge = Arc<dyn Fn(&[Example]) -> std::result::Result<Vec<Option<bool>>, BoxError> + Send + Sync>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Calibration samples and the activations of a model on them, to which the components of glasses are fitted.
///
/// Components, the probe and the model's own answers are computed once and kept, so that [presets](crate::Preset) share them.
pub struct Calibrator {
    /// The options of the model's own answers to risky prompts, for conditional patches and [`CausalEffects`]; by default temperature 1,
    /// seed 1000, up to 32 tokens, batches of 64 prompts. Few prompts are answered several times, up to eight, so that there are at least
    /// 480 answers.
    pub own_answers: GenerateOptions,
    judge: Option<Judge>,
    neutral: NeutralTexts,
    store: ActivationStore,
    examples: Vec<Example>,
    parts: Vec<Part>,
    capture: Capture,
    fitted: Mutex<Vec<(Component, Intervention)>>,
    probe: Mutex<Option<(FittedProbe, Vec<bool>)>>,
    answers: Mutex<Option<Vec<Example>>>,
    judged: Mutex<Option<Vec<Example>>>,
    effects: Mutex<Option<Arc<CausalEffects>>>,
    /// With the number of prompts and the options of the answers.
    bare_answers: Mutex<Option<(usize, GenerateOptions, Answers)>>,
    _directory: TempDir,
}

impl fmt::Debug for Calibrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let judged = self.judge.is_some();
        f.debug_struct("Calibrator").field("samples", &self.examples.len()).field("store", &self.store).field("judged", &judged).finish()
    }
}

impl Calibrator {
    /// The pooling that probes read: the last token of prompts.
    pub const PROMPT_END: Pooling = Pooling { pool: Pool::Last, tokens: TokenSelection::Prompt };

    /// The provenance of the samples, which fitted interventions have in their metadata.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.capture.calibration.as_ref()
    }

    /// Captures samples into a temporary directory: by the first pooling of `capture`, for expertise, and at the end of prompts, for
    /// probes.
    ///
    /// # Errors
    ///
    /// The errors of [`Capture::run`], and [`Error::Fit`] when there is no room for temporary files.
    pub fn capture<M: Mllm + ?Sized>(model: &M, examples: Vec<Example>, mut capture: Capture) -> Result<Self> {
        capture.poolings.truncate(1);
        capture.poolings.push(Self::PROMPT_END);
        capture.poolings.dedup();
        let directory = temporary()?;
        let path = directory.path().join("activations");
        tracing::info_span!("capture", samples = examples.len())
            .in_scope(|| capture.run(model, &Examples::from_slice(&examples), &path))?;
        let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
        Ok(Self {
            judge: None,
            neutral: NeutralTexts::default(),
            own_answers: GenerateOptions { max_new_tokens: 32, batch_size: 64, sampling, seed: 1000, ..GenerateOptions::default() },
            store: ActivationStore::open(&path)?,
            parts: parts(&examples),
            examples,
            capture,
            fitted: Mutex::default(),
            probe: Mutex::default(),
            answers: Mutex::default(),
            judged: Mutex::default(),
            effects: Mutex::default(),
            bare_answers: Mutex::default(),
            _directory: directory,
        })
    }

    /// Sets the judge of the model's own answers, by which [`CausalEffects`] are measured.
    ///
    /// The judge gets samples labelled by their prompts, and returns for each whether its response is toxic. An answer without a verdict is
    /// left out.
    #[must_use]
    pub fn with_judge(
        mut self,
        judge: impl Fn(&[Example]) -> std::result::Result<Vec<Option<bool>>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.judge = Some(Arc::new(judge));
        (self.judged, self.effects, self.fitted) = (Mutex::default(), Mutex::default(), Mutex::default());
        self
    }

    /// Sets neutral texts: text of many forms, unlike the samples of either class, as the model meets it when nothing is risky.
    ///
    /// They are divided in turn into three parts: the probe of the condition and the gates of conditional patch neurons are fitted to the
    /// first, as non-toxic samples; the threshold of the condition and the strength of glasses are chosen by the second; the strength is
    /// tested on the third. Give texts of one form one after the
    /// other, and at least 150 of them: a false positive rate of 2 % takes 49 in a part.
    #[must_use]
    pub fn with_neutral(mut self, texts: Vec<Example>) -> Self {
        self.neutral = NeutralTexts::new(texts);
        (self.probe, self.fitted) = (Mutex::default(), Mutex::default());
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

    /// Fits a component to the captured model, or returns the earlier fit.
    ///
    /// # Errors
    ///
    /// The errors of the component's fit.
    pub fn fit<M: Mllm>(&self, model: &M, component: &Component) -> Result<Intervention> {
        let known = || self.fitted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, fitted)) = known().iter().find(|(other, _)| other == component) {
            return Ok(fitted.clone());
        }
        let _span = tracing::info_span!("fit", %component).entered();
        let fitted = match component {
            Component::Soft(rule) => rule.intervention(&self.expertise()?)?,
            Component::AtOnce(transport, pooling) => {
                let directory = temporary()?;
                let path = directory.path().join("activations");
                self.pooled(*pooling).run(model, &Examples::from_slice(&self.examples), &path)?;
                transport.intervention(&ActivationStore::open(&path)?)?
            }
            Component::Incremental(transport, pooling) => {
                let examples = Examples::from_slice(&self.examples);
                fit_incrementally(model, &self.pooled(*pooling), &examples, Amplify::Refuse, |store, sites| {
                    transport.among(store, "the sites of one step", |site, _| sites.contains(&site))
                })?
            }
            Component::CausalExperts(experts) => {
                let effects = self.causal_effects(model)?;
                let benign = evenly(&self.samples(&[Part::Benign]), self.neutral.fit.len().max(120));
                let kept = [&self.neutral.fit, &benign].map(|texts| Examples::from_slice(texts));
                experts.fit(model, &effects, &kept, self.capture.calibration.clone())?
            }
            Component::CausalSteering(steering) => steering.fit(model, &*self.causal_effects(model)?, self.capture.calibration.clone())?,
            Component::ConditionalPatches(patches) => self.patches(model, patches, None)?,
            Component::CausalPatches(patches, steering) => {
                let shifts = self.fit(model, &Component::CausalSteering(steering.clone()))?;
                self.patches(model, patches, Some(&shifts))?
            }
        };
        known().push((component.clone(), fitted.clone()));
        Ok(fitted)
    }

    /// Conditional patch neurons, whose outputs are the shifts given or else the differences between classes.
    fn patches<M: Mllm>(&self, model: &M, patches: &ConditionalPatches, shifts: Option<&Intervention>) -> Result<Intervention> {
        // Every answer to a risky prompt counts as toxic, independent of its content. One for each prompt is enough.
        let prompts = self.examples.iter().filter(|example| example.toxic).count();
        let own = self.answers(model)?.into_iter().take(prompts).map(|example| Example { toxic: true, ..example });
        let mut examples: Vec<Example> = self.samples(&[Part::Risky, Part::Benign]).into_iter().chain(own).collect();
        let samples = examples.len();
        examples.extend_from_slice(&self.neutral.fit);
        patches.fit_beside_neutral(model, &Examples::from_slice(&examples), samples, shifts, self.capture.calibration.clone())
    }

    /// A condition on the prompts' last tokens that holds for at most this share of benign prompts.
    ///
    /// By cross-validation, the condition holds for at most this share of the non-toxic samples. With [neutral texts](Self::with_neutral)
    /// the threshold is also at least their [conformal threshold](conformal_threshold): at a further text that is exchangeable with them,
    /// the condition holds with a probability of at most `false_positive_rate`. If the toxic samples are further away than that, the
    /// threshold is [halfway](FittedProbe::threshold_halfway) to them, so that the condition does not hold for text of which calibration
    /// has too little.
    ///
    /// # Errors
    ///
    /// The errors of [`fit_probe`] and [`conformal_threshold`], which names the number of texts that a rate takes; [`Error::Fit`] when the
    /// probe finds more of the neutral texts as risky as can be.
    pub fn condition<M: Mllm>(&self, model: &M, false_positive_rate: f64) -> Result<Condition> {
        let _span = tracing::info_span!("fit of the condition").entered();
        let mut known = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        let fitted = match known.take() {
            Some(fitted) => fitted,
            None => self.fit_probe(model)?,
        };
        let (fitted, labels) = known.insert(fitted);
        let mut threshold = fitted.threshold_at(false_positive_rate, labels);
        if !self.neutral.calibration.is_empty() {
            let prompts: Vec<Prompt> = self.neutral.calibration.iter().map(|text| text.prompt.clone()).collect();
            let scores = score_prompts(model, &fitted.probe, &prompts, self.capture.batch_size.max(1))?;
            let exceeded = conformal_threshold(&scores, false_positive_rate)?;
            if exceeded >= 1.0 {
                let reason = "the probe finds neutral texts as risky as risky prompts; give risky and benign samples that differ in nothing but \
                              risk, and more neutral texts";
                return Err(Error::Fit { reason: reason.to_owned() });
            }
            threshold = threshold.max(exceeded.next_up());
        }
        threshold = fitted.threshold_halfway(threshold, false_positive_rate, labels);
        Ok(Condition { probe: fitted.probe.clone(), threshold })
    }

    /// The probe, with the labels of the samples that it was fitted to.
    fn fit_probe<M: Mllm>(&self, model: &M) -> Result<(FittedProbe, Vec<bool>)> {
        let directory = temporary()?;
        let pooling = Self::PROMPT_END.to_string();
        let store = if self.neutral.fit.is_empty() {
            self.store.clone().with_pooling(&pooling)?
        } else {
            let path = directory.path().join("activations");
            let examples: Vec<Example> = self.examples.iter().chain(&self.neutral.fit).cloned().collect();
            self.pooled(Self::PROMPT_END).run(model, &Examples::from_slice(&examples), &path)?;
            ActivationStore::open(&path)?
        };
        Ok((fit_probe(&store, ProbeOptions::default(), |_, _| true)?, store.labels().to_vec()))
    }

    /// The glasses at the largest strength, up to 1, that keeps within a budget. The metadata entry `strength` is the strength, `budget`
    /// says what is kept, and `budget_measurements` is a JSON object of all that was measured.
    ///
    /// Of the prompts of non-toxic samples that no toxic sample has, a quarter is for this: causal experts and patch neurons are not fitted
    /// to their samples. Which ones is a matter of their digests. With fewer than four such prompts, neutral texts alone are
    /// measured, and a warning says so.
    ///
    /// # Errors
    ///
    /// [`Error::NoDose`] when no strength keeps within the budget, with what binds; [`Error::Fit`] without
    /// [neutral texts](Self::with_neutral) or risky samples, or for a limit out of range; and the errors of the model.
    pub fn within<M: Mllm>(&self, model: &M, glasses: &Intervention, budget: &Budget) -> Result<Intervention> {
        let attach = |tapped: &TappedModel<'_, M>, strength| Worn::on(tapped, &glasses.with_strength(strength)?, Amplify::Refuse);
        let within = self.strength_where(model, (attach, glasses.condition.as_ref()), budget)?;
        budget.dosed(glasses, within, &self.neutral)
    }

    /// The largest strength, up to 1, of any change of a model that keeps within a budget, as [`within`](Self::within) finds it for glasses.
    ///
    /// `attach` attaches the change at a strength to a view of the model, by [taps](sgm_models::Tap) of one's own for example. The change is
    /// on as long as what it returns is kept.
    ///
    /// # Errors
    ///
    /// As [`within`](Self::within), and those of `attach`.
    pub fn strength_within<'m, M: Mllm, G>(
        &self,
        model: &'m M,
        attach: impl Fn(&TappedModel<'m, M>, f32) -> Result<G>,
        budget: &Budget,
    ) -> Result<StrengthWithin> {
        self.strength_where(model, (attach, None), budget)
    }

    /// The same for a change that acts where a condition holds.
    fn strength_where<'m, M: Mllm, G>(
        &self,
        model: &'m M,
        change: (impl Fn(&TappedModel<'m, M>, f32) -> Result<G>, Option<&Condition>),
        budget: &Budget,
    ) -> Result<StrengthWithin> {
        if self.neutral.calibration.is_empty() || self.neutral.test.is_empty() {
            let reason = "a budget is measured on neutral texts; see `Calibrator::with_neutral`".to_owned();
            return Err(Error::Fit { reason });
        }
        let _span = tracing::info_span!("search of the strength").entered();
        budget.check()?;
        let risky: Vec<Prompt> = self.risky(budget.prompts)?.into_iter().map(|example| example.prompt).collect();
        let benign = evenly(&self.samples(&[Part::HeldOut]), budget.texts);
        if benign.is_empty() {
            tracing::warn!(
                "the budget is measured on neutral texts alone, because fewer than four prompts of calibration have no toxic sample; \
                 add non-toxic samples with prompts of their own"
            );
        }
        let bare = self.bare_answers(model, &risky, &budget.answers)?;
        budget.strength(model, change, &self.neutral, &benign, (&risky, &bare))
    }

    /// Whether the [judge](Self::with_judge) finds the answers toxic that the model gives with glasses to the risky prompts of the samples;
    /// `None` is no verdict, and an empty answer is not toxic. The number of answers and the options for them are those of the budget.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] without a judge or risky samples, [`Error::Judge`], and those of the glasses and the model.
    pub fn toxic_answers<M: Mllm>(&self, model: &M, glasses: &Intervention, budget: &Budget) -> Result<Vec<Option<bool>>> {
        let _span = tracing::info_span!("answers with glasses").entered();
        self.judge()?;
        let risky = self.risky(budget.prompts)?;
        let tapped = TappedModel::new(model);
        let _worn = Worn::on(&tapped, glasses, Amplify::Refuse)?;
        let prompts: Vec<Prompt> = risky.iter().map(|example| example.prompt.clone()).collect();
        let answers = tapped.generate(&prompts, &budget.answers)?;
        let answered = risky.into_iter().zip(answers).map(|(example, answer)| {
            Ok(Example {
                response: model.processor().decode(&answer.tokens)?,
                unfinished: answer.finish == FinishReason::Length,
                ..example
            })
        });
        let answered = answered.collect::<Result<Vec<Example>>>()?;
        let empty = |answer: &Example| answer.response.trim().is_empty();
        let mut verdicts = self.verdicts(&answered.iter().filter(|answer| !empty(answer)).cloned().collect::<Vec<_>>())?.into_iter();
        Ok(answered.iter().map(|answer| if empty(answer) { Some(false) } else { verdicts.next().flatten() }).collect())
    }

    /// So many samples with risky prompts: one of each prompt, in equal distances, or all of them repeatedly if there are fewer.
    fn risky(&self, number: usize) -> Result<Vec<Example>> {
        let mut risky: Vec<&Example> = Vec::new();
        for example in self.examples.iter().filter(|example| example.toxic) {
            if !risky.iter().any(|other| other.prompt == example.prompt) {
                risky.push(example);
            }
        }
        if risky.is_empty() {
            let reason = "a budget is measured on answers to risky prompts, and no calibration sample is toxic; add some".to_owned();
            return Err(Error::Fit { reason });
        }
        let some = if risky.len() < number { risky.into_iter().cycle().take(number).collect() } else { evenly(&risky, number) };
        Ok(some.into_iter().cloned().collect())
    }

    /// What a budget measures on the answers of the model without glasses; measured once and kept.
    fn bare_answers<M: Mllm>(&self, model: &M, risky: &[Prompt], options: &GenerateOptions) -> Result<Answers> {
        let mut known = self.bare_answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, answers)) = known.as_ref().filter(|(number, of, _)| *number == risky.len() && of == options) {
            return Ok(answers.clone());
        }
        let answers = Answers::of(model, model, risky, options)?;
        *known = Some((risky.len(), options.clone(), answers.clone()));
        Ok(answers)
    }

    /// The model's own answers to risky prompts, labelled by the judge; judged once and kept.
    fn judged_answers<M: Mllm>(&self, model: &M) -> Result<Vec<Example>> {
        self.judge()?;
        let mut known = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(judged) = &*known {
            return Ok(judged.clone());
        }
        let mut answers = self.answers(model)?;
        answers.retain(|answer| !answer.response.trim().is_empty());
        let verdicts = self.verdicts(&answers)?;
        let judged = answers.into_iter().zip(verdicts).filter_map(|(answer, verdict)| Some(Example { toxic: verdict?, ..answer }));
        Ok(known.insert(judged.collect()).clone())
    }

    fn judge(&self) -> Result<&Judge> {
        let missing =
            || Error::Fit { reason: "no judge says which of the model's own answers are toxic; see `Calibrator::with_judge`".to_owned() };
        self.judge.as_ref().ok_or_else(missing)
    }

    /// The judge's verdicts on the model's own answers.
    fn verdicts(&self, answers: &[Example]) -> Result<Vec<Option<bool>>> {
        let verdicts = self.judge()?(answers).map_err(Error::Judge)?;
        if verdicts.len() != answers.len() {
            let reason = format!("the judge of the model's own answers gave {} verdicts on {}", verdicts.len(), answers.len());
            return Err(Error::Fit { reason });
        }
        Ok(verdicts)
    }

    /// The samples of some parts.
    fn samples(&self, parts: &[Part]) -> Vec<Example> {
        self.examples.iter().zip(&self.parts).filter(|(_, part)| parts.contains(part)).map(|(example, _)| example.clone()).collect()
    }

    /// The causal effects on the model's own answers; measured once and kept.
    fn causal_effects<M: Mllm>(&self, model: &M) -> Result<Arc<CausalEffects>> {
        let answers = self.judged_answers(model)?;
        let mut known = self.effects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(effects) = &*known {
            return Ok(effects.clone());
        }
        let _span = tracing::info_span!("causal effects", answers = answers.len()).entered();
        let sites = self.store.sites().keys().copied().collect();
        let effects = CausalEffects::of(model, &sites, &Examples::from_slice(&answers), TOGETHER)?;
        Ok(known.insert(Arc::new(effects)).clone())
    }

    /// The prompts of toxic samples with the model's own answers, without verdicts; generated once and kept. The first answers of all
    /// prompts come first.
    fn answers<M: Mllm>(&self, model: &M) -> Result<Vec<Example>> {
        let mut known = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answers) = &*known {
            return Ok(answers.clone());
        }
        let _span = tracing::info_span!("own answers to risky prompts").entered();
        let risky: Vec<&Example> = self.examples.iter().filter(|example| example.toxic).collect();
        let rounds = OWN_ANSWERS.div_ceil(risky.len().max(1)).min(8);
        let risky = risky.repeat(rounds);
        let prompts: Vec<Prompt> = risky.iter().map(|example| example.prompt.clone()).collect();
        let mut answers = Vec::new();
        for (number, (example, answer)) in risky.into_iter().zip(model.generate(&prompts, &self.own_answers)?).enumerate() {
            // Not the text of the answer, which lacks the white space around it.
            let response = model.processor().decode(&answer.tokens)?;
            let unfinished = answer.finish == FinishReason::Length;
            answers.push(Example { id: format!("{}/{number}", example.id), response, unfinished, ..example.clone() });
        }
        Ok(known.insert(answers).clone())
    }

    /// The capture with another pooling.
    fn pooled(&self, pooling: Pooling) -> Capture {
        Capture { poolings: vec![pooling], ..self.capture.clone() }
    }
}

fn temporary() -> Result<TempDir> {
    let no_room =
        |error: std::io::Error| Error::Fit { reason: format!("no temporary directory for activations: {error}; make room or set TMPDIR") };
    tempfile::tempdir().map_err(no_room)
}
