//! The search space of presets, and random draws from it.

use rand::Rng;
use rand::seq::IndexedRandom;
use sgm::suppress::{Component, ConditionalPatches, GradientSteering, Preset, SuppressionRule, Transport};

fn one<T: Copy>(rng: &mut impl Rng, of: &[T]) -> Option<T> {
    of.choose(rng).copied()
}

/// Draws a conditional preset with a random choice of components and weights.
pub fn draw(rng: &mut impl Rng) -> Option<Preset> {
    let mut components = Vec::new();
    let transported = if rng.random_bool(0.5) { Component::AtOnce } else { Component::Incremental };
    for (transport, pooling) in [(Transport::linear_act(), Preset::TEXT), (Transport::mean_act(), Preset::PROMPT)] {
        if rng.random_bool(0.8) {
            components.push((transported(transport, pooling), one(rng, &[0.4, 0.6, 0.8, 1.0])?));
        }
    }
    if rng.random_bool(0.8) {
        let patches = ConditionalPatches { false_positive_rate: 0.2, layers: Some(1..=usize::MAX), ..ConditionalPatches::default() };
        components.push((Component::ConditionalPatches(patches), one(rng, &[0.4, 0.5, 0.6, 0.7, 0.9])?));
    }
    if rng.random_bool(0.2) {
        components.push((Component::Soft(SuppressionRule::soft(0.6, 2.0)), one(rng, &[0.25, 0.5])?));
    }
    let strength = one(rng, &[0.5, 0.6, 0.7, 0.9])?;
    let steering = GradientSteering { strength, against: one(rng, &[0.2, 0.25, 0.3, 0.4])?, ..GradientSteering::default() };
    let steering = (components.is_empty() || rng.random_bool(0.7)).then_some(steering);
    Some(Preset { components, steering, false_positive_rate: one(rng, &[0.01, Preset::FALSE_POSITIVE_RATE]) })
}

/// Describes a preset in a line.
pub fn describe(preset: &Preset) -> String {
    let components = preset.components.iter().map(|(component, weight)| format!("{weight} {component}"));
    let steering = preset.steering.iter().map(|s| format!("steering {} against {}", s.strength, s.against));
    let condition = preset.false_positive_rate.iter().map(|rate| format!("condition at {rate}"));
    components.chain(steering).chain(condition).collect::<Vec<_>>().join(" + ")
}
