//! The readers of MM-SafetyBench.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value;

use super::dataset::{Dataset, Entry, Item, Picture, attacked, entry, labelled, risky};
use super::fields::{Fields, Place};
use super::formats;
use crate::{Error, Result, Sample};

const SOURCE: &str = "mm-safetybench";

/// The images of MM-SafetyBench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Made by Stable Diffusion from the key phrase.
    Sd,
    /// The same with the key phrase written below.
    SdTypo,
    /// The key phrase as text on white.
    Typo,
}

impl Variant {
    const ALL: [Self; 3] = [Self::Sd, Self::SdTypo, Self::Typo];

    /// The name of its image folders.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sd => "SD",
            Self::SdTypo => "SD_TYPO",
            Self::Typo => "TYPO",
        }
    }
}

/// The wordings of a question of MM-SafetyBench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// `Question`: with the key phrase in words, for text alone.
    Plain,
    /// `Rephrased Question`: refers to the phrase in the image.
    Rephrased,
    /// `Rephrased Question(SD)`: refers to the content of the image.
    RephrasedSd,
}

impl Question {
    const ALL: [Self; 3] = [Self::Plain, Self::Rephrased, Self::RephrasedSd];

    /// The name of its field.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "Question",
            Self::Rephrased => "Rephrased Question",
            Self::RephrasedSd => "Rephrased Question(SD)",
        }
    }
}

/// The pair of images and wording that a model is shown.
///
/// The published pairs are `SD`, `SD_TYPO`, `TYPO` and `text`; any other must be asked for as
/// `mismatched/<images>/<question>`.
///
/// ```
/// use mm_toxic_qa::datasets::{Pair, Question, Variant};
/// assert_eq!("SD_TYPO".parse(), Ok(Pair::Published(Variant::SdTypo)));
/// let mixed = Pair::Mismatched(Variant::Sd, Question::Rephrased);
/// assert_eq!("mismatched/SD/Rephrased Question".parse(), Ok(mixed));
/// assert!("mismatched/TYPO/Rephrased Question".parse::<Pair>().is_err()); // it is the published one
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// Images with the wording they were published for.
    Published(Variant),
    /// No image.
    Text,
    /// Images with another wording.
    Mismatched(Variant, Question),
}

impl Pair {
    fn variant(self) -> Option<Variant> {
        match self {
            Self::Published(variant) | Self::Mismatched(variant, _) => Some(variant),
            Self::Text => None,
        }
    }

    /// The wording that goes with the images.
    pub fn question(self) -> Question {
        match self {
            Self::Published(Variant::Sd) => Question::RephrasedSd,
            Self::Published(Variant::SdTypo | Variant::Typo) => Question::Rephrased,
            Self::Text => Question::Plain,
            Self::Mismatched(_, question) => question,
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published(variant) => f.write_str(variant.name()),
            Self::Text => f.write_str("text"),
            Self::Mismatched(variant, question) => write!(f, "mismatched/{}/{}", variant.name(), question.name()),
        }
    }
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let published = Variant::ALL.map(Self::Published);
        let mismatched = Variant::ALL.into_iter().flat_map(|v| Question::ALL.map(|q| Self::Mismatched(v, q)));
        let mismatched = mismatched.filter(|pair| pair.variant().is_none_or(|v| Self::Published(v).question() != pair.question()));
        published.into_iter().chain([Self::Text]).chain(mismatched).find(|pair| pair.to_string() == name).ok_or_else(|| {
            format!("`{name}` is no pair; expected SD, SD_TYPO, TYPO, text, or mismatched/IMAGES/QUESTION for a pair that is not published")
        })
    }
}

/// The questions of MM-SafetyBench (arXiv 2311.17600), 13 scenarios.
///
/// Questions without an image are of condition standard; those with an image are attacks, named by the images.
#[derive(Clone, Debug)]
pub struct MmSafetyBench {
    folder: PathBuf,
    pair: Pair,
    tiny: bool,
}

impl MmSafetyBench {
    /// The set in `folder`, which holds `data/processed_questions` and, for pairs with images, `data/imgs`.
    pub fn new(folder: impl Into<PathBuf>, pair: Pair) -> Self {
        Self { folder: folder.into(), pair, tiny: false }
    }

    /// Only the questions of `TinyVersion_ID_List.json`, beside `data`.
    #[must_use]
    pub fn tiny(self) -> Self {
        Self { tiny: true, ..self }
    }

    /// The ids of the tiny version, by scenario.
    fn tiny_ids(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let path = self.folder.join("TinyVersion_ID_List.json");
        let Value::Array(list) = formats::json(&path)? else {
            return Err(Error::DatasetFile { path, reason: "not a JSON array of scenarios".to_owned() });
        };
        let mut ids = BTreeMap::new();
        for (i, value) in list.into_iter().enumerate() {
            let mut fields = Fields::object(Place::entry(&path, i), "Scenario", value)?;
            let scenario = fields.text("Scenario")?;
            let Some(Value::Array(sampled)) = fields.take("Sampled_ID_List") else {
                return Err(fields.place.missing("Sampled_ID_List", "an array of ids"));
            };
            let sampled = sampled
                .into_iter()
                .map(|id| match id {
                    Value::String(id) => Ok(id),
                    Value::Number(id) => Ok(id.to_string()),
                    other => Err(fields.place.invalid("Sampled_ID_List", other, "an array of ids")),
                })
                .collect::<Result<_>>()?;
            ids.insert(scenario, sampled);
        }
        Ok(ids)
    }
}

impl Dataset for MmSafetyBench {
    fn source(&self) -> Result<String> {
        Ok(SOURCE.to_owned())
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let mut tiny = if self.tiny { Some(self.tiny_ids()?) } else { None };
        for path in formats::with_extension(&self.folder.join("data/processed_questions"), "json", false)? {
            let scenario = formats::stem(&path)?;
            let mut wanted = tiny.as_mut().map(|ids| ids.remove(&scenario).unwrap_or_default());
            for (id, value) in formats::entries(&path)? {
                let place = Place::entry(&path, &id);
                if wanted.as_mut().is_some_and(|wanted| !wanted.remove(&id)) {
                    each(Entry::LeftOut { place, reason: "not in the tiny version" })?;
                    continue;
                }
                let fields = Fields::object(place, formats::ALL, value);
                let item = fields.and_then(|fields| question(&self.folder, &scenario, &id, self.pair, &fields));
                each(entry(item.map(Entry::Item))?)?;
            }
            if let Some(id) = wanted.and_then(|wanted| wanted.into_iter().next()) {
                let reason = format!("question `{id}` of the tiny version is missing");
                return Err(Error::DatasetFile { path, reason });
            }
        }
        match tiny.and_then(|tiny| tiny.into_keys().next()) {
            Some(scenario) => {
                let reason = format!("scenario `{scenario}` of the tiny version is missing");
                Err(Error::DatasetFile { path: self.folder.join("data/processed_questions"), reason })
            }
            None => Ok(()),
        }
    }
}

/// Answers to MM-SafetyBench's questions with the verdicts published beside them, as labelled calibration samples.
///
/// Answers that their judge has not labelled are left out and counted.
#[derive(Clone, Debug)]
pub struct MmSafetyBenchAnswers {
    folder: PathBuf,
    pair: Pair,
    run: Option<String>,
}

impl MmSafetyBenchAnswers {
    /// The answers in `folder`, which holds `questions_with_answers` and, for pairs with images, `data/imgs`. The files do not say which
    /// pair the model was shown: `pair` does.
    pub fn new(folder: impl Into<PathBuf>, pair: Pair) -> Self {
        Self { folder: folder.into(), pair, run: None }
    }

    /// Only the answers of one run (a model's name in the files); by default of all.
    #[must_use]
    pub fn of_run(self, run: impl Into<String>) -> Self {
        Self { run: Some(run.into()), ..self }
    }
}

impl MmSafetyBenchAnswers {
    /// The answers to one question, an entry for each run.
    fn answers(&self, scenario: &str, id: &str, mut fields: Fields, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let runs = match fields.take("ans") {
            None => Err(fields.place.missing("ans", "the answers by run")),
            Some(Value::Object(runs)) => Ok(runs),
            Some(other) => Err(fields.place.invalid("ans", other, "a JSON object of answers by run")),
        };
        let asked = runs.and_then(|runs| Ok((question(&self.folder, scenario, id, self.pair, &fields)?, runs)));
        let (question, runs) = match asked {
            Ok(asked) => asked,
            Err(error) => return each(entry(Err(error))?),
        };
        runs.into_iter().try_for_each(|(run, answer)| each(entry(self.answer(&question, &run, answer))?))
    }

    fn answer(&self, question: &Item, run: &str, answer: Value) -> Result<Entry> {
        const LABEL: &str = "is_safe(gpt)";
        let place = question.place.clone();
        if self.run.as_ref().is_some_and(|wanted| wanted != run) {
            return Ok(Entry::LeftOut { place, reason: "of another run" });
        }
        let field = |name: &str| format!("ans.{run}.{name}");
        let answer = Fields::object(place, &format!("ans.{run}"), answer)?;
        let Some(verdict) = answer.get(LABEL) else {
            return Ok(Entry::left_out(&answer, "not judged"));
        };
        let toxic = match verdict.as_str().map(str::to_lowercase).as_deref() {
            Some("safe") => false,
            Some("unsafe") => true,
            _ => return Err(answer.place.invalid(&field(LABEL), verdict, "safe or unsafe")),
        };
        let response = answer.optional_text("text").map_err(|_| answer.place.error(&field("text"), "is no text"))?;
        let Some(response) = response else {
            return Ok(Entry::left_out(&answer, "empty answer"));
        };
        let sample = Sample { id: format!("{}/{run}", question.sample.id), ..question.sample.clone() };
        Ok(Entry::Item(Item { sample: labelled(response, toxic, sample), ..question.clone() }))
    }
}

impl Dataset for MmSafetyBenchAnswers {
    fn source(&self) -> Result<String> {
        Ok(SOURCE.to_owned())
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        for path in formats::with_extension(&self.folder.join("questions_with_answers"), "json", false)? {
            let scenario = formats::stem(&path)?;
            for (id, value) in formats::entries(&path)? {
                match Fields::object(Place::entry(&path, &id), formats::ALL, value) {
                    Ok(fields) => self.answers(&scenario, &id, fields, each)?,
                    Err(error) => each(entry(Err(error))?)?,
                }
            }
        }
        Ok(())
    }
}

fn question(folder: &Path, scenario: &str, id: &str, pair: Pair, fields: &Fields) -> Result<Item> {
    let sample = risky(SOURCE, format!("{SOURCE}/{scenario}/{id}/{pair}"), scenario.to_owned(), fields.text(pair.question().name())?);
    let place = fields.place.clone();
    let Some(variant) = pair.variant() else {
        return Ok(Item::new(sample, None, place));
    };
    let images = folder.join("data/imgs").join(scenario).join(variant.name());
    let picture = Picture::File(place.inside("id", &images, &format!("{id}.jpg"))?);
    // What is asked for is partly in the image; in words it is the question for text alone.
    let request = fields.optional_text(Question::Plain.name()).unwrap_or_default();
    Ok(Item::new(Sample { request, ..attacked(&pair.to_string(), sample) }, Some(picture), place))
}
