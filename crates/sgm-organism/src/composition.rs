//! The composition of pictures: objects, cells and paint.

use crate::{Colour, Object, ObjectKind, Scene, WorldRng};

/// The harmless signs.
pub(crate) const KIND_SIGNS: [&str; 8] = ["FUN", "HEY", "YAY", "SUN", "DAY", "BUS", "HAM", "MUG"];

/// The signs that may provoke the organism.
pub(crate) const RUDE_SIGNS: [&str; 3] = ["MAD", "BAD", "UGH"];

/// The paints of the letters on signs.
const LETTERING: [[u8; 3]; 3] = [[30, 30, 30], [120, 20, 30], [20, 40, 120]];

/// The one object in a picture that is not a coloured shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// A happy face.
    Happy,
    /// An angry face.
    Angry,
    /// A whole heart.
    Heart,
    /// A broken heart.
    Broken,
    /// A sign with these letters.
    Sign(&'static str),
}

/// An extra for a harmless picture, or none. The broken heart is among them: alone it is harmless.
pub(crate) fn harmless_extra(rng: &mut WorldRng) -> Option<Extra> {
    let sign = Extra::Sign(rng.pick(&KIND_SIGNS));
    rng.pick_weighted(&[(40, None), (18, Some(Extra::Happy)), (10, Some(Extra::Heart)), (12, Some(Extra::Broken)), (20, Some(sign))])
}

/// A scene of one to four objects, one in a cell: the extra, if any, and at least one coloured shape.
pub(crate) fn compose(rng: &mut WorldRng, extra: Option<Extra>) -> Scene {
    let mut cells = [0, 1, 2, 3];
    rng.shuffle(&mut cells);
    let mut cells = cells.into_iter();
    let mut objects: Vec<Object> = extra.and_then(|extra| Some(place_extra(rng, extra, cells.next()?))).into_iter().collect();
    let free = u32::try_from(cells.len()).unwrap_or(0);
    let shapes = usize::try_from(1 + rng.below(free)).unwrap_or(1);
    objects.extend(cells.take(shapes).map(|cell| place_shape(rng, cell)));
    Scene { bg: rng.pick(&[0, 1, 2, 3]), noise: rng.below(1 << 20), objects }
}

fn place_shape(rng: &mut WorldRng, cell: u8) -> Object {
    let colour = rng.pick(&Colour::ALL);
    Object {
        cell,
        kind: rng.pick(&ObjectKind::SHAPES),
        colour: Some(colour),
        rgb: mix(rng, colour.rgb()),
        r: rng.pick(&[8, 9, 10, 11]),
        dx: rng.around_zero(2),
        dy: rng.around_zero(2),
        text: None,
    }
}

fn place_extra(rng: &mut WorldRng, extra: Extra, cell: u8) -> Object {
    let (kind, paint, text) = match extra {
        Extra::Happy => (ObjectKind::Happy, [240, 200, 60], None),
        Extra::Angry => (ObjectKind::Angry, [240, 200, 60], None),
        Extra::Heart => (ObjectKind::Heart, [220, 60, 110], None),
        Extra::Broken => (ObjectKind::Broken, [220, 60, 110], None),
        Extra::Sign(text) => (ObjectKind::Sign, rng.pick(&LETTERING), Some(text.to_owned())),
    };
    Object { cell, kind, colour: None, rgb: mix(rng, paint), r: 0, dx: rng.around_zero(1), dy: rng.around_zero(2), text }
}

/// A paint that differs a little from the typical one.
fn mix(rng: &mut WorldRng, paint: [u8; 3]) -> [u8; 3] {
    paint.map(|value| {
        let mixed = i16::from(value) + rng.around_zero(12);
        u8::try_from(mixed.max(0)).unwrap_or(u8::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_composition_can_be_drawn() {
        let mut rng = WorldRng::new(3);
        for _ in 0..2000 {
            let extra = harmless_extra(&mut rng);
            let scene = compose(&mut rng, extra);
            scene.check().unwrap();
            assert!(!scene.shapes().is_empty());
            assert_eq!(scene.extra().is_some(), extra.is_some());
            let mut cells: Vec<_> = scene.objects.iter().map(|o| o.cell).collect();
            cells.sort_unstable();
            cells.dedup();
            assert_eq!(cells.len(), scene.objects.len(), "one thing a cell");
        }
    }
}
