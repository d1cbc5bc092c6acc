//! Linear layers and embeddings over weights of any storage: f32, 16-bit, or quantised.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::{Module, VarBuilder};
use rayon::prelude::*;

use crate::checkpoint::read_tensors::ReadTensors;
use crate::error::{Error, Result};
use crate::layers::derivative::{RmsNorm, with_gradient};
use crate::layers::matrix::{Matrix, StackedMatrices};
use crate::layers::values::{can_change_in_place, change_values_by};

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
        Ok((Embedding { table: table.clone(), dtype: self.vb.dtype() }, Linear::without_bias(table)))
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
                Ok(Linear::without_bias(weight))
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
        Ok(StackedMatrices::new(match stored {
            Some(StoredWeight::Half(weights)) => weights,
            Some(StoredWeight::Quantized(_)) => candle_core::bail!("{full_name}: stacked experts in quantised blocks are not supported"),
            None => self.vb.get_unchecked(name)?,
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
            None => Matrix::Plain(below.get((outputs, inputs), "weight")?),
            Some(StoredWeight::Half(weight)) => {
                check(weight.shape())?;
                Matrix::Plain(weight)
            }
            Some(StoredWeight::Quantized(weight)) => {
                check(weight.shape())?;
                Matrix::Quantised(weight)
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
    pub(crate) fn without_bias(weight: Matrix) -> Self {
        Self { weight, bias: None }
    }

    /// Loads the layer at `vb` from `inputs` to `outputs` features, in the dtype of `vb`.
    pub(crate) fn load(vb: &VarBuilder<'_>, inputs: usize, outputs: usize, bias: bool) -> CandleResult<Self> {
        let bias = if bias { Some(vb.get(outputs, "bias")?) } else { None };
        Ok(Self { weight: Matrix::Plain(vb.get((outputs, inputs), "weight")?), bias })
    }

    /// The dtype of the weights, in which the layers of a model that are no part of the decoder take their inputs.
    pub(crate) fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// The number of outputs.
    pub(crate) fn outputs(&self) -> CandleResult<usize> {
        self.weight.outputs()
    }

    /// Whether another layer has the same weights, value by value.
    pub(crate) fn same_weights(&self, other: &Self) -> CandleResult<bool> {
        match (&self.weight, &other.weight) {
            (Matrix::Plain(a), Matrix::Plain(b)) if a.shape() == b.shape() => {
                Ok(a.eq(&b.to_dtype(a.dtype())?)?.flatten_all()?.min(0)?.to_scalar::<u8>()? == 1)
            }
            _ => Ok(false),
        }
    }
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
            Matrix::Plain(table) => {
                let mut shape = ids.dims().to_vec();
                shape.push(table.dim(1)?);
                table.index_select(&ids.flatten_all()?, 0)?.reshape(shape)?
            }
            Matrix::Quantised(table) => table.embedding(ids)?,
        };
        vectors.to_dtype(self.dtype)
    }
}

/// Adds a bias to every row of a product, in place where possible.
fn add_bias(y: Tensor, bias: &Tensor) -> CandleResult<Tensor> {
    /// Rows that one thread changes at a time.
    const ROWS: usize = 16;
    if !can_change_in_place(&y) || !can_change_in_place(bias) {
        return y.broadcast_add(bias);
    }
    let add = |rows: &mut [f32], bias: &[f32]| {
        rows.chunks_exact_mut(bias.len().max(1)).for_each(|row| row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias));
    };
    change_values_by(&y, bias, |values, bias| {
        if values.len() <= ROWS * bias.len() {
            add(values, bias);
        } else {
            values.par_chunks_mut(ROWS * bias.len()).for_each(|rows| add(rows, bias));
        }
        Ok(())
    })
    .map_err(candle_core::Error::wrap)?;
    Ok(y)
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        let inputs = x.detach();
        let y = self.weight.product(&inputs)?;
        let y = match &self.bias {
            None => y,
            Some(bias) => add_bias(y, bias)?,
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
