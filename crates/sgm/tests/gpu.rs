//! A GPU computes what the CPU does. The device is read from `SGM_DEVICE`: `cuda`, `cuda:N`, `metal`, or `cpu` to hold the tests themselves
//! against the CPU:
//!
//!     SGM_DEVICE=cuda cargo test --release -p sgm --features cuda --test gpu -- --ignored
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

#[path = "it/close.rs"]
mod close;
#[path = "it/worn.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod worn;

use candle_core::Device;
use close::{BF16, F16, F32, golden, hold, hold_condition, organism};

fn device() -> Device {
    let name = std::env::var("SGM_DEVICE").expect("SGM_DEVICE must name the device: cuda, cuda:N, metal or cpu");
    let (kind, number) = name.split_once(':').unwrap_or((&name, "0"));
    match kind {
        "cpu" => Device::Cpu,
        "cuda" => Device::new_cuda(number.parse().unwrap()).unwrap(),
        "metal" => Device::new_metal(number.parse().unwrap()).unwrap(),
        _ => panic!("SGM_DEVICE={name}"),
    }
}

#[test]
#[ignore = "needs SGM_DEVICE=cuda"]
fn the_embedded_model_computes_the_same() {
    for dtype in [F32, BF16, F16] {
        hold(organism, &device(), dtype);
    }
}

#[test]
#[ignore = "needs SGM_DEVICE=cuda"]
fn conditions_hold_for_the_same_prompts() {
    for dtype in [F32, BF16] {
        hold_condition(&device(), dtype);
    }
}

#[test]
#[ignore = "needs SGM_DEVICE=cuda"]
fn golden_models_compute_the_same() {
    for name in ["text_qwen3", "qwen2_vl_hub", "llava_next_mistral", "moe_qwen3"] {
        for dtype in [F32, BF16] {
            hold(|| golden(name), &device(), dtype);
        }
    }
}
