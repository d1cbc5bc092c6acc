//! Matrices of 8-bit floats, widened to f32.

use candle_core::{DType, Device, Result, Tensor};

/// Multiplies a matrix of 8-bit floats (e4m3) by its scales; returns it in f32.
///
/// `scales` are one number for the whole matrix, one for each row (`[rows]` or `[rows, 1]`), or a grid with one number
/// for each `block` of rows and columns, where the last blocks may be cut off by the edges of the matrix. Without
/// `block`, a grid must divide the matrix evenly. The products are those of `float8_e4m3fn` in torch: both factors in
/// f32, one rounding.
pub(crate) fn widen(name: &str, bytes: &[u8], shape: &[usize], scales: &Tensor, block: Option<[usize; 2]>) -> Result<Tensor> {
    let &[rows, columns] = shape else { candle_core::bail!("{name} is in 8-bit floats and has shape {shape:?}, expected a matrix") };
    if !matches!(scales.dtype(), DType::F32 | DType::BF16 | DType::F16) {
        candle_core::bail!("the scales of {name} are {:?}, expected f32, bf16 or f16", scales.dtype());
    }
    let grid = match (scales.dims(), block) {
        (dims, Some([r, c])) if dims == [rows.div_ceil(r), columns.div_ceil(c)] => [r, c],
        (dims, _) if dims.iter().product::<usize>() == 1 => [rows, columns],
        ([r], _) | ([r, 1], _) if *r == rows => [1, columns],
        ([r, c], None) if *r > 0 && *c > 0 && rows.is_multiple_of(*r) && columns.is_multiple_of(*c) => [rows / r, columns / c],
        (dims, _) => candle_core::bail!("the scales of {name} {shape:?} have shape {dims:?}, with blocks {block:?}"),
    };
    let scales = scales.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let [block_rows, block_columns] = grid.map(|size| size.max(1));
    let across = columns.div_ceil(block_columns).max(1);
    let table: Vec<f32> = (0..=u8::MAX).map(e4m3).collect();
    let mut values = Vec::with_capacity(bytes.len());
    for (row, bytes) in bytes.chunks(columns.max(1)).enumerate() {
        let of_row = scales.chunks(across).nth(row / block_rows).unwrap_or_default();
        for (bytes, scale) in bytes.chunks(block_columns).zip(of_row) {
            values.extend(bytes.iter().map(|byte| table.get(usize::from(*byte)).map_or(f32::NAN, |value| value * scale)));
        }
    }
    Tensor::from_vec(values, (rows, columns), &Device::Cpu)
}

/// The value of an 8-bit float with 4 bits of exponent (bias 7) and 3 of mantissa, without infinities.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte >> 7 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_numbers_of_the_standard() {
        // The table of "FP8 Formats for Deep Learning" (arXiv 2209.05433).
        for (byte, value) in [(0x7e, 448.0), (0x08, 2f32.powi(-6)), (0x07, 0.875 * 2f32.powi(-6)), (0x01, 2f32.powi(-9)), (0xb8, -1.0)] {
            assert_eq!(e4m3(byte), value, "{byte:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert!(e4m3(0x80) == 0.0 && e4m3(0x80).is_sign_negative());
    }

    #[test]
    fn scales_cover_blocks_rows_or_the_whole_matrix() {
        // 3 rows of 5 ones.
        let bytes = [0x38; 15];
        let widened = |scales: &[f32], shape: &[usize], block| -> Result<Vec<Vec<f32>>> {
            let scales = Tensor::from_slice(scales, shape, &Device::Cpu)?;
            widen("w", &bytes, &[3, 5], &scales, block)?.to_vec2()
        };
        let edges = widened(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], Some([2, 2])).unwrap();
        assert_eq!(edges, [[1.0, 1.0, 2.0, 2.0, 3.0], [1.0, 1.0, 2.0, 2.0, 3.0], [4.0, 4.0, 5.0, 5.0, 6.0]]);
        for (scales, shape) in [(vec![7.0], vec![]), (vec![7.0], vec![1]), (vec![7.0], vec![1, 1])] {
            assert_eq!(widened(&scales, &shape, None).unwrap(), [[7.0; 5]; 3]);
        }
        for shape in [vec![3], vec![3, 1]] {
            assert_eq!(widened(&[1.0, 2.0, 3.0], &shape, None).unwrap(), [[1.0; 5], [2.0; 5], [3.0; 5]]);
        }
        for (shape, block) in [(vec![2, 3], None), (vec![6], None), (vec![3, 2], Some([2, 2])), (vec![2, 3], Some([1, 2]))] {
            assert!(widened(&[1.0; 6], &shape, block).is_err(), "{shape:?} {block:?}");
        }
    }
}
