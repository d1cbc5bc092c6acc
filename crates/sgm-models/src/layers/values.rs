//! In-place access to the values of tensors.

use std::cell::Cell;

use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp2, Layout, Storage, Tensor};

use crate::error::Result;

/// Gives access to a tensor's values in row-major order. An f32 tensor on the CPU that is stored in this order is not
/// copied.
///
/// # Errors
///
/// candle's errors.
pub fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    if let Storage::Cpu(storage) = &*storage
        && let Some(values) = as_slice(storage, layout)
    {
        return Ok(read(values));
    }
    drop(storage);
    Ok(read(&tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?))
}

/// Whether a tensor's values can be changed in place: f32 on the CPU, in row-major order, and not part of a computation
/// with gradients.
pub(crate) fn can_change_in_place(tensor: &Tensor) -> bool {
    tensor.dtype() == DType::F32 && tensor.device().is_cpu() && !tensor.track_op() && tensor.is_contiguous()
}

/// Changes the values of a tensor in place. The tensor must be f32 on the CPU, in row-major order, and must share its
/// storage with no other tensor in use.
///
/// # Errors
///
/// The error of `change`, and candle's error for a tensor of another dtype, device or layout.
pub fn change_values(tensor: &Tensor, change: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    let change = Change::new(change);
    tensor.inplace_op1(&change)?;
    change.outcome.take().unwrap_or(Ok(()))
}

/// Changes the values of a tensor in place, given the values of another tensor. The same requirements hold for both,
/// and they must not overlap.
pub(crate) fn change_values_by(tensor: &Tensor, other: &Tensor, change: impl FnOnce(&mut [f32], &[f32]) -> Result<()>) -> Result<()> {
    let change = Change::new(change);
    tensor.inplace_op2(other, &change)?;
    change.outcome.take().unwrap_or(Ok(()))
}

/// A closure that runs once, within an in-place operation of candle.
struct Change<F> {
    change: Cell<Option<F>>,
    outcome: Cell<Option<Result<()>>>,
}

impl<F> Change<F> {
    fn new(change: F) -> Self {
        Self { change: Cell::new(Some(change)), outcome: Cell::new(None) }
    }
}

impl<F: FnOnce(&mut [f32]) -> Result<()>> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "sgm-values"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (Some(values), Some(change)) = (as_mut_slice(storage, layout), self.change.take()) else {
            candle_core::bail!("sgm-values: {layout:?} is not row-major f32")
        };
        self.outcome.set(Some(change(values)));
        Ok(())
    }
}

impl<F: FnOnce(&mut [f32], &[f32]) -> Result<()>> InplaceOp2 for Change<F> {
    fn name(&self) -> &'static str {
        "sgm-values"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout, other: &CpuStorage, of: &Layout) -> candle_core::Result<()> {
        let (Some(values), Some(other), Some(change)) = (as_mut_slice(storage, layout), as_slice(other, of), self.change.take()) else {
            candle_core::bail!("sgm-values: {layout:?} or {of:?} is not row-major f32")
        };
        self.outcome.set(Some(change(values, other)));
        Ok(())
    }
}

fn as_slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Option<&'a [f32]> {
    let CpuStorage::F32(all) = storage else { return None };
    let (start, end) = layout.contiguous_offsets()?;
    all.get(start..end)
}

fn as_mut_slice<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Option<&'a mut [f32]> {
    let CpuStorage::F32(all) = storage else { return None };
    let (start, end) = layout.contiguous_offsets()?;
    all.get_mut(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn counted(rows: usize, columns: usize) -> Tensor {
        Tensor::arange(0f32, (rows * columns) as f32, &Device::Cpu).unwrap().reshape((rows, columns)).unwrap()
    }

    #[test]
    fn values_are_read_in_row_major_order_from_any_layout() {
        let whole = counted(3, 2);
        let read = |tensor: &Tensor| with_values(tensor, <[f32]>::to_vec).unwrap();
        assert_eq!(read(&whole.narrow(0, 1, 2).unwrap()), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(read(&whole.t().unwrap()), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
        assert_eq!(read(&whole.to_dtype(DType::F64).unwrap()), read(&whole));
    }

    #[test]
    fn values_outside_of_a_view_do_not_change() {
        let (whole, by) = (counted(3, 2), counted(1, 2));
        change_values(&whole.narrow(0, 1, 1).unwrap(), |values| {
            values.iter_mut().for_each(|x| *x = -*x);
            Ok(())
        })
        .unwrap();
        change_values_by(&whole.narrow(0, 2, 1).unwrap(), &by, |values, by| {
            values.iter_mut().zip(by).for_each(|(x, by)| *x += 10.0 * by);
            Ok(())
        })
        .unwrap();
        assert_eq!(with_values(&whole, <[f32]>::to_vec).unwrap(), [0.0, 1.0, -2.0, -3.0, 4.0, 15.0]);
    }

    #[test]
    fn other_layouts_and_dtypes_are_refused_and_errors_are_passed_on() {
        let nothing = |_: &mut [f32]| Ok(());
        let tracked = candle_core::Var::from_tensor(&counted(2, 2)).unwrap();
        for other in [counted(2, 2).t().unwrap(), counted(2, 2).to_dtype(DType::F64).unwrap()] {
            assert!(!can_change_in_place(&other) && change_values(&other, nothing).is_err());
        }
        assert!(can_change_in_place(&counted(2, 2)) && !can_change_in_place(tracked.as_tensor()));
        let refused = || crate::error::Error::Inputs { reason: "no".to_owned() };
        assert!(matches!(change_values(&counted(2, 2), |_| Err(refused())), Err(crate::error::Error::Inputs { .. })));
        assert!(matches!(change_values_by(&counted(2, 2), &counted(2, 2), |_, _| Err(refused())), Err(crate::error::Error::Inputs { .. })));
    }
}
