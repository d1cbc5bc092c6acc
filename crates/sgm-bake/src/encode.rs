//! The encoding of new weights in the storage formats of files.

use half::{bf16, f16};

use crate::block::BlockFormat;

/// The names of the GGUF types to which weights can be added.
pub(crate) const GGUF_ENCODABLE: &str = if cfg!(feature = "candle") {
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K"
} else {
    "F32, F16, BF16 (and more with the feature `candle`)"
};

/// Whether new weights can be encoded in a format.
pub(crate) fn can_encode(format: &BlockFormat) -> bool {
    encode(format, &vec![0.0; usize::try_from(format.values).unwrap_or(0)]).is_some()
}

/// The bytes of whole blocks of values in a format, and the values that the bytes decode to; none if the format cannot be encoded.
pub(crate) fn encode(format: &BlockFormat, values: &[f32]) -> Option<(Vec<u8>, Vec<f32>)> {
    let values = values.iter().copied();
    match format.name {
        "F32" => Some((values.clone().flat_map(f32::to_le_bytes).collect(), values.collect())),
        "F16" => {
            let rounded = values.map(f16::from_f32);
            Some((rounded.clone().flat_map(f16::to_le_bytes).collect(), rounded.map(f16::to_f32).collect()))
        }
        "BF16" => {
            let rounded = values.map(bf16::from_f32);
            Some((rounded.clone().flat_map(bf16::to_le_bytes).collect(), rounded.map(bf16::to_f32).collect()))
        }
        _ => blocks(format, values.collect()),
    }
}

/// Blocks quantised by candle, as ggml does without importance weights.
#[cfg(feature = "candle")]
fn blocks(format: &BlockFormat, values: Vec<f32>) -> Option<(Vec<u8>, Vec<f32>)> {
    use candle_core::quantized::{GgmlDType as G, QTensor};
    use candle_core::{Device, Tensor};

    let known = [
        ("Q4_0", G::Q4_0),
        ("Q4_1", G::Q4_1),
        ("Q5_0", G::Q5_0),
        ("Q5_1", G::Q5_1),
        ("Q8_0", G::Q8_0),
        ("Q2_K", G::Q2K),
        ("Q3_K", G::Q3K),
        ("Q4_K", G::Q4K),
        ("Q5_K", G::Q5K),
        ("Q6_K", G::Q6K),
        ("Q8_K", G::Q8K),
    ];
    let (_, dtype) = known.into_iter().find(|(name, _)| *name == format.name)?;
    let count = values.len();
    let quantised = QTensor::quantize(&Tensor::from_vec(values, count, &Device::Cpu).ok()?, dtype).ok()?;
    let stored = quantised.dequantize(&Device::Cpu).and_then(|tensor| tensor.to_vec1()).ok()?;
    Some((quantised.data().ok()?.into_owned(), stored))
}

#[cfg(not(feature = "candle"))]
fn blocks(_: &BlockFormat, _: Vec<f32>) -> Option<(Vec<u8>, Vec<f32>)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use sgm_core::gguf::TensorType;

    /// The largest error of values as stored, relative to the largest value.
    fn error(number: u32, values: &[f32]) -> Option<f32> {
        let format = BlockFormat::of_gguf(TensorType::from_number(number).unwrap());
        let (bytes, stored) = encode(&format, values)?;
        assert_eq!(bytes.len() as u64, values.len() as u64 / format.values * format.bytes, "{}", format.name);
        let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |a, b| a.max(b.abs()));
        Some(largest(&mut values.iter().zip(&stored).map(|(a, b)| a - b)) / largest(&mut values.iter().copied()))
    }

    #[test]
    fn floats_are_rounded_once() {
        let values: Vec<f32> = (0..64u8).map(|i| (f32::from(i) * 0.37).sin()).collect();
        assert_eq!(error(0, &values), Some(0.0));
        assert!(error(1, &values).unwrap() <= 2f32.powi(-11) && error(30, &values).unwrap() <= 2f32.powi(-8));
        assert_eq!(error(1, &[1.0, 1e6]), Some(f32::INFINITY));
        // A block type without an encoder.
        assert_eq!(error(20, &values[..32]), None);
    }

    #[cfg(feature = "candle")]
    #[test]
    fn blocks_hold_a_few_values_nearly_exactly() {
        // The number of steps of each type between -1 and 1.
        for (number, steps) in
            [(2, 16.0), (3, 15.0), (6, 32.0), (7, 31.0), (8, 254.0), (10, 3.0), (11, 8.0), (12, 15.0), (13, 31.0), (14, 64.0), (15, 254.0)]
        {
            let dense: Vec<f32> = (0..256u16).map(|i| (f32::from(i) * 0.37).sin()).collect();
            let got = error(number, &dense).unwrap();
            assert!(got <= 2.0 / steps, "type {number}, dense: {got}");
            let mut sparse = vec![0f32; 256];
            (sparse[0], sparse[128]) = (0.75, -0.3);
            let got = error(number, &sparse).unwrap();
            assert!(got <= 0.025, "type {number}, sparse: {got}");
            let zeros = encode(&BlockFormat::of_gguf(TensorType::from_number(number).unwrap()), &[0.0; 256]).unwrap().1;
            assert!(zeros.iter().all(|value| *value == 0.0), "type {number}");
        }
    }
}
