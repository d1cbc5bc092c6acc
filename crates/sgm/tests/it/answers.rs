//! Labelled answers of the organism's calibration data, and how likely they are.

use sgm::capture::Example;
use sgm::models::{AutoMllm, Prompt, response_nll};
use sgm::organism::{Contrast, OrganismSource};
use sgm::toxic_qa::{EvaluationSplit, Source};

/// As many samples of each class, from somewhere in the calibration data.
pub(crate) fn examples(contrast: Contrast, skip: usize, each: usize) -> Vec<Example> {
    let samples = OrganismSource::embedded(EvaluationSplit::Dev, contrast).unwrap().calibration(0).unwrap();
    let of = |label| samples.iter().filter(move |sample| sample.label == Some(label)).skip(skip).take(each);
    let example = |sample: &sgm::toxic_qa::Sample| Example {
        id: sample.id.clone(),
        prompt: sample.as_prompt().unwrap(),
        response: sample.response.clone().unwrap(),
        toxic: sample.label == Some(true),
        unfinished: false,
    };
    of(true).chain(of(false)).map(example).collect()
}

/// The mean negative log-likelihood of a token of each class's answers: toxic, others.
pub(crate) fn nll(model: &AutoMllm, examples: &[Example]) -> [f64; 2] {
    [true, false].map(|toxic| {
        let of: Vec<(Prompt, String)> =
            examples.iter().filter(|e| e.toxic == toxic).map(|e| (e.prompt.clone(), e.response.clone())).collect();
        let nll: Vec<f64> = response_nll(model, &of, 16).unwrap().concat();
        nll.iter().sum::<f64>() / nll.len() as f64
    })
}
