//! Layouts of GGUF files: scaled rows, preserved bytes, and refusals.

use std::fs;

use sgm_bake::{Amplify, Error, GgufProblem, bake};
use sgm_core::{Intervention, Projection, Site, SiteIntervention};

use crate::weight_files::{F16, Gguf, baked, floats, gguf, glasses, string};

fn site(projection: Projection) -> Site {
    Site::new(0, projection)
}

/// Floats from a position on.
fn values(bytes: &[u8], start: usize, count: usize) -> Vec<f32> {
    bytes[start..start + 4 * count].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn only_rows_of_changed_neurons_differ() {
    for version in [2, 3] {
        let mut file = Gguf::new("llama")
            .with("general.alignment", 4, 64u32.to_le_bytes().to_vec())
            .with("a.list", 9, [8u32.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec(), string("x"), string("")].concat())
            .with(
                "a.nested.list",
                9,
                [
                    9u32.to_le_bytes().to_vec(),
                    1u64.to_le_bytes().to_vec(),
                    0u32.to_le_bytes().to_vec(),
                    3u64.to_le_bytes().to_vec(),
                    vec![1, 2, 3],
                ]
                .concat(),
            )
            // Types that cannot be scaled, in tensors that need not be.
            .tensor("blk.0.attn_q.weight", &[32, 2], 39, vec![7; 34])
            .counting("blk.0.ffn_up.weight", &[3, 4])
            .counting("blk.0.ffn_up.bias", &[4])
            .tensor("blk.0.ffn_norm.weight", &[256], 16, vec![7; 66]);
        (file.version, file.alignment, file.trailing) = (version, 64, vec![0xCC; 5]);
        let bytes = file.bytes();
        let read = gguf(&bytes).unwrap();
        let (out, records) = baked(&read, &bytes, &glasses([(site(Projection::Up), vec![1.0, 0.5, 1.0, 0.0])])).unwrap();
        let data = bytes.len() - 5 - 64 * 5;
        let mut wanted = bytes.clone();
        let weight = data + 64;
        wanted[weight..weight + 48].copy_from_slice(&floats([0.0, 1.0, 2.0, 1.5, 2.0, 2.5, 6.0, 7.0, 8.0, 0.0, 0.0, 0.0]));
        wanted[weight + 64..weight + 80].copy_from_slice(&floats([0.0, 0.5, 2.0, 0.0]));
        assert!(out == wanted, "version {version}");
        assert_eq!(records.iter().map(|r| r.changed_rows).collect::<Vec<_>>(), [2, 2]);
    }
}

#[test]
fn tensors_may_lie_in_another_order_than_they_are_listed() {
    let mut file = Gguf::new("llama").counting("blk.0.ffn_up.weight", &[8, 1]).counting("blk.0.ffn_down.weight", &[8, 1]);
    (file.tensors[0].offset, file.tensors[1].offset) = (Some(32), Some(0));
    let bytes = file.bytes();
    let scales = glasses([(site(Projection::Up), vec![0.0]), (site(Projection::Down), vec![0.5])]);
    let (out, records) = baked(&gguf(&bytes).unwrap(), &bytes, &scales).unwrap();
    let at = bytes.len() - 64;
    assert_eq!(values(&out, at, 8), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]);
    assert_eq!(values(&out, at + 32, 8), [0.0; 8]);
    assert_eq!(records[0].tensor, "blk.0.ffn_down.weight");
}

#[test]
fn gate_comes_first_where_it_is_one_matrix_with_up() {
    let file = Gguf::new("phi3").counting("blk.0.ffn_up.weight", &[1, 8]).counting("blk.0.ffn_down.weight", &[4, 2]);
    let bytes = file.bytes();
    let read = gguf(&bytes).unwrap();
    assert_eq!(read.sites(), [(site(Projection::Gate), 4), (site(Projection::Up), 4), (site(Projection::Down), 2)].into());
    let (out, records) = baked(&read, &bytes, &glasses([(site(Projection::Up), vec![0.0, 1.0, 0.5, 1.0])])).unwrap();
    assert_eq!(values(&out, bytes.len() - 64, 8), [0.0, 1.0, 2.0, 3.0, 0.0, 5.0, 3.0, 7.0]);
    assert_eq!((records[0].sites.clone(), records[0].changed_rows), (vec!["lm.layers.0.mlp.up_proj".to_owned()], 2));
    // In other architectures the matrix is up alone.
    let other = Gguf::new("llama").counting("blk.0.ffn_up.weight", &[1, 8]).bytes();
    assert_eq!(gguf(&other).unwrap().sites(), [(site(Projection::Up), 8)].into());
    let odd = Gguf::new("phi3").counting("blk.0.ffn_up.weight", &[1, 7]).bytes();
    assert!(matches!(gguf(&odd), Err(Error::Shape { .. })));
}

#[test]
fn every_expert_gets_the_same_scales() {
    let file = Gguf::new("qwen2moe")
        .counting("blk.0.ffn_up_exps.weight", &[2, 2, 3])
        .counting("blk.0.ffn_up_exps.bias", &[2, 3])
        .counting("blk.0.ffn_up_shexp.weight", &[2, 2]);
    let bytes = file.bytes();
    let (out, records) = baked(&gguf(&bytes).unwrap(), &bytes, &glasses([(site(Projection::Up), vec![0.5, 1.0])])).unwrap();
    let at = bytes.len() - 128;
    assert_eq!(values(&out, at, 12), [0.0, 0.5, 2.0, 3.0, 2.0, 2.5, 6.0, 7.0, 4.0, 4.5, 10.0, 11.0]);
    assert_eq!(values(&out, at + 64, 6), [0.0, 1.0, 1.0, 3.0, 2.0, 5.0]);
    assert_eq!(out[at + 96..], bytes[at + 96..]);
    assert_eq!((records[0].rows, records[0].changed_rows), (6, 3));
    // A dense matrix has no third dimension, and a layer has one kind of MLP.
    let deep = Gguf::new("llama").counting("blk.0.ffn_up.weight", &[2, 2, 3]).bytes();
    assert!(matches!(gguf(&deep), Err(Error::Shape { .. })));
    let both = Gguf::new("arctic").counting("blk.0.ffn_up_exps.weight", &[2, 2, 3]).counting("blk.0.ffn_up.weight", &[2, 2]).bytes();
    let error = baked(&gguf(&both).unwrap(), &both, &glasses([(site(Projection::Up), vec![0.5, 1.0])])).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
}

#[test]
fn types_that_cannot_be_scaled_are_refused_by_name_where_they_matter() {
    for (kind, name, values, size) in
        [(39, "MXFP4", 32, 17), (16, "IQ2_XXS", 256, 66), (29, "IQ1_M", 256, 56), (34, "TQ1_0", 256, 54), (24, "I8", 1, 1)]
    {
        let file = Gguf::new("llama").tensor("blk.0.ffn_up.weight", &[values, 2], kind, vec![1; 2 * size]);
        let bytes = file.counting("blk.0.ffn_down.weight", &[1, 2]).bytes();
        let read = gguf(&bytes).unwrap();
        let error = baked(&read, &bytes, &glasses([(site(Projection::Up), vec![0.5, 1.0])])).unwrap_err();
        assert!(matches!(&error, Error::TensorType { got, .. } if got == name), "{error}");
        // Other sites, and scales of 1, are not refused.
        baked(&read, &bytes, &glasses([(site(Projection::Down), vec![0.5, 1.0])])).unwrap();
        assert_eq!(baked(&read, &bytes, &glasses([(site(Projection::Up), vec![1.0, 1.0])])).unwrap().0, bytes);
    }
}

#[test]
fn rows_longer_than_the_buffer_and_many_rows_in_one() {
    for (inputs, rows) in [(400_000u64, 3usize), (1, 700_000)] {
        let bytes = Gguf::new("llama").counting("blk.0.ffn_up.weight", &[inputs, rows as u64]).bytes();
        let scales: Vec<f32> = (0..rows).map(|row| [0.5, 1.0, 0.25][row % 3]).collect();
        let (out, _) = baked(&gguf(&bytes).unwrap(), &bytes, &glasses([(site(Projection::Up), scales.clone())])).unwrap();
        let inputs = usize::try_from(inputs).unwrap();
        let at = bytes.len() - (4 * inputs * rows).next_multiple_of(32);
        let (before, after) = (values(&bytes, at, inputs * rows), values(&out, at, inputs * rows));
        assert!(before.iter().zip(&after).enumerate().all(|(i, (b, a))| *a == b * scales[i / inputs]), "{inputs} x {rows}");
    }
}

#[test]
fn interventions_that_do_not_fit_are_refused() {
    let bytes =
        Gguf::new("llama").counting("blk.0.ffn_up.weight", &[2, 3]).tensor("blk.1.ffn_up.weight", &[1, 1], F16, vec![0xff, 0x7b]).bytes();
    let read = gguf(&bytes).unwrap();
    let refused = |intervention: &Intervention| baked(&read, &bytes, intervention).unwrap_err().to_string();
    let absent = refused(&glasses([(Site::new(7, Projection::Up), vec![0.5])]));
    assert!(absent.contains("did you mean `lm.layers.0.mlp.up_proj`"), "{absent}");
    let wide = refused(&glasses([(site(Projection::Up), vec![0.5])]));
    assert!(wide.contains("has 1 values where the site has 3 neurons"), "{wide}");
    for scale in [1.4, -0.5] {
        let strong = glasses([(Site::new(1, Projection::Up), vec![scale])]);
        assert!(refused(&strong).contains("amplif"));
        let allowed = read.bake(&strong, Amplify::Allow, bytes.as_slice(), Vec::new());
        // The largest f16 times 1.4 overflows.
        assert_eq!(matches!(allowed, Err(Error::Overflow { .. })), scale > 1.0, "{allowed:?}");
    }
    let mut elsewhere = glasses([(site(Projection::Up), vec![0.5; 3])]);
    elsewhere.tokens = sgm_core::TokenSelection::Response;
    assert!(refused(&elsewhere).contains("the tokens `response`"));
    let mut shifted = Intervention::default();
    let shift = SiteIntervention { shift: Some(vec![0.0, 1.0, 0.0]), ..SiteIntervention::from_scale(vec![1.0; 3]) };
    shifted.insert(site(Projection::Up), shift).unwrap();
    assert!(refused(&shifted).contains("no bias"));
}

#[test]
fn the_model_and_what_is_there_already_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let [model, out] = ["model.gguf", "deep/er/baked.gguf"].map(|name| dir.path().join(name));
    let bytes = Gguf::new("llama").counting("blk.0.ffn_up.weight", &[2, 2]).bytes();
    fs::write(&model, &bytes).unwrap();
    let half = glasses([(site(Projection::Up), vec![0.5, 1.0])]);
    // An intervention that does not fit leaves no file.
    assert!(bake(&model, &glasses([(site(Projection::Down), vec![0.5])]), Amplify::Refuse, &out).is_err());
    assert!(!out.exists());
    let record = bake(&model, &half, Amplify::Refuse, &out).unwrap();
    assert_eq!(fs::read(&model).unwrap(), bytes);
    let left: Vec<_> = fs::read_dir(out.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(record.files[0].file, "baked.gguf");
    assert_ne!(record.files[0].sha256_original, record.files[0].sha256_baked);

    let again = bake(&model, &half, Amplify::Refuse, &out).unwrap_err();
    assert!(matches!(&again, Error::Exists { path } if *path == out), "{again}");
    let twice = bake(&out, &half, Amplify::Refuse, &dir.path().join("twice.gguf")).unwrap_err();
    assert!(matches!(twice, Error::AlreadyBaked { .. }), "{twice}");
    let stray = dir.path().join("stray.gguf.sgm_bake.json");
    fs::write(&stray, "{}").unwrap();
    assert!(matches!(bake(&model, &half, Amplify::Refuse, &dir.path().join("stray.gguf")), Err(Error::Exists { path }) if path == stray));
    let text = dir.path().join("text");
    fs::write(&text, "no model").unwrap();
    let error = bake(&text, &half, Amplify::Refuse, &dir.path().join("new.gguf")).unwrap_err();
    assert!(matches!(error, Error::Gguf { problem: GgufProblem::Magic, .. }), "{error}");
    assert!(matches!(bake(&dir.path().join("absent"), &half, Amplify::Refuse, &out), Err(Error::Io { .. })));
}
