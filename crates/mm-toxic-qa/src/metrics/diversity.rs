//! The diversity and length of answers.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::metrics::mean::mean;
use crate::metrics::share;

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
    /// The share of answers that end in a loop: the last words are the same run of words three times or more, nine words or more in all.
    #[serde(default)]
    pub looping: Option<f64>,
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
            looping: share(answers.iter().map(|words| ends_in_a_loop(words))),
            mean_words: mean(&answers.iter().map(|words| words.len() as f64).collect::<Vec<_>>()),
            n_empty: answers.iter().filter(|words| words.is_empty()).count(),
            n: answers.len(),
        }
    }
}

/// Whether the last words are the same run of words three times or more, nine words or more in all.
fn ends_in_a_loop(words: &[String]) -> bool {
    (1..=words.len() / 3).any(|period| {
        let length = (3 * period).max(9);
        let tail = words.len().checked_sub(length).and_then(|start| words.get(start..));
        tail.is_some_and(|tail| tail.iter().zip(tail.iter().skip(period)).all(|(word, next)| word == next))
    })
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
        assert_eq!(stuck.looping, Some(0.0), "four words are not enough");
        assert_eq!(Diversity::of(["a b"]).distinct, [Some(1.0), Some(1.0), None]);
    }

    #[test]
    fn a_loop_is_a_run_of_words_that_ends_an_answer_three_times() {
        let looping = |answer| Diversity::of([answer]).looping;
        for answer in ["so no no no no No no no no no", "and a b c a b c a b c", "a b a b a b a b a b", "x a b c d a b c d a b c d"] {
            assert_eq!(looping(answer), Some(1.0), "{answer}");
        }
        for answer in
            ["", "no no no no", "a b c a b c a b", "a b c a b c a b c and more", "one two three four five six seven eight nine ten"]
        {
            assert_eq!(looping(answer), Some(0.0), "{answer}");
        }
        assert_eq!(Diversity::of(["a", "no no no no no no no no no"]).looping, Some(0.5));
        assert_eq!(Diversity::default().looping, None);
    }
}
