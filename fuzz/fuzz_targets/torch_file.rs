//! Torch files: read or refused, and every tensor lies within the file. A good seed is crates/sgm-core/tests/golden/views.bin.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_core::torch_file::read_torch_file;

fuzz_target!(|bytes: &[u8]| {
    let Ok(entries) = read_torch_file("fuzz".as_ref(), bytes) else { return };
    for tensor in entries.into_values().flatten() {
        assert!(tensor.bytes.end <= bytes.len());
        let numbers: usize = tensor.shape.iter().product();
        assert_eq!(tensor.gather(bytes).len(), numbers * tensor.dtype.bitsize() / 8);
    }
});
