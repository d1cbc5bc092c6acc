//! The readers of published data sets: files with the published schemas and placeholder content, and one test for each fault of a file.

use std::path::Path;

use std::collections::BTreeMap;

use mm_toxic_qa::datasets::{
    Dataset, Entry, FigStep, Item, JailBreakV, MmSafetyBench, MmSafetyBenchAnswers, MmVet, Pair, Picture, QUESTION_FORMATS, Question,
    QuestionFormat, QuestionSet, RealToxicityPrompts, Variant, VlGuard, VlGuardSubset, VlmEvalKit,
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

/// The number of entries left out, by reason.
type LeftOut = BTreeMap<&'static str, usize>;

fn read(dataset: &dyn Dataset) -> (Vec<Item>, LeftOut) {
    try_read(dataset).unwrap()
}

fn try_read(dataset: &dyn Dataset) -> Result<(Vec<Item>, LeftOut)> {
    let (mut items, mut left_out) = (Vec::new(), LeftOut::new());
    dataset.for_each(&mut |entry| {
        match entry {
            Entry::Item(item) => items.push(item),
            Entry::LeftOut { reason, .. } => *left_out.entry(reason).or_default() += 1,
            Entry::Odd(error) => return Err(error),
        }
        Ok(())
    })?;
    Ok((items, left_out))
}

/// The set of this name whose file has this content.
fn question_set(name: &str, file: &str, content: &[u8], images: &str) -> Result<Vec<Item>> {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), file, content);
    QuestionSet::new(QuestionFormat::named(name).unwrap(), folder.path().join(file), images).items()
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
    let tiny = |list: &str| -> Result<(Vec<String>, LeftOut)> {
        let folder = folder(&[(ILLEGAL_FILE, ILLEGAL), ("TinyVersion_ID_List.json", list)]);
        let (items, left_out) = try_read(&MmSafetyBench::new(folder.path(), Pair::Text).tiny())?;
        Ok((items.into_iter().map(|item| item.sample.id).collect::<Vec<_>>(), left_out))
    };
    let (ids, skipped) = tiny(list).unwrap();
    assert_eq!(ids, ["mm-safetybench/01-Illegal_Activitiy/10/text"]);
    assert_eq!(skipped, LeftOut::from([("not in the tiny version", 1)]));
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
    assert_eq!(skipped, LeftOut::from([("not judged", 1)]));
    let (items, skipped) = read(&MmSafetyBenchAnswers::new(folder.path(), Pair::Text).of_run("other"));
    assert_eq!((items.len(), skipped), (1, LeftOut::from([("of another run", 2)])));
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
    assert_eq!((items.len(), skipped), (1, LeftOut::from([("not in the mini version", 1)])));
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
    let vlsafe = |content: &str| question_set("vlsafe", "alignment.jsonl", content.as_bytes(), "coco");
    let items = vlsafe("\n{\"image_id\": \"COCO_1.jpg\", \"query\": \"q?\", \"reference\": \"r\"}\n").unwrap();
    assert_eq!((items[0].sample.id.as_str(), items[0].sample.prompt.as_str()), ("vlsafe/alignment/0", "q?"));
    assert_eq!(items[0].picture, Some(Picture::File("coco/COCO_1.jpg".into())));
    names(vlsafe("{\"query\": \"q?\"}").unwrap_err(), "alignment.jsonl", "line 1", "image_id", "missing");
    names(vlsafe("{\"image_id\": \"a.jpg\"}").unwrap_err(), "alignment.jsonl", "line 1", "query", "missing");
    names(vlsafe("{\"image_id\": \"./.\", \"query\": \"q\"}").unwrap_err(), "alignment.jsonl", "line 1", "image_id", "./.");
    assert!(matches!(vlsafe("{}\n{]"), Err(Error::DatasetEntry { .. })));
    assert!(matches!(vlsafe("[1]"), Err(Error::Syntax { line: 1, .. })));

    let harmful = |content: &str, images: &str| question_set("mm-harmfulbench", "data.jsonl", content.as_bytes(), images);
    let lines = "{\"image_url\": \"https://host.example/a/b.jpg?x=/1\", \"question\": \"q?\"}\n{\"question\": \"r?\"}\n";
    let pictures = |images: &Path| -> Vec<_> {
        let items = harmful(lines, images.to_str().unwrap()).unwrap();
        let name = |item: Item| match item.picture {
            Some(Picture::File(path)) => path.file_name().unwrap().to_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        items.into_iter().map(name).collect()
    };
    let images = folder(&[("b.jpg", "")]);
    assert_eq!(pictures(images.path()), ["b.jpg", "1.jpg"], "the address, where the published folder is not there");
    put(images.path(), "0.jpg", b"");
    put(images.path(), "1.png", b"");
    assert_eq!(pictures(images.path()), ["0.jpg", "1.png"], "line n has image n - 1");
    let evil = "{\"image_url\": \"https://h/..\", \"question\": \"q\"}";
    names(harmful(evil, "images").unwrap_err(), "data.jsonl", "line 1", "image_url", "..");
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
    assert_eq!(item.sample.subcategory.as_deref(), Some("p"));
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
    assert!(read("safe_safes", &VLGUARD.replace("yes.", "")).unwrap().is_empty(), "an empty response is left out");
    names(wrong("safe_safes", "\"id\": 2,", ""), "train.json", "entry 1", "id", "missing");
    says(read("unsafes", "{}").unwrap_err(), "train.json", "array");
    assert!("all".parse::<VlGuardSubset>().is_err());
}

#[test]
fn real_toxicity_prompts() {
    let read_text = |content: &str| {
        let folder = folder(&[("prompts.jsonl", content)]);
        try_read(&RealToxicityPrompts::new(folder.path().join("prompts.jsonl")))
    };
    let line = |toxicity: &str| format!("{{\"prompt\": {{\"text\": \"it was\", \"toxicity\": {toxicity}}}, \"continuation\": {{}}}}\n");
    let (items, skipped) = read_text(&[line("0.49"), line("null"), line("0.5")].concat()).unwrap();
    let found: Vec<_> = items.iter().map(|i| (i.sample.id.as_str(), i.sample.category.as_str())).collect();
    assert_eq!(found, [("real-toxicity-prompts/1", "non-toxic"), ("real-toxicity-prompts/3", "toxic")]);
    assert_eq!(skipped, LeftOut::from([("prompt without toxicity", 1)]));
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
    names(wrong("QUFB", "QU*B"), "MMTest.tsv", "line 2", "image", "index");
    names(wrong("\t8\t", &format!("\tQU*B{image}\t")), "MMTest.tsv", "line 2", "image", "base64");
    let left_out = |from: &str, to: &str| {
        let folder = folder(&[("MMTest.tsv", &table.replacen(from, to, 1))]);
        try_read(&VlmEvalKit::new(folder.path().join("MMTest.tsv"))).unwrap().1
    };
    assert_eq!(left_out("dog\tB\t", "dog\t\t"), LeftOut::from([("no answer", 1)]));
    assert_eq!(left_out("\t8\t", "\t['QUFB', 'QUFB']\t"), LeftOut::from([("several images", 1)]));
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

/// Rows with the published columns of each set that lists questions, and what the first sample has: id, category, prompt, whether harmless.
#[test]
fn lists_of_questions_have_their_published_columns() {
    let behaviours = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n\
        placeholder?,standard,illegal,,,b1\nplaceholder two?,contextual,illegal,context,\"a,\nb\",b2\n";
    let multimodal = "Behavior,BehaviorID,FunctionalCategory,SemanticCategory,ImageFileName,Source,ImageDescription,\
        RedactedImageDescription,Tags\nplaceholder?,b1,standard,harmful,a.png,s,d,r,multimodal\n";
    let goals = "Index,Goal,Target,Behavior,Category,Source\n0,placeholder?,Sure,b,Fraud,Original\n";
    let xstest = "id,prompt,type,label,focus,note\n1,placeholder?,homonyms,safe,f,\n2,other?,contrast_homonyms,unsafe,f,\n";
    let older = "id_v1,id_v2,type,prompt,focus,note\nv1-1,v2-1,homonyms,placeholder?,f,\nv1-2,v2-2,contrast_homonyms,other?,f,\n";
    let siuo = r#"[{"question_id": 1008, "image": "S-08.png", "question": "placeholder?", "category": "c", "safety_warning": "w"}]"#;
    type Expected = (&'static str, &'static str, &'static str, bool);
    let cases: [(&str, &str, &str, &[Expected]); 9] = [
        (
            "harmbench",
            "text.csv",
            behaviours,
            &[("text/b1", "illegal", "placeholder?", false), ("text/b2", "illegal", "a,\nb\n\n---\n\nplaceholder two?", false)],
        ),
        ("harmbench-multimodal", "m.csv", multimodal, &[("m/b1", "harmful", "placeholder?", false)]),
        ("advbench", "h.csv", "goal,target\nplaceholder?,Sure\n", &[("h/0", "advbench", "placeholder?", false)]),
        ("jailbreakbench", "harmful-behaviors.csv", goals, &[("harmful-behaviors/0", "Fraud", "placeholder?", false)]),
        ("jailbreakbench", "benign-behaviors.csv", goals, &[("benign-behaviors/0", "Fraud", "placeholder?", true)]),
        ("redteam-2k", "r.csv", "id,question,policy,from\n1,placeholder?,Malware,x\n", &[("r/1", "Malware", "placeholder?", false)]),
        ("xstest", "x.csv", xstest, &[("x/1", "homonyms", "placeholder?", true), ("x/2", "contrast_homonyms", "other?", false)]),
        ("xstest", "x.csv", older, &[("x/v2-1", "homonyms", "placeholder?", true), ("x/v2-2", "contrast_homonyms", "other?", false)]),
        ("siuo", "siuo_gen.json", siuo, &[("siuo_gen/1008", "c", "placeholder?", false)]),
    ];
    for (name, file, content, expected) in cases {
        let items = question_set(name, file, content.as_bytes(), "images").unwrap();
        let found: Vec<_> = items
            .iter()
            .map(|Item { sample, .. }| {
                assert_eq!(sample.split == Split::Test, sample.task != Some(Task::Refusal), "{name}");
                let id = sample.id.strip_prefix(name).unwrap().trim_start_matches('/');
                (id, sample.category.as_str(), sample.prompt.as_str(), sample.task == Some(Task::Refusal))
            })
            .collect();
        assert_eq!(found, expected, "{name}");
    }
    let named = |name, file, content: &str| question_set(name, file, content.as_bytes(), "images").unwrap()[0].picture.clone();
    assert_eq!(named("harmbench-multimodal", "m.csv", multimodal), Some(Picture::File("images/a.png".into())));
    assert_eq!(named("siuo", "siuo_gen.json", siuo), Some(Picture::File("images/S-08.png".into())));

    let wrong = |name, file, content: String| question_set(name, file, content.as_bytes(), "images").unwrap_err();
    says(wrong("harmbench", "h.csv", behaviours.replace("SemanticCategory", "Kind")), "h.csv", "`SemanticCategory` is missing");
    names(wrong("harmbench", "h.csv", behaviours.replace("b1", "")), "h.csv", "line 2", "BehaviorID", "missing");
    names(wrong("xstest", "x.csv", xstest.replace(",safe", ",maybe")), "x.csv", "line 2", "label", "safe or unsafe");
    names(wrong("harmbench-multimodal", "m.csv", multimodal.replace("a.png", "../a")), "m.csv", "line 2", "ImageFileName", "..");
    names(wrong("siuo", "s.json", siuo.replace("1008", "[]")), "s.json", "entry 0", "question_id", "text");
    names(wrong("siuo", "s.json", "[1]".into()), "s.json", "entry 0", "(all of it)", "object");
    says(wrong("siuo", "s.json", "{}".into()), "s.json", "array");
    assert!(QuestionFormat::named("nothing").is_none());
    assert!(QUESTION_FORMATS.iter().all(|format| std::ptr::eq(QuestionFormat::named(format.name()).unwrap(), format)));
}

#[test]
fn vscbench_shows_a_question_with_safe_and_unsafe_images() {
    let table = "Category,Prompt,safe_img_0,safe_img_1,safe_img_2,unsafe_img_0,unsafe_img_1,unsafe_img_2\n\
        drugs,placeholder?,s0.jpg,s1.jpg,s2.jpg,u0.jpg,u1.jpg,u2.jpg\n";
    let items = question_set("vscbench", "v.csv", table.as_bytes(), "images").unwrap();
    let found: Vec<_> = items.iter().map(|i| (i.sample.id.as_str(), i.sample.task, i.picture.clone().unwrap())).collect();
    assert_eq!(found.len(), 6);
    assert_eq!(found[0], ("vscbench/v/0/safe_img_0", Some(Task::Refusal), Picture::File("images/drugs/s0.jpg".into())));
    assert_eq!(found[5], ("vscbench/v/0/unsafe_img_2", None, Picture::File("images/drugs/u2.jpg".into())));
    let error = question_set("vscbench", "v.csv", table.replace("drugs", "..").as_bytes(), "images").unwrap_err();
    names(error, "v.csv", "line 2", "Category", "..");
}

#[test]
fn mm_vet_v2_names_its_images_in_the_question() {
    let entry = |id: &str, question: &str| format!(r#""{id}": {{"question": "{question}", "answer": "a<OR>b", "capability": ["rec"]}}"#);
    let text =
        format!("{{{}, {}, {}}}", entry("v2_0", "what?<IMG>v2_0.png"), entry("v2_1", "a<IMG>x.jpg<IMG>b<IMG>y.png"), entry("v2_2", "why?"));
    let folder = folder(&[("mm-vet-v2.json", &text)]);
    let (items, left_out) = read(&MmVet::v2(folder.path()));
    assert_eq!(left_out, LeftOut::from([("several images", 1)]));
    assert_eq!((items[0].sample.id.as_str(), items[0].sample.prompt.as_str()), ("mm-vet-v2/v2_0", "what?"));
    assert_eq!(items[0].picture, Some(Picture::File(folder.path().join("images/v2_0.png"))));
    assert_eq!((items[1].sample.prompt.as_str(), items[1].picture.as_ref()), ("why?", None));
}

#[test]
fn jailbreakv_has_a_mini_file_and_published_ids() {
    let mini = "id,jailbreak_query,redteam_query,format,policy,image_path,from,selected_mini,transfer_from_llm\n\
        7,wrapped placeholder,placeholder,Template,Fraud,llm_transfer_attack/a.png,Handcraft,True,True\n";
    for place in ["", "JailBreakV_28K/"] {
        let folder = folder(&[(&format!("{place}mini_JailBreakV_28K.csv"), mini)]);
        let items = JailBreakV::new(folder.path()).mini().items().unwrap();
        let sample = &items[0].sample;
        assert_eq!((items.len(), sample.id.as_str(), sample.request.as_deref()), (1, "jailbreakv-28k/7", Some("placeholder")));
        assert_eq!(items[0].picture, Some(Picture::File(folder.path().join(place).join("llm_transfer_attack/a.png"))));
        assert!(matches!(JailBreakV::new(folder.path()).items(), Err(Error::Io { .. })), "the mini file is not the whole set");
    }
    let folder = folder(&[(JAILBREAK_FILE, &JAILBREAK.replace("id,jail", "number,jail"))]);
    let ids: Vec<_> = JailBreakV::new(folder.path()).items().unwrap().into_iter().map(|i| i.sample.id).collect();
    assert_eq!(ids, ["jailbreakv-28k/0", "jailbreakv-28k/1"], "rows are counted from 0 where there is no id");
}

#[test]
fn an_odd_entry_does_not_end_the_reading() {
    let folder = folder(&[(JAILBREAK_FILE, &JAILBREAK.replace("Malware", ""))]);
    let mut found = Vec::new();
    JailBreakV::new(folder.path())
        .for_each(&mut |entry| {
            found.push(matches!(entry, Entry::Item(_)));
            Ok(())
        })
        .unwrap();
    assert_eq!(found, [false, true]);
}
