//! Stacks of defences around a model.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use image::RgbImage;
use sgm_core::Intervention;
use sgm_models::{Generator, Mllm, TappedModel};
use sgm_suppress::{Amplify, Calibrator};

use crate::defence::{NAMES, SGM_STAR};
use crate::{
    Check, Defence, DefencePrompt, Ecso, EcsoOptions, Error, Eta, EtaOptions, FilterOptions, ImageTextSimilarity, ModelWithGlasses,
    OwnSimilarity, Passes, PromptDefence, ResponseFilter, Result, RewardModel, Scope, WordReward,
};

/// Defences around a model, by name from the outside in: `self-reminder+ecso+sgm` is the prompt of Self-Reminder around ECSO around the
/// model with its glasses on.
///
/// `none` is the model as it is. `sgm*` is `self-reminder+ecso+sgm`: SGM\* is glasses combined with other training-free defences,
/// and this choice of them is the project's own.
///
/// ```
/// use sgm_defend::DefenceStack;
///
/// assert_eq!("sgm*".parse::<DefenceStack>()?.to_string(), "self-reminder+ecso+sgm");
/// let unknown = "esco".parse::<DefenceStack>().unwrap_err();
/// assert!(unknown.to_string().contains("known are none, self-reminder, adashield-s, ecso, eta, filter, sgm, sgm*"));
/// # Ok::<(), sgm_defend::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DefenceStack(Vec<Defence>);

/// The interventions, scorers and settings that the defences of a stack use.
#[derive(Clone)]
pub struct DefenceResources<'m> {
    /// The glasses of `sgm`.
    pub intervention: Option<Intervention>,
    /// Whether the glasses may make neurons stronger.
    pub amplify: Amplify,
    /// The passes of the innermost `ecso` or `eta` in which glasses are worn. In a stack without either, they are worn all the time.
    pub scope: Scope,
    /// The text of `adashield-s`.
    pub shield: Option<DefencePrompt>,
    /// The settings of `ecso`.
    pub ecso: EcsoOptions,
    /// The reward model of `eta`.
    pub rewards: Option<Arc<dyn RewardModel + 'm>>,
    /// The similarity of `eta`.
    pub similarity: Option<Arc<dyn ImageTextSimilarity + 'm>>,
    /// The settings of `eta`.
    pub eta: EtaOptions,
    /// The check of `filter`.
    pub check: Option<Check<'m>>,
    /// The settings of `filter`.
    pub filter: FilterOptions,
}

impl Default for DefenceResources<'_> {
    /// Published settings, without any resource that a defence needs.
    fn default() -> Self {
        Self {
            intervention: None,
            amplify: Amplify::Refuse,
            scope: Scope::default(),
            shield: None,
            ecso: EcsoOptions::default(),
            rewards: None,
            similarity: None,
            eta: EtaOptions::default(),
            check: None,
            filter: FilterOptions::default(),
        }
    }
}

impl<'m> DefenceResources<'m> {
    /// The [local](Self::local) scorers, fitted to the samples of a calibration.
    ///
    /// # Errors
    ///
    /// As [`local`](Self::local).
    pub fn calibrated<M: Mllm + ?Sized>(model: &'m M, calibrator: &Calibrator) -> Result<Self> {
        let examples = calibrator.examples();
        let answers: Vec<(&str, bool)> = examples.iter().map(|e| (e.response.as_str(), e.toxic)).collect();
        let images: Vec<_> = examples.iter().flat_map(|e| e.prompt.images().into_iter().map(|image| (image, e.toxic))).collect();
        Self::local(model, &answers, &images)
    }

    /// Local scorers in place of those that defences take from other models, fitted to labelled answers and images (`true` is toxic).
    ///
    /// A [`WordReward`] is the reward model of `eta` and, where it is below 0.5, the check of `filter`, which tries four times.
    /// [`OwnSimilarity`] scores images where some are given.
    ///
    /// # Errors
    ///
    /// As [`WordReward::fit`] and [`OwnSimilarity::fit`].
    pub fn local<M: Mllm + ?Sized>(model: &'m M, answers: &[(&str, bool)], images: &[(Arc<RgbImage>, bool)]) -> Result<Self> {
        let rewards = Arc::new(WordReward::fit(answers, 2)?);
        let similarity = if images.is_empty() { None } else { Some(OwnSimilarity::fit(model, images)?) };
        let judge = rewards.clone();
        let check = move |answer: &str| Ok(judge.rewards("", &[answer])?.first().is_none_or(|reward| *reward < 0.5));
        Ok(Self {
            rewards: Some(rewards),
            similarity: similarity.map(|similarity| Arc::new(similarity) as _),
            eta: EtaOptions::for_local_scorers(),
            check: Some(Arc::new(check)),
            filter: FilterOptions { attempts: 4, ..FilterOptions::default() },
            ..Self::default()
        })
    }
}

impl DefenceStack {
    /// All names, in the order of [`Defence`], between `none` and `sgm*`.
    pub const NAMES: [&'static str; 8] = NAMES;

    /// The defences from the outside in; none for the model as it is.
    pub fn defences(&self) -> &[Defence] {
        &self.0
    }

    /// Whether the model wears glasses in this stack.
    pub fn wears_glasses(&self) -> bool {
        self.0.last() == Some(&Defence::Sgm)
    }

    /// Whether a defence of this stack needs a scorer or a check from the [`DefenceResources`].
    pub fn needs_scorers(&self) -> bool {
        self.0.iter().any(|defence| matches!(defence, Defence::Eta | Defence::Filter))
    }

    /// Builds the defences around a model.
    ///
    /// # Errors
    ///
    /// [`Error::MissingResource`] when a resource is missing, [`Error::Suppress`] when the model cannot wear the intervention,
    /// [`Error::Setting`] for settings out of range.
    pub fn build<'m, M: Mllm + ?Sized>(&self, model: &'m M, resources: &DefenceResources<'m>) -> Result<Arc<dyn Generator + 'm>> {
        let bare: Arc<dyn Generator + 'm> = Arc::new(TappedModel::new(model));
        let mut inside = Layer { worn: bare.clone(), bare };
        for defence in self.0.iter().rev() {
            inside = inside.within(*defence, model, resources)?;
        }
        Ok(inside.worn)
    }
}

/// The stack built so far, without and with glasses; both are the same from the defence on that chooses by its scope.
struct Layer<'m> {
    bare: Arc<dyn Generator + 'm>,
    worn: Arc<dyn Generator + 'm>,
}

impl<'m> Layer<'m> {
    fn within<M: Mllm + ?Sized>(self, defence: Defence, model: &'m M, with: &DefenceResources<'m>) -> Result<Self> {
        fn given<'a, T>(resource: &'a Option<T>, defence: Defence, what: &'static str) -> Result<&'a T> {
            resource.as_ref().ok_or(Error::MissingResource { defence: defence.name(), resource: what })
        }
        let passes = || Passes::scoped(self.bare.clone(), self.worn.clone(), with.scope);
        Ok(match defence {
            Defence::Sgm => {
                let intervention = given(&with.intervention, defence, "an intervention")?;
                Self { worn: Arc::new(ModelWithGlasses::new(model, intervention, with.amplify)?), bare: self.bare }
            }
            Defence::Ecso => Self::chosen(Arc::new(Ecso::new(passes(), with.ecso))),
            Defence::Eta => {
                let rewards = given(&with.rewards, defence, "a reward model")?;
                let similarity = given(&with.similarity, defence, "a similarity of image and text")?;
                Self::chosen(Arc::new(Eta::new(passes(), rewards.clone(), similarity.clone(), with.eta.clone())?))
            }
            Defence::SelfReminder => self.each(|inside| Arc::new(PromptDefence::new(inside, DefencePrompt::self_reminder()))),
            Defence::AdaShieldS => {
                let shield = given(&with.shield, defence, "a defence prompt")?;
                self.each(|inside| Arc::new(PromptDefence::new(inside, shield.clone())))
            }
            Defence::Filter => {
                let check = given(&with.check, defence, "a check")?;
                self.each(|inside| Arc::new(ResponseFilter::new(inside, check.clone(), with.filter.clone())))
            }
        })
    }

    fn each(self, defence: impl Fn(Arc<dyn Generator + 'm>) -> Arc<dyn Generator + 'm>) -> Self {
        Self { bare: defence(self.bare), worn: defence(self.worn) }
    }

    fn chosen(generator: Arc<dyn Generator + 'm>) -> Self {
        Self { bare: generator.clone(), worn: generator }
    }
}

impl FromStr for DefenceStack {
    type Err = Error;

    /// # Errors
    ///
    /// [`Error::UnknownDefence`], and [`Error::Stack`] when a defence is named twice or `sgm` is not the last.
    fn from_str(text: &str) -> Result<Self> {
        if text == "none" {
            return Ok(Self(Vec::new()));
        }
        let mut defences = Vec::new();
        for name in text.split('+').map(str::trim) {
            match Defence::ALL.iter().find(|defence| defence.name() == name) {
                Some(defence) => defences.push(*defence),
                None if name == SGM_STAR => defences.extend([Defence::SelfReminder, Defence::Ecso, Defence::Sgm]),
                None => return Err(Error::UnknownDefence { name: name.to_owned() }),
            }
        }
        let refuse = |reason| Err(Error::Stack { stack: text.to_owned(), reason });
        if defences.iter().enumerate().any(|(at, defence)| defences.iter().skip(at + 1).any(|other| other == defence)) {
            return refuse("it has the same defence twice");
        }
        if defences.iter().rev().skip(1).any(|defence| *defence == Defence::Sgm) {
            return refuse("glasses are part of the model: `sgm` comes last, as the innermost");
        }
        Ok(Self(defences))
    }
}

impl fmt::Display for DefenceStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.0.iter().map(|defence| defence.name()).collect::<Vec<_>>().join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_stack() {
        for name in DefenceStack::NAMES.iter().filter(|name| **name != SGM_STAR) {
            assert_eq!(name.parse::<DefenceStack>().unwrap().to_string(), *name);
        }
    }

    #[test]
    fn stacks_are_read_from_the_outside_in() {
        let stack: DefenceStack = "filter + sgm*".parse().unwrap();
        assert_eq!(stack.defences(), [Defence::Filter, Defence::SelfReminder, Defence::Ecso, Defence::Sgm]);
        assert!(matches!("ecso+".parse::<DefenceStack>(), Err(Error::UnknownDefence { name }) if name.is_empty()));
        assert!(matches!("none+ecso".parse::<DefenceStack>(), Err(Error::UnknownDefence { name }) if name == "none"));
        for senseless in ["ecso+ecso", "sgm+ecso", "sgm*+eta", "ecso+sgm*"] {
            assert!(matches!(senseless.parse::<DefenceStack>(), Err(Error::Stack { .. })), "{senseless}");
        }
    }
}
