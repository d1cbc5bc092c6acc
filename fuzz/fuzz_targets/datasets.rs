//! Published data sets: the first byte selects one, the rest is its file. Read or refused.
//!
//! BeaverTails-V is left out: the Parquet decoder panics on broken files; its reader catches the panic, but the fuzzer counts a crash.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mm_toxic_qa::datasets::{
    Dataset, Entry, FigStep, JailBreakV, MmSafetyBench, MmSafetyBenchAnswers, MmVet, Pair, QUESTION_FORMATS, QuestionSet,
    RealToxicityPrompts, Spreadsheet, Variant, VlGuard, VlGuardSubset, VlmEvalKit,
};

/// The readers before those of the sets that list questions, each of which takes four kinds of files.
const READERS: usize = 10;
const EXTENSIONS: [&str; 4] = ["csv", "json", "jsonl", "xlsx"];

fuzz_target!(|input: (u8, &[u8])| {
    let (which, bytes) = input;
    let which = usize::from(which) % (READERS + EXTENSIONS.len() * QUESTION_FORMATS.len());
    let list = which.checked_sub(READERS).map(|n| (&QUESTION_FORMATS[n / EXTENSIONS.len()], EXTENSIONS[n % EXTENSIONS.len()]));
    let name = match which {
        0 => "data/processed_questions/a.json".to_owned(),
        1 => "questions_with_answers/a.json".to_owned(),
        2 => "JailBreakV_28K.csv".to_owned(),
        6 => "mm-vet.json".to_owned(),
        7 => "mm-vet-v2.json".to_owned(),
        _ => list.map_or_else(|| "file".to_owned(), |(_, extension)| format!("file.{extension}")),
    };
    sgm_fuzz::with_file(&name, bytes, |folder, file| {
        let dataset: Box<dyn Dataset> = match (which, list) {
            (_, Some((format, _))) => Box::new(QuestionSet::new(format, file, folder)),
            (0, _) => Box::new(MmSafetyBench::new(folder, Pair::Published(Variant::Typo))),
            (1, _) => Box::new(MmSafetyBenchAnswers::new(folder, Pair::Text)),
            (2, _) => Box::new(JailBreakV::new(folder)),
            (3, _) => Box::new(FigStep::drawn(file)),
            (4, _) => Box::new(VlGuard::new(file, folder, VlGuardSubset::SafeUnsafes)),
            (5, _) => Box::new(RealToxicityPrompts::new(file)),
            (6, _) => Box::new(MmVet::new(folder)),
            (7, _) => Box::new(MmVet::v2(folder)),
            (8, _) => Box::new(VlmEvalKit::new(file)),
            _ => Box::new(Spreadsheet::with_images(file, folder)),
        };
        // Odd entries do not end the reading.
        let _ = dataset.for_each(&mut |entry| {
            if let Entry::Item(item) = entry {
                assert!(!item.sample.id.is_empty());
            }
            Ok(())
        });
    });
});
