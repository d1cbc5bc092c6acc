//! Published data sets: the first byte selects one, the rest is its file. Read or refused.
//!
//! BeaverTails-V is left out: the Parquet decoder panics on broken files; its reader catches the panic, but the fuzzer counts a crash.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mm_toxic_qa::datasets::{
    Dataset, FigStep, JailBreakV, MmHarmfulBench, MmSafetyBench, MmSafetyBenchAnswers, MmVet, Pair, RealToxicityPrompts, Spreadsheet,
    Variant, VlGuard, VlGuardSubset, VlSafe, VlmEvalKit,
};

fuzz_target!(|input: (u8, &[u8])| {
    let (which, bytes) = input;
    let name = match which % 11 {
        0 => "data/processed_questions/a.json",
        1 => "questions_with_answers/a.json",
        2 => "JailBreakV_28K.csv",
        8 => "mm-vet.json",
        _ => "file",
    };
    sgm_fuzz::with_file(name, bytes, |folder, file| {
        let dataset: Box<dyn Dataset> = match which % 11 {
            0 => Box::new(MmSafetyBench::new(folder, Pair::Published(Variant::Typo))),
            1 => Box::new(MmSafetyBenchAnswers::new(folder, Pair::Text)),
            2 => Box::new(JailBreakV::new(folder)),
            3 => Box::new(FigStep::drawn(file)),
            4 => Box::new(VlSafe::new(file, folder)),
            5 => Box::new(VlGuard::new(file, folder, VlGuardSubset::SafeUnsafes)),
            6 => Box::new(MmHarmfulBench::new(file, folder)),
            7 => Box::new(RealToxicityPrompts::new(file)),
            8 => Box::new(MmVet::new(folder)),
            9 => Box::new(VlmEvalKit::new(file)),
            _ => Box::new(Spreadsheet::with_images(file, folder)),
        };
        let _ = dataset.items();
    });
});
