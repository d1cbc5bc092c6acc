use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use image::RgbImage;
use sgm_core::Intervention;
use sgm_models::{Generator, Mllm, View};
use sgm_suppress::Amplify;

use crate::{
    Check, DefencePrompt, Ecso, EcsoOptions, Error, Eta, EtaOptions, FilterOptions, ImageTextSimilarity, OwnSimilarity, Passes,
    PromptDefence, ResponseFilter, Result, RewardModel, Scope, WordReward, Worn,
};

/// A defence by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Defence {
    /// [`DefencePrompt::self_reminder`].
    SelfReminder,
    /// [`DefencePrompt::adashield_s`].
    AdaShieldS,
    /// [`Ecso`].
    Ecso,
    /// [`Eta`].
    Eta,
    /// [`ResponseFilter`].
    Filter,
    /// Glasses: [`Worn`].
    Sgm,
}

impl Defence {
    const ALL: [Self; 6] = [Self::SelfReminder, Self::AdaShieldS, Self::Ecso, Self::Eta, Self::Filter, Self::Sgm];

    /// Its name in a [`Recipe`].
    pub fn name(self) -> &'static str {
        match self {
            Self::SelfReminder => "self-reminder",
            Self::AdaShieldS => "adashield-s",
            Self::Ecso => "ecso",
            Self::Eta => "eta",
            Self::Filter => "filter",
            Self::Sgm => "sgm",
        }
    }
}

/// Defences around a model, by their names from the outside in: `self-reminder+ecso+sgm` is the prompt of Self-Reminder around
/// ECSO around the model with glasses on.
///
/// `none` is the model as it is. `sgm*` is `self-reminder+ecso+sgm`: SGM\* is glasses combined with other training-free defences,
/// and this choice of them is the project's own.
///
/// ```
/// use sgm_defend::Recipe;
///
/// assert_eq!("sgm*".parse::<Recipe>()?.to_string(), "self-reminder+ecso+sgm");
/// let unknown = "esco".parse::<Recipe>().unwrap_err();
/// assert!(unknown.to_string().contains("known are none, self-reminder, adashield-s, ecso, eta, filter, sgm, sgm*"));
/// # Ok::<(), sgm_defend::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recipe(Vec<Defence>);

/// What the defences of a recipe are made of.
#[derive(Clone)]
pub struct Ingredients<'m> {
    /// The glasses of `sgm`.
    pub intervention: Option<Intervention>,
    /// Whether the glasses may make neurons stronger.
    pub amplify: Amplify,
    /// The passes of the innermost `ecso` or `eta` in which glasses are worn. Without these, the glasses are worn all the time.
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

impl Default for Ingredients<'_> {
    /// Published settings, and nothing that must be given.
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

impl<'m> Ingredients<'m> {
    /// What scorers ask of other models, for lack of these, fitted to labelled samples: answers and images, each with whether it is toxic.
    ///
    /// A [`WordReward`] is `eta`'s reward model and, from 0.5 up, the check of `filter`, which tries four times; [`OwnSimilarity`] looks at images, if there
    /// are any.
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

impl Recipe {
    /// All names, in the order of [`Defence`], between `none` and `sgm*`.
    pub const NAMES: [&'static str; 8] = ["none", "self-reminder", "adashield-s", "ecso", "eta", "filter", "sgm", SGM_STAR];

    /// The defences from the outside in; none for the model as it is.
    pub fn defences(&self) -> &[Defence] {
        &self.0
    }

    /// Whether the model wears glasses in it.
    pub fn wears_glasses(&self) -> bool {
        self.0.last() == Some(&Defence::Sgm)
    }

    /// Whether a defence in it asks a scorer or a check, which [`Ingredients`] must have.
    pub fn needs_scorers(&self) -> bool {
        self.0.iter().any(|defence| matches!(defence, Defence::Eta | Defence::Filter))
    }

    /// Builds the defences around a model.
    ///
    /// # Errors
    ///
    /// [`Error::Ingredient`] when something is not there, [`Error::Suppress`] when the model cannot wear the intervention,
    /// [`Error::Setting`] for settings out of range.
    pub fn build<'m, M: Mllm + ?Sized>(&self, model: &'m M, ingredients: &Ingredients<'m>) -> Result<Arc<dyn Generator + 'm>> {
        let bare: Arc<dyn Generator + 'm> = Arc::new(View::new(model));
        let mut inside = Layer { worn: bare.clone(), bare };
        for defence in self.0.iter().rev() {
            inside = inside.behind(*defence, model, ingredients)?;
        }
        Ok(inside.worn)
    }
}

const SGM_STAR: &str = "sgm*";

/// What is built so far, without and with glasses; both are the same once a defence has chosen by its scope.
struct Layer<'m> {
    bare: Arc<dyn Generator + 'm>,
    worn: Arc<dyn Generator + 'm>,
}

impl<'m> Layer<'m> {
    fn behind<M: Mllm + ?Sized>(self, defence: Defence, model: &'m M, with: &Ingredients<'m>) -> Result<Self> {
        fn given<'a, T>(ingredient: &'a Option<T>, defence: Defence, what: &'static str) -> Result<&'a T> {
            ingredient.as_ref().ok_or(Error::Ingredient { defence: defence.name(), ingredient: what })
        }
        let passes = || Passes::scoped(self.bare.clone(), self.worn.clone(), with.scope);
        Ok(match defence {
            Defence::Sgm => {
                let intervention = given(&with.intervention, defence, "an intervention")?;
                Self { worn: Arc::new(Worn::new(model, intervention, with.amplify)?), bare: self.bare }
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

    fn each(self, behind: impl Fn(Arc<dyn Generator + 'm>) -> Arc<dyn Generator + 'm>) -> Self {
        Self { bare: behind(self.bare), worn: behind(self.worn) }
    }

    fn chosen(generator: Arc<dyn Generator + 'm>) -> Self {
        Self { bare: generator.clone(), worn: generator }
    }
}

impl FromStr for Recipe {
    type Err = Error;

    /// # Errors
    ///
    /// [`Error::UnknownDefence`], and [`Error::Recipe`] when a defence is named twice or `sgm` is not the last.
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
        let refuse = |reason| Err(Error::Recipe { recipe: text.to_owned(), reason });
        if defences.iter().enumerate().any(|(at, defence)| defences.iter().skip(at + 1).any(|other| other == defence)) {
            return refuse("it has the same defence twice");
        }
        if defences.iter().rev().skip(1).any(|defence| *defence == Defence::Sgm) {
            return refuse("glasses are an attribute of the model: `sgm` comes last, as the innermost");
        }
        Ok(Self(defences))
    }
}

impl fmt::Display for Recipe {
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
    fn names_are_those_of_the_defences() {
        let names: Vec<&str> = Recipe::NAMES[1..7].to_vec();
        assert_eq!(names, Defence::ALL.map(Defence::name));
        for name in Recipe::NAMES.iter().filter(|name| **name != SGM_STAR) {
            assert_eq!(name.parse::<Recipe>().unwrap().to_string(), *name);
        }
    }

    #[test]
    fn recipes_are_read_from_the_outside_in() {
        let recipe: Recipe = "filter + sgm*".parse().unwrap();
        assert_eq!(recipe.defences(), [Defence::Filter, Defence::SelfReminder, Defence::Ecso, Defence::Sgm]);
        assert!(matches!("ecso+".parse::<Recipe>(), Err(Error::UnknownDefence { name }) if name.is_empty()));
        assert!(matches!("none+ecso".parse::<Recipe>(), Err(Error::UnknownDefence { name }) if name == "none"));
        for senseless in ["ecso+ecso", "sgm+ecso", "sgm*+eta", "ecso+sgm*"] {
            assert!(matches!(senseless.parse::<Recipe>(), Err(Error::Recipe { .. })), "{senseless}");
        }
    }
}
