//! The scorers of ETA, and the logistic regression of the local ones.

use sgm_models::Prompt;
use sgm_score::{LogisticModel, logistic_regression};

use crate::{BoxError, Error, Result};

/// A scorer of answers.
pub trait RewardModel: Send + Sync {
    /// The reward of each answer to an instruction, higher for better ones.
    ///
    /// # Errors
    ///
    /// The scorer's own.
    fn rewards(&self, instruction: &str, answers: &[&str]) -> std::result::Result<Vec<f64>, BoxError>;
}

/// A scorer of how well texts match the image of a prompt, as CLIP is.
pub trait ImageTextSimilarity: Send + Sync {
    /// The similarity of each text with the image, higher for those that match it better. The prompt shows one image or several.
    ///
    /// # Errors
    ///
    /// The scorer's own.
    fn similarities(&self, prompt: &Prompt, texts: &[&str]) -> std::result::Result<Vec<f64>, BoxError>;

    /// How unsafe the image is: its similarity with a text that says so.
    ///
    /// # Errors
    ///
    /// As [`similarities`](Self::similarities).
    fn unsafety(&self, prompt: &Prompt, says_unsafe: &str) -> std::result::Result<f64, BoxError> {
        let similarities = self.similarities(prompt, &[says_unsafe])?;
        similarities.first().copied().ok_or_else(|| "no similarity for one text".into())
    }
}

/// The scores, if there are as many as expected and all are numbers.
pub(crate) fn scores(scorer: &'static str, count: usize, scores: std::result::Result<Vec<f64>, BoxError>) -> Result<Vec<f64>> {
    let scores = scores.map_err(|source| Error::Scorer { scorer, source })?;
    if scores.len() != count {
        return Err(Error::Score { scorer, reason: format!("it gave {} scores for {count} texts", scores.len()) });
    }
    if let Some(score) = scores.iter().find(|score| !score.is_finite()) {
        return Err(Error::Score { scorer, reason: format!("it gave the score {score}") });
    }
    Ok(scores)
}

/// A logistic regression for few samples of many features: with a strong penalty, `c` = 0.01.
pub(crate) fn classifier(rows: &[Vec<f32>], classes: impl Iterator<Item = bool>) -> Result<LogisticModel> {
    let samples: Vec<(&[f32], bool)> = rows.iter().map(Vec::as_slice).zip(classes).collect();
    Ok(logistic_regression(&samples, 0.01, 1e-4)?)
}
