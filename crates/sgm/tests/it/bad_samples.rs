//! Errors name the sample that they are about, and bad samples are left out where that was asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use sgm::capture::{
    ActivationStore, AttributionPatching, Capture, Derivative, Example, Examples, Parameter, Partition, Pool, Pooling, StoreDtype,
};
use sgm::core::{OnBadSample, TokenSelection};
use sgm::models::{AutoMllm, Checkpoint, GenerateOptions, Generator, Mllm, Prompt, response_nll};
use sgm::toxic_qa::html_report::HtmlReport;
use sgm::toxic_qa::{
    Benchmark, Condition, Durability, EvaluateOptions, Evaluation, ImageRef, Provenance, Report, RunFile, Sample, Split, Task,
    without_bad_samples,
};

fn model() -> AutoMllm {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden/llava_mha");
    AutoMllm::load(&Checkpoint::open(directory).unwrap()).unwrap()
}

/// The text of sample 27 speaks of the placeholder.
fn text(number: usize) -> &'static str {
    if number == 27 { "write the tag <image> please" } else { "what?" }
}

fn examples() -> Vec<Example> {
    let image = Arc::new(RgbImage::from_pixel(8, 8, image::Rgb([200, 30, 60])));
    let example = |number| Example {
        id: format!("s{number:03}"),
        prompt: Prompt::user(text(number), Some(image.clone())),
        response: "yes".to_owned(),
        toxic: number % 2 == 1,
        unfinished: false,
    };
    (0..40).map(example).collect()
}

fn capture() -> Capture {
    let pooling = Pooling { pool: Pool::Max, tokens: TokenSelection::All };
    Capture { batch_size: 4, dtype: StoreDtype::F32, partition: Partition::WHOLE, ..Capture::new(vec![pooling]) }
}

#[test]
fn errors_name_the_sample() {
    let (model, examples, dir) = (model(), examples(), tempfile::tempdir().unwrap());
    let samples = Examples::from_slice(&examples);
    let said = "sample `s027`: 2 image placeholders in the text but 1 images given";
    let error = capture().run(&model, &samples, &dir.path().join("store")).unwrap_err().to_string();
    assert!(error.starts_with(said), "{error}");
    let error = capture().layerwise(&model, &samples).unwrap_err().to_string();
    assert!(error.starts_with(said), "{error}");
    let patching = AttributionPatching {
        batch_size: 4,
        ..AttributionPatching::new(vec![Derivative { parameter: Parameter::Scale, tokens: TokenSelection::All }])
    };
    let error = patching.means(&model, &samples).unwrap_err().to_string();
    assert!(error.starts_with(said), "{error}");

    let prompts: Vec<Prompt> = examples.iter().map(|e| e.prompt.clone()).collect();
    let options = GenerateOptions { max_new_tokens: 1, batch_size: 3, ..GenerateOptions::default() };
    assert_eq!(model.generate(&prompts, &options).unwrap_err().prompt(), Some(27));
    let named = GenerateOptions { ids: Some((100..140).collect()), ..options.clone() };
    assert_eq!(model.generate(&prompts, &named).unwrap_err().prompt(), Some(127));
    let texts: Vec<(Prompt, String)> = prompts.into_iter().map(|p| (p, "yes".to_owned())).collect();
    assert_eq!(response_nll(&model, &texts, 3).unwrap_err().prompt(), Some(27));
}

/// Samples with an image file each: the fourth is cut off, the sixth absent.
fn samples(folder: &Path, task: Option<Task>) -> Vec<Sample> {
    let whole = std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden/images/photo.jpg")).unwrap();
    std::fs::write(folder.join("whole.jpg"), &whole).unwrap();
    std::fs::write(folder.join("cut.jpg"), &whole[..whole.len() / 2]).unwrap();
    let sample = |number: usize| Sample {
        id: format!("s{number:03}"),
        source: "t".into(),
        split: if task.is_some() { Split::Utility } else { Split::Test },
        category: "c".into(),
        condition: Condition::Standard,
        attack: None,
        image: Some(ImageRef::File {
            folder: folder.to_owned(),
            path: match number {
                4 => "cut.jpg".into(),
                6 => "absent.jpg".into(),
                _ => "whole.jpg".into(),
            },
        }),
        prompt: text(number).into(),
        request: None,
        subcategory: None,
        response: Some("yes".into()),
        label: None,
        reference: None,
        task,
    };
    (0..29).map(sample).collect()
}

#[test]
fn bad_samples_are_left_out_and_named() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let all = samples(dir.path(), None);
    let (good, skipped) = without_bad_samples(all.clone(), OnBadSample::Skip, model.processor());
    let ids: Vec<&str> = skipped.iter().map(|s| s.id.as_str()).collect();
    assert_eq!((ids, good.len()), (vec!["s004", "s006", "s027"], 26));
    assert!(skipped[0].reason.contains("cut off") && skipped[2].reason.contains("2 image placeholders"), "{skipped:?}");
    assert_eq!(without_bad_samples(all.clone(), OnBadSample::Refuse, model.processor()), (all, vec![]));

    // A store names them, and is resumed with the same ones only.
    let examples: Vec<Example> = examples().into_iter().filter(|e| e.id != "s027").collect();
    let samples = Examples::from_slice(&examples);
    let store = dir.path().join("store");
    let one = Capture { skipped: skipped.clone(), shard_samples: Some(4), partition: "0/2".parse().unwrap(), ..capture() };
    assert!(!one.run(&model, &samples, &store).unwrap().finished);
    let other = Capture { skipped: skipped[1..].to_vec(), ..one.clone() };
    assert!(other.run(&model, &samples, &store).unwrap_err().to_string().contains("skipped"));
    assert!(Capture { partition: "1/2".parse().unwrap(), ..one }.run(&model, &samples, &store).unwrap().finished);
    assert_eq!(ActivationStore::open(&store).unwrap().manifest().skipped, skipped);

    let provenance = Provenance { skipped: skipped.clone(), ..Provenance::default() };
    let path = dir.path().join("report.json");
    Report::new(provenance, vec![]).write(&path).unwrap();
    let report = Report::read(&path).unwrap();
    assert_eq!(report.provenance.skipped, skipped);
    let html = HtmlReport::new(report).html().unwrap();
    assert!(html.contains("3 samples were left out") && html.contains("s027"));
}

#[test]
fn an_evaluation_names_its_bad_samples() {
    let (model, dir) = (model(), tempfile::tempdir().unwrap());
    let (standard, perplexity) = (samples(dir.path(), None), samples(dir.path(), Some(Task::Perplexity)));
    let error = Benchmark::new(Evaluation { standard: standard.clone(), ..Evaluation::default() }).unwrap_err();
    assert!(error.to_string().contains("s004"), "{error}");
    let readable = |samples: &[Sample]| samples.iter().filter(|s| s.id != "s004" && s.id != "s006").cloned().collect::<Vec<_>>();
    let benchmark =
        Benchmark::new(Evaluation { standard: readable(&standard), perplexity: readable(&perplexity), ..Evaluation::default() });
    let benchmark = benchmark.unwrap();
    let options = EvaluateOptions {
        generate: GenerateOptions { max_new_tokens: 1, batch_size: 3, ..GenerateOptions::default() },
        defence: None,
        intervention_sha256: None,
    };
    let mut run = RunFile::open(dir.path().join("answers.jsonl"), &serde_json::json!({}), Durability::System).unwrap();
    let error = benchmark.answer_into(&model, &model, None, &options, 10, &mut run).unwrap_err();
    assert!(error.to_string().starts_with("sample `s027`: 2 image placeholders"), "{error}");
    assert!(benchmark.token_nll(&model, 3).unwrap_err().to_string().starts_with("sample `s027`:"));

    let (good, skipped) =
        Evaluation { standard, perplexity, ..Evaluation::default() }.without_bad_samples(OnBadSample::Skip, model.processor());
    assert_eq!((good.standard.len(), good.perplexity.len(), skipped.len()), (26, 26, 6));
}

#[test]
fn placeholders_of_llava_data_sets_are_taken_out() {
    let dir = tempfile::tempdir().unwrap();
    let sample = samples(dir.path(), None).remove(0);
    let stripped = |prompt: &str| Sample { prompt: prompt.to_owned(), ..sample.clone() }.without_image_placeholder().prompt;
    assert_eq!(stripped("<image>\nWhat is it?"), "What is it?");
    assert_eq!(stripped("What is it?\n<image>"), "What is it?");
    assert_eq!(stripped("<image>"), "");
    for other in ["What is <image>?", "<image> is a tag", "the tag <image>"] {
        assert_eq!(stripped(other), other);
    }
    let text_only = Sample { image: None, prompt: "<image>\nWhat?".to_owned(), ..sample.clone() };
    assert_eq!(text_only.clone().without_image_placeholder(), text_only);
}
