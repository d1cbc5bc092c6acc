//! The compilation of plain loops for the vector instructions that the processor has.

/// Runs `work`, compiled for AVX-512 or as far as [`pulp`] goes.
pub(crate) fn dispatch<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
    if crate::vectors::available() {
        #[target_feature(enable = "avx512f")]
        fn wide<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: the processor has the instructions.
        return unsafe { wide(work) };
    }
    pulp::Arch::new().dispatch(work)
}
