//! Models of candle-transformers, none of which knows of glasses, wear them through a `VarBuilder`.
//!
//! Each is loaded three ways: from a checkpoint with its rows scaled on the way, from the baked checkpoint as it is, and plain. The first
//! two give the same bits, and the logits that our own model of the family has while it wears the same glasses. Checkpoints are
//! widened to f32 first, so that nothing but the scales is rounded. Families whose model in candle-transformers is not the one that
//! transformers has for our checkpoints (Gemma 2 without `query_pre_attn_scalar`, Gemma 3 without scaled rotary positions) are left out.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::worn::{bits, difference, glasses, write_organism};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma, llama, mistral, phi3, qwen2, qwen3};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sgm::bake::{Amplify, Error, ScaledBackend, bake};
use sgm::core::{Intervention, Metadata, Projection, Site, SiteIntervention, TokenSelection};
use sgm::models::{AutoMllm, Checkpoint, Mllm};
use sgm::suppress::Glasses;

/// The logits of the token after `ids`, from a model of candle-transformers that is loaded from `vb`.
type Forward = fn(VarBuilder, Value, &Tensor) -> Result<Tensor>;

fn config<C: DeserializeOwned>(json: Value) -> C {
    serde_json::from_value(json).unwrap()
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden").join(name)
}

/// A copy of a checkpoint whose weights are f32 in one file.
fn widened(from: &Path, to: &Path) {
    let mut weights = HashMap::new();
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".safetensors") && !name.starts_with("golden") {
            let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
            weights.extend(tensors.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(DType::F32).unwrap())));
        } else if path.is_file() && !name.ends_with(".index.json") && !name.starts_with("golden") {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
    candle_core::safetensors::save(&weights, to.join("model.safetensors")).unwrap();
}

fn weights(directory: &Path) -> VarBuilder<'static> {
    let weights = candle_core::safetensors::load(directory.join("model.safetensors"), &Device::Cpu).unwrap();
    VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu)
}

/// `checkpoint` has a decoder under the prefix `root`, which the configuration with the changes of `adapt` describes to candle.
fn check(checkpoint: &Path, root: &str, adapt: &Value, forward: Forward) {
    let name = checkpoint.file_name().unwrap().to_string_lossy().into_owned();
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("model"), dir.path().join("baked"));
    widened(checkpoint, &model);
    let mut settings: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    if settings["text_config"].is_object() {
        settings = settings["text_config"].take();
    }
    settings.as_object_mut().unwrap().extend(adapt.as_object().unwrap().clone());
    settings.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    // Shorter than every sliding window, whose edge candle draws elsewhere.
    let ids = Tensor::new(&[[5u32, 9, 7, 6]], &Device::Cpu).unwrap();
    let candle = |vb: VarBuilder| {
        let vb = if root.is_empty() { vb } else { vb.pp(root) };
        forward(vb, settings.clone(), &ids).unwrap().flatten_all().unwrap()
    };

    let ours = AutoMllm::load(&Checkpoint::open(&model).unwrap()).unwrap();
    let inputs = ours.processor().tokens(&ids, &ids.ones_like().unwrap(), BTreeMap::new()).unwrap();
    let logits = || {
        let hidden = ours.prefill(&inputs, &mut ours.new_cache()).unwrap();
        ours.logits(&hidden.narrow(1, 3, 1).unwrap().contiguous().unwrap()).unwrap().flatten_all().unwrap()
    };
    let intervention = glasses(&ours);
    bake(&model, &intervention, Amplify::Refuse, &out).unwrap();
    let (vb, folded) = ScaledBackend::fold(weights(&model), &intervention, Amplify::Refuse).unwrap();
    assert!(matches!(folded.check_complete(), Err(Error::Unused { .. })), "{name}: nothing is loaded yet");
    let scaled = candle(vb);
    folded.check_complete().unwrap();
    let (baked, plain) = (candle(weights(&out)), candle(weights(&model)));
    let unworn = difference(&plain, &logits());
    let worn = Glasses::wear(&ours, &intervention, Amplify::Refuse).unwrap();
    let apart = difference(&scaled, &logits());
    drop(worn);
    let effect = difference(&scaled, &plain);
    println!("{name}: candle's model is {unworn:.1e} from ours, {apart:.1e} with glasses; these make a difference of {effect:.1e}");
    assert_eq!(bits(&scaled), bits(&baked), "{name}");
    assert!(unworn <= 1e-5 && apart <= 1e-5 && effect > 1e-2, "{name}");

    // A site that the model does not have is found out once it has loaded.
    let mut longer = intervention.clone();
    let beyond = Site::new(40, Projection::Up);
    longer.insert(beyond, SiteIntervention::from_scale(vec![0.5; 4])).unwrap();
    let (vb, folded) = ScaledBackend::fold(weights(&model), &longer, Amplify::Refuse).unwrap();
    assert_eq!(bits(&candle(vb)), bits(&scaled));
    assert!(matches!(folded.check_complete(), Err(Error::Unused { site }) if site == beyond.to_string()));
}

#[test]
fn llama_in_the_organism() {
    let dir = tempfile::tempdir().unwrap();
    let organism = dir.path().join("organism");
    write_organism(&organism);
    check(&organism, "language_model", &json!({}), |vb, json, ids| {
        let config = config::<llama::LlamaConfig>(json).into_config(false);
        let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?;
        llama::Llama::load(vb, &config)?.forward(ids, 0, &mut cache)
    });
}

#[test]
fn qwen2_with_sliding_layers() {
    let adapt = json!({"hidden_act": "silu", "tie_word_embeddings": false, "rms_norm_eps": 1e-6});
    check(&golden("text_qwen2"), "", &adapt, |vb, json, ids| qwen2::ModelForCausalLM::new(&config(json), vb)?.forward(ids, 0));
}

#[test]
fn qwen3() {
    let adapt = json!({"rope_theta": 1e6});
    check(&golden("text_qwen3"), "", &adapt, |vb, json, ids| qwen3::ModelForCausalLM::new(&config(json), vb)?.forward(ids, 0));
}

#[test]
fn mistral_of_two_shards() {
    check(&golden("text_mistral"), "", &json!({}), |vb, json, ids| mistral::Model::new(&config(json), vb)?.forward(ids, 0));
}

#[test]
fn gemma_with_tied_embeddings() {
    let adapt = json!({"attention_bias": false, "hidden_act": null, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6});
    check(&golden("text_gemma"), "", &adapt, |vb, json, ids| gemma::Model::new(false, &config(json), vb)?.forward(ids, 0));
}

#[test]
fn phi3_with_gate_and_up_in_one_matrix() {
    let adapt = json!({"rope_theta": 1e4});
    check(&golden("text_phi3"), "", &adapt, |vb, json, ids| phi3::Model::new(&config(json), vb)?.forward(ids, 0));
}

#[test]
fn interventions_that_weights_cannot_hold_are_refused() {
    let (weight, bias) = (Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap(), Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap());
    let module = "model.layers.0.mlp.up_proj";
    let all = HashMap::from([(format!("{module}.weight"), weight), (format!("{module}.bias"), bias)]);
    let vb = || VarBuilder::from_tensors(all.clone(), DType::F32, &Device::Cpu);
    let refusal = |i: &Intervention, amplify| ScaledBackend::fold(vb(), i, amplify).map(drop);
    let of = |scale: [f32; 2], shift: Option<[f32; 2]>| {
        let mut intervention = Intervention::new(Metadata::default());
        let site = SiteIntervention { shift: shift.map(Vec::from), ..SiteIntervention::from_scale(scale.to_vec()) };
        intervention.insert(Site::new(0, Projection::Up), site).unwrap();
        intervention
    };
    for scale in [1.5, -0.5] {
        let strong = of([1.0, scale], None);
        assert!(matches!(refusal(&strong, Amplify::Refuse), Err(Error::Amplifies { neuron: 1, .. })));
        refusal(&strong, Amplify::Allow).unwrap();
    }
    let mut elsewhere = of([0.5, 1.0], None);
    elsewhere.tokens = TokenSelection::Response;
    assert!(matches!(refusal(&elsewhere, Amplify::Refuse), Err(Error::Tokens { .. })));
    elsewhere.tokens = TokenSelection::All;
    refusal(&elsewhere, Amplify::Refuse).unwrap();

    // A shift needs a bias, and is not scaled.
    let (vb, folded) = ScaledBackend::fold(vb(), &of([0.5, 1.0], Some([0.25, 0.0])), Amplify::Refuse).unwrap();
    let vb = vb.pp(module);
    assert_eq!(vb.get((2, 2), "weight").unwrap().to_vec2::<f32>().unwrap(), [[0.5, 1.0], [3.0, 4.0]]);
    assert!(matches!(folded.check_complete(), Err(Error::NoBias { .. })));
    assert_eq!(vb.get(2, "bias").unwrap().to_vec1::<f32>().unwrap(), [0.75, 2.0]);
    folded.check_complete().unwrap();
}
