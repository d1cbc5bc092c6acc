//! Published data sets: the first byte says which, the rest is its file. Read or refused.
//!
//! BeaverTails-V is not among them: the Parquet decoder panics on broken files, which its reader catches, but a fuzzer counts as a crash.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mm_toxic_qa::datasets::{
    Dataset, FigStep, JailBreakV, MmHarmfulBench, MmSafetyBench, MmSafetyBenchAnswers, MmVet, Pair, RealToxicityPrompts, Spreadsheet,
    Variant, VlGuard, VlGuardSubset, VlSafe, VlmEvalKit,
};

fuzz_target!(|input: (u8, &[u8])| {
    let (which, bytes) = input;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let file = path.join("file");
    let (name, dataset): (&str, Box<dyn Dataset>) = match which % 11 {
        0 => ("data/processed_questions/a.json", Box::new(MmSafetyBench::new(path, Pair::Published(Variant::Typo)))),
        1 => ("questions_with_answers/a.json", Box::new(MmSafetyBenchAnswers::new(path, Pair::Text))),
        2 => ("JailBreakV_28K.csv", Box::new(JailBreakV::new(path))),
        3 => ("file", Box::new(FigStep::drawn(file))),
        4 => ("file", Box::new(VlSafe::new(file, path))),
        5 => ("file", Box::new(VlGuard::new(file, path, VlGuardSubset::SafeUnsafes))),
        6 => ("file", Box::new(MmHarmfulBench::new(file, path))),
        7 => ("file", Box::new(RealToxicityPrompts::new(file))),
        8 => ("mm-vet.json", Box::new(MmVet::new(path))),
        9 => ("file", Box::new(VlmEvalKit::new(file))),
        _ => ("file", Box::new(Spreadsheet::with_images(file, path))),
    };
    let written = path.join(name);
    std::fs::create_dir_all(written.parent().unwrap()).unwrap();
    std::fs::write(written, bytes).unwrap();
    let _ = dataset.items();
});
