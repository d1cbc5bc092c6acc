//! Misspellings.

use std::str::FromStr;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::attack::{Attack, disguised, impossible, rng};
use crate::{ImageFolder, Result, Sample};

/// A way to misspell a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Every letter becomes upper or lower case by chance.
    Case,
    /// A space between all letters of words of at least four, by chance one word in two.
    Spacing,
    /// In words of at least four letters two neighbours within the word change places, by chance one word in two.
    Typos,
    /// Digits for the letters that look like them (`4 3 1 0 5 7`), by chance four in five.
    Leetspeak,
}

impl Change {
    const ALL: [Self; 4] = [Self::Case, Self::Spacing, Self::Typos, Self::Leetspeak];

    /// The name of the attack.
    pub fn name(self) -> &'static str {
        match self {
            Self::Case => "case",
            Self::Spacing => "spacing",
            Self::Typos => "typos",
            Self::Leetspeak => "leetspeak",
        }
    }
}

impl FromStr for Change {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|change| change.name() == name);
        found.ok_or_else(|| format!("`{name}` is not a misspelling; expected case, spacing, typos or leetspeak"))
    }
}

/// The request misspelt: readable for people, hard for filters of words.
#[derive(Clone, Copy, Debug)]
pub struct Perturbation {
    /// The misspelling.
    pub change: Change,
    /// The seed of the choice of letters.
    pub seed: u64,
}

impl Attack for Perturbation {
    fn name(&self) -> &str {
        self.change.name()
    }

    fn attack(&self, sample: &Sample, _: &ImageFolder) -> Result<Sample> {
        /// The number of tries: chance may leave a short prompt unchanged, but not that often.
        const TRIES: usize = 64;
        let mut rng = rng(self.seed, sample);
        for _ in 0..TRIES {
            let prompt = self.change.apply(&sample.prompt, &mut rng);
            if prompt != sample.prompt {
                return Ok(disguised(sample, self.name(), prompt));
            }
        }
        Err(impossible(self.name(), sample, "the prompt has nothing to change; leave the sample out"))
    }
}

impl Change {
    fn apply(self, prompt: &str, rng: &mut ChaCha8Rng) -> String {
        match self {
            Self::Case => prompt.chars().map(|c| if rng.random() { upper(c) } else { lower(c) }).collect(),
            Self::Leetspeak => prompt.chars().map(|c| if rng.random_bool(0.8) { leet(c) } else { c }).collect(),
            Self::Spacing => each_word(prompt, |word| {
                if word.len() < 4 || !rng.random_bool(0.5) {
                    return;
                }
                let spaced = word.iter().flat_map(|&c| [' ', c]).skip(1).collect();
                *word = spaced;
            }),
            Self::Typos => each_word(prompt, |word| {
                if word.len() < 4 || !rng.random_bool(0.5) {
                    return;
                }
                // The first and the last letter stay, so that readers recognise the word.
                let first = rng.random_range(1..word.len() - 2);
                word.swap(first, first + 1);
            }),
        }
    }
}

/// The text with `change` applied to every word; other characters stay in place.
fn each_word(text: &str, mut change: impl FnMut(&mut Vec<char>)) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = Vec::new();
    for c in text.chars() {
        if c.is_alphabetic() {
            word.push(c);
        } else {
            change(&mut word);
            out.extend(word.drain(..));
            out.push(c);
        }
    }
    change(&mut word);
    out.extend(word);
    out
}

/// Upper case where that is one letter: `ß` stays.
fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(upper), None) => upper,
        _ => c,
    }
}

fn lower(c: char) -> char {
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(lower), None) => lower,
        _ => c,
    }
}

fn leet(c: char) -> char {
    match c.to_ascii_lowercase() {
        'a' => '4',
        'e' => '3',
        'i' => '1',
        'o' => '0',
        's' => '5',
        't' => '7',
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const PROMPT: &str = "Describe the Straße, please: the big house!";

    fn apply(change: Change, seed: u64) -> String {
        change.apply(PROMPT, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    #[test]
    fn what_changes_and_what_stays() {
        for seed in 0..50 {
            assert_eq!(apply(Change::Case, seed).to_lowercase(), PROMPT.to_lowercase());
            let squeezed = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(squeezed(&apply(Change::Spacing, seed)), squeezed(PROMPT));
            let typos = apply(Change::Typos, seed);
            for (word, original) in typos.split(' ').zip(PROMPT.split(' ')) {
                let sorted = |word: &str| {
                    let mut letters: Vec<char> = word.chars().collect();
                    letters.sort_unstable();
                    letters
                };
                assert_eq!(sorted(word), sorted(original));
                assert_eq!(word.chars().next(), original.chars().next());
                assert!(original.chars().count() > 3 || word == original);
            }
            let looks_like = |c: char| "413057".chars().zip("aieost".chars()).find(|p| p.0 == c).map_or(c, |p| p.1);
            let read: String = apply(Change::Leetspeak, seed).to_lowercase().chars().map(looks_like).collect();
            assert_eq!(read, PROMPT.to_lowercase());
        }
        assert!((0..50).any(|seed| apply(Change::Typos, seed) != PROMPT));
        assert_ne!(apply(Change::Leetspeak, 1), PROMPT);
    }
}
