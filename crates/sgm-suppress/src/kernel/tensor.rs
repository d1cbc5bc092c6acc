//! The kernel on candle's tensors.

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor};

use super::scaling::{Scaling, Strengths, factor};

impl Scaling {
    /// Scales responses `[.., neurons]`, each token at its strength: in place on CPUs in f32, bf16 and f16, where the caller must hold the
    /// only reference to them, otherwise into a new tensor.
    pub(crate) fn apply_to(&self, output: Tensor, strengths: Strengths<'_>) -> candle_core::Result<Tensor> {
        let neurons = output.dims().last().copied().unwrap_or(0);
        let tokens = output.elem_count().checked_div(neurons).unwrap_or(0);
        if neurons != self.neurons() {
            candle_core::bail!("{} scales for outputs {:?}", self.neurons(), output.shape());
        }
        if let Strengths::Each(each) = strengths
            && each.len() != tokens
        {
            candle_core::bail!("{} strengths for outputs {:?}", each.len(), output.shape());
        }
        // If gradients are tracked, candle must record the operation.
        if output.device().is_cpu() && !output.track_op() && matches!(output.dtype(), DType::F32 | DType::BF16 | DType::F16) {
            let output = output.contiguous()?;
            output.inplace_op1(&InPlace { scaling: self, strengths })?;
            return Ok(output);
        }
        self.apply_anywhere(&output, strengths)
    }

    /// Scales by candle's operations, with equal precision.
    fn apply_anywhere(&self, output: &Tensor, strengths: Strengths<'_>) -> candle_core::Result<Tensor> {
        // One row of factors and shifts, or a row for each token.
        let (strengths, shape) = match strengths {
            Strengths::Same(strength) => (&[strength][..], vec![self.neurons()]),
            Strengths::Each(each) => (each, output.dims().to_vec()),
        };
        let compute = if output.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let table = |values: &[f32], of: fn(f32, f32) -> f32| {
            let values: Vec<f32> = strengths.iter().flat_map(|s| values.iter().map(move |v| of(*v, *s))).collect();
            Tensor::from_vec(values, shape.as_slice(), output.device())?.to_dtype(compute)
        };
        let mut scaled = output.to_dtype(compute)?.broadcast_mul(&table(&self.scale, factor)?)?;
        if let Some(shift) = &self.shift {
            scaled = scaled.broadcast_add(&table(shift, |shift, strength| strength * shift)?)?;
        }
        scaled.to_dtype(output.dtype())
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
        let strengths = [1.0, 0.0, 0.5, 1.0, 1.0, 0.3];
        for shift in [None, Some(vec![0.0, 0.3, 0.0, -1.0])] {
            let scaling = Scaling::new(vec![1.0, 0.3, 0.0, 0.7], shift).unwrap();
            for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
                for strengths in [Strengths::Same(1.0), Strengths::Same(0.4), Strengths::Each(&strengths)] {
                    let expected = values(&scaling.apply_anywhere(&responses(dtype), strengths).unwrap());
                    let here = scaling.apply_to(responses(dtype), strengths).unwrap();
                    assert_eq!(here.dtype(), dtype);
                    assert_eq!(values(&here), expected, "{dtype:?} {strengths:?}");
                    assert_ne!(expected, values(&responses(dtype)));
                }
            }
        }
    }

    #[test]
    fn parts_of_storages_and_transposed_ones_are_scaled_alone() {
        let scaling = Scaling::new(vec![0.5, 1.0, 1.0, 0.25], None).unwrap();
        let whole = responses(DType::F32);
        let second = scaling.apply_to(whole.narrow(0, 1, 1).unwrap(), Strengths::Same(1.0)).unwrap();
        let before = values(&responses(DType::F32));
        assert_eq!(values(&whole)[..12], before[..12]);
        assert_eq!(values(&second)[0], before[12] * 0.5);
        let turned = responses(DType::F32).reshape((4, 6)).unwrap().t().unwrap();
        let scaled = scaling.apply_to(turned.clone(), Strengths::Same(1.0)).unwrap();
        assert_eq!(values(&scaled), values(&scaling.apply_anywhere(&turned, Strengths::Same(1.0)).unwrap()));
        assert!(scaling.apply_to(turned.t().unwrap(), Strengths::Same(1.0)).is_err());
        assert!(scaling.apply_to(responses(DType::F32), Strengths::Each(&[1.0; 5])).is_err());
    }
}
