//! Glasses to try: presets drawn at random.

use rand::Rng;
use rand::seq::IndexedRandom;
use sgm::suppress::{Map, Operator, Preset, Sentinels, Steering, Transport};

/// One of a list.
fn one<T: Copy>(rng: &mut impl Rng, of: &[T]) -> Option<T> {
    of.choose(rng).copied()
}

/// A preset behind a gate: of every ingredient there may be some.
pub(crate) fn draw(rng: &mut impl Rng) -> Option<Preset> {
    let mut maps = Vec::new();
    let map = if rng.random_bool(0.5) { Map::AtOnce } else { Map::Incremental };
    for (transport, pooling) in [(Transport::linear_act(), Preset::TEXT), (Transport::mean_act(), Preset::PROMPT)] {
        if rng.random_bool(0.8) {
            maps.push((map(transport, pooling), one(rng, &[0.4, 0.6, 0.8, 1.0])?));
        }
    }
    if rng.random_bool(0.8) {
        let sentinels = Sentinels { false_positive_rate: 0.2, layers: Some(1..=usize::MAX), ..Sentinels::default() };
        maps.push((Map::Sentinels(sentinels), one(rng, &[0.4, 0.5, 0.6, 0.7, 0.9])?));
    }
    if rng.random_bool(0.2) {
        maps.push((Map::Soft(Operator::soft(0.6, 2.0)), one(rng, &[0.25, 0.5])?));
    }
    let strength = one(rng, &[0.5, 0.6, 0.7, 0.9])?;
    let steering = Steering { strength, against: one(rng, &[0.2, 0.25, 0.3, 0.4])?, ..Steering::default() };
    let steering = (maps.is_empty() || rng.random_bool(0.7)).then_some(steering);
    Some(Preset { maps, steering, gate: one(rng, &[0.01, Preset::FALSE_POSITIVE_RATE]), ..Preset::foldable() })
}

/// What a preset is made of, in a line.
pub(crate) fn describe(preset: &Preset) -> String {
    let maps = preset.maps.iter().map(|(map, weight)| format!("{weight} {map}"));
    let steering = preset.steering.iter().map(|s| format!("steering {} against {}", s.strength, s.against));
    let gate = preset.gate.iter().map(|rate| format!("gate {rate}"));
    maps.chain(steering).chain(gate).collect::<Vec<_>>().join(" + ")
}
