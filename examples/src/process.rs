//! The memory, threads and logging of a program that runs models.

use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::progress::SpanNames;

/// An allocator that keeps the megabytes that tensors free; the system's returns each of them to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sets the number of threads and starts logging to standard error. Call it first in `main`.
///
/// `RUST_LOG=info` logs how long each step took; warnings are always logged.
///
/// Without `RAYON_NUM_THREADS` candle reads `/proc/cpuinfo` at every matrix product, which a small model notices. And it runs
/// elementwise operations on one pool that serves a single caller at a time, on which parallel batches would queue; with one thread in
/// that pool each batch uses its own thread. Variables that are set already stay as they are.
#[allow(unsafe_code, reason = "candle reads these settings from the environment only")]
pub fn start() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    for (name, value) in [("RAYON_NUM_THREADS", threads.as_str()), ("CANDLE_NUM_THREADS", "1")] {
        if std::env::var_os(name).is_none() {
            // SAFETY: called first in `main`, while the process has one thread.
            unsafe { std::env::set_var(name, value) };
        }
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = fmt::layer().with_writer(std::io::stderr).with_span_events(FmtSpan::CLOSE).with_filter(filter);
    tracing_subscriber::registry().with(SpanNames).with(log).init();
}
