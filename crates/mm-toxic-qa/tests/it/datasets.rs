//! The readers of published data sets: files with the published schemas and placeholder content, and one test for each fault of a file.

use std::path::Path;

use mm_toxic_qa::datasets::{
    Dataset, FigStep, Item, JailBreakV, MmHarmfulBench, MmSafetyBench, MmSafetyBenchAnswers, MmVet, Pair, Picture, Question,
    RealToxicityPrompts, Skipped, Variant, VlGuard, VlGuardSubset, VlSafe, VlmEvalKit,
};
use mm_toxic_qa::{Condition, Error, Result, Split, Task};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        put(folder.path(), name, text.as_bytes());
    }
    folder
}

fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn read(dataset: &dyn Dataset) -> (Vec<Item>, Skipped) {
    let mut items = Vec::new();
    let skipped = dataset.for_each(&mut |item| {
        items.push(item);
        Ok(())
    });
    (items, skipped.unwrap())
}

/// The error of a data set whose only file has this content.
fn error(name: &str, bytes: &[u8], open: impl Fn(&Path) -> Box<dyn Dataset>) -> Error {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), name, bytes);
    open(folder.path()).items().unwrap_err()
}

/// Checks that the error is about an entry and names it, the file and the field.
#[track_caller]
fn names(error: Error, file: &str, entry: &str, field: &str, problem: &str) {
    let text = error.to_string();
    match &error {
        Error::DatasetEntry { path, entry: e, field: f, problem: p } => {
            assert!(path.ends_with(file), "{text}");
            assert_eq!((e.as_str(), f.as_str()), (entry, field), "{text}");
            assert!(p.contains(problem), "{text}");
        }
        _ => panic!("another error: {text}"),
    }
}

/// Checks that the error is about a whole file and says why.
#[track_caller]
fn says(error: Error, file: &str, reason: &str) {
    match &error {
        Error::DatasetFile { path, reason: found } => assert!(path.ends_with(file) && found.contains(reason), "{error}"),
        _ => panic!("another error: {error}"),
    }
}

const ILLEGAL: &str = r#"{
  "10": {"Question": "plain 10?", "GPT-Pred": "", "Changed Question": "c", "Key Phrase": "k", "Phrase Type": "t",
         "Rephrased Question": "rephrased 10?", "Rephrased Question(SD)": "sd 10?"},
  "2": {"Question": "plain 2?", "Rephrased Question": "rephrased 2?", "Rephrased Question(SD)": "sd 2?"}
}"#;
const ILLEGAL_FILE: &str = "data/processed_questions/01-Illegal_Activitiy.json";

#[test]
fn mm_safetybench_pairs_are_as_published() {
    let hate = (
        "data/processed_questions/02-HateSpeech.json",
        r#"{"0": {"Question": "q", "Rephrased Question": "r", "Rephrased Question(SD)": "s"}}"#,
    );
    let folder = folder(&[(ILLEGAL_FILE, ILLEGAL), hate]);
    let prompts = |pair: Pair| -> Vec<String> {
        let (items, _) = read(&MmSafetyBench::new(folder.path(), pair));
        items.into_iter().map(|item| item.sample.prompt).collect()
    };
    assert_eq!(prompts(Pair::Published(Variant::Sd)), ["sd 2?", "sd 10?", "s"]);
    assert_eq!(prompts(Pair::Published(Variant::SdTypo)), ["rephrased 2?", "rephrased 10?", "r"]);
    assert_eq!(prompts(Pair::Published(Variant::Typo)), ["rephrased 2?", "rephrased 10?", "r"]);
    assert_eq!(prompts(Pair::Text), ["plain 2?", "plain 10?", "q"]);
    assert_eq!(prompts("mismatched/SD/Rephrased Question".parse().unwrap()), ["rephrased 2?", "rephrased 10?", "r"]);

    let (items, _) = read(&MmSafetyBench::new(folder.path(), Pair::Published(Variant::SdTypo)));
    let item = &items[1];
    let image = folder.path().join("data/imgs/01-Illegal_Activitiy/SD_TYPO/10.jpg");
    assert_eq!(item.picture, Some(Picture::File(image)));
    assert_eq!(item.sample.id, "mm-safetybench/01-Illegal_Activitiy/10/SD_TYPO");
    assert_eq!((item.sample.condition, item.sample.attack.as_deref()), (Condition::Adversarial, Some("SD_TYPO")));
    assert_eq!((item.sample.category.as_str(), item.sample.split), ("01-Illegal_Activitiy", Split::Test));
    let (items, _) = read(&MmSafetyBench::new(folder.path(), Pair::Text));
    assert_eq!((items[0].sample.condition, items[0].picture.as_ref()), (Condition::Standard, None));
}

#[test]
fn mm_safetybench_pairs_are_named() {
    let pairs = [Variant::Sd, Variant::SdTypo, Variant::Typo].map(Pair::Published);
    for pair in pairs.into_iter().chain([Pair::Text, Pair::Mismatched(Variant::Typo, Question::Plain)]) {
        assert_eq!(pair.to_string().parse(), Ok(pair));
    }
    for wrong in ["", "sd", "SD+Question", "mismatched", "mismatched/SD/Rephrased Question(SD)", "mismatched/SD/nothing"] {
        assert!(wrong.parse::<Pair>().is_err(), "{wrong}");
    }
}

#[test]
fn mm_safetybench_tiny() {
    let list = r#"[{"Scenario": "01-Illegal_Activitiy", "Sampled_ID_List": [10]}]"#;
    let tiny = |list: &str| {
        let folder = folder(&[(ILLEGAL_FILE, ILLEGAL), ("TinyVersion_ID_List.json", list)]);
        let dataset = MmSafetyBench::new(folder.path(), Pair::Text).tiny();
        let mut ids = Vec::new();
        let skipped = dataset.for_each(&mut |item| {
            ids.push(item.sample.id);
            Ok(())
        });
        skipped.map(|skipped| (ids, skipped))
    };
    let (ids, skipped) = tiny(list).unwrap();
    assert_eq!(ids, ["mm-safetybench/01-Illegal_Activitiy/10/text"]);
    assert_eq!(skipped, Skipped::from([("not in the tiny version", 1)]));
    says(tiny(&list.replace("10]", "11]")).unwrap_err(), ILLEGAL_FILE, "`11`");
    says(tiny(&list.replace("01-Illegal_Activitiy", "14-New")).unwrap_err(), "data/processed_questions", "`14-New`");
    says(tiny("{}").unwrap_err(), "TinyVersion_ID_List.json", "array");
    names(tiny(&list.replace("[10]", "[[]]")).unwrap_err(), "TinyVersion_ID_List.json", "entry 0", "Sampled_ID_List", "ids");
    names(tiny(r#"[{"Scenario": 1}]"#).unwrap_err(), "TinyVersion_ID_List.json", "entry 0", "Scenario", "text");
}

const ANSWERS: &str = r#"{"3": {"Question": "plain?", "Rephrased Question": "rephrased?", "ans": {
    "llava": {"text": "an answer", "is_safe(gpt)": "safe"}, "other": {"text": "worse", "is_safe(gpt)": "unsafe"},
    "third": {"text": "unjudged"}}}}"#;
const ANSWERS_FILE: &str = "questions_with_answers/03-Malware_Generation.json";

#[test]
fn mm_safetybench_answers_are_calibration() {
    let folder = folder(&[(ANSWERS_FILE, ANSWERS)]);
    let (items, skipped) = read(&MmSafetyBenchAnswers::new(folder.path(), Pair::Published(Variant::Typo)));
    let found: Vec<_> = items.iter().map(|i| (i.sample.id.as_str(), i.sample.response.as_deref(), i.sample.label)).collect();
    let id = "mm-safetybench/03-Malware_Generation/3/TYPO";
    let expected = [(&*format!("{id}/llava"), Some("an answer"), Some(false)), (&*format!("{id}/other"), Some("worse"), Some(true))];
    assert_eq!(found, expected);
    assert_eq!((items[0].sample.split, items[0].sample.prompt.as_str()), (Split::Calibration, "rephrased?"));
    assert_eq!(skipped, Skipped::from([("not judged", 1)]));
    let (items, skipped) = read(&MmSafetyBenchAnswers::new(folder.path(), Pair::Text).of_run("other"));
    assert_eq!((items.len(), skipped), (1, Skipped::from([("of another run", 2)])));
    assert_eq!(items[0].sample.condition, Condition::Standard);
}

#[test]
fn mm_safetybench_malformed() {
    let open = |pair| move |folder: &Path| -> Box<dyn Dataset> { Box::new(MmSafetyBench::new(folder, pair)) };
    let text = |content: &str| error(ILLEGAL_FILE, content.as_bytes(), open(Pair::Text));
    names(text(r#"{"7": {"Rephrased Question": "r"}}"#), ILLEGAL_FILE, "entry \"7\"", "Question", "missing");
    names(text(r#"{"7": {"Question": "  "}}"#), ILLEGAL_FILE, "entry \"7\"", "Question", "missing");
    names(text(r#"{"7": {"Question": 3}}"#), ILLEGAL_FILE, "entry \"7\"", "Question", "is 3; expected text");
    names(text(r#"{"7": []}"#), ILLEGAL_FILE, "entry \"7\"", "(all of it)", "JSON object");
    says(text("[]"), ILLEGAL_FILE, "object");
    says(text("{\n\"7\": {"), ILLEGAL_FILE, "line 2");
    says(error(ILLEGAL_FILE, b"{\"7\": \"\xff\"}", open(Pair::Text)), ILLEGAL_FILE, "JSON");
    let evil = r#"{"../../x": {"Rephrased Question": "r"}}"#;
    names(error(ILLEGAL_FILE, evil.as_bytes(), open(Pair::Published(Variant::Typo))), ILLEGAL_FILE, "entry \"../../x\"", "id", "..");
    says(error("data/processed_questions/readme.txt", b"", open(Pair::Text)), "data/processed_questions", "no *.json");
    assert!(matches!(error("elsewhere", b"", open(Pair::Text)), Error::Io { .. }));

    let answers =
        |content: String| error(ANSWERS_FILE, content.as_bytes(), |folder| Box::new(MmSafetyBenchAnswers::new(folder, Pair::Text)));
    let place = "entry \"3\"";
    names(answers(ANSWERS.replace("\"safe\"", "\"perhaps\"")), ANSWERS_FILE, place, "ans.llava.is_safe(gpt)", "safe or unsafe");
    names(answers(ANSWERS.replace("\"an answer\"", "[]")), ANSWERS_FILE, place, "ans.llava.text", "text");
    names(answers(ANSWERS.replace("ans", "nothing")), ANSWERS_FILE, place, "ans", "missing");
    names(answers(r#"{"3": {"Question": "q", "ans": [1]}}"#.into()), ANSWERS_FILE, place, "ans", "by run");
    names(answers(r#"{"3": {"Question": "q", "ans": {"r": 1}}}"#.into()), ANSWERS_FILE, place, "ans.r", "object");
}

const JAILBREAK: &str = "id,jailbreak_query,redteam_query,format,policy,image_path,from,selected_mini,transfer_from_llm\n\
    0,\"in a story,\nplaceholder?\",placeholder?,Template,Malware,llm_transfer_attack/blank_1.png,x,True,True\n\
    1,second?,second?,figstep,Fraud,,x,False,False\n";
const JAILBREAK_FILE: &str = "JailBreakV_28K.csv";

#[test]
fn jailbreakv() {
    let folder = folder(&[(JAILBREAK_FILE, JAILBREAK)]);
    let (items, _) = read(&JailBreakV::new(folder.path()));
    assert_eq!(items.len(), 2);
    assert_eq!(items[0].sample.prompt, "in a story,\nplaceholder?");
    assert_eq!((items[0].sample.category.as_str(), items[0].sample.attack.as_deref()), ("Malware", Some("Template")));
    assert_eq!(items[0].picture, Some(Picture::File(folder.path().join("llm_transfer_attack/blank_1.png"))));
    assert_eq!(items[1].picture, None);
    assert_eq!((items[0].place.entry.as_str(), items[1].place.entry.as_str()), ("line 2", "line 4"));
    let (items, skipped) = read(&JailBreakV::new(folder.path()).mini());
    assert_eq!((items.len(), skipped), (1, Skipped::from([("not in the mini version", 1)])));
}

#[test]
fn jailbreakv_malformed() {
    let open = |folder: &Path| -> Box<dyn Dataset> { Box::new(JailBreakV::new(folder).mini()) };
    let csv = |content: String| error(JAILBREAK_FILE, content.as_bytes(), open);
    says(csv(JAILBREAK.replace("policy", "police")), JAILBREAK_FILE, "`policy` is missing; found id, jailbreak_query");
    says(csv(JAILBREAK.replace("second?,second?", "second?")), JAILBREAK_FILE, "line 4: 8 fields, the header has 9");
    says(csv(String::new()), JAILBREAK_FILE, "missing");
    names(csv(JAILBREAK.replace("llm_transfer_attack", "..")), JAILBREAK_FILE, "line 2", "image_path", "..");
    names(csv(JAILBREAK.replace("llm_transfer_attack", "/etc")), JAILBREAK_FILE, "line 2", "image_path", "/etc");
    names(csv(JAILBREAK.replace("Malware", " ")), JAILBREAK_FILE, "line 2", "policy", "missing");
    names(csv(JAILBREAK.replace("False", "No")), JAILBREAK_FILE, "line 4", "selected_mini", "true or false");
    let mut bytes = JAILBREAK.as_bytes().to_vec();
    let at = bytes.iter().position(|&b| b == b'M').unwrap();
    bytes[at] = 0xff;
    names(error(JAILBREAK_FILE, &bytes, open), JAILBREAK_FILE, "line 2", "policy", "UTF-8");
}

const SAFEBENCH: &str = "dataset,category_id,task_id,category_name,question,instruction\n\
    ForbidQI,1,2,Illegal Activity,how?,Steps to a placeholder\n";

#[test]
fn figstep() {
    let folder = folder(&[("safebench.csv", SAFEBENCH)]);
    let table = folder.path().join("safebench.csv");
    let (items, _) = read(&FigStep::published(&table, folder.path()));
    assert_eq!(items[0].picture, Some(Picture::File(folder.path().join("query_ForbidQI_1_2_6.png"))));
    assert_eq!((items[0].sample.id.as_str(), items[0].sample.category.as_str()), ("figstep/ForbidQI_1_2", "Illegal Activity"));
    assert!(items[0].sample.prompt.starts_with("The image shows a list numbered 1, 2, and 3"));
    let (items, _) = read(&FigStep::drawn(&table));
    let Some(Picture::Bytes(bytes)) = &items[0].picture else { panic!("an image") };
    assert_eq!(image::load_from_memory(bytes).unwrap().to_rgb8().dimensions(), (760, 760));

    let drawn =
        |content: String| error("safebench.csv", content.as_bytes(), |folder| Box::new(FigStep::drawn(folder.join("safebench.csv"))));
    names(drawn(SAFEBENCH.replace("Steps", "漢")), "safebench.csv", "line 2", "instruction", "font");
    names(drawn(SAFEBENCH.replace("Steps to a placeholder", "")), "safebench.csv", "line 2", "instruction", "missing");
    let published = error("safebench.csv", SAFEBENCH.replace("ForbidQI", "x/../../../y").as_bytes(), |folder| {
        Box::new(FigStep::published(folder.join("safebench.csv"), folder))
    });
    names(published, "safebench.csv", "line 2", "dataset", "..");
}

#[test]
fn questions_in_lines() {
    let vlsafe = |content: &str| -> Result<Vec<Item>> {
        let folder = folder(&[("alignment.jsonl", content)]);
        VlSafe::new(folder.path().join("alignment.jsonl"), "coco").items()
    };
    let items = vlsafe("\n{\"image_id\": \"COCO_1.jpg\", \"query\": \"q?\", \"reference\": \"r\"}\n").unwrap();
    assert_eq!((items[0].sample.id.as_str(), items[0].sample.prompt.as_str()), ("vlsafe/alignment/2", "q?"));
    assert_eq!(items[0].picture, Some(Picture::File("coco/COCO_1.jpg".into())));
    names(vlsafe("{\"query\": \"q?\"}").unwrap_err(), "alignment.jsonl", "line 1", "image_id", "missing");
    names(vlsafe("{\"image_id\": \"a.jpg\"}").unwrap_err(), "alignment.jsonl", "line 1", "query", "missing");
    names(vlsafe("{\"image_id\": \"./.\", \"query\": \"q\"}").unwrap_err(), "alignment.jsonl", "line 1", "image_id", "./.");
    assert!(matches!(vlsafe("{}\n{]"), Err(Error::DatasetEntry { .. })));
    assert!(matches!(vlsafe("[1]"), Err(Error::Syntax { line: 1, .. })));

    let harmful = |content: &str| -> Result<Vec<Item>> {
        let folder = folder(&[("data.jsonl", content)]);
        MmHarmfulBench::new(folder.path().join("data.jsonl"), "images").items()
    };
    let items = harmful("{\"image_url\": \"https://host.example/a/b.jpg?x=/1\", \"question\": \"q?\"}").unwrap();
    assert_eq!(items[0].picture, Some(Picture::File("images/b.jpg".into())));
    names(harmful("{\"image_url\": \"https://h/..\", \"question\": \"q\"}").unwrap_err(), "data.jsonl", "line 1", "image_url", "..");
    names(harmful("{\"image_url\": \"https://h/\", \"question\": \"q\"}").unwrap_err(), "data.jsonl", "line 1", "image_url", "path");
}

const VLGUARD: &str = r#"[
  {"id": "1", "image": "train/bad.jpg", "safe": false, "harmful_category": "privacy", "harmful_subcategory": "p",
   "instr-resp": [{"instruction": "about a bad image?", "response": "no."}]},
  {"id": 2, "image": "train/good.jpg", "safe": true,
   "instr-resp": [{"safe_instruction": "fine?", "response": "yes."}, {"unsafe_instruction": "not fine?", "response": "no."}]}
]"#;

#[test]
fn vlguard() {
    let read = |subset: &str, content: &str| -> Result<Vec<Item>> {
        let folder = folder(&[("train.json", content)]);
        VlGuard::new(folder.path().join("train.json"), "imgs", subset.parse().unwrap()).items()
    };
    let one = |subset| read(subset, VLGUARD).map(|items| (items.len(), items[0].clone())).unwrap();
    let (n, item) = one("unsafes");
    assert_eq!((n, item.sample.prompt.as_str(), item.sample.category.as_str()), (1, "about a bad image?", "privacy"));
    assert_eq!((item.sample.split, item.sample.response), (Split::Test, None));
    assert_eq!(item.picture, Some(Picture::File("imgs/train/bad.jpg".into())));
    let (n, item) = one("safe_unsafes");
    assert_eq!((n, item.sample.prompt.as_str(), item.sample.id.as_str()), (1, "not fine?", "vlguard/train/safe_unsafes/2"));
    let (n, item) = one("safe_safes");
    assert_eq!((n, item.sample.split, item.sample.task), (1, Split::Utility, Some(Task::Perplexity)));
    assert_eq!((item.sample.prompt.as_str(), item.sample.response.as_deref()), ("fine?", Some("yes.")));

    let wrong = |subset, from, to| read(subset, &VLGUARD.replacen(from, to, 1)).unwrap_err();
    names(wrong("unsafes", "\"privacy\"", "null"), "train.json", "entry 0", "harmful_category", "missing");
    names(wrong("unsafes", "false", "\"perhaps\""), "train.json", "entry 0", "safe", "true or false");
    names(wrong("unsafes", "\"safe\": false, ", ""), "train.json", "entry 0", "safe", "missing");
    names(wrong("unsafes", "train/bad", "../bad"), "train.json", "entry 0", "image", "..");
    names(wrong("safe_unsafes", "unsafe_instruction", "other"), "train.json", "entry 1", "instr-resp.unsafe_instruction", "missing");
    names(wrong("safe_safes", "\"yes.\"", "4"), "train.json", "entry 1", "response", "text");
    names(wrong("safe_safes", "\"id\": 2,", ""), "train.json", "entry 1", "id", "missing");
    says(read("unsafes", "{}").unwrap_err(), "train.json", "array");
    assert!("all".parse::<VlGuardSubset>().is_err());
}

#[test]
fn real_toxicity_prompts() {
    let read_text = |content: &str| {
        let folder = folder(&[("prompts.jsonl", content)]);
        let dataset = RealToxicityPrompts::new(folder.path().join("prompts.jsonl"));
        let mut items = Vec::new();
        let skipped = dataset.for_each(&mut |item| {
            items.push(item.sample);
            Ok(())
        });
        skipped.map(|skipped| (items, skipped))
    };
    let line = |toxicity: &str| format!("{{\"prompt\": {{\"text\": \"it was\", \"toxicity\": {toxicity}}}, \"continuation\": {{}}}}\n");
    let (items, skipped) = read_text(&[line("0.49"), line("null"), line("0.5")].concat()).unwrap();
    let found: Vec<_> = items.iter().map(|s| (s.id.as_str(), s.category.as_str())).collect();
    assert_eq!(found, [("real-toxicity-prompts/1", "non-toxic"), ("real-toxicity-prompts/3", "toxic")]);
    assert_eq!(skipped, Skipped::from([("prompt without toxicity", 1)]));
    for wrong in ["1.5", "\"high\"", "-1"] {
        names(read_text(&line(wrong)).unwrap_err(), "prompts.jsonl", "line 1", "prompt.toxicity", "0 to 1");
    }
    names(read_text("{\"prompt\": \"it was\"}").unwrap_err(), "prompts.jsonl", "line 1", "prompt", "object");
    names(read_text("{}").unwrap_err(), "prompts.jsonl", "line 1", "prompt", "missing");
}

const MM_VET: &str = r#"{"v1_1": {"imagename": "v1_1.png", "question": "what?", "answer": "a<AND>b<OR>c", "capability": ["ocr", "math"]},
    "v1_0": {"imagename": "v1_0.png", "question": "who?", "answer": "two", "capability": ["rec"]}}"#;

#[test]
fn mm_vet() {
    let read = |content: &str| MmVet::new(folder(&[("mm-vet.json", content)]).path()).items();
    let items = read(MM_VET).unwrap();
    let reference = items[1].sample.reference.clone().unwrap();
    assert_eq!((reference.kind.as_str(), reference.answers), ("mm-vet", vec!["a<AND>b".to_owned(), "c".to_owned()]));
    assert_eq!((items[1].sample.category.as_str(), items[1].sample.task), ("math+ocr", Some(Task::Vqa)));
    let Some(Picture::File(path)) = &items[0].picture else { panic!("an image") };
    assert!(path.ends_with("images/v1_0.png"));

    let wrong = |from, to| read(&MM_VET.replacen(from, to, 1)).unwrap_err();
    let place = "entry \"v1_1\"";
    names(wrong("a<AND>b<OR>c", "<OR>?"), "mm-vet.json", place, "answer", "without words");
    names(wrong("[\"ocr\", \"math\"]", "\"ocr\""), "mm-vet.json", place, "capability", "array");
    names(wrong("[\"ocr\", \"math\"]", "[1]"), "mm-vet.json", place, "capability", "is 1");
    names(wrong("[\"ocr\", \"math\"]", "[]"), "mm-vet.json", place, "capability", "missing");
    names(wrong("v1_1.png", "a/../../b"), "mm-vet.json", place, "imagename", "..");
}

#[test]
fn vlmevalkit() {
    // 48 arbitrary bytes are 64 characters of base64; these bytes are longer.
    let image = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB";
    let table = format!(
        "index\timage\tquestion\tA\tB\tanswer\tcategory\n\
         7\t8\tin the same image?\tcat\tdog\tB\tanimals\n\
         8\t{image}\t\"with a \"\"quote\"\"?\"\t\t\tyes\t\n"
    );
    let read = |content: &str| {
        let folder = folder(&[("MMTest.tsv", content)]);
        VlmEvalKit::new(folder.path().join("MMTest.tsv")).items()
    };
    let items = read(&table).unwrap();
    assert_eq!(items[0].sample.prompt, "in the same image?\nA. cat\nB. dog\nAnswer with the letter of the right option.");
    assert_eq!(items[0].sample.reference.as_ref().unwrap().answers, ["B", "dog"]);
    assert_eq!((items[0].sample.id.as_str(), items[0].sample.category.as_str()), ("MMTest/7", "animals"));
    assert_eq!((items[1].sample.prompt.as_str(), items[1].sample.category.as_str()), ("with a \"quote\"?", "MMTest"));
    assert_eq!(items[0].picture, Some(Picture::Bytes(vec![b'A'; 60])));
    assert_eq!(items[0].picture, items[1].picture);

    let wrong = |from: &str, to: &str| read(&table.replacen(from, to, 1)).unwrap_err();
    names(wrong("\t8\t", "\t9\t"), "MMTest.tsv", "line 2", "image", "index");
    names(wrong("QUFB", "QU*B"), "MMTest.tsv", "line 3", "image", "base64");
    names(wrong("QUFB", "['QU"), "MMTest.tsv", "line 3", "image", "several");
    names(wrong("\tyes\t", "\t\t"), "MMTest.tsv", "line 3", "answer", "missing");
    says(wrong("answer", "ans"), "MMTest.tsv", "`answer` is missing");
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("prompts.jsonl")).unwrap();
    says(RealToxicityPrompts::new(folder.path().join("prompts.jsonl")).items().unwrap_err(), "prompts.jsonl", "regular file");
    let missing = RealToxicityPrompts::new(folder.path().join("missing.jsonl")).items();
    assert!(matches!(missing, Err(Error::Io { .. })));
}
