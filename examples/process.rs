//! What a process that runs models wants of its memory and its threads.

/// Tensors come and go by the megabyte; the system's allocator gives each back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tells candle how many threads there are, unless the environment already does.
///
/// Without `RAYON_NUM_THREADS` candle reads `/proc/cpuinfo` at every matrix product, which a small model
/// notices. And it runs elementwise operations on one pool that serves a single caller at a time, for
/// which batches that run in parallel would queue; with one thread in that pool each batch uses its own.
#[allow(unsafe_code, reason = "the environment is candle's only setting")]
pub(crate) fn settle() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    for (name, value) in [("RAYON_NUM_THREADS", threads.as_str()), ("CANDLE_NUM_THREADS", "1")] {
        if std::env::var_os(name).is_none() {
            // SAFETY: called first thing in `main`, while the process has one thread.
            unsafe { std::env::set_var(name, value) };
        }
    }
}
