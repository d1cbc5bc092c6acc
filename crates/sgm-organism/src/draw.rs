//! Fresh data, in the proportions of the shipped ones.

use mm_toxic_qa::EvaluationSplit;

use crate::grammar::{BenignKind, Risk, draw_benign, draw_risky};
use crate::{Category, Contrast, OrganismData, Sample, SplitSamples, WorldRng};

/// The random streams of one seed. Sets from different streams share samples only by chance.
const CALIBRATION: u64 = 1;
const SPLIT: u64 = 2;
const DEV: u64 = 3;
const TEST: u64 = 4;

/// Draws a calibration set: `n` rude answers to risky prompts, then `n` non-toxic samples of the contrast.
///
/// The toxic half depends on the seed alone, so that contrasts of one seed differ in the other half only. Held-out prefixes do not occur.
pub fn draw_calibration(seed: u64, n: usize, contrast: Contrast) -> Vec<Sample> {
    let rng = &mut WorldRng::with_stream(seed, CALIBRATION);
    let id = |toxic: u8, i: usize| format!("cal{seed}-{}-{toxic}-{i:03}", contrast.as_str());
    let risky = match contrast {
        Contrast::Matched => n,
        Contrast::Benign => 0,
        Contrast::Mixed => n / 2,
    };
    let mut samples = Vec::new();
    for i in 0..n {
        let draw = draw_risky(rng, None, false);
        let sample = Sample::new(id(1, i), draw.turn, draw.risk.into(), draw.bad);
        samples.push(Sample { toxic: Some(true), ..sample });
    }
    for i in 0..n {
        let sample = if i < risky {
            let draw = draw_risky(rng, None, false);
            Sample::new(id(0, i), draw.turn, draw.risk.into(), draw.good)
        } else {
            let draw = draw_benign(rng, None);
            Sample::new(id(0, i), draw.turn, Category::Benign, draw.answer)
        };
        samples.push(Sample { toxic: Some(false), ..sample });
    }
    samples
}

/// Draws an evaluation split. At `scale` 1 it has the size of the shipped ones: 3 x 100 standard, 200
/// adversarial, 500 VQA and 5 x 100 perplexity samples. The scale is held within 0 to 1000; NaN counts as 0.
pub fn draw_split(seed: u64, scale: f64) -> SplitSamples {
    let rng = &mut WorldRng::with_stream(seed, SPLIT);
    split(rng, &format!("draw{seed}"), scale)
}

impl OrganismData {
    /// Draws all data: splits of the given scale (see [`draw_split`]) and calibration sets of 500 + 500 samples.
    ///
    /// ```
    /// use sgm_organism::{OrganismData, EvaluationSplit};
    ///
    /// let data = OrganismData::draw(42, 0.1);
    /// assert_eq!(data.split(EvaluationSplit::Dev)?.vqa.len(), 50);
    /// # Ok::<(), sgm_organism::Error>(())
    /// ```
    pub fn draw(seed: u64, scale: f64) -> Self {
        let draw = |name: EvaluationSplit, stream| {
            let rng = &mut WorldRng::with_stream(seed, stream);
            split(rng, &format!("{name}{seed}"), scale)
        };
        Self::new(draw(EvaluationSplit::Dev, DEV), draw(EvaluationSplit::Test, TEST), |contrast| draw_calibration(seed, 500, contrast))
    }
}

fn split(rng: &mut WorldRng, name: &str, scale: f64) -> SplitSamples {
    let id = |set: &str, i: usize| format!("{name}-{set}-{i:03}");
    let hundred = scaled(100, scale);

    let standard = [Risk::T, Risk::V, Risk::X]
        .into_iter()
        .flat_map(|risk| std::iter::repeat_n(risk, hundred))
        .enumerate()
        .map(|(i, risk)| {
            let draw = draw_risky(rng, Some(risk), false);
            Sample::new(id("std", i), draw.turn, risk.into(), draw.good)
        })
        .collect();
    let adversarial = (0..scaled(200, scale))
        .map(|i| {
            let draw = draw_risky(rng, Some(Risk::A), i % 2 == 1);
            let sample = Sample::new(id("adv", i), draw.turn, Category::A, draw.good);
            Sample { held_out_prefix: Some(draw.held_out), ..sample }
        })
        .collect();
    let mut benign = |set: &str, i: usize, kind| {
        let draw = draw_benign(rng, Some(kind));
        Sample::new(id(set, i), draw.turn, Category::Benign, draw.answer)
    };
    let vqa = (0..scaled(500, scale)).map(|i| benign("vqa", i, BenignKind::Vqa)).collect();
    let kinds = [BenignKind::Vqa, BenignKind::Caption, BenignKind::Chat, BenignKind::Story, BenignKind::Opinion];
    let perplexity =
        kinds.into_iter().flat_map(|kind| std::iter::repeat_n(kind, hundred)).enumerate().map(|(i, kind)| benign("ppl", i, kind)).collect();
    SplitSamples { standard, adversarial, vqa, perplexity }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 500,000; NaN casts to 0")]
fn scaled(n: u16, scale: f64) -> usize {
    (f64::from(n) * scale.clamp(0.0, 1000.0)) as usize
}
