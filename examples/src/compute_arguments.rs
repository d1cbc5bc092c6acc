//! The arguments that say where and in which numbers a model computes.

use anyhow::{Context, Result, bail};
use candle_core::utils::{cuda_is_available, metal_is_available};
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use sgm::models::Checkpoint;

/// The device and the dtype of a model.
#[derive(Args, Debug, Clone)]
pub struct ComputeArguments {
    /// The device on which the model runs: `cpu`, `cuda` or `cuda:N` (the GPU with that number), or `metal`.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// The numbers in which the model computes.
    #[arg(long, value_enum, default_value_t = Numbers::F32)]
    pub dtype: Numbers,
}

/// The numbers in which a model can compute.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Numbers {
    /// 32 bits.
    F32,
    /// 16 bits, of which 11 are significant.
    F16,
    /// 16 bits, of which 8 are significant.
    Bf16,
}

impl ComputeArguments {
    /// The same checkpoint, to be loaded on the device and in the dtype.
    ///
    /// # Errors
    ///
    /// A device that this program was built without, or that the machine does not have.
    pub fn apply(&self, checkpoint: Checkpoint) -> Result<Checkpoint> {
        Ok(checkpoint.with_device(device(&self.device)?).with_dtype(self.dtype())?)
    }

    /// The dtype.
    pub fn dtype(&self) -> DType {
        match self.dtype {
            Numbers::F32 => DType::F32,
            Numbers::F16 => DType::F16,
            Numbers::Bf16 => DType::BF16,
        }
    }
}

/// The device of a name: `cpu`, `cuda`, `cuda:N` or `metal`.
///
/// # Errors
///
/// Another name, a device that this program was built without, or one that the machine does not have.
pub fn device(name: &str) -> Result<Device> {
    let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
    let number = number.parse().with_context(|| format!("--device {name}: `{number}` is not the number of a GPU"))?;
    let (built, made): (_, fn(usize) -> candle_core::Result<Device>) = match kind {
        "cpu" if kind == name => return Ok(Device::Cpu),
        "cuda" => (cuda_is_available(), Device::new_cuda),
        "metal" => (metal_is_available(), Device::new_metal),
        _ => bail!("--device {name}: expected cpu, cuda, cuda:N or metal"),
    };
    if !built {
        bail!("--device {name}: this program was built without {kind}; build it with `--features {kind}`");
    }
    made(number).with_context(|| format!("--device {name}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "test code")]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_and_missing_features_too() {
        assert!(device("cpu").unwrap().is_cpu());
        let refused = |name: &str| device(name).unwrap_err().to_string();
        for (name, built) in [("cuda:1", cuda_is_available()), ("metal", metal_is_available())] {
            let kind = name.split(':').next().unwrap();
            assert!(built || refused(name).contains(&format!("`--features {kind}`")));
        }
        assert!(refused("cuda:one").contains("`one` is not the number"));
        assert!(refused("tpu").contains("expected cpu") && refused("cpu:0").contains("expected cpu"));
    }
}
