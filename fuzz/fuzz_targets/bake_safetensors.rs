//! Safetensors files: refused, or baked with the properties that [`sgm_fuzz::bake`] checks.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sgm_bake::SiteTensors;

fuzz_target!(|bytes: &[u8]| sgm_fuzz::bake(|bytes| SiteTensors::read_safetensors(Path::new("fuzz"), bytes, bytes.len() as u64), bytes));
