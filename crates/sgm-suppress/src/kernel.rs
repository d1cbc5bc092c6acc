/// Multiplies each neuron of row-major responses `[tokens, neurons]` by its scale, in place.
///
/// A scale of 1 leaves every bit of a response, NaN payloads aside. Trailing responses that do not
/// fill a row are left alone.
pub fn scale_rows(responses: &mut [f32], scale: &[f32]) {
    for row in responses.chunks_exact_mut(scale.len().max(1)) {
        for (value, scale) in row.iter_mut().zip(scale) {
            *value *= scale;
        }
    }
}

/// Adds each neuron's shift to row-major responses `[tokens, neurons]`, in place.
pub fn shift_rows(responses: &mut [f32], shift: &[f32]) {
    for row in responses.chunks_exact_mut(shift.len().max(1)) {
        for (value, shift) in row.iter_mut().zip(shift) {
            *value += shift;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_neuron_gets_its_own_scale_and_shift(rows in prop::collection::vec(prop::array::uniform3(-1e3f32..1e3), 0..9), scale in prop::array::uniform3(0f32..1.0), shift in prop::array::uniform3(-1f32..1.0)) {
            let mut values = rows.concat();
            scale_rows(&mut values, &scale);
            shift_rows(&mut values, &shift);
            for (row, new) in rows.iter().zip(values.chunks(3)) {
                for i in 0..3 {
                    prop_assert_eq!(row[i] * scale[i] + shift[i], new[i]);
                }
            }
        }
    }
}
