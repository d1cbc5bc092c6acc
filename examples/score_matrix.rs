//! Scores a matrix of your own: which columns tell the labelled rows apart?
#![allow(clippy::print_stdout, reason = "a binary")]

use anyhow::Result;
use sgm::core::{Expertise, Metadata, Projection, Site};
use sgm::score::{Correction, ScoreOptions, Selection, score};

fn main() -> Result<()> {
    // Any responses `[samples, neurons]` will do: activations, features, logits. Here 200 samples and 8 neurons, of which the
    // first three respond to the label, each less than the one before.
    let label = |sample: usize| sample.is_multiple_of(2);
    let response = |(sample, neuron): (usize, usize)| {
        let noise = ((sample * 37 + neuron * 101) % 83) as f32 / 83.0;
        noise + if label(sample) { [1.0, 0.5, 0.25].get(neuron).copied().unwrap_or(0.0) } else { 0.0 }
    };
    let labels: Vec<bool> = (0..200).map(label).collect();
    let responses = ndarray::Array2::from_shape_fn((200, 8), response);

    // Exact AUROCs with their standard errors.
    let scores = score(&responses.view(), &labels, &ScoreOptions::default())?;
    for (neuron, (auroc, se)) in scores.auroc.iter().zip(&scores.auroc_se).enumerate() {
        println!("neuron {neuron}: AUROC {auroc:.3} +- {se:.3}");
    }

    // The experts at a false-discovery rate of 1 %.
    let site = Site::new(0, Projection::Up);
    let mut expertise = Expertise::new(Metadata::default());
    expertise.insert(site, scores.to_expertise())?;
    let experts = Selection::false_discovery(0.01, Correction::BenjaminiHochberg).experts(&expertise)?;
    println!("experts: {:?}", experts.sites().get(&site));
    Ok(())
}
