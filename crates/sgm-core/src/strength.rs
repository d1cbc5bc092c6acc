//! The strength of interventions: one number, or a schedule over layers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Intervention, PatchNeuron, Result};

/// The strength of an intervention in each layer.
///
/// Strength s turns `y = scale * x + shift` into `y = (1 + s (scale - 1)) x + s shift`, which is `x + s (y - x)`: 0 changes nothing, 1 is
/// the full intervention. Above 1 it is extrapolated, and a scale may fall below 0, which counts as
/// [amplification](Intervention::amplification).
///
/// As text: `0.8` everywhere, `0-11:1.0-0.2` a ramp, `0=1,5=0.5` layer by layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// The same in every layer.
    Constant(f32),
    /// Linear in the layer index between two layers; layers before and after have the strength of the nearer one.
    Ramp {
        /// The first and the last layer.
        layers: (usize, usize),
        /// The strengths at the first and the last layer.
        strengths: (f32, f32),
    },
    /// The strengths of these layers; all others have strength 1.
    Layers(BTreeMap<usize, f32>),
}

impl Schedule {
    /// The strength in a layer.
    pub fn strength(&self, layer: usize) -> f32 {
        match self {
            Self::Constant(strength) => *strength,
            Self::Ramp { layers: (first, last), strengths: (from, to) } => {
                let span = last.saturating_sub(*first).max(1) as f32;
                let share = layer.saturating_sub(*first) as f32 / span;
                if share >= 1.0 { *to } else { from + share * (to - from) }
            }
            Self::Layers(strengths) => strengths.get(&layer).copied().unwrap_or(1.0),
        }
    }

    /// Checks that every strength is a finite number from 0 up, and that the first layer of a ramp is before the last.
    ///
    /// # Errors
    ///
    /// [`Error::Strength`]: a strength below 0 would make a suppressed neuron stronger.
    pub fn check(&self) -> Result<()> {
        let strengths: Vec<f32> = match self {
            Self::Constant(strength) => vec![*strength],
            Self::Ramp { layers: (first, last), .. } if first >= last => {
                return Err(Error::Strength { strength: self.to_string(), expected: "a ramp from a layer to a later one" });
            }
            Self::Ramp { strengths: (from, to), .. } => vec![*from, *to],
            Self::Layers(strengths) => strengths.values().copied().collect(),
        };
        match strengths.into_iter().find(|s| !(s.is_finite() && *s >= 0.0)) {
            None => Ok(()),
            Some(s) => Err(Error::Strength { strength: s.to_string(), expected: "a finite number from 0 up; below 0 it would amplify" }),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(strength) => write!(f, "{strength}"),
            Self::Ramp { layers: (first, last), strengths: (from, to) } => write!(f, "{first}-{last}:{from}-{to}"),
            Self::Layers(strengths) => {
                let parts: Vec<String> = strengths.iter().map(|(layer, strength)| format!("{layer}={strength}")).collect();
                f.write_str(&parts.join(","))
            }
        }
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = if let Some((layers, strengths)) = text.split_once(':') {
            pair(layers).zip(pair(strengths)).map(|(layers, strengths)| Self::Ramp { layers, strengths })
        } else if text.contains('=') {
            let entry = |part: &str| part.split_once('=').and_then(|(layer, s)| Some((layer.trim().parse().ok()?, s.trim().parse().ok()?)));
            text.split(',').map(entry).collect::<Option<BTreeMap<usize, f32>>>().map(Self::Layers)
        } else {
            text.trim().parse().ok().map(Self::Constant)
        };
        let expected = "a number (0.8), a ramp over layers (0-11:1.0-0.2) or strengths of layers (0=1,5=0.5)";
        let schedule = parsed.ok_or_else(|| Error::Strength { strength: text.to_owned(), expected })?;
        schedule.check()?;
        Ok(schedule)
    }
}

fn pair<T: FromStr>(text: &str) -> Option<(T, T)> {
    let (a, b) = text.split_once('-')?;
    Some((a.trim().parse().ok()?, b.trim().parse().ok()?))
}

impl Intervention {
    /// The intervention at another strength: scale becomes `1 + s (scale - 1)`, shift `s shift`, and the contribution of patch neurons is
    /// multiplied by `s`.
    ///
    /// Strength 0 changes no neuron, 1 is the intervention itself. The metadata entry `strength` records the strength.
    ///
    /// # Errors
    ///
    /// [`Error::Strength`] when the strength is below 0 or not finite, [`Error::Value`] when a value leaves the range of f32.
    pub fn with_strength(&self, strength: f32) -> Result<Self> {
        self.with_schedule(&Schedule::Constant(strength))
    }

    /// The intervention with a strength for each layer.
    ///
    /// # Errors
    ///
    /// As [`with_strength`](Self::with_strength).
    pub fn with_schedule(&self, schedule: &Schedule) -> Result<Self> {
        schedule.check()?;
        let mut scheduled = Self::new(self.metadata.clone());
        (scheduled.tokens, scheduled.condition) = (self.tokens, self.condition.clone());
        if *schedule != Schedule::Constant(1.0) {
            // Strengths multiply: the entry lists all of them.
            let before = scheduled.metadata.other.remove("strength").map(|before| format!("{before} * ")).unwrap_or_default();
            scheduled.metadata.other.insert("strength".to_owned(), format!("{before}{schedule}"));
        }
        for (site, s) in self.sites() {
            let strength = f64::from(schedule.strength(site.layer));
            let mut s = s.clone();
            s.scale.iter_mut().for_each(|v| *v = single(strength * f64::from(*v) + (1.0 - strength)));
            s.shift.iter_mut().flatten().for_each(|v| *v = single(strength * f64::from(*v)));
            scheduled.insert(*site, s)?;
        }
        for (layer, neurons) in self.patches() {
            scheduled.insert_patches(*layer, times(neurons, f64::from(schedule.strength(*layer))))?;
        }
        Ok(scheduled)
    }

    /// The intervention at each of several strengths, in their order.
    ///
    /// # Errors
    ///
    /// As [`with_strength`](Self::with_strength).
    pub fn sweep(&self, strengths: &[f32]) -> Result<Vec<(f32, Self)>> {
        strengths.iter().map(|s| Ok((*s, self.with_strength(*s)?))).collect()
    }
}

/// Neurons with their contribution multiplied by a strength.
pub(crate) fn times(neurons: &[PatchNeuron], strength: f64) -> Vec<PatchNeuron> {
    let down = |neuron: &PatchNeuron| neuron.down.iter().map(|v| single(strength * f64::from(*v))).collect();
    neurons.iter().map(|neuron| PatchNeuron { down: down(neuron), ..neuron.clone() }).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "interventions are kept in f32; the arithmetic is in f64")]
pub(crate) fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metadata, Projection, Site, SiteIntervention};
    use proptest::prelude::*;

    fn glasses(scale: Vec<f32>, shift: Vec<f32>) -> Intervention {
        let mut glasses = Intervention::new(Metadata::default());
        for layer in 0..3 {
            let s = SiteIntervention { shift: Some(shift.clone()), ..SiteIntervention::from_scale(scale.clone()) };
            glasses.insert(Site::new(layer, Projection::Up), s).unwrap();
        }
        glasses
    }

    proptest! {
        #[test]
        fn strength_interpolates_from_nothing_to_the_intervention(
            scale in prop::collection::vec(-2f32..2.0, 4), shift in prop::collection::vec(-9f32..9.0, 4), s in 0f32..1.0
        ) {
            let whole = glasses(scale, shift);
            prop_assert_eq!(&whole.with_strength(1.0).unwrap(), &whole);
            prop_assert_eq!(whole.with_strength(0.0).unwrap().changed_neurons(), 0);
            let half = whole.with_strength(s).unwrap();
            for (site, w) in whole.sites() {
                let h = &half.sites()[site];
                for i in 0..4 {
                    // The result lies at share s between the input and the full result.
                    for x in [-3.0, 0.0, 2.0] {
                        let full = w.scale[i] * x + w.shift.as_ref().unwrap()[i];
                        let got = h.scale[i] * x + h.shift.as_ref().unwrap()[i];
                        prop_assert!((got - (x + s * (full - x))).abs() < 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn schedules_go_by_layer_and_read_their_own_text() {
        let ramp = Schedule::Ramp { layers: (1, 5), strengths: (1.0, 0.5) };
        assert_eq!([0, 1, 3, 5, 9].map(|layer| ramp.strength(layer)), [1.0, 1.0, 0.75, 0.5, 0.5]);
        let layers = Schedule::Layers([(0, 0.0), (2, 0.5)].into());
        for schedule in [Schedule::Constant(0.25), ramp, layers.clone()] {
            assert_eq!(schedule.to_string().parse::<Schedule>().unwrap(), schedule);
            assert_eq!(serde_json::from_value::<Schedule>(serde_json::json!(schedule)).unwrap(), schedule);
        }
        let scheduled = glasses(vec![0.5, 0.0], vec![1.0, 0.0]).with_schedule(&layers).unwrap();
        let scales: Vec<_> = scheduled.sites().values().map(|s| s.scale.clone()).collect();
        assert_eq!(scales, [vec![1.0, 1.0], vec![0.5, 0.0], vec![0.75, 0.5]]);
        assert_eq!(scheduled.metadata.other["strength"], "0=0,2=0.5");
        assert_eq!(scheduled.with_strength(0.5).unwrap().metadata.other["strength"], "0=0,2=0.5 * 0.5");
        for bad in ["", "x", "-1", "nan", "inf", "3-3:1-0", "5-2:1-0", "0-4:1", "0=1,", "0-4:-1-0", "1=-1"] {
            assert!(matches!(bad.parse::<Schedule>(), Err(Error::Strength { .. })), "{bad}");
        }
    }

    #[test]
    fn a_sweep_extrapolates_and_says_so() {
        let swept = glasses(vec![0.5, 0.25], vec![0.0; 2]).sweep(&[0.0, 1.0, 2.0]).unwrap();
        assert_eq!(swept.iter().map(|(s, _)| *s).collect::<Vec<_>>(), [0.0, 1.0, 2.0]);
        assert_eq!(swept[2].1.amplification().unwrap().scale, -0.5);
        assert!(glasses(vec![f32::MAX], vec![f32::MAX]).with_strength(2.0).is_err());
    }
}
