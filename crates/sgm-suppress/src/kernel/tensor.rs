//! The kernel on candle's tensors.

use std::sync::OnceLock;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor};

use super::scaling::{Scaling, Strengths};

/// A tensor that is put on the device of a running model once, when it is first needed there.
#[derive(Debug, Clone, Default)]
pub(crate) struct OnDevice(OnceLock<Tensor>);

impl OnDevice {
    /// The tensor that `make` returns, on a device and in a dtype. What is kept is that of the first call; for any other device or dtype the
    /// tensor is made anew.
    pub(crate) fn get(
        &self,
        device: &Device,
        dtype: DType,
        make: impl FnOnce() -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Tensor> {
        if let Some(kept) = self.0.get().filter(|kept| kept.device().same_device(device) && kept.dtype() == dtype) {
            return Ok(kept.clone());
        }
        let made = make()?.to_device(device)?.to_dtype(dtype)?;
        // Another thread may have been first, with an equal tensor; or it is kept elsewhere.
        let _ = self.0.set(made.clone());
        Ok(made)
    }
}

/// The strengths of the tokens of one pass, sequence after sequence.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenStrengths {
    each: Vec<f32>,
    /// The common strength of all tokens, if they have one.
    same: Option<f32>,
    column: OnDevice,
}

impl TokenStrengths {
    pub(crate) fn new(each: Vec<f32>) -> Self {
        let same = each.first().copied().filter(|first| each.iter().all(|strength| strength == first));
        Self { each, same, column: OnDevice::default() }
    }

    pub(crate) fn each(&self) -> &[f32] {
        &self.each
    }

    pub(crate) fn strengths(&self) -> Strengths<'_> {
        self.same.map_or(Strengths::Each(&self.each), Strengths::Same)
    }

    /// The strengths on a device, f32 `[tokens, 1]`.
    pub(crate) fn column(&self, device: &Device) -> candle_core::Result<Tensor> {
        self.column.get(device, DType::F32, || Tensor::from_slice(&self.each, (self.each.len(), 1), device))
    }
}

/// A scaling of tensors.
#[derive(Debug, Clone)]
pub(crate) struct TensorScaling {
    scaling: Scaling,
    scale: OnDevice,
    shift: OnDevice,
}

impl From<Scaling> for TensorScaling {
    fn from(scaling: Scaling) -> Self {
        Self { scaling, scale: OnDevice::default(), shift: OnDevice::default() }
    }
}

impl TensorScaling {
    /// The scaling of slices.
    pub(crate) fn scaling(&self) -> &Scaling {
        &self.scaling
    }

    /// Scales responses `[.., neurons]`, each token at its strength: in place on CPUs in f32, bf16 and f16, where the caller must hold the
    /// only reference to them, otherwise into a new tensor.
    pub(crate) fn apply_to(&self, output: Tensor, strengths: &TokenStrengths) -> candle_core::Result<Tensor> {
        let neurons = output.dims().last().copied().unwrap_or(0);
        let tokens = output.elem_count().checked_div(neurons).unwrap_or(0);
        if neurons != self.scaling.neurons() {
            candle_core::bail!("{} scales for outputs {:?}", self.scaling.neurons(), output.shape());
        }
        if strengths.each.len() != tokens {
            candle_core::bail!("{} strengths for outputs {:?}", strengths.each.len(), output.shape());
        }
        // If gradients are tracked, candle must record the operation.
        if output.device().is_cpu() && !output.track_op() && matches!(output.dtype(), DType::F32 | DType::BF16 | DType::F16) {
            let output = output.contiguous()?;
            output.inplace_op1(&InPlace { scaling: &self.scaling, strengths: strengths.strengths() })?;
            return Ok(output);
        }
        self.apply_anywhere(&output, strengths)
    }

    /// Scales by candle's operations, with equal precision.
    fn apply_anywhere(&self, output: &Tensor, strengths: &TokenStrengths) -> candle_core::Result<Tensor> {
        let (device, neurons) = (output.device(), self.scaling.neurons());
        let scale = self.scale.get(device, DType::F32, || Tensor::from_slice(&self.scaling.scale, neurons, device))?;
        let shift = match &self.scaling.shift {
            None => None,
            Some(shift) => Some(self.shift.get(device, DType::F32, || Tensor::from_slice(shift, neurons, device))?),
        };
        let compute = if output.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        // The factors are those of `factor`: one row of them, or a row for each token.
        let scaled = |factor: &Tensor, shift: Option<Tensor>| {
            let mut scaled = output.to_dtype(compute)?.broadcast_mul(&factor.to_dtype(compute)?)?;
            if let Some(shift) = shift {
                scaled = scaled.broadcast_add(&shift.to_dtype(compute)?)?;
            }
            scaled.to_dtype(output.dtype())
        };
        match strengths.same {
            Some(0.0) => Ok(output.clone()),
            Some(1.0) => scaled(&scale, shift),
            Some(strength) => {
                let factor = scale.affine(1.0, -1.0)?.affine(strength.into(), 1.0)?;
                scaled(&factor, shift.map(|shift| shift.affine(strength.into(), 0.0)).transpose()?)
            }
            None => {
                let mut column = output.dims().to_vec();
                column.pop();
                column.push(1);
                let strength = strengths.column(device)?.reshape(column)?;
                if strengths.each.iter().all(|strength| [0.0, 1.0].contains(strength)) {
                    return strength.ne(0f32)?.broadcast_as(output.shape())?.where_cond(&scaled(&scale, shift)?, output);
                }
                let factor = strength.broadcast_mul(&scale.affine(1.0, -1.0)?)?.affine(1.0, 1.0)?;
                let full = strength.eq(1f32)?.broadcast_as(output.shape())?;
                let factor = full.where_cond(&scale.broadcast_as(output.shape())?, &factor)?;
                scaled(&factor, shift.map(|shift| strength.broadcast_mul(&shift)).transpose()?)
            }
        }
    }
}

struct InPlace<'a> {
    scaling: &'a Scaling,
    strengths: Strengths<'a>,
}

impl InplaceOp1 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "sgm-scaling"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("sgm-scaling: {layout:?} is not contiguous") };
        let Self { scaling, strengths } = self;
        match storage {
            CpuStorage::F32(all) => scaling.apply_strengths(all.get_mut(start..end).unwrap_or_default(), *strengths),
            CpuStorage::BF16(all) => scaling.apply_strengths(all.get_mut(start..end).unwrap_or_default(), *strengths),
            CpuStorage::F16(all) => scaling.apply_strengths(all.get_mut(start..end).unwrap_or_default(), *strengths),
            _ => candle_core::bail!("sgm-scaling: responses must be f32, bf16 or f16"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Responses `[2, 3, 4]` of a dtype.
    fn responses(dtype: DType) -> Tensor {
        let values: Vec<f32> = (0..24).map(|i| i as f32 * 0.37 - 4.0).collect();
        Tensor::from_vec(values, (2, 3, 4), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn in_place_and_elsewhere_agree_in_every_dtype() {
        let each = [vec![1.0; 6], vec![0.4; 6], vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0], vec![1.0, 0.0, 0.5, 1.0, 1.0, 0.3]];
        for shift in [None, Some(vec![0.0, 0.3, 0.0, -1.0])] {
            let scaling = TensorScaling::from(Scaling::new(vec![1.0, 0.3, 0.0, 0.7], shift).unwrap());
            for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
                for strengths in each.clone().map(TokenStrengths::new) {
                    let expected = values(&scaling.apply_anywhere(&responses(dtype), &strengths).unwrap());
                    let here = scaling.apply_to(responses(dtype), &strengths).unwrap();
                    assert_eq!(here.dtype(), dtype);
                    assert_eq!(values(&here), expected, "{dtype:?} {strengths:?}");
                    assert_ne!(expected, values(&responses(dtype)));
                }
            }
            let none = scaling.apply_anywhere(&responses(DType::F32), &TokenStrengths::new(vec![0.0; 6])).unwrap();
            assert_eq!(values(&none), values(&responses(DType::F32)));
        }
    }

    #[test]
    fn parts_of_storages_and_transposed_ones_are_scaled_alone() {
        let scaling = TensorScaling::from(Scaling::new(vec![0.5, 1.0, 1.0, 0.25], None).unwrap());
        let full = |tokens| TokenStrengths::new(vec![1.0; tokens]);
        let whole = responses(DType::F32);
        let second = scaling.apply_to(whole.narrow(0, 1, 1).unwrap(), &full(3)).unwrap();
        let before = values(&responses(DType::F32));
        assert_eq!(values(&whole)[..12], before[..12]);
        assert_eq!(values(&second)[0], before[12] * 0.5);
        let turned = responses(DType::F32).reshape((4, 6)).unwrap().t().unwrap();
        let scaled = scaling.apply_to(turned.clone(), &full(6)).unwrap();
        assert_eq!(values(&scaled), values(&scaling.apply_anywhere(&turned, &full(6)).unwrap()));
        assert!(scaling.apply_to(turned.t().unwrap(), &full(4)).is_err());
        assert!(scaling.apply_to(responses(DType::F32), &full(5)).is_err());
    }

    #[test]
    fn a_tensor_is_made_once_for_each_device_and_dtype() {
        let (on_device, made) = (OnDevice::default(), std::cell::Cell::new(0));
        let get = |dtype| {
            let make = || {
                made.set(made.get() + 1);
                Tensor::new(&[1.5f32], &Device::Cpu)
            };
            on_device.get(&Device::Cpu, dtype, make).unwrap().dtype()
        };
        assert_eq!(
            [get(DType::F32), get(DType::F32), get(DType::BF16), get(DType::F32)].map(|d| d == DType::F32),
            [true, true, false, true]
        );
        assert_eq!(made.get(), 2);
    }
}
