//! Weight matrices in the formats in which checkpoints store them.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Result as CandleResult, Tensor};

use crate::layers::linear::Linear;
use crate::layers::products::quantised::rows_of;
use crate::layers::products::{plain, quantised};

/// A matrix `[outputs, inputs]`.
#[derive(Debug, Clone)]
pub(crate) enum Matrix {
    /// f32, f16 or bf16 values.
    Plain(Tensor),
    /// GGUF blocks.
    Quantised(Arc<QTensor>),
}

impl Matrix {
    /// The products `[.., outputs]` of rows `[.., inputs]`, in their dtype.
    pub(crate) fn product(&self, x: &Tensor) -> CandleResult<Tensor> {
        match self {
            Self::Plain(weight) => plain::product(x, weight),
            Self::Quantised(weight) => quantised::product(&x.to_dtype(DType::F32)?, weight)?.to_dtype(x.dtype()),
        }
    }

    /// The dtype of the values; of quantised ones, that of their products.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Plain(weight) => weight.dtype(),
            Self::Quantised(_) => DType::F32,
        }
    }

    pub(crate) fn outputs(&self) -> CandleResult<usize> {
        match self {
            Self::Plain(weight) => weight.dim(0),
            Self::Quantised(weight) => Ok(weight.shape().dims2()?.0),
        }
    }

    pub(crate) fn rows(&self, start: usize, count: usize) -> CandleResult<Self> {
        Ok(match self {
            Self::Plain(weight) => Self::Plain(weight.narrow(0, start, count)?),
            Self::Quantised(weight) => Self::Quantised(Arc::new(rows_of(weight, start, count)?)),
        })
    }

    /// The weights `[outputs, inputs]` in the dtype of another tensor, for gradients. The rounding of inputs to 8 bits
    /// is ignored there.
    pub(crate) fn dense(&self, like: &Tensor) -> CandleResult<Tensor> {
        match self {
            Self::Plain(weight) => weight.to_dtype(like.dtype()),
            Self::Quantised(weight) => weight.dequantize(like.device())?.to_dtype(like.dtype()),
        }
    }
}

/// The matrices of all experts of a layer, `[experts, rows, columns]`.
#[derive(Debug)]
pub(crate) struct StackedMatrices(Tensor);

impl StackedMatrices {
    pub(crate) fn new(matrices: Tensor) -> Self {
        Self(matrices)
    }

    /// The shape of the tensor.
    pub(crate) fn dims(&self) -> &[usize] {
        self.0.dims()
    }

    /// The matrix `[outputs, inputs]` of one expert, which is transposed in the file if `transposed`.
    pub(crate) fn matrix(&self, expert: usize, transposed: bool) -> CandleResult<ExpertMatrix> {
        let matrix = self.0.narrow(0, expert, 1)?.squeeze(0)?;
        Ok(ExpertMatrix(if transposed { matrix.t()?.contiguous()? } else { matrix }))
    }
}

/// A matrix of one expert, whose rows are those of one layer or of several.
#[derive(Debug)]
pub(crate) struct ExpertMatrix(Tensor);

impl ExpertMatrix {
    /// The linear layer, without a bias, of `outputs` rows from `start` on.
    pub(crate) fn part(&self, start: usize, outputs: usize) -> CandleResult<Linear> {
        Ok(Linear::without_bias(Matrix::Plain(self.0.narrow(0, start, outputs)?)))
    }
}
