//! Responses on disk have the scores of those in memory; stores give expertise and stable experts.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use ndarray::Array2;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sgm_capture::{ActivationStore, Manifest, StoreWriter};
use sgm_core::{Projection, Site};
use sgm_score::{Error, ResponseFiles, ScoreOptions, Selection, bootstrap_stability, score, score_store};

const SAMPLES: usize = 1100;

/// Neuron 1 is an expert, the others are not.
fn samples() -> (Array2<f32>, Vec<bool>) {
    let labels: Vec<bool> = (0..SAMPLES).map(|i| i * i % 7 < 3).collect();
    let value = |(i, j): (usize, usize)| ((i * 5 + j) as f32 * 0.618_034).fract() + f32::from(u8::from(j == 1 && labels[i])) * 0.3;
    (Array2::from_shape_fn((SAMPLES, 5), value), labels)
}

fn write(path: &Path, responses: (Dtype, Vec<u8>), labels: &[u8]) {
    let responses = TensorView::new(responses.0, vec![SAMPLES, 5], &responses.1).unwrap();
    let labels = TensorView::new(Dtype::U8, vec![labels.len()], labels).unwrap();
    safetensors::serialize_to_file([("responses", responses), ("labels", labels)], None, path).unwrap();
}

#[test]
fn a_plain_file_of_any_float_dtype_is_scored() {
    let (responses, labels) = samples();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("responses.safetensors");
    let options = ScoreOptions { average_precision: true, effect: true, ..ScoreOptions::default() };
    let bytes: Vec<u8> = labels.iter().map(|l| u8::from(*l)).collect();
    let open = || ResponseFiles::open_file(&path).unwrap();

    write(&path, (Dtype::F32, responses.iter().flat_map(|v| v.to_le_bytes()).collect()), &bytes);
    assert_eq!(open().labels(), labels);
    assert_eq!(open().names().collect::<Vec<_>>(), ["responses"]);
    assert_eq!(open().score("responses", &options).unwrap(), score(&responses.view(), &labels, &options).unwrap());

    let halves = responses.mapv(bf16::from_f32);
    write(&path, (Dtype::BF16, halves.iter().flat_map(|v| v.to_le_bytes()).collect()), &bytes);
    assert_eq!(open().score("responses", &options).unwrap(), score(&halves.view(), &labels, &options).unwrap());

    let halves = responses.mapv(f16::from_f32);
    write(&path, (Dtype::F16, halves.iter().flat_map(|v| v.to_le_bytes()).collect()), &bytes);
    assert_eq!(open().score("responses", &options).unwrap(), score(&halves.view(), &labels, &options).unwrap());
    let error = open().score("response", &options).unwrap_err().to_string();
    assert!(error.contains("no tensor `response`; it has responses"), "{error}");

    let mut nan = responses.clone();
    nan[[3, 4]] = f32::NAN;
    write(&path, (Dtype::F32, nan.iter().flat_map(|v| v.to_le_bytes()).collect()), &bytes);
    let error = open().score("responses", &options).unwrap_err();
    assert!(matches!(&error, Error::NotANumber { site: Some(site), neuron: 4, sample: 3 } if site == "responses"), "{error}");

    write(&path, (Dtype::I32, vec![0; SAMPLES * 5 * 4]), &bytes);
    assert!(matches!(open().score("responses", &options), Err(Error::Shape { .. })));
    write(&path, (Dtype::F32, vec![0; SAMPLES * 5 * 4]), &[0, 1, 2]);
    assert!(ResponseFiles::open_file(&path).unwrap_err().to_string().contains("label of sample 2"));
    write(&path, (Dtype::F32, vec![0; SAMPLES * 5 * 4]), &[0, 1]);
    assert!(matches!(open().score("responses", &options), Err(Error::Labels { labels: 2, samples: SAMPLES })));
    std::fs::write(&path, b"short").unwrap();
    assert!(matches!(ResponseFiles::open_file(&path), Err(Error::File { .. })));
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(ResponseFiles::open_file(&path), Err(Error::File { .. })));
}

#[test]
fn a_store_is_scored_shard_by_shard_as_in_memory() {
    let (responses, labels) = samples();
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let sites = [Site::new(0, Projection::Up), Site::new(1, Projection::Gate)];
    let mut writer = StoreWriter::create(&store, Manifest::new("model", "hash", "mean/all", sites.map(|s| (s, 5)))).unwrap();
    for (index, (row, label)) in responses.rows().into_iter().zip(&labels).enumerate() {
        let here: BTreeMap<Site, Vec<f32>> = sites.iter().map(|s| (*s, row.to_vec())).collect();
        writer.push(&index.to_string(), *label, &here).unwrap();
    }
    writer.finish().unwrap();

    let expected = score(&responses.view(), &labels, &ScoreOptions::default()).unwrap();
    let files = ResponseFiles::open_store(&store).unwrap();
    assert_eq!(files.names().count(), 2);
    for site in sites {
        assert_eq!(files.score(&site.to_string(), &ScoreOptions::default()).unwrap(), expected);
    }
    let expertise = score_store(&ActivationStore::open(&store).unwrap()).unwrap();
    assert_eq!(expertise.sites()[&sites[1]], expected.to_expertise());
    assert!(expertise.sites()[&sites[0]].auroc_se.is_some());

    // A damaged shard is named.
    std::fs::write(store.join("shard-00001.json"), br#"{"ids": [], "labels": [0, 1]}"#).unwrap();
    let error = ResponseFiles::open_store(&store).unwrap_err().to_string();
    assert!(error.contains("shard-00001.safetensors") && error.contains("2 labels"), "{error}");
    assert!(matches!(ResponseFiles::open_store(dir.path()), Err(Error::File { .. })));
}

#[test]
fn a_true_expert_is_stable_and_a_lucky_one_is_not() {
    let (responses, labels) = samples();
    let site = Site::new(0, Projection::Up);
    let sites = BTreeMap::from([(site, responses.view())]);
    let threshold = Selection::threshold;
    let stable = bootstrap_stability(&sites, &labels, &threshold(0.6), 20, 3, 1 << 28).unwrap();
    assert_eq!(stable.frequency, BTreeMap::from([(site, BTreeMap::from([(1, 20)]))]));
    assert_eq!((stable.between, stable.with_all.iter().sum::<f64>()), (1.0, 20.0));
    // At 0.5 the other four neurons are experts in some resamples only.
    let shaky = bootstrap_stability(&sites, &labels, &threshold(0.5), 20, 3, 1 << 28).unwrap();
    assert!(shaky.between < 0.9 && shaky.experts.contains(site, 1), "{shaky:?}");
    assert_eq!(bootstrap_stability(&sites, &labels, &threshold(0.5), 20, 3, 1 << 20).unwrap(), shaky);
    assert_ne!(bootstrap_stability(&sites, &labels, &threshold(0.5), 20, 4, 1 << 28).unwrap().with_all, shaky.with_all);
    assert!(matches!(bootstrap_stability(&sites, &labels, &threshold(0.5), 0, 4, 1 << 28), Err(Error::Parameter { .. })));
}
