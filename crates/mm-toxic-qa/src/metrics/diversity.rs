//! The diversity and length of answers.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::metrics::mean::mean;

/// The diversity and length of answers, which reveal models that repeat themselves under an intervention.
///
/// Words are separated by white space and compared in lower case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Diversity {
    /// Distinct-1, -2 and -3: the number of different runs of 1, 2 and 3 words, over the number of all such runs. Runs lie within answers;
    /// all answers are taken together.
    ///
    /// They fall with the amount of text, so compare equal numbers of answers of similar length. Source: Li et al., *A Diversity-Promoting
    /// Objective Function for Neural Conversation Models* (arXiv 1510.03055).
    pub distinct: [Option<f64>; 3],
    /// The mean number of words.
    pub mean_words: Option<f64>,
    /// The number of answers without a word.
    pub n_empty: usize,
    /// The number of answers.
    pub n: usize,
}

impl Diversity {
    /// The diversity of answers.
    ///
    /// ```
    /// let varied = mm_toxic_qa::metrics::Diversity::of(["a cat sat", "a dog sat"]);
    /// assert_eq!(varied.distinct, [Some(4.0 / 6.0), Some(1.0), Some(1.0)]);
    /// ```
    pub fn of<'a>(answers: impl IntoIterator<Item = &'a str>) -> Self {
        let answers: Vec<Vec<String>> = answers.into_iter().map(|a| a.split_whitespace().map(str::to_lowercase).collect()).collect();
        let distinct = [1, 2, 3].map(|n| {
            let runs = || answers.iter().flat_map(|words| words.windows(n));
            let all = runs().count();
            (all > 0).then(|| runs().collect::<HashSet<_>>().len() as f64 / all as f64)
        });
        Self {
            distinct,
            mean_words: mean(&answers.iter().map(|words| words.len() as f64).collect::<Vec<_>>()),
            n_empty: answers.iter().filter(|words| words.is_empty()).count(),
            n: answers.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_lowers_it() {
        let stuck = Diversity::of(["no no no no", "NO no no no", ""]);
        assert_eq!(stuck.distinct, [Some(1.0 / 8.0), Some(1.0 / 6.0), Some(1.0 / 4.0)]);
        assert_eq!((stuck.mean_words, stuck.n_empty, stuck.n), (Some(8.0 / 3.0), 1, 3));
        assert_eq!(Diversity::of(["", " "]).distinct, [None; 3]);
        assert_eq!(Diversity::of([]), Diversity::default());
        assert_eq!(Diversity::of(["a b"]).distinct, [Some(1.0), Some(1.0), None]);
    }
}
