//! A reward model from the words of labelled answers.

use std::collections::{BTreeMap, BTreeSet};

use sgm_score::LogisticModel;

use crate::scorer::classifier;
use crate::{BoxError, Error, Result, RewardModel};

/// A simple reward model: the probability that an answer is not toxic, by the words in it.
///
/// It is a logistic regression on the presence of words and pairs of neighbouring words, fitted to labelled answers. It knows the words of
/// those answers only, reads no instruction, and is not a judge of natural language. Its rewards lie between 0 and 1, on another scale than
/// ETA's published thresholds: see [`EtaOptions::for_local_scorers`](crate::EtaOptions::for_local_scorers).
///
/// ```
/// use sgm_defend::{RewardModel, WordReward};
///
/// let answers = [("get lost, clown.", true), ("a clown lives there.", false), ("get well soon.", false), ("get lost, you clown.", true)];
/// let rewards = WordReward::fit(&answers, 1)?.rewards("", &["please get well", "get lost"])?;
/// assert!(rewards[0] > 0.5 && rewards[1] < 0.5);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug, Clone)]
pub struct WordReward {
    /// The words and pairs of words, with their indices among the features.
    vocabulary: BTreeMap<String, usize>,
    toxic: LogisticModel,
}

impl WordReward {
    /// Fits the model to answers, each with whether it is toxic. Words and pairs in fewer than `least` answers are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] when all answers are toxic or none is, or when no word is left.
    pub fn fit(answers: &[(&str, bool)], least: usize) -> Result<Self> {
        let refuse = |reason: &str| Error::Fit { scorer: "the word reward", reason: reason.to_owned() };
        if !answers.iter().any(|(_, toxic)| *toxic) || answers.iter().all(|(_, toxic)| *toxic) {
            return Err(refuse("it needs toxic and non-toxic answers"));
        }
        let terms: Vec<BTreeSet<String>> = answers.iter().map(|(answer, _)| terms(answer)).collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        terms.iter().flatten().for_each(|term| *counts.entry(term).or_default() += 1);
        let frequent = counts.iter().filter(|(_, count)| **count >= least.max(1)).map(|(term, _)| (*term).to_owned());
        let vocabulary: BTreeMap<String, usize> = frequent.enumerate().map(|(place, term)| (term, place)).collect();
        if vocabulary.is_empty() {
            return Err(refuse("no word is in enough answers"));
        }
        let rows: Vec<Vec<f32>> = terms.iter().map(|terms| features(&vocabulary, terms)).collect();
        Ok(Self { toxic: classifier(&rows, answers.iter().map(|(_, toxic)| *toxic))?, vocabulary })
    }
}

impl RewardModel for WordReward {
    fn rewards(&self, _instruction: &str, answers: &[&str]) -> std::result::Result<Vec<f64>, BoxError> {
        let toxic = |answer: &&str| self.toxic.score(&features(&self.vocabulary, &terms(answer)));
        Ok(answers.iter().map(|answer| 1.0 - f64::from(toxic(answer))).collect())
    }
}

/// The words of a text in lower case, and its pairs of neighbouring words.
fn terms(text: &str) -> BTreeSet<String> {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let pairs = words.windows(2).map(|pair| pair.join(" "));
    words.iter().map(|word| (*word).to_owned()).chain(pairs).collect()
}

/// 1 for each term of the vocabulary that the text has, 0 for the others.
fn features(vocabulary: &BTreeMap<String, usize>, terms: &BTreeSet<String>) -> Vec<f32> {
    let mut features = vec![0.0; vocabulary.len()];
    for place in terms.iter().filter_map(|term| vocabulary.get(term)) {
        if let Some(feature) = features.get_mut(*place) {
            *feature = 1.0;
        }
    }
    features
}
