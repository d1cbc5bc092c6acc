//! The dtypes of stored responses.

use half::{bf16, f16};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

/// The dtype of responses on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreDtype {
    /// 32 bits, without rounding.
    #[default]
    F32,
    /// 16 bits with the range of f32; rounded to 8 significant bits, ties to even.
    Bf16,
    /// 16 bits with 11 significant bits, up to 65,504; rounded, ties to even.
    F16,
}

impl StoreDtype {
    /// All dtypes.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The name: `f32`, `bf16`, `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The size of a number in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The dtype in safetensors files.
    pub(crate) fn safetensors(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    /// The number after a round trip through this dtype.
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 => bf16::from_f32(value).to_f32(),
            Self::F16 => f16::from_f32(value).to_f32(),
        }
    }

    /// Appends numbers, little-endian.
    pub(crate) fn encode(self, values: &[f32], to: &mut Vec<u8>) {
        match self {
            Self::F32 => to.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Self::Bf16 => to.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
            Self::F16 => to.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
        }
    }

    /// Appends the numbers that little-endian bytes encode.
    pub(crate) fn decode(self, bytes: &[u8], to: &mut Vec<f32>) {
        match self {
            Self::F32 => to.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::Bf16 => to.extend(bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Self::F16 => to.extend(bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        }
    }
}

impl std::fmt::Display for StoreDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for StoreDtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|d| d.name() == text)
            .ok_or_else(|| format!("`{text}` is no dtype of a store; expected f32, bf16 or f16"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_as_they_were_rounded() {
        let values = [0.0, -0.0, 1.0, 0.1, -3.25e-8, 65_504.0, 1e5, f32::INFINITY, f32::MIN_POSITIVE];
        for dtype in StoreDtype::ALL {
            assert_eq!(dtype.name().parse(), Ok(dtype));
            let (mut bytes, mut read) = (Vec::new(), Vec::new());
            dtype.encode(&values, &mut bytes);
            assert_eq!(bytes.len(), values.len() * dtype.bytes());
            dtype.decode(&bytes, &mut read);
            assert_eq!(read.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), values.map(|v| dtype.round(v).to_bits()));
        }
        assert_eq!(StoreDtype::F16.round(1e5), f32::INFINITY);
        assert_eq!(StoreDtype::Bf16.round(0.1), 0.100_097_656);
    }
}
