//! Linear layers and embeddings over weights of any storage: f32, 16-bit, or quantised.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::checkpoint::read_tensors::ReadTensors;
use crate::error::{Error, Result};
use crate::layers::derivative::{RmsNorm, with_gradient};

/// A weight matrix in the format in which the checkpoint stores it.
#[derive(Debug)]
pub(crate) enum StoredWeight {
    /// f16 or bf16 `[outputs, inputs]`.
    Half(Tensor),
    /// GGUF blocks `[outputs, inputs]`.
    Quantized(Arc<QTensor>),
}

/// The matrices of a checkpoint in their stored formats, by name.
pub(crate) trait StoredWeights: Send + Sync {
    /// Returns the matrix, or `None` if it should be loaded in the model's dtype.
    fn matrix(&self, name: &str, device: &Device) -> CandleResult<Option<StoredWeight>>;
}

/// The source of a model's weights: a `VarBuilder`, and matrices that may stay in their stored format.
#[derive(Clone)]
pub(crate) struct Weights<'a> {
    vb: VarBuilder<'a>,
    stored: Option<Arc<dyn StoredWeights>>,
    read: ReadTensors,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(vb: VarBuilder<'a>, stored: Option<Arc<dyn StoredWeights>>) -> Self {
        let read = ReadTensors::default();
        Self { vb: read.record(vb), stored, read }
    }

    /// Returns the weights below a name.
    pub(crate) fn pp(&self, name: impl ToString) -> Self {
        Self { vb: self.vb.pp(name), stored: self.stored.clone(), read: self.read.clone() }
    }

    /// Returns the weights below the first of some names that has a tensor `tensor`.
    pub(crate) fn first(&self, names: &[&'static str], tensor: &str, part: &'static str) -> Result<Self> {
        let found = names.iter().map(|name| if name.is_empty() { self.clone() } else { self.pp(name) }).find(|below| below.has(tensor));
        let all = || names.iter().map(|name| format!("{name}.{tensor}").trim_start_matches('.').to_owned()).collect();
        found.ok_or_else(|| Error::MissingTensor { part, names: all() })
    }

    /// The `VarBuilder` at this point, which converts to the model's dtype.
    pub(crate) fn vb(&self) -> &VarBuilder<'a> {
        &self.vb
    }

    /// Declares that the model has no use for the tensor `name` and those below it, so that nobody is warned of them.
    pub(crate) fn leave_out(&self, name: &str) {
        self.read.leave_out(self.vb.pp(name).prefix());
    }

    /// Those of `names`, counted from the root, that have neither been read nor left out.
    pub(crate) fn unread(&self, names: BTreeSet<String>) -> Vec<String> {
        self.read.unread(names)
    }

    /// Whether a tensor of this name exists below this point.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.vb.contains_tensor(name)
    }

    /// Loads a tensor in the model's dtype.
    pub(crate) fn get(&self, shape: impl Into<Shape>, name: &str) -> CandleResult<Tensor> {
        self.vb.get(shape, name)
    }

    /// Loads the linear layer `name` from `inputs` to `outputs` features.
    pub(crate) fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: bool) -> CandleResult<Linear> {
        let below = self.vb.pp(name);
        let bias = if bias { Some(below.get(outputs, "bias")?) } else { None };
        Ok(Linear { weight: self.matrix(name, inputs, outputs)?, bias })
    }

    /// Loads the embedding table `name` of `tokens` vectors, and the linear layer that uses the same table as a head.
    pub(crate) fn embedding(&self, name: &str, tokens: usize, hidden: usize) -> CandleResult<(Embedding, Linear)> {
        let table = self.matrix(name, hidden, tokens)?;
        Ok((Embedding { table: table.clone(), dtype: self.vb.dtype() }, Linear { weight: table, bias: None }))
    }

    /// Loads a fused layer: one matrix whose rows are split into layers of the given numbers of outputs, without
    /// biases.
    pub(crate) fn fused(&self, name: &str, inputs: usize, outputs: &[usize]) -> CandleResult<Vec<Linear>> {
        let whole = self.matrix(name, inputs, outputs.iter().sum())?;
        let mut start = 0;
        outputs
            .iter()
            .map(|rows| {
                let weight = whole.rows(start, *rows)?;
                start += rows;
                Ok(Linear { weight, bias: None })
            })
            .collect()
    }

    /// Loads a tensor of any number of matrices, one for each expert.
    pub(crate) fn stacked(&self, name: &str) -> CandleResult<StackedMatrices> {
        let full_name = self.vb.pp(name).prefix();
        let stored = match &self.stored {
            Some(stored) => stored.matrix(&full_name, self.vb.device())?,
            None => None,
        };
        self.read.add(&full_name);
        Ok(StackedMatrices(match stored {
            Some(StoredWeight::Half(weights)) => Matrix::Half(weights),
            Some(StoredWeight::Quantized(_)) => candle_core::bail!("{full_name}: stacked experts in quantised blocks are not supported"),
            None => Matrix::Dense(self.vb.get_unchecked(name)?),
        }))
    }

    fn matrix(&self, name: &str, inputs: usize, outputs: usize) -> CandleResult<Matrix> {
        let below = self.vb.pp(name);
        let stored = match &self.stored {
            Some(stored) => {
                let name = format!("{}.weight", below.prefix());
                self.read.add(&name);
                stored.matrix(&name, self.vb.device())?
            }
            None => None,
        };
        let check = |shape: &Shape| match shape.dims() {
            dims if dims == [outputs, inputs] => Ok(()),
            dims => candle_core::bail!("{}.weight is {dims:?}, the configuration says [{outputs}, {inputs}]", below.prefix()),
        };
        Ok(match stored {
            None => Matrix::Dense(below.get((outputs, inputs), "weight")?),
            Some(StoredWeight::Half(weight)) => {
                check(weight.shape())?;
                Matrix::Half(weight)
            }
            Some(StoredWeight::Quantized(weight)) => {
                check(weight.shape())?;
                Matrix::Quantized(QMatMul::from_arc(weight)?)
            }
        })
    }

    /// Loads the root-mean-square norm `name`. With `offset`, 1 is added to its weight.
    pub(crate) fn rms_norm(&self, name: &str, size: usize, eps: f64, offset: bool) -> CandleResult<RmsNorm> {
        let weight = self.vb.pp(name).get(size, "weight")?;
        Ok(RmsNorm::new(if offset { (weight + 1.0)? } else { weight }, eps))
    }
}

/// A linear layer `y = W x + b` over rows `x`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

impl Linear {
    /// The number of outputs.
    pub(crate) fn outputs(&self) -> CandleResult<usize> {
        self.weight.outputs()
    }

    /// Whether another layer has the same weights, value by value.
    pub(crate) fn same_weights(&self, other: &Self) -> CandleResult<bool> {
        match (&self.weight, &other.weight) {
            (Matrix::Dense(a) | Matrix::Half(a), Matrix::Dense(b) | Matrix::Half(b)) if a.shape() == b.shape() => {
                Ok(a.eq(&b.to_dtype(a.dtype())?)?.flatten_all()?.min(0)?.to_scalar::<u8>()? == 1)
            }
            _ => Ok(false),
        }
    }
}

#[derive(Debug, Clone)]
enum Matrix {
    Dense(Tensor),
    /// Widened at every product to the dtype of the input: slower than f32 weights, with the same results.
    Half(Tensor),
    /// Multiplied with inputs that are rounded to 8 bits, block by block.
    Quantized(QMatMul),
}

impl Matrix {
    fn outputs(&self) -> CandleResult<usize> {
        match self {
            Self::Dense(weight) | Self::Half(weight) | Self::Quantized(QMatMul::Tensor(weight) | QMatMul::TensorF16(weight)) => {
                weight.dim(0)
            }
            Self::Quantized(QMatMul::QTensor(weight)) => Ok(weight.shape().dims2()?.0),
        }
    }

    fn rows(&self, start: usize, count: usize) -> CandleResult<Self> {
        Ok(match self {
            Self::Dense(weight) => Self::Dense(weight.narrow(0, start, count)?),
            Self::Half(weight) => Self::Half(weight.narrow(0, start, count)?),
            Self::Quantized(QMatMul::QTensor(weight)) => Self::Quantized(QMatMul::from_qtensor(quantised_rows(weight, start, count)?)?),
            Self::Quantized(QMatMul::Tensor(weight) | QMatMul::TensorF16(weight)) => Self::Dense(weight.narrow(0, start, count)?),
        })
    }

    /// The weights `[outputs, inputs]` in the dtype of another tensor, for gradients. The rounding of inputs to 8 bits
    /// is ignored there.
    fn dense(&self, like: &Tensor) -> CandleResult<Tensor> {
        match self {
            Self::Dense(weight) => Ok(weight.clone()),
            Self::Half(weight) | Self::Quantized(QMatMul::Tensor(weight) | QMatMul::TensorF16(weight)) => weight.to_dtype(like.dtype()),
            Self::Quantized(QMatMul::QTensor(weight)) => weight.dequantize(like.device())?.to_dtype(like.dtype()),
        }
    }
}

/// The matrices of all experts of a layer, `[experts, rows, columns]`.
#[derive(Debug)]
pub(crate) struct StackedMatrices(Matrix);

impl StackedMatrices {
    /// The shape of the tensor.
    pub(crate) fn dims(&self) -> &[usize] {
        match &self.0 {
            Matrix::Dense(weights) | Matrix::Half(weights) => weights.dims(),
            Matrix::Quantized(_) => &[],
        }
    }

    /// The matrix `[outputs, inputs]` of one expert, which is transposed in the file if `transposed`.
    pub(crate) fn matrix(&self, expert: usize, transposed: bool) -> CandleResult<ExpertMatrix> {
        let one = |weights: &Tensor| {
            let matrix = weights.narrow(0, expert, 1)?.squeeze(0)?;
            if transposed { matrix.t()?.contiguous() } else { Ok(matrix) }
        };
        Ok(ExpertMatrix(match &self.0 {
            Matrix::Dense(weights) => Matrix::Dense(one(weights)?),
            Matrix::Half(weights) => Matrix::Half(one(weights)?),
            Matrix::Quantized(_) => candle_core::bail!("a quantised matrix cannot be split"),
        }))
    }
}

/// A matrix of one expert, whose rows are those of one layer or of several.
#[derive(Debug)]
pub(crate) struct ExpertMatrix(Matrix);

impl ExpertMatrix {
    /// The linear layer, without a bias, of `outputs` rows from `start` on.
    pub(crate) fn part(&self, start: usize, outputs: usize) -> CandleResult<Linear> {
        Ok(Linear { weight: self.0.rows(start, outputs)?, bias: None })
    }
}

/// Some rows of a quantised matrix. Blocks lie within rows, so nothing is quantised again.
fn quantised_rows(weight: &QTensor, start: usize, count: usize) -> CandleResult<QTensor> {
    let (rows, inputs) = weight.shape().dims2()?;
    let data = weight.data()?;
    let row = data.len() / rows.max(1);
    let Some(bytes) = data.get(start * row..(start + count) * row) else {
        candle_core::bail!("a matrix of {rows} rows has no rows {start} to {}", start + count)
    };
    // Whole blocks from the start of an aligned vector of blocks are aligned too.
    QTensor::new(QStorage::from_data(bytes.into(), &weight.device(), weight.dtype())?, (count, inputs))
}

/// A table of vectors, one for each token id.
#[derive(Debug, Clone)]
pub(crate) struct Embedding {
    /// `[tokens, hidden]`, in its stored format.
    table: Matrix,
    dtype: DType,
}

impl Embedding {
    /// Looks up the vectors `[.., hidden]` of token ids u32 `[..]`, in the model's dtype.
    pub(crate) fn forward(&self, ids: &Tensor) -> CandleResult<Tensor> {
        let vectors = match &self.table {
            Matrix::Dense(table) | Matrix::Half(table) => {
                let mut shape = ids.dims().to_vec();
                shape.push(table.dim(1)?);
                table.index_select(&ids.flatten_all()?, 0)?.reshape(shape)?
            }
            Matrix::Quantized(table) => table.embedding(ids)?,
        };
        vectors.to_dtype(self.dtype)
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        let inputs = x.detach();
        let dense = |weight: &Tensor| candle_nn::Linear::new(weight.clone(), None).forward(&inputs);
        let y = match &self.weight {
            Matrix::Dense(weight) => dense(weight)?,
            Matrix::Half(weight) => dense(&weight.to_dtype(x.dtype())?)?,
            Matrix::Quantized(weight) => weight.forward(&inputs.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?,
        };
        let y = match &self.bias {
            None => y,
            Some(bias) => y.broadcast_add(bias)?,
        };
        if !x.track_op() {
            return Ok(y);
        }
        // Recorded by candle, the product would also produce the gradient of the weights, a tensor of their size.
        let (weight, shape) = (self.weight.clone(), x.shape().clone());
        with_gradient(x, y, move |_, gradient| {
            let rows = gradient.contiguous()?.flatten_to(gradient.rank().saturating_sub(2))?;
            rows.matmul(&weight.dense(gradient)?)?.reshape(&shape)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::GgmlDType;

    #[test]
    fn rows_of_a_quantised_matrix_are_those_of_its_dequantised_form() {
        let weight = Tensor::randn(0f32, 1.0, (6, 256), &Device::Cpu).unwrap();
        for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_0, GgmlDType::Q4K, GgmlDType::Q6K] {
            let whole = QTensor::quantize(&weight, dtype).unwrap();
            let rows = quantised_rows(&whole, 2, 3).unwrap().dequantize(&Device::Cpu).unwrap();
            let expected = whole.dequantize(&Device::Cpu).unwrap().narrow(0, 2, 3).unwrap();
            assert_eq!(rows.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
            assert!(quantised_rows(&whole, 4, 3).is_err());
        }
    }
}
