//! Damaged GGUF headers cause no large allocation. The recording allocator needs a process of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unsafe_code, reason = "test code")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use sgm_models::{AutoMllm, Checkpoint};

/// An allocator that records the largest allocation, to detect trust in the counts of a damaged file.
struct Recorder;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all memory comes from the system's allocator.
unsafe impl GlobalAlloc for Recorder {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Recorder = Recorder;

/// The fixtures to damage, with the lengths of their headers.
const DAMAGED: [(&str, usize); 2] = [("gguf_llama", 6784), ("gguf_gemma3", 13_632)];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("model.gguf")
}

#[test]
fn damaged_headers_give_typed_errors_and_no_large_allocation() {
    let directory = tempfile::tempdir().unwrap();
    LARGEST.store(0, Ordering::Relaxed);
    for (name, header) in DAMAGED {
        let path = directory.path().join("model.gguf");
        let original = std::fs::read(fixture(name)).unwrap();
        let (mut opened, mut refused) = (0, 0);
        for at in 0..header {
            let mut bytes = original.clone();
            bytes[at] ^= [0xff, 0x01, 0x80][at % 3];
            std::fs::write(&path, &bytes).unwrap();
            match Checkpoint::open(&path) {
                Err(_) => refused += 1,
                // Some damage is harmless, some makes another valid model, and some is detected only when the model loads,
                // which takes time and is tried for every tenth byte.
                Ok(checkpoint) if at % 10 == 0 => drop(AutoMllm::load(&checkpoint)),
                Ok(_) => opened += 1,
            }
        }
        assert!(opened > 1000 && refused > 1000, "{name}: {opened} opened, {refused} refused");
    }
    assert!(LARGEST.load(Ordering::Relaxed) < 4 << 20, "{} bytes at once", LARGEST.load(Ordering::Relaxed));
}
