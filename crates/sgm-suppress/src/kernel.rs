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

    #[test]
    fn ones_leave_every_bit() {
        let values = [0.0, -0.0, 1.5e-45, -3.25, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, 1.0];
        let mut scaled = values;
        scale_rows(&mut scaled, &[1.0; 4]);
        assert_eq!(scaled.map(f32::to_bits), values.map(f32::to_bits));
        // What does not fill a row, and no neurons at all.
        scale_rows(&mut scaled, &[2.0; 9]);
        scale_rows(&mut scaled, &[]);
        assert_eq!(scaled.map(f32::to_bits), values.map(f32::to_bits));
    }

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
