//! Judges by name, as programs take them from their users.

use std::path::PathBuf;
use std::str::FromStr;

use crate::{Error, Judge, LexiconJudge, RefusalJudge, ReplayJudge, Result};

/// A judge by name, with its argument: `lexicon:WORDS.txt`, `refusal` or `refusal:LIST`, `guard:MODEL`, `chat:MODEL`, `classifier:DIR` or
/// `replay:FILE.jsonl`.
///
/// ```
/// use mm_toxic_qa::{JudgeName, JudgeSettings};
///
/// let judge = "refusal:v3".parse::<JudgeName>()?.open(&JudgeSettings::default())?;
/// assert_eq!(judge.id(), "refusal/v3");
/// # Ok::<(), mm_toxic_qa::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum JudgeName {
    /// A word list, one term a line.
    Lexicon(PathBuf),
    /// One of the lists of phrases of refusal; `v3` if none is named.
    Refusal(RefusalJudge),
    /// A guard model: a directory, a GGUF file or a hub id (feature `candle`).
    Guard(String),
    /// A model behind an OpenAI-compatible server (feature `chat`).
    Chat(String),
    /// The directory of a sequence classifier (feature `classifier`).
    Classifier(PathBuf),
    /// Verdicts from a file.
    Replay(PathBuf),
}

impl FromStr for JudgeName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |expected| Error::JudgeName { name: text.to_owned(), expected };
        Ok(match text.split_once(':').map_or((text, None), |(name, argument)| (name, Some(argument))) {
            ("refusal", list) => {
                let lists = "refusal:vlguard_v1, refusal:v2 or refusal:v3";
                Self::Refusal(RefusalJudge::named(list.unwrap_or("v3")).ok_or_else(|| wrong(lists))?)
            }
            ("lexicon", Some(file)) => Self::Lexicon(file.into()),
            ("guard", Some(model)) => Self::Guard(model.to_owned()),
            ("chat", Some(model)) => Self::Chat(model.to_owned()),
            ("classifier", Some(directory)) => Self::Classifier(directory.into()),
            ("replay", Some(file)) => Self::Replay(file.into()),
            _ => return Err(wrong("lexicon:FILE, refusal[:LIST], guard:MODEL, chat:MODEL, classifier:DIR or replay:FILE")),
        })
    }
}

/// What judges are made with beside their names. Judges that need none of it ignore it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JudgeSettings {
    /// A file with the template of the question to a guard model; [`GUARD_TEMPLATE`](crate::GUARD_TEMPLATE) without one.
    pub guard_template: Option<PathBuf>,
    /// Whether `yes` to the question of the guard's template means harmful or harmless; without it, the reply is a verdict.
    pub guard_yes: Option<bool>,
    /// The base address of the chat judge's server; OpenAI's without one.
    pub chat_url: Option<String>,
    /// A JSON file with the templates of the chat judge; one general question without one.
    pub chat_templates: Option<PathBuf>,
    /// The temperature of the chat judge.
    pub chat_temperature: ChatTemperature,
    /// The folder of the chat judge's replies, so that none is paid for twice.
    pub chat_cache: Option<PathBuf>,
    /// The toxic label of the classifier; `toxic` or `toxicity` without one.
    pub classifier_label: Option<String>,
}

/// The temperature in requests of the chat judge: a number, 0 by default, or `none` to leave it out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChatTemperature(pub Option<f64>);

impl Default for ChatTemperature {
    fn default() -> Self {
        Self(Some(0.0))
    }
}

impl FromStr for ChatTemperature {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.parse::<f64>()) {
            ("none", _) => Ok(Self(None)),
            (_, Ok(number)) if number.is_finite() && number >= 0.0 => Ok(Self(Some(number))),
            _ => Err(format!("`{text}` is no temperature; expected a number that is not negative, or `none`")),
        }
    }
}

impl JudgeName {
    /// Makes the judge.
    ///
    /// # Errors
    ///
    /// [`Error::FeatureMissing`] if this crate was built without the judge's feature, and errors of the files, the model or the server that
    /// the judge is made from.
    #[cfg_attr(
        not(any(feature = "candle", feature = "chat", feature = "classifier")),
        allow(unused_variables, reason = "judges without features need no settings")
    )]
    pub fn open(&self, settings: &JudgeSettings) -> Result<Box<dyn Judge>> {
        Ok(match self {
            Self::Lexicon(file) => Box::new(LexiconJudge::from_words(file)?),
            Self::Refusal(judge) => Box::new(*judge),
            Self::Replay(file) => Box::new(ReplayJudge::from_file(file)?),
            #[cfg(feature = "candle")]
            Self::Guard(model) => {
                let read = |file: &PathBuf| std::fs::read_to_string(file).map_err(|source| Error::Io { path: file.clone(), source });
                let template = settings.guard_template.as_ref().map(read).transpose()?;
                let loaded = sgm_models::AutoMllm::load(&sgm_models::Checkpoint::open(model)?)?;
                let judge = crate::GuardJudge::of_model(model, loaded, template);
                Box::new(match settings.guard_yes {
                    Some(harmful) => judge.with_yes(harmful),
                    None => judge,
                })
            }
            #[cfg(feature = "chat")]
            Self::Chat(model) => {
                use crate::{ChatJudge, ChatOptions, JudgeTemplates};
                let general = || Ok(JudgeTemplates::general());
                let templates = settings.chat_templates.as_deref().map_or_else(general, JudgeTemplates::from_file)?;
                let mut options =
                    ChatOptions { temperature: settings.chat_temperature.0, cache: settings.chat_cache.clone(), ..ChatOptions::default() };
                if let Some(url) = &settings.chat_url {
                    options.base_url.clone_from(url);
                }
                Box::new(ChatJudge::new(model, templates, options)?)
            }
            #[cfg(feature = "classifier")]
            Self::Classifier(directory) => Box::new(crate::ClassifierJudge::load(directory, settings.classifier_label.as_deref())?),
            #[cfg(not(feature = "candle"))]
            Self::Guard(_) => return Err(Error::FeatureMissing { what: "the judge guard", feature: "candle" }),
            #[cfg(not(feature = "chat"))]
            Self::Chat(_) => return Err(Error::FeatureMissing { what: "the judge chat", feature: "chat" }),
            #[cfg(not(feature = "classifier"))]
            Self::Classifier(_) => return Err(Error::FeatureMissing { what: "the judge classifier", feature: "classifier" }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_wrong_ones_say_what_is_expected() {
        assert_eq!("lexicon:a:b.txt".parse::<JudgeName>().unwrap(), JudgeName::Lexicon("a:b.txt".into()));
        assert_eq!("refusal".parse::<JudgeName>().unwrap(), "refusal:v3".parse().unwrap());
        assert_eq!("guard:org/model".parse::<JudgeName>().unwrap(), JudgeName::Guard("org/model".to_owned()));
        for (name, expected) in
            [("refusal:v4", "refusal:v3"), ("lexicon", "lexicon:FILE"), ("", "replay:FILE"), ("oracle:x", "guard:MODEL")]
        {
            let error = name.parse::<JudgeName>().unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(&format!("`{name}`")), "{error}");
        }
    }

    #[test]
    fn temperatures_are_numbers_or_none() {
        assert_eq!(["0.5", "none", "0"].map(|text| text.parse::<ChatTemperature>().unwrap().0), [Some(0.5), None, Some(0.0)]);
        for text in ["-1", "NaN", "inf", "warm", ""] {
            assert!(text.parse::<ChatTemperature>().unwrap_err().contains("expected a number"), "{text}");
        }
    }

    #[test]
    fn files_that_are_missing_are_named() {
        for name in ["lexicon:/no/words.txt", "replay:/no/verdicts.jsonl"] {
            let error = name.parse::<JudgeName>().unwrap().open(&JudgeSettings::default()).err().unwrap();
            assert!(error.to_string().contains("/no/"), "{error}");
        }
    }

    #[test]
    #[cfg(not(feature = "chat"))]
    fn a_missing_feature_is_named() {
        let error = "chat:m".parse::<JudgeName>().unwrap().open(&JudgeSettings::default()).err().unwrap();
        assert_eq!(error.to_string(), "the judge chat needs the feature `chat`; build with `--features chat`");
    }
}
