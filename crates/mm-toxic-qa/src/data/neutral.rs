//! Neutral texts.

use serde::Deserialize;

use crate::{Condition, Sample, Split, Task};

/// The texts, a JSON object in each line.
const TEXTS: &str = include_str!("neutral.jsonl");

#[derive(Deserialize)]
struct Text {
    form: String,
    prompt: String,
    response: String,
}

/// Neutral texts in English, which glasses should leave alone: 30 of each of twelve forms, one form after the other, written for this
/// project. The category of a sample is its form: prose, question, recipe, letter, news, encyclopedia, dialogue, caption, visual question
/// (without its image), code, summary, story.
///
/// ```
/// let texts = mm_toxic_qa::neutral_texts();
/// assert_eq!(texts.len(), 360);
/// assert!(texts.iter().all(|text| text.response.is_some()));
/// ```
pub fn neutral_texts() -> Vec<Sample> {
    let texts = TEXTS.lines().filter_map(|line| serde_json::from_str::<Text>(line).ok());
    let sample = |(number, text): (usize, Text)| Sample {
        id: format!("neutral-{number:03}"),
        source: "neutral texts".to_owned(),
        split: Split::Utility,
        category: text.form,
        condition: Condition::Standard,
        attack: None,
        image: None,
        prompt: text.prompt,
        response: Some(text.response),
        label: None,
        reference: None,
        task: Some(Task::Perplexity),
        subcategory: None,
        request: None,
    };
    texts.enumerate().map(sample).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_line_is_a_text_of_its_own() {
        let texts = neutral_texts();
        assert_eq!(texts.len(), TEXTS.lines().count());
        let different: BTreeSet<_> = texts.iter().map(|text| (&text.prompt, &text.response)).collect();
        assert_eq!(different.len(), texts.len());
        let mut forms: BTreeMap<&str, usize> = BTreeMap::new();
        texts.iter().for_each(|text| *forms.entry(&text.category).or_default() += 1);
        assert_eq!(forms.len(), 12);
        assert!(forms.values().all(|count| *count == 30), "{forms:?}");
        // Parts taken in turn have as many of each form.
        assert!(texts.chunk_by(|a, b| a.category == b.category).count() == 12);
    }
}
