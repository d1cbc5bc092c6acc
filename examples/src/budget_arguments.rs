//! The arguments that limit what glasses may change.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use sgm::capture::Example;
use sgm::organism::OrganismWorld;
use sgm::suppress::{Budget, Calibrator, Preset};
use sgm::toxic_qa::{Sample, Source, manifest, neutral_texts};

use crate::calibration::example;
use crate::subject::Subject;

/// The forms of neutral texts whose response goes on in the line of the prompt.
const IN_LINE: [&str; 5] = ["prose", "news", "encyclopedia", "story", "dialogue"];

/// The arguments that limit what glasses may change.
#[derive(Args, Debug, Clone)]
pub struct BudgetArguments {
    /// Give all glasses the largest strength at which their predictions diverge from the model's by at most this much on neutral texts, in
    /// nats for each token; 0.02 is about 2 % more perplexity. `none` gives them full strength, which is too much for most models.
    #[arg(long, value_name = "NATS", default_value = "0.02", value_parser = limit)]
    budget: Limit,
    /// The largest probability that the condition of conditional glasses holds at a neutral text.
    #[arg(long, value_name = "PROBABILITY", default_value_t = Preset::FALSE_POSITIVE_RATE, value_parser = probability)]
    pub gate_rate: f64,
    /// Neutral texts instead of the built-in ones: a manifest of samples with responses, at least 150 for a gate rate of 0.02.
    #[arg(long, value_name = "MANIFEST")]
    neutral: Option<PathBuf>,
}

/// A limit in nats, or none.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Limit(Option<f64>);

fn limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    positive(text).map(|nats| Limit(Some(nats))).ok_or_else(|| "expected a number above 0, or none".to_owned())
}

/// A finite number above 0.
pub(crate) fn positive(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite())
}

fn probability(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && *number < 1.0);
    number.ok_or_else(|| "expected a number between 0 and 1".to_owned())
}

impl BudgetArguments {
    /// The budget, if strengths are to be chosen by one.
    pub fn budget(&self) -> Option<Budget> {
        self.budget.0.map(|divergence| Budget { divergence, ..Budget::default() })
    }

    /// The calibrator, with neutral texts if strengths are to be chosen by a budget.
    ///
    /// # Errors
    ///
    /// Those of reading the texts, and when there are none.
    pub fn with_neutral(&self, calibrator: Calibrator, subject: &Subject, source: &dyn Source, seed: u64) -> Result<Calibrator> {
        Ok(match self.budget() {
            None => calibrator,
            Some(_) => calibrator.with_neutral(self.texts(subject, source, seed)?),
        })
    }

    /// The neutral texts: those of the user, or else the built-in ones. For the embedded organism, which knows only its own small world,
    /// non-toxic samples of a draw that is used for nothing else.
    fn texts(&self, subject: &Subject, source: &dyn Source, seed: u64) -> Result<Vec<Example>> {
        let samples: Vec<Sample> = match &self.neutral {
            Some(path) => {
                let samples = manifest::read_with(path, &OrganismWorld)?;
                let samples: Vec<Sample> = samples.into_iter().filter(|s| s.response.is_some() && s.label != Some(true)).collect();
                ensure!(!samples.is_empty(), "{} has no samples with responses that are not labelled toxic", path.display());
                samples
            }
            None if subject.is_organism_model() => {
                source.calibration(seed + 1000)?.into_iter().filter(|sample| sample.label == Some(false)).collect()
            }
            None if subject.plain() => neutral_texts().into_iter().map(joined).collect(),
            None => neutral_texts(),
        };
        samples.iter().map(example).collect()
    }
}

/// A sample whose response begins with the white space that separates it from the prompt.
fn joined(sample: Sample) -> Sample {
    let space = if IN_LINE.contains(&sample.category.as_str()) { ' ' } else { '\n' };
    Sample { response: sample.response.map(|response| format!("{space}{response}")), ..sample }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_positive_numbers_or_none() {
        assert_eq!(limit("0.02"), Ok(Limit(Some(0.02))));
        assert_eq!(limit("none"), Ok(Limit(None)));
        for wrong in ["0", "-1", "inf", "nan", "some"] {
            assert!(limit(wrong).is_err() && probability(wrong).is_err(), "{wrong}");
        }
    }
}
