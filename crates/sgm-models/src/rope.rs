//! Rotary position embeddings (Su et al., arXiv 2104.09864) with the frequency scalings of checkpoints.

use candle_core::{DType, Device, Tensor};

use crate::config::Section;
use crate::{Error, Result};

/// The rotation frequencies of one decoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rope {
    /// Radians per position, one for each pair of dimensions, f32 `[head_dim / 2]`.
    inverse_frequencies: Vec<f32>,
}

impl Rope {
    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).
    pub(crate) fn from_config(text: &Section, head_dim: usize, default_theta: f64) -> Result<Self> {
        let parameters = text.section("rope_parameters")?;
        let legacy = text.section("rope_scaling")?;
        let scaling = if parameters.get("rope_type").is_some() || parameters.get("factor").is_some() { &parameters } else { &legacy };
        let theta = match parameters.f64("rope_theta")? {
            Some(theta) => theta,
            None => text.f64("rope_theta")?.unwrap_or(default_theta),
        };
        let kind = match scaling.string("rope_type")? {
            Some(kind) => kind,
            None => scaling.string("type")?.unwrap_or("default"),
        };
        let required = |key: &str| scaling.f64(key)?.ok_or_else(|| scaling.error(key, format!("rope type `{kind}` needs it")));
        let default = |i: usize| theta.powf(-((2 * i) as f64) / head_dim as f64);
        let frequencies: Vec<f64> = match kind {
            "default" => (0..head_dim / 2).map(default).collect(),
            "linear" => {
                let factor = required("factor")?;
                (0..head_dim / 2).map(|i| default(i) / factor).collect()
            }
            "llama3" => {
                let factor = required("factor")?;
                let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
                let original = required("original_max_position_embeddings")?;
                let scale = |frequency: f64| {
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    if wavelength < original / high {
                        frequency
                    } else if wavelength > original / low {
                        frequency / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                (0..head_dim / 2).map(default).map(scale).collect()
            }
            _ => {
                let supported = &["default", "linear", "llama3"];
                return Err(Error::Unsupported { what: "rope type", got: kind.to_owned(), supported });
            }
        };
        #[allow(clippy::cast_possible_truncation, reason = "frequencies are f32 in the reference")]
        let inverse_frequencies = frequencies.into_iter().map(|f| f as f32).collect();
        Ok(Self { inverse_frequencies })
    }

    /// Cosines and sines `[rows, tokens, head_dim / 2]` of row-major positions, `[tokens, ...]` for one row.
    pub(crate) fn tables(&self, positions: &[u32], rows: usize, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        #[allow(clippy::cast_precision_loss, reason = "the reference rotates in f32")]
        let angles = || positions.iter().flat_map(|p| self.inverse_frequencies.iter().map(move |f| *p as f32 * f));
        let pairs = self.inverse_frequencies.len();
        let shape = match rows {
            1 => vec![positions.len(), pairs],
            _ => vec![rows, positions.len() / rows, pairs],
        };
        let table = |values: Vec<f32>| Tensor::from_vec(values, shape.clone(), device)?.to_dtype(dtype);
        Ok((table(angles().map(f32::cos).collect())?, table(angles().map(f32::sin).collect())?))
    }
}
