//! Answers to the same prompts without and with an intervention, side by side.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::{ImageFormat, RgbImage};
use serde::{Deserialize, Serialize};

use super::document::{AnswersBlock, Block, Section, ShownAnswer, Table};
use crate::{Condition, Record, Result, Sample};

/// Answers without and with an intervention: the changes of verdicts, and a few answers word for word.
///
/// The words are those of prompts and models, and may be harmful; the publisher of the page decides whether to show them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// The name of the answers with the intervention.
    pub after: String,
    /// The number of pairs harmful without and with the intervention.
    pub still_harmful: usize,
    /// The number of pairs harmful without and harmless with the intervention.
    pub made_harmless: usize,
    /// The number of pairs harmless without and harmful with the intervention.
    pub made_harmful: usize,
    /// The number of pairs harmless without and with the intervention.
    pub still_harmless: usize,
    /// The pairs to show.
    pub pairs: Vec<AnswerPair>,
}

/// Two answers to one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerPair {
    /// The sample's id.
    pub id: String,
    /// Whether the prompt is an attack.
    pub condition: Condition,
    /// The sample's category.
    pub category: String,
    /// The user's question.
    pub prompt: String,
    /// The picture shown with it, as a data URI of a PNG image; see [`picture`]. The page leaves out any other text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// The answer without the intervention.
    pub before: Answer,
    /// The answer with it.
    pub after: Answer,
}

/// An answer and its verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// The judge's label; `None` without one.
    pub harmful: Option<bool>,
}

const PNG: &str = "data:image/png;base64,";

/// An image as a data URI of a PNG file; `None` for an image without pixels.
pub fn picture(image: &RgbImage) -> Option<String> {
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).ok()?;
    Some(format!("{PNG}{}", BASE64_STANDARD.encode(png.into_inner())))
}

impl Answers {
    /// Pairs the judged records without an intervention with those of one intervention, given by its hash; records with a defence are left
    /// out. Up to `each` pairs of every condition and change of verdict are kept to show, in the order of the records.
    ///
    /// A pair has the same sample and seed. `None` without a pair.
    pub fn pair(records: &[Record], intervention_sha256: &str, after: impl Into<String>, each: usize) -> Option<Self> {
        let plain = || records.iter().filter(|record| record.defence.is_none() && record.judge.is_some());
        let with = plain().filter(|record| record.intervention_sha256.as_deref() == Some(intervention_sha256));
        let with: HashMap<(&str, u64), &Record> = with.map(|record| ((record.id.as_str(), record.seed), record)).collect();
        let mut answers = Self { after: after.into(), ..Self::default() };
        // At most `each` of every condition and pair of labels.
        let mut shown: BTreeMap<(bool, bool, bool), usize> = BTreeMap::new();
        let mut found = false;
        for before in plain().filter(|record| record.intervention_sha256.is_none()) {
            let Some(after) = with.get(&(before.id.as_str(), before.seed)).filter(|after| after.prompt == before.prompt) else { continue };
            found = true;
            let label = |record: &Record| record.judge.as_ref().and_then(|verdict| verdict.label);
            let (Some(was), Some(is)) = (label(before), label(after)) else { continue };
            match (was, is) {
                (true, true) => answers.still_harmful += 1,
                (true, false) => answers.made_harmless += 1,
                (false, true) => answers.made_harmful += 1,
                (false, false) => answers.still_harmless += 1,
            }
            let shown = shown.entry((before.condition == Condition::Adversarial, was, is)).or_default();
            if *shown < each {
                *shown += 1;
                let answer = |record: &Record| Answer { text: record.response.clone(), harmful: label(record) };
                answers.pairs.push(AnswerPair {
                    id: before.id.clone(),
                    condition: before.condition,
                    category: before.category.clone(),
                    prompt: before.prompt.clone(),
                    picture: None,
                    before: answer(before),
                    after: answer(after),
                });
            }
        }
        // Harm that the intervention prevents comes first, harm that it leaves or causes last.
        let order = |pair: &AnswerPair| (pair.before.harmful != Some(true), pair.after.harmful == Some(true));
        answers.pairs.sort_by_key(order);
        found.then_some(answers)
    }

    /// Adds the pictures of the samples. `false`, and none added, when a prompt differs from that of the sample with its id: the answers
    /// are then to other data.
    ///
    /// # Errors
    ///
    /// As [`Sample::image`].
    pub fn show_pictures(&mut self, samples: &[Sample]) -> Result<bool> {
        let samples: HashMap<&str, &Sample> = samples.iter().map(|sample| (sample.id.as_str(), sample)).collect();
        let sample = |pair: &AnswerPair| samples.get(pair.id.as_str()).copied().filter(|sample| sample.prompt == pair.prompt);
        let Some(shown) = self.pairs.iter().map(sample).collect::<Option<Vec<_>>>() else { return Ok(false) };
        for (pair, sample) in self.pairs.iter_mut().zip(shown) {
            pair.picture = sample.image()?.as_ref().and_then(picture);
        }
        Ok(true)
    }
}

pub(super) fn section(answers: &Answers) -> Section {
    let row = |name: &str, harmful: usize, harmless: usize| [name.to_owned(), harmful.to_string(), harmless.to_string()];
    let table = Table::new(
        ["verdict without", &format!("harmful with {}", answers.after), &format!("harmless with {}", answers.after)],
        vec![row("harmful", answers.still_harmful, answers.made_harmless), row("harmless", answers.made_harmful, answers.still_harmless)],
    );
    let text = format!(
        "Answers to the same prompts without intervention and with {}, of the same seed: the number of each verdict, and the first answers \
         of each kind of change.",
        answers.after
    );
    let pairs = answers.pairs.iter().map(|pair| Block::Answers(pair.block(&answers.after)));
    let blocks = [Block::Text { text }, Block::Table(table)].into_iter().chain(pairs).collect();
    Section { id: "answers", title: "Answers", blocks }
}

impl AnswerPair {
    fn block(&self, after: &str) -> AnswersBlock {
        let condition = match self.condition {
            Condition::Standard => "standard",
            Condition::Adversarial => "adversarial",
        };
        let shown = |run: &str, answer: &Answer| ShownAnswer {
            run: run.to_owned(),
            text: answer.text.clone(),
            verdict: match answer.harmful {
                Some(true) => "harmful",
                Some(false) => "harmless",
                None => "not judged",
            },
        };
        let is_png = |uri: &&String| {
            let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
            uri.strip_prefix(PNG).is_some_and(|data| data.bytes().all(base64))
        };
        AnswersBlock {
            about: format!("{condition}, {}, {}", self.category, self.id),
            prompt: self.prompt.clone(),
            picture: self.picture.as_ref().filter(is_png).cloned(),
            answers: vec![shown("without", &self.before), shown(after, &self.after)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoxError, ImageRef, Scene, Split, Timing, Verdict};

    fn record(id: &str, seed: u64, sha256: Option<&str>, label: Option<bool>) -> Record {
        Record {
            id: id.into(),
            split: Split::Test,
            category: "T".into(),
            condition: Condition::Standard,
            prompt: format!("{id}?"),
            request: None,
            rendered_prompt_sha256: String::new(),
            response: format!("{id} {seed} {sha256:?}"),
            finish_reason: "stop".into(),
            defence: None,
            intervention_sha256: sha256.map(str::to_owned),
            model: "m".into(),
            revision: None,
            dtype: "f32".into(),
            seed,
            generation: serde_json::Value::Null,
            judge: Some(Verdict { label, ..Verdict::default() }),
            timing: Timing::default(),
        }
    }

    #[test]
    fn answers_are_paired_by_sample_and_seed() {
        let (yes, no) = (Some(true), Some(false));
        let mut records = vec![
            record("a", 0, None, no),
            record("b", 0, None, yes),
            record("b", 1, None, yes),
            record("c", 0, None, None),
            record("d", 0, None, yes),
            record("b", 1, Some("x"), yes),
            record("b", 0, Some("x"), no),
            record("a", 0, Some("x"), no),
            record("c", 0, Some("x"), no),
            record("d", 0, Some("y"), no),
            record("d", 1, Some("x"), no),
        ];
        records.push(Record { defence: Some("ecso".into()), ..record("d", 0, Some("x"), no) });
        let answers = Answers::pair(&records, "x", "sgm", 1).unwrap();
        let counts = (answers.still_harmful, answers.made_harmless, answers.made_harmful, answers.still_harmless);
        assert_eq!(counts, (1, 1, 0, 1));
        let shown: Vec<_> = answers.pairs.iter().map(|p| (p.id.as_str(), p.after.text.as_str())).collect();
        assert_eq!(shown, [("b", "b 0 Some(\"x\")"), ("b", "b 1 Some(\"x\")"), ("a", "a 0 Some(\"x\")")]);
        assert_eq!(Answers::pair(&records, "z", "sgm", 1), None);
        assert_eq!(Answers::pair(&records, "x", "sgm", 0).unwrap().pairs, []);
    }

    /// A scene of one pixel.
    #[derive(Debug)]
    struct Dot;

    impl Scene for Dot {
        fn render(&self) -> std::result::Result<RgbImage, BoxError> {
            Ok(RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3])))
        }

        fn to_json(&self) -> String {
            "{}".to_owned()
        }
    }

    #[test]
    fn pictures_are_those_of_the_samples_that_were_asked_about() {
        let blind = Sample {
            id: "a".into(),
            source: "s".into(),
            split: Split::Test,
            category: "c".into(),
            condition: Condition::Standard,
            attack: None,
            image: None,
            prompt: "what?".into(),
            response: None,
            label: None,
            reference: None,
            task: None,
            subcategory: None,
            request: None,
        };
        let asked = &Sample { id: "b".into(), image: Some(ImageRef::Scene(std::sync::Arc::new(Dot))), ..blind.clone() };
        let samples = [blind, asked.clone()];
        let about = |sha256| Record { prompt: asked.prompt.clone(), ..record(&asked.id, 0, sha256, Some(true)) };
        let mut answers = Answers::pair(&[about(None), about(Some("x"))], "x", "sgm", 1).unwrap();
        assert!(answers.show_pictures(&samples).unwrap());
        assert_eq!(answers.pairs[0].picture, picture(&asked.image().unwrap().unwrap()));
        answers.pairs[0].picture = None;
        answers.pairs[0].prompt.push('?');
        assert!(!answers.show_pictures(&samples).unwrap() && answers.pairs[0].picture.is_none());
    }

    #[test]
    fn only_png_pictures_are_shown() {
        let image = RgbImage::from_pixel(2, 2, image::Rgb([1, 2, 3]));
        let uri = picture(&image).unwrap();
        let png = BASE64_STANDARD.decode(uri.strip_prefix(PNG).unwrap()).unwrap();
        assert_eq!(image::load_from_memory(&png).unwrap().to_rgb8(), image);
        let records = [record("a", 0, None, Some(true)), record("a", 0, Some("x"), Some(true))];
        let mut pair = Answers::pair(&records, "x", "sgm", 1).unwrap().pairs.remove(0);
        for (given, shown) in [(uri.as_str(), true), ("https://example.org/a.png", false), ("data:image/png;base64,\" onerror=\"x", false)]
        {
            pair.picture = Some(given.to_owned());
            assert_eq!(pair.block("sgm").picture.is_some(), shown, "{given}");
        }
    }
}
