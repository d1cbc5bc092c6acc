//! Rotary position embeddings (Su et al., arXiv 2104.09864) with the frequency scalings of checkpoints.

use candle_core::{DType, Device, Tensor};

use crate::checkpoint::section::Section;
use crate::decoder::pass::{Pass, Position};
use crate::error::{Error, Result};

/// The rotation frequencies of one decoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rope {
    /// Radians per position for each rotated pair of dimensions, `[rotated / 2]`.
    frequencies: Vec<f32>,
    /// The axis of the position that each frequency multiplies.
    axes: Vec<usize>,
    /// A factor on cosines and sines.
    factor: f64,
    long: Option<LongRope>,
    /// The number of positions with these frequencies under dynamic scaling; longer sequences have others, which depend
    /// on their lengths.
    fixed_until: Option<u32>,
}

/// The frequencies of LongRoPE (Ding et al., arXiv 2402.13753) for sequences beyond the original context.
#[derive(Debug, Clone, PartialEq)]
struct LongRope {
    frequencies: Vec<f32>,
    original_context: u32,
}

impl Rope {
    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (earlier versions). The second
    /// rotation is that of sliding layers, for models with a separate one.
    pub(crate) fn from_config(text: &Section, model_type: &str, head_dim: usize, theta: f64) -> Result<(Self, Option<Self>)> {
        let parameters = text.section("rope_parameters")?;
        let legacy = text.section("rope_scaling")?;
        if model_type != "gemma3_text" {
            let scaling = if text.get("rope_scaling").is_some() { &legacy } else { &parameters };
            let theta = match parameters.f64("rope_theta")? {
                Some(theta) => theta,
                None => text.f64("rope_theta")?.unwrap_or(theta),
            };
            return Ok((Self::new(text, model_type, scaling, head_dim, theta)?, None));
        }
        // Gemma 3 has lower frequencies, and scaling, in layers with full attention.
        let (full, sliding) = (parameters.section("full_attention")?, parameters.section("sliding_attention")?);
        let scaling = if parameters.get("full_attention").is_some() { &full } else { &legacy };
        let first = |given: Option<f64>, key: &str, default| -> Result<f64> { Ok(given.or(text.f64(key)?).unwrap_or(default)) };
        let slow = first(full.f64("rope_theta")?, "rope_theta", theta)?;
        let fast = first(sliding.f64("rope_theta")?, "rope_local_base_freq", 10_000.0)?;
        let new = |scaling: &Section, theta| Self::new(text, model_type, scaling, head_dim, theta);
        Ok((new(scaling, slow)?, Some(new(&sliding, fast)?)))
    }

    fn new(text: &Section, model_type: &str, scaling: &Section, head_dim: usize, theta: f64) -> Result<Self> {
        let kind = match scaling.string("rope_type")? {
            Some(kind) => kind,
            None => scaling.string("type")?.unwrap_or("default"),
        };
        let kind = match (model_type, kind) {
            // The names of `longrope` in the first Phi-3 files.
            ("phi3", "su" | "yarn") => "longrope",
            _ => kind,
        };
        let partial = match scaling.f64("partial_rotary_factor")? {
            Some(part) => part,
            None => text.f64("partial_rotary_factor")?.unwrap_or(1.0),
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a part of head_dim")]
        let rotated = if partial > 0.0 && partial <= 1.0 { (head_dim as f64 * partial) as usize } else { 0 };
        if rotated < 2 || !rotated.is_multiple_of(2) {
            return Err(text.error("partial_rotary_factor", format!("{partial} of head size {head_dim} is not a number of pairs")));
        }
        // The context length before scaling; the key of the text model takes precedence.
        let original = |default: f64| -> Result<f64> {
            const KEY: &str = "original_max_position_embeddings";
            match text.f64(KEY)? {
                Some(original) => Ok(original),
                None => Ok(scaling.f64(KEY)?.or(text.f64("max_position_embeddings")?).unwrap_or(default)),
            }
        };
        let required = |key: &str| scaling.f64(key)?.ok_or_else(|| scaling.error(key, format!("rope type `{kind}` needs it")));
        let pairs = rotated / 2;
        let plain: Vec<f64> = (0..pairs).map(|i| theta.powf(-((2 * i) as f64) / rotated as f64)).collect();
        let (mut factor, mut long, mut fixed_until) = (1.0, None, None);
        let frequencies = match kind {
            // `mrope` is Qwen2-VL's name for the default with several axes.
            "default" | "mrope" => plain,
            "dynamic" => {
                let positions = text.positive("max_position_embeddings", if model_type.starts_with("qwen") { 32_768 } else { 2048 })?;
                fixed_until = Some(u32::try_from(positions).unwrap_or(u32::MAX));
                plain
            }
            "linear" => {
                let factor = required("factor")?;
                plain.iter().map(|f| f / factor).collect()
            }
            // Factors computed by the converter of GGUF files.
            "factors" => plain.iter().zip(positive_numbers(scaling, "factors", pairs)?).map(|(f, by)| f / by).collect(),
            "llama3" => {
                let scale = Llama3 {
                    factor: required("factor")?,
                    low: required("low_freq_factor")?,
                    high: required("high_freq_factor")?,
                    original: original(2048.0)?,
                };
                plain.iter().map(|f| scale.apply(*f)).collect()
            }
            "yarn" => {
                let yarn = Yarn::read(scaling, required("factor")?, original(2048.0)?)?;
                factor = yarn.attention_factor;
                yarn.frequencies(&plain, theta, rotated)
            }
            "longrope" => {
                let original = original(4096.0)?;
                let stretch = match scaling.f64("factor")? {
                    Some(factor) => factor,
                    None => text.f64("max_position_embeddings")?.unwrap_or(4096.0) / original,
                };
                factor = match scaling.f64("attention_factor")? {
                    Some(factor) => factor,
                    None if stretch <= 1.0 => 1.0,
                    None => (1.0 + stretch.ln() / original.ln()).sqrt(),
                };
                let divided = |key: &str| -> Result<Vec<f64>> {
                    let by = positive_numbers(scaling, key, pairs)?;
                    Ok(plain.iter().zip(by).map(|(f, by)| f / by).collect())
                };
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a saturating cast is meant")]
                let original_context = original as u32;
                long = Some(LongRope { frequencies: to_f32(divided("long_factor")?), original_context });
                divided("short_factor")?
            }
            _ => {
                let supported = &["default", "linear", "dynamic", "llama3", "yarn", "longrope", "mrope"];
                return Err(Error::Unsupported { what: "rope type", got: kind.to_owned(), supported });
            }
        };
        if frequencies.iter().any(|f| !f.is_finite()) {
            return Err(text.error("rope_theta", "the rotation frequencies are not finite"));
        }
        Ok(Self { frequencies: to_f32(frequencies), axes: axes(scaling, model_type, pairs)?, factor, long, fixed_until })
    }

    /// The position from which the long frequencies apply, so that all tokens have to be computed again.
    pub(crate) fn long_from(&self) -> Option<u32> {
        self.long.as_ref().map(|long| long.original_context)
    }

    /// The cosines and sines `[rows, tokens, rotated / 2]` of a pass, `[tokens, rotated / 2]` if all rows agree.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] if dynamic scaling would change the frequencies.
    pub(crate) fn tables(&self, pass: &Pass, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        let Pass { positions, position_rows: rows, max_position, .. } = pass;
        if let Some(limit) = self.fixed_until.filter(|limit| max_position >= limit) {
            let reason = format!("a sequence of over {limit} tokens needs dynamic rotary scaling, which is not supported; shorten it");
            return Err(Error::Inputs { reason });
        }
        let frequencies = match &self.long {
            Some(long) if *max_position >= long.original_context => &long.frequencies,
            _ => &self.frequencies,
        };
        #[allow(clippy::cast_precision_loss, reason = "the reference rotates in f32")]
        let angle = |position: &Position, f: f32, axis: usize| position.get(axis).copied().unwrap_or(0) as f32 * f;
        let angles = || positions.iter().flat_map(|p| frequencies.iter().zip(&self.axes).map(move |(f, axis)| angle(p, *f, *axis)));
        let pairs = frequencies.len();
        let shape = match rows {
            1 => vec![positions.len(), pairs],
            _ => vec![*rows, positions.len() / rows, pairs],
        };
        let table = |values: Vec<f32>| {
            let table = Tensor::from_vec(values, shape.clone(), device)?;
            let table = if self.factor == 1.0 { table } else { (table * self.factor)? };
            table.to_dtype(dtype)
        };
        Ok((table(angles().map(f32::cos).collect())?, table(angles().map(f32::sin).collect())?))
    }
}

/// The frequency scaling of Llama 3.1.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3 {
    fn apply(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < self.original / self.high {
            frequency
        } else if wavelength > self.original / self.low {
            frequency / self.factor
        } else {
            let smooth = (self.original / wavelength - self.low) / (self.high - self.low);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

/// The frequency scaling of YaRN (Peng et al., arXiv 2309.00071), with the parameters of transformers.
struct Yarn {
    factor: f64,
    original: f64,
    fast: f64,
    slow: f64,
    truncate: bool,
    attention_factor: f64,
}

impl Yarn {
    fn read(scaling: &Section, factor: f64, original: f64) -> Result<Self> {
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let attention_factor = match (scaling.f64("attention_factor")?, scaling.f64("mscale")?, scaling.f64("mscale_all_dim")?) {
            (Some(given), _, _) => given,
            (None, Some(scale), Some(all)) if scale != 0.0 && all != 0.0 => magnitude(scale) / magnitude(all),
            _ => magnitude(1.0),
        };
        Ok(Self {
            factor,
            original,
            fast: scaling.f64("beta_fast")?.unwrap_or(32.0),
            slow: scaling.f64("beta_slow")?.unwrap_or(1.0),
            truncate: scaling.bool("truncate")?.unwrap_or(true),
            attention_factor,
        })
    }

    fn frequencies(&self, plain: &[f64], theta: f64, rotated: usize) -> Vec<f64> {
        let dimension =
            |rotations: f64| rotated as f64 * (self.original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (dimension(self.fast), dimension(self.slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(rotated as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let interpolated = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        plain.iter().enumerate().map(|(i, f)| f / self.factor * interpolated(i) + f * (1.0 - interpolated(i))).collect()
    }
}

fn positive_numbers(scaling: &Section, key: &str, count: usize) -> Result<Vec<f64>> {
    let list = scaling.get(key).and_then(|v| v.as_array()).map(|a| a.iter().map(serde_json::Value::as_f64).collect::<Option<Vec<_>>>());
    let list = list.flatten().filter(|l| l.len() == count && l.iter().all(|n| *n > 0.0));
    list.ok_or_else(|| scaling.error(key, format!("expected {count} positive numbers")))
}

/// The axis of the position that each frequency multiplies. `mrope_section` has the numbers of frequencies for time,
/// height and width, which follow each other or, in Qwen3-VL, are interleaved.
fn axes(scaling: &Section, model_type: &str, pairs: usize) -> Result<Vec<usize>> {
    let default = match model_type {
        "qwen2_vl_text" | "qwen2_5_vl_text" => vec![16, 24, 24],
        "qwen3_vl_text" | "qwen3_vl_moe_text" => vec![24, 20, 20],
        _ => return Ok(vec![0; pairs]),
    };
    let sections = match scaling.get("mrope_section") {
        None => Some(default),
        Some(given) => given.as_array().and_then(|a| a.iter().map(|v| v.as_u64()?.try_into().ok()).collect::<Option<Vec<usize>>>()),
    };
    let error = || scaling.error("mrope_section", format!("expected three counts that sum to {pairs}"));
    let [time, height, width] = sections.and_then(|s| <[usize; 3]>::try_from(s).ok()).ok_or_else(error)?;
    if [time, height, width].iter().try_fold(0usize, |sum, n| sum.checked_add(*n)) != Some(pairs) {
        return Err(error());
    }
    if !matches!(model_type, "qwen3_vl_text" | "qwen3_vl_moe_text") {
        return Ok([vec![0; time], vec![1; height], vec![2; width]].concat());
    }
    Ok((0..pairs)
        .map(|i| {
            if i % 3 == 1 && i < 3 * height {
                1
            } else if i % 3 == 2 && i < 3 * width {
                2
            } else {
                0
            }
        })
        .collect())
}

#[allow(clippy::cast_possible_truncation, reason = "frequencies are f32 in the reference")]
fn to_f32(frequencies: Vec<f64>) -> Vec<f32> {
    frequencies.into_iter().map(|f| f as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_scaling_has_no_effect_within_the_context_and_is_refused_beyond() {
        let rope = |scaling: &str| {
            let json = format!(r#"{{"max_position_embeddings": 8, "rope_theta": 100, "rope_scaling": {scaling}}}"#);
            Rope::from_config(&Section::parse("config.json", json.as_bytes()).unwrap(), "llama", 4, 1e4).unwrap().0
        };
        let tables = |rope: &Rope, position: u32| {
            let pass = Pass {
                positions: vec![[position; 3]],
                position_rows: 1,
                max_position: position,
                previous_max_position: 0,
                mask: None,
                window_mask: None,
                image_context: None,
            };
            rope.tables(&pass, DType::F32, &Device::Cpu).map(|(cos, _)| cos.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        let (plain, dynamic) = (rope("null"), rope(r#"{"rope_type": "dynamic", "factor": 2.0}"#));
        assert_eq!(tables(&dynamic, 7).unwrap(), tables(&plain, 7).unwrap());
        assert!(tables(&plain, 8).is_ok());
        assert!(tables(&dynamic, 8).unwrap_err().to_string().contains("dynamic"));
    }
}
