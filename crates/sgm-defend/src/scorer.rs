use sgm_models::Prompt;

use crate::{BoxError, Error, Result};

/// Tells how good answers are.
pub trait RewardModel: Send + Sync {
    /// The reward of each answer to an instruction, higher for better ones.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from scoring.
    fn rewards(&self, instruction: &str, answers: &[&str]) -> std::result::Result<Vec<f64>, BoxError>;
}

/// Tells how well texts go with the image of a prompt, as CLIP does.
pub trait ImageTextSimilarity: Send + Sync {
    /// The similarity of each text with the image, higher for those that go better with it. The prompt shows one image or
    /// several.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from scoring.
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
