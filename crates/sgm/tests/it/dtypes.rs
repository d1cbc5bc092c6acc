//! Models that compute in 16 bits on the CPU, where capture and probes use the tensor operations of other devices.

use crate::close::{BF16, F16, golden, hold, hold_condition, organism};
use candle_core::{DType, Device};

#[test]
fn the_embedded_model_in_16_bits_is_close_to_f32() {
    for dtype in [BF16, F16] {
        hold(organism, &Device::Cpu, dtype);
        hold_condition(&Device::Cpu, dtype);
    }
}

#[test]
fn models_of_other_families_in_16_bits_are_close_to_f32() {
    for name in ["text_qwen3", "text_gemma2", "qwen2_vl_hub"] {
        for dtype in [BF16, F16] {
            hold(|| golden(name), &Device::Cpu, dtype);
        }
    }
}

#[test]
fn other_dtypes_are_refused() {
    let refused = organism().with_dtype(DType::U8).unwrap_err().to_string();
    assert!(refused.contains("u8") && refused.contains("bf16"), "{refused}");
}
