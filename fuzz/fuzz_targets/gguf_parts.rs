//! Models split over two GGUF files: opened, loaded and baked, or refused. The first two bytes are the length of the first part.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_bake::{Amplify, bake};
use sgm_core::Intervention;
use sgm_models::{AutoMllm, Checkpoint};

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (first, second) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))));
    sgm_fuzz::with_file("model-00001-of-00002.gguf", first, |directory, file| {
        std::fs::write(directory.join("model-00002-of-00002.gguf"), second).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(directory) {
            let _ = AutoMllm::load(&checkpoint);
        }
        // Without an intervention the parts are copied as they are, if they are those of one model.
        let out = directory.join("out");
        if bake(file, &Intervention::default(), Amplify::Refuse, &out.join("a")).is_ok() && !out.join("a").exists() {
            assert_eq!(std::fs::read(out.join("a-00001-of-00002.gguf")).unwrap(), first);
            assert_eq!(std::fs::read(out.join("a-00002-of-00002.gguf")).unwrap(), second);
        }
    });
});
