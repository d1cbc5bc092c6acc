//! Data sets with changed bytes, which a reader refuses or reads, without a panic.

use std::path::Path;

use mm_toxic_qa::datasets::{
    Dataset, FigStep, JailBreakV, MmSafetyBench, MmSafetyBenchAnswers, MmVet, Pair, QuestionFormat, QuestionSet, RealToxicityPrompts,
    Variant, VlGuard, VlGuardSubset, VlmEvalKit,
};
use mm_toxic_qa::manifest;
use proptest::prelude::*;

/// A file, its correct content, and its reader.
type Case = (&'static str, Vec<u8>, fn(&Path) -> Box<dyn Dataset>);

fn cases() -> Vec<Case> {
    #[allow(unused_mut, reason = "features add to it")]
    let mut cases: Vec<Case> = vec![
        (
            "data/processed_questions/a.json",
            br#"{"10": {"Question": "q?", "Rephrased Question": "r?", "Rephrased Question(SD)": "s?"}}"#.to_vec(),
            |f| Box::new(MmSafetyBench::new(f, Pair::Published(Variant::Sd))),
        ),
        (
            "questions_with_answers/a.json",
            br#"{"3": {"Question": "q?", "ans": {"r": {"text": "t", "is_safe(gpt)": "safe"}}}}"#.to_vec(),
            |f| Box::new(MmSafetyBenchAnswers::new(f, Pair::Text)),
        ),
        (
            "JailBreakV_28K.csv",
            b"jailbreak_query,format,policy,image_path,selected_mini\n\"a\nb\",f,p,i/j.png,True\nc,f,p,,False\n".to_vec(),
            |f| Box::new(JailBreakV::new(f).mini()),
        ),
        (
            "safebench.csv",
            b"dataset,category_id,task_id,category_name,question,instruction\nF,1,2,c,how?,Steps to a placeholder\n".to_vec(),
            |f| Box::new(FigStep::drawn(f.join("safebench.csv"))),
        ),
        ("a.jsonl", b"{\"image_id\": \"a.jpg\", \"query\": \"q\"}\n".to_vec(), |f| set("vlsafe", f, "a.jsonl")),
        ("b.jsonl", b"{\"image_url\": \"h/a.jpg\", \"question\": \"q\"}\n".to_vec(), |f| set("mm-harmfulbench", f, "b.jsonl")),
        ("h.csv", b"Behavior,SemanticCategory,ContextString,BehaviorID\nq,c,\"a\nb\",1\n".to_vec(), |f| set("harmbench", f, "h.csv")),
        ("x.csv", b"id,prompt,type,label\n1,q,t,safe\n2,q,contrast_t,unsafe\n".to_vec(), |f| set("xstest", f, "x.csv")),
        ("s.json", br#"[{"question_id": 1, "image": "a.png", "question": "q", "category": "c"}]"#.to_vec(), |f| set("siuo", f, "s.json")),
        (
            "c.csv",
            b"Prompt,Category,safe_img_0,safe_img_1,safe_img_2,unsafe_img_0,unsafe_img_1,unsafe_img_2\nq,c,1,2,3,4,5,6\n".to_vec(),
            |f| set("vscbench", f, "c.csv"),
        ),
        ("mm-vet-v2.json", br#"{"v": {"question": "q<IMG>v.png", "answer": "a", "capability": ["ocr"]}}"#.to_vec(), |f| {
            Box::new(MmVet::v2(f))
        }),
        (
            "v.json",
            br#"[{"id": 1, "image": "a.jpg", "safe": true, "instr-resp": [{"safe_instruction": "i", "response": "r"}]}]"#.to_vec(),
            |f| Box::new(VlGuard::new(f.join("v.json"), f, VlGuardSubset::SafeSafes)),
        ),
        ("r.jsonl", b"{\"prompt\": {\"text\": \"t\", \"toxicity\": 0.5}}\n".to_vec(), |f| {
            Box::new(RealToxicityPrompts::new(f.join("r.jsonl")))
        }),
        (
            "mm-vet.json",
            br#"{"v": {"imagename": "v.png", "question": "q", "answer": "a<AND>b<OR>c", "capability": ["ocr"]}}"#.to_vec(),
            |f| Box::new(MmVet::new(f)),
        ),
        ("t.tsv", [b"index\timage\tquestion\tA\tanswer\n1\t2\tq\to\tA\n2\t", &b"QUFB".repeat(20)[..], b"\tq\t\ta\n"].concat(), |f| {
            Box::new(VlmEvalKit::new(f.join("t.tsv")))
        }),
    ];
    #[cfg(feature = "parquet")]
    cases.push(("b.parquet", include_bytes!("../golden/datasets/beavertails_v.parquet").to_vec(), |f| {
        Box::new(mm_toxic_qa::datasets::BeaverTailsV::answers(f))
    }));
    #[cfg(feature = "xlsx")]
    cases.push(("c.xlsx", include_bytes!("../golden/datasets/calibration.xlsx").to_vec(), |f| {
        Box::new(mm_toxic_qa::datasets::Spreadsheet::with_images(f.join("c.xlsx"), f))
    }));
    cases
}

fn set(name: &str, folder: &Path, file: &str) -> Box<dyn Dataset> {
    Box::new(QuestionSet::new(QuestionFormat::named(name).unwrap(), folder.join(file), folder))
}

/// Reads the file, and writes what it read as a manifest without images.
fn survives((name, _, open): &Case, bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    let Ok(items) = open(folder.path()).items() else { return false };
    let samples: Vec<_> = items.into_iter().map(|item| item.sample).collect();
    let path = folder.path().join("m.jsonl");
    // Published ids may occur twice; every other error is a failure.
    match manifest::write(&path, &samples) {
        Ok(()) => assert_eq!(manifest::read(&path).unwrap(), samples),
        Err(mm_toxic_qa::Error::DuplicateId { .. }) => {}
        Err(e) => panic!("{name}: {e}"),
    }
    true
}

#[test]
fn correct_files_are_read() {
    for case in cases() {
        assert!(survives(&case, &case.1), "{}", case.0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_changed(which in 0..cases().len(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let case = cases().swap_remove(which);
        let mut bytes = case.1.clone();
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        survives(&case, &bytes);
    }

    #[test]
    fn cut_short(which in 0..cases().len(), at in any::<prop::sample::Index>()) {
        let case = cases().swap_remove(which);
        survives(&case, &case.1[..at.index(case.1.len())]);
    }

    #[test]
    fn anything(which in 0..cases().len(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survives(&cases().swap_remove(which), &bytes);
    }
}
