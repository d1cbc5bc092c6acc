//! The tensors of a checkpoint that a model reads, so that those it does not read are known.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

/// Tensors that no model needs: rotary frequencies and positions, which follow from the configuration, and the scales
/// of activations and caches in 8 bits, which are not quantised here.
const NEVER_READ: [&str; 9] =
    [".inv_freq", ".position_ids", ".input_scale", ".activation_scale", ".output_scale", ".q_scale", ".k_scale", ".v_scale", ".kv_scale"];

/// The names of the tensors that were read, and of those that a model leaves out on purpose.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadTensors(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    read: BTreeSet<String>,
    /// The beginnings of names.
    left_out: Vec<String>,
}

impl ReadTensors {
    /// Passes requests on to `inner` and records their names.
    pub(crate) fn record<'a>(&self, inner: VarBuilder<'a>) -> VarBuilder<'a> {
        let (dtype, device) = (inner.dtype(), inner.device().clone());
        VarBuilder::from_backend(Box::new(Recorder { inner, read: self.clone() }), dtype, device)
    }

    pub(crate) fn add(&self, name: &str) {
        self.lock().read.insert(name.to_owned());
    }

    /// Declares that the model has no use for a tensor of this name and those below it.
    pub(crate) fn leave_out(&self, name: String) {
        self.lock().left_out.push(name);
    }

    /// Those of `names` that were neither read nor left out on purpose.
    pub(crate) fn unread(&self, names: BTreeSet<String>) -> Vec<String> {
        let record = self.lock();
        let below =
            |name: &str, prefix: &String| name.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let known = |name: &String| {
            record.read.contains(name)
                || NEVER_READ.iter().any(|ending| name.ends_with(ending))
                || record.left_out.iter().any(|prefix| below(name, prefix))
        };
        names.into_iter().filter(|name| !known(name)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A source of tensors that records what is read from it.
struct Recorder<'a> {
    inner: VarBuilder<'a>,
    read: ReadTensors,
}

impl Recorder<'_> {
    fn add(&self, name: &str) {
        match self.inner.prefix() {
            prefix if prefix.is_empty() => self.read.add(name),
            prefix => self.read.add(&format!("{prefix}.{name}")),
        }
    }
}

impl SimpleBackend for Recorder<'_> {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        self.add(name);
        self.inner.get_with_hints_dtype(shape, name, init, dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        self.add(name);
        self.inner.get_unchecked_dtype(name, dtype)?.to_device(device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.inner.contains_tensor(name)
    }
}
