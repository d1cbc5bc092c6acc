use sgm_capture::{Pool, Pooling};
use sgm_core::{Dose, Intervention, Schedule};
use sgm_models::{Mllm, TokenMask};

use crate::{Calibrated, Error, Map, Operator, Result, Sentinels, Steering, Transport};

/// Glasses to be fitted: what they change, and when.
///
/// ```no_run
/// # fn example(model: &impl sgm_models::Mllm, samples: Vec<sgm_capture::Example>) -> sgm_suppress::Result<()> {
/// use sgm_capture::Capture;
/// use sgm_suppress::{AdaptiveGlasses, Amplify, Calibrated, Preset};
///
/// let capture = Capture { batch_size: 16, ..Capture::new(vec![Preset::TEXT]) };
/// let calibrated = Calibrated::capture(model, samples, capture)?;
/// let calibrated = calibrated.with_judge(|answers| Ok(answers.iter().map(|answer| Some(answer.response.contains("fool"))).collect()));
/// Preset::foldable().fit(model, &calibrated)?.save("foldable.sgm.safetensors")?; // for `bake`
/// let live = Preset::live().fit(model, &calibrated)?;
/// let worn = AdaptiveGlasses::wear(model, &live, Amplify::Refuse)?;
/// # drop(worn);
/// # Ok(()) }
/// ```
///
/// The weights of the named presets were chosen on the dev split of the embedded organism (`docs/results.md`), and need not suit another model: measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// What is [blended](Intervention::blend), with its weights.
    pub maps: Vec<(Map, f32)>,
    /// How strongly each layer is changed; in full if not given.
    pub schedule: Option<Schedule>,
    /// What is added at the end, fitted while all of that is worn.
    pub steering: Option<Steering>,
    /// The share of benign prompts that the gate may let through; always on if not given.
    pub gate: Option<f64>,
    /// Whether the gate goes on to [watch](sgm_core::Gate::watch) the answer.
    pub watch: bool,
    /// How the strength grows with the probe's log-odds.
    pub dose: Option<Dose>,
}

impl Preset {
    /// The names of all presets.
    pub const NAMES: [&'static str; 4] = ["foldable", "live", "adaptive", "adaptive-sgm"];
    /// The share of benign prompts that the gates of presets may let through.
    pub const FALSE_POSITIVE_RATE: f64 = 0.02;
    /// What transport of all text is fitted to.
    pub const TEXT: Pooling = Pooling { pool: Pool::Mean, mask: TokenMask::Text };
    /// What transport of prompts is fitted to.
    pub const PROMPT: Pooling = Pooling { pool: Pool::Mean, mask: TokenMask::Prompt };

    /// For checkpoints: sentinels, always on.
    pub fn foldable() -> Self {
        Self { maps: vec![(sentinels(), 1.25)], schedule: None, steering: None, gate: None, watch: false, dose: None }
    }

    /// For running models: two transports and sentinels, and steering on top of them, behind a gate.
    pub fn live() -> Self {
        let [text, prompt] = transports();
        let maps = vec![(text, 0.6), (prompt, 1.0), (sentinels(), 0.6)];
        let steering = Some(Steering::default());
        Self { maps, steering, gate: Some(Self::FALSE_POSITIVE_RATE), ..Self::foldable() }
    }

    /// The one before `live`: two transports behind a gate; what is plainly risky is changed more.
    pub fn adaptive() -> Self {
        let maps = transports().map(|transport| (transport, 0.94)).to_vec();
        Self { maps, dose: Some(Dose { least: 0.65, from: 0.0, full: 13.0 }), steering: None, ..Self::live() }
    }

    /// Soft suppression, stronger than what is bearable at all times, behind a gate.
    pub fn adaptive_sgm() -> Self {
        Self { maps: vec![(Map::Soft(Operator::soft(0.6, 2.0)), 1.0)], steering: None, ..Self::live() }
    }

    /// The preset of a name.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPreset`].
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "foldable" => Ok(Self::foldable()),
            "live" => Ok(Self::live()),
            "adaptive" => Ok(Self::adaptive()),
            "adaptive-sgm" => Ok(Self::adaptive_sgm()),
            _ => Err(Error::UnknownPreset { kind: "preset", name: name.to_owned(), known: Self::NAMES.join(", ") }),
        }
    }

    /// The glasses of one calibration.
    ///
    /// # Errors
    ///
    /// Those of [`Calibrated::fit`], [`Calibrated::steer`], [`Calibrated::probe`] and of blending.
    pub fn fit<M: Mllm>(&self, model: &M, calibrated: &Calibrated) -> Result<Intervention> {
        let maps = self.maps.iter().map(|(map, weight)| Ok((calibrated.fit(model, map)?, *weight))).collect::<Result<Vec<_>>>()?;
        let mut glasses = match maps.as_slice() {
            [(map, 1.0)] => map.clone(),
            maps => Intervention::blend(&maps.iter().map(|(map, weight)| (map, *weight)).collect::<Vec<_>>())?,
        };
        if let Some(schedule) = &self.schedule {
            glasses = glasses.with_schedule(schedule)?;
        }
        if let Some(steering) = &self.steering {
            let steered = calibrated.steer(model, steering, &glasses)?;
            glasses = Intervention::blend(&[(&glasses, 1.0), (&steered, 1.0)])?;
        }
        if let Some(rate) = self.gate {
            let mut probe = calibrated.probe(rate)?;
            (probe.gate.watch, probe.dose) = (self.watch, self.dose);
            glasses.probe = Some(probe);
        }
        Ok(glasses)
    }
}

fn transports() -> [Map; 2] {
    [Map::Incremental(Transport::linear_act(), Preset::TEXT), Map::Incremental(Transport::mean_act(), Preset::PROMPT)]
}

/// The first layer is left out: it knows little of what came before a token.
fn sentinels() -> Map {
    Map::Sentinels(Sentinels { false_positive_rate: 0.2, layers: Some(1..=usize::MAX), ..Sentinels::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_preset_of_its_own() {
        let presets = Preset::NAMES.map(|name| Preset::named(name).unwrap());
        for (i, preset) in presets.iter().enumerate() {
            assert_eq!(presets.iter().position(|p| p == preset), Some(i));
        }
        assert!(Preset::named("lively").unwrap_err().to_string().contains("adaptive-sgm"));
    }
}
