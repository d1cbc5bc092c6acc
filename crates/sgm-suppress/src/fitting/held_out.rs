//! What calibration samples are for: the fit of glasses, or the budget of their strength.

use std::collections::{BTreeMap, BTreeSet};

use sgm_capture::Example;
use sgm_core::sha256::Sha256Hex;
use sgm_models::Prompt;

/// What a sample is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It is toxic, or its prompt is that of a toxic sample.
    Risky,
    /// Harmless, for the fits.
    Benign,
    /// Harmless, for the budget.
    HeldOut,
}

/// Of the prompts of benign samples, one of so many is held out of the fits.
const ONE_OF: usize = 4;

/// What each sample is for. Prompts are divided in the order of their digests, which knows nothing of what they say and of how they are
/// arranged; samples with the same prompt, like those that a bootstrap repeats, stay together.
pub(super) fn parts(samples: &[Example]) -> Vec<Part> {
    let prompts: Vec<String> = samples.iter().map(|sample| digest(&sample.prompt)).collect();
    let risky: BTreeSet<&String> = samples.iter().zip(&prompts).filter(|(sample, _)| sample.toxic).map(|(_, prompt)| prompt).collect();
    let benign: BTreeSet<&String> = prompts.iter().filter(|prompt| !risky.contains(prompt)).collect();
    let held_out = benign.len() / ONE_OF;
    let part = |number| if number < held_out { Part::HeldOut } else { Part::Benign };
    let benign: BTreeMap<&String, Part> = benign.into_iter().enumerate().map(|(number, prompt)| (prompt, part(number))).collect();
    prompts.iter().map(|prompt| benign.get(prompt).copied().unwrap_or(Part::Risky)).collect()
}

/// The digest of a prompt's words and images.
fn digest(prompt: &Prompt) -> String {
    let mut hash = Sha256Hex::default();
    match prompt {
        Prompt::Raw { text, .. } => hash.update(text),
        Prompt::Chat(messages) => messages.iter().for_each(|message| {
            hash.update(message.role.name());
            hash.update(message.text());
        }),
    }
    prompt.images().iter().for_each(|image| hash.update(image.as_raw()));
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn samples(range: std::ops::Range<usize>, toxic: bool) -> Vec<Example> {
        let sample = |number| Example {
            id: format!("{number}"),
            prompt: Prompt::user(format!("prompt {number}"), None),
            response: String::new(),
            toxic,
            unfinished: false,
        };
        range.map(sample).collect()
    }

    #[test]
    fn a_quarter_of_the_benign_prompts_is_held_out_wherever_it_stands() {
        let samples = [samples(0..10, true), samples(10..50, false)].concat();
        let first = parts(&samples);
        let count = |part| first.iter().filter(|other| **other == part).count();
        assert_eq!([count(Part::Risky), count(Part::Benign), count(Part::HeldOut)], [10, 30, 10]);
        // No residue class, as that of every fourth sample, is held out alone.
        let residues: BTreeSet<usize> = (0..50).filter(|at| first[*at] == Part::HeldOut).map(|at| at % 4).collect();
        assert!(residues.len() > 2, "{residues:?}");
        let reversed: Vec<Example> = samples.iter().rev().cloned().collect();
        assert_eq!(parts(&reversed).into_iter().rev().collect::<Vec<_>>(), first);
    }

    #[test]
    fn samples_with_one_prompt_stay_together() {
        let twice = [samples(0..40, false), samples(0..40, false)].concat();
        let parts_of_twice = parts(&twice);
        assert_eq!(parts_of_twice[..40], parts_of_twice[40..]);
        // What is asked in a toxic sample as well is risky.
        let mixed = parts(&[samples(0..1, true), samples(0..9, false)].concat());
        assert_eq!([mixed[0], mixed[1]], [Part::Risky; 2]);
        assert_eq!(mixed[2..].iter().filter(|part| **part == Part::HeldOut).count(), 2);
    }

    #[test]
    fn images_and_speakers_tell_prompts_apart() {
        let image = |value| Arc::new(image::RgbImage::from_pixel(2, 2, image::Rgb([value; 3])));
        let user = |value| digest(&Prompt::user("what is this?", Some(image(value))));
        assert_ne!(user(0), user(1));
        assert_eq!(user(0), user(0));
        assert_ne!(user(0), digest(&Prompt::user("what is this?", None)));
        let raw = Prompt::Raw { text: "what is this?".to_owned(), images: vec![] };
        assert_ne!(digest(&raw), digest(&Prompt::user("what is this?", None)));
    }
}
