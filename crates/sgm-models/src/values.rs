//! The numbers of tensors, read and changed where they lie in memory.

use std::cell::Cell;

use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp2, Layout, Storage, Tensor};

use crate::Result;

/// Gives access to a tensor's values in row-major order, without a copy where they lie so in memory as f32, as they do on the CPU.
///
/// # Errors
///
/// What candle reports.
pub fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    if let Storage::Cpu(storage) = &*storage
        && let Some(values) = numbers(storage, layout)
    {
        return Ok(read(values));
    }
    drop(storage);
    Ok(read(&tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?))
}

/// Whether a tensor's values can be changed where they are, as far as they are its own: f32 on the CPU, in row-major order, and not part of a
/// computation whose gradients are wanted.
pub(crate) fn changeable(tensor: &Tensor) -> bool {
    tensor.dtype() == DType::F32 && tensor.device().is_cpu() && !tensor.track_op() && tensor.is_contiguous()
}

/// Changes the values of a tensor where they are. It must be f32 on the CPU, in row-major order, and nobody else may hold it.
///
/// # Errors
///
/// What `change` reports, and candle of tensors that are not so.
pub fn change_values(tensor: &Tensor, change: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    let change = Change::new(change);
    tensor.inplace_op1(&change)?;
    change.outcome.take().unwrap_or(Ok(()))
}

/// The same by the values of another tensor, which is such a one and no part of the first.
pub(crate) fn change_values_by(tensor: &Tensor, other: &Tensor, change: impl FnOnce(&mut [f32], &[f32]) -> Result<()>) -> Result<()> {
    let change = Change::new(change);
    tensor.inplace_op2(other, &change)?;
    change.outcome.take().unwrap_or(Ok(()))
}

/// A change that is made once.
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
        let (Some(values), Some(change)) = (numbers_mut(storage, layout), self.change.take()) else {
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
        let (Some(values), Some(other), Some(change)) = (numbers_mut(storage, layout), numbers(other, of), self.change.take()) else {
            candle_core::bail!("sgm-values: {layout:?} or {of:?} is not row-major f32")
        };
        self.outcome.set(Some(change(values, other)));
        Ok(())
    }
}

fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Option<&'a [f32]> {
    let CpuStorage::F32(all) = storage else { return None };
    let (start, end) = layout.contiguous_offsets()?;
    all.get(start..end)
}

fn numbers_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Option<&'a mut [f32]> {
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
    fn values_are_read_in_row_major_order_wherever_they_lie() {
        let whole = counted(3, 2);
        let read = |tensor: &Tensor| with_values(tensor, <[f32]>::to_vec).unwrap();
        assert_eq!(read(&whole.narrow(0, 1, 2).unwrap()), [2.0, 3.0, 4.0, 5.0]);
        assert_eq!(read(&whole.t().unwrap()), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
        assert_eq!(read(&whole.to_dtype(DType::F64).unwrap()), read(&whole));
    }

    #[test]
    fn only_the_values_of_the_tensor_itself_change() {
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
    fn what_cannot_be_changed_in_place_is_refused_and_errors_come_through() {
        let nothing = |_: &mut [f32]| Ok(());
        let tracked = candle_core::Var::from_tensor(&counted(2, 2)).unwrap();
        for other in [counted(2, 2).t().unwrap(), counted(2, 2).to_dtype(DType::F64).unwrap()] {
            assert!(!changeable(&other) && change_values(&other, nothing).is_err());
        }
        assert!(changeable(&counted(2, 2)) && !changeable(tracked.as_tensor()));
        let refused = || crate::Error::Inputs { reason: "no".to_owned() };
        assert!(matches!(change_values(&counted(2, 2), |_| Err(refused())), Err(crate::Error::Inputs { .. })));
        assert!(matches!(change_values_by(&counted(2, 2), &counted(2, 2), |_, _| Err(refused())), Err(crate::Error::Inputs { .. })));
    }
}
