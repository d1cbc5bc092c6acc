//! Stores: round trips, workers, merges, and the detection of damage.

use std::collections::BTreeMap;
use std::path::Path;

use sgm_capture::{ActivationStore, Error, Manifest, NonFinite, PartialStore, Partition, Result, StoreDtype, StoreWriter, merge, verify};
use sgm_core::{Projection, Site};

const SAMPLES: usize = 11;

fn sites() -> [(Site, usize); 2] {
    [(Site::new(0, Projection::Up), 3), (Site::new(1, Projection::Down), 2)]
}

fn manifest() -> Manifest {
    let mut manifest = Manifest::new("model", "hash", "max/all", sites());
    manifest.poolings.push("mean/response".to_owned());
    (manifest.samples, manifest.shard_samples) = (SAMPLES, 4);
    manifest
}

fn changed(change: impl FnOnce(&mut Manifest)) -> Manifest {
    let mut manifest = manifest();
    change(&mut manifest);
    manifest
}

/// The responses of a sample, exact in 16 bits.
fn responses(sample: usize) -> Vec<BTreeMap<Site, Vec<f32>>> {
    let value = |pooling: usize, neuron: usize| (sample * 8 + pooling * 3 + neuron) as f32 / 4.0 - 5.0;
    (0..2).map(|p| sites().map(|(site, width)| (site, (0..width).map(|n| value(p, n + site.layer)).collect())).into()).collect()
}

fn fill(directory: &Path, manifest: Manifest, part: Partition) -> Result<bool> {
    let store = PartialStore::begin(directory, manifest, true)?;
    for shard in store.missing()?.into_iter().filter(|shard| part.includes(*shard)) {
        let mut rows = store.rows()?;
        for sample in store.manifest().samples_of(shard) {
            rows.push(&format!("sample-{sample}"), sample % 3 == 0, &responses(sample))?;
        }
        store.write(shard, &rows)?;
    }
    store.finish()
}

/// Every file of a directory, by name.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

fn part(text: &str) -> Partition {
    text.parse().unwrap()
}

#[test]
fn stores_of_every_dtype_give_back_what_was_put_in() {
    for dtype in StoreDtype::ALL {
        let dir = tempfile::tempdir().unwrap();
        assert!(fill(dir.path(), changed(|m| m.dtype = dtype), Partition::WHOLE).unwrap());
        let store = ActivationStore::open(dir.path()).unwrap();
        assert_eq!(store.ids().len(), SAMPLES);
        assert_eq!(store.labels()[..4], [true, false, false, true]);
        assert_eq!(store.pooling(), "max/all");
        for (number, pooling) in ["max/all", "mean/response"].into_iter().enumerate() {
            let store = store.clone().with_pooling(pooling).unwrap();
            for (site, width) in sites() {
                let read = store.read(site).unwrap();
                for sample in 0..SAMPLES {
                    assert_eq!(read.row(sample).to_vec(), responses(sample)[number][&site]);
                }
                let blocks = store.blocks(site).unwrap();
                assert_eq!(blocks.iter().map(|b| b.samples.clone()).collect::<Vec<_>>(), [0..4, 4..8, 8..11]);
                let mut column = Vec::new();
                blocks.iter().for_each(|b| b.read(width - 1..width + 5, &mut column));
                assert_eq!(column, read.column(width - 1).to_vec());
                assert!(blocks.iter().all(|b| b.bytes.len() == b.samples.len() * width * dtype.bytes()));
            }
        }
        let error = store.with_pooling("min/all").unwrap_err();
        assert!(error.to_string().contains("max/all, mean/response"), "{error}");
    }
}

#[test]
fn any_number_of_workers_makes_the_same_bytes_in_one_directory_or_merged() {
    let one = tempfile::tempdir().unwrap();
    fill(one.path(), manifest(), Partition::WHOLE).unwrap();
    let shared = tempfile::tempdir().unwrap();
    assert!(!fill(shared.path(), manifest(), part("1/2")).unwrap());
    let unfinished = ActivationStore::open(shared.path()).unwrap_err();
    assert!(unfinished.to_string().contains("2 of 3 shards are missing"), "{unfinished}");
    assert_eq!(verify(shared.path()).unwrap().missing, [0, 2]);
    // The temporary file of a killed process.
    std::fs::write(shared.path().join(".sgm-half-a-shard"), "half").unwrap();
    assert!(fill(shared.path(), manifest(), part("0/2")).unwrap());
    assert_eq!(files(shared.path()), files(one.path()));

    let apart = tempfile::tempdir().unwrap();
    let parts: Vec<_> = (0..5).map(|i| apart.path().join(format!("part-{i}"))).collect();
    for (i, directory) in parts.iter().enumerate() {
        fill(directory, manifest(), part(&format!("{i}/5"))).unwrap();
    }
    let merged = apart.path().join("merged");
    assert!(!merge(&parts[1..], &merged).unwrap());
    assert!(merge(&parts[..1], &merged).unwrap());
    assert_eq!(files(&merged), files(one.path()));
    // The same store by a writer that does not know the number of samples.
    let written = apart.path().join("written");
    let mut writer = StoreWriter::create(&written, manifest()).unwrap();
    (0..SAMPLES).for_each(|s| writer.push_all(&format!("sample-{s}"), s % 3 == 0, &responses(s)).unwrap());
    writer.finish().unwrap();
    assert_eq!(files(&written), files(one.path()));
}

#[test]
fn a_store_of_something_else_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), manifest(), part("0/2")).unwrap();
    assert!(matches!(PartialStore::begin(dir.path(), manifest(), false), Err(Error::Exists { .. })));
    assert!(matches!(StoreWriter::create(dir.path(), manifest()), Err(Error::Exists { .. })));
    let others = [
        ("model", changed(|m| m.model = "another".to_owned())),
        ("config_sha256", changed(|m| m.config_sha256 = "another".to_owned())),
        ("weights", changed(|m| m.weights = Some("another".to_owned()))),
        ("poolings", changed(|m| m.poolings[1] = "mean/text".to_owned())),
        ("dtype", changed(|m| m.dtype = StoreDtype::Bf16)),
        ("samples_sha256", changed(|m| m.samples_sha256 = Some("another".to_owned()))),
        ("samples", changed(|m| m.samples = 12)),
        ("shard_samples", changed(|m| m.shard_samples = 5)),
        ("settings", changed(|m| drop(m.settings.insert("batch_size".to_owned(), "2".to_owned())))),
        ("created_by", changed(|m| m.created_by = "sgm 9".to_owned())),
        ("sites", changed(|m| *m = Manifest::new("model", "hash", "max/all", [sites()[0]]))),
    ];
    // Before the store is finished and after.
    for _ in 0..2 {
        for (name, other) in &others {
            let error = fill(dir.path(), other.clone(), Partition::WHOLE).unwrap_err();
            assert!(matches!(&error, Error::Differs { what, .. } if what.contains(name)), "{name}: {error}");
            let from = tempfile::tempdir().unwrap();
            PartialStore::begin(from.path(), other.clone(), true).unwrap();
            assert!(matches!(merge(&[dir.path(), from.path()], from.path().join("merged")), Err(Error::Differs { .. })), "{name}");
        }
        fill(dir.path(), manifest(), Partition::WHOLE).unwrap();
    }
}

#[test]
fn responses_that_are_no_numbers_are_refused_or_counted() {
    let dir = tempfile::tempdir().unwrap();
    let [(up, _), (down, _)] = sites();
    let mut f16 = changed(|m| m.dtype = StoreDtype::F16);
    let mut odd = responses(0);
    odd[1].insert(up, vec![0.0, 7e4, 1.0]);
    let store = PartialStore::begin(dir.path().join("refused"), f16.clone(), false).unwrap();
    let error = store.rows().unwrap().push("a", true, &odd).unwrap_err();
    assert!(matches!(&error, Error::NotFinite { sample, neuron: 1, value: 7e4, .. } if sample == "a"), "{error}");
    odd[0].insert(down, vec![f32::NAN, f32::INFINITY]);
    f16.non_finite = NonFinite::Keep;
    let mut writer = StoreWriter::create(dir.path().join("kept"), f16).unwrap();
    writer.push_all("a", true, &odd).unwrap();
    writer.push_all("b", true, &responses(1)).unwrap();
    writer.finish().unwrap();
    assert_eq!(ActivationStore::open(dir.path().join("kept")).unwrap().non_finite(), &[(up, 1), (down, 2)].into());
    assert_eq!(verify(dir.path().join("kept")).unwrap().non_finite, 3);

    let mut rows = store.rows().unwrap();
    for wrong in [
        vec![],
        vec![responses(0)[0].clone()],
        vec![BTreeMap::new(), BTreeMap::new()],
        vec![responses(0)[0].clone(), [(up, vec![1.0])].into()],
    ] {
        assert!(matches!(rows.push("a", true, &wrong), Err(Error::Sample { .. })));
    }
    assert!(rows.is_empty());
    rows.push("a", true, &responses(0)).unwrap();
    assert!(matches!(store.write(0, &rows), Err(Error::Sample { .. })), "a shard of 1 sample where there should be 4");
}

/// Opens, reads and verifies a store.
fn read_all(directory: &Path) -> Result<()> {
    let store = ActivationStore::open(directory)?;
    for site in store.sites().keys() {
        store.read(*site)?;
    }
    drop(store);
    let found = verify(directory)?;
    found.damaged.into_iter().next().map_or(Ok(()), Err)?;
    assert!(found.missing.is_empty());
    Ok(())
}

#[test]
fn every_cut_and_every_changed_byte_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), manifest(), Partition::WHOLE).unwrap();
    read_all(dir.path()).unwrap();
    let check = |name: &str, bytes: &[u8], what: String| {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        let error = read_all(dir.path()).expect_err(&what);
        assert!(matches!(error, Error::Shard { .. } | Error::NotAStore { .. } | Error::Io { .. } | Error::Core(_)), "{what}: {error}");
    };
    for (name, bytes) in files(dir.path()) {
        if name.contains("shard-00001") {
            continue;
        }
        for cut in 0..bytes.len() {
            check(&name, &bytes[..cut], format!("{name} cut at {cut}"));
        }
        check(&name, &[bytes.as_slice(), b"x"].concat(), format!("{name} with a byte more"));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            // White space between JSON values has no meaning.
            let same = |b: &[u8]| serde_json::from_slice::<serde_json::Value>(b).ok();
            if name == "manifest.json" && same(&changed) == same(&bytes) {
                continue;
            }
            check(&name, &changed, format!("{name}, byte {at} changed"));
        }
        std::fs::write(dir.path().join(&name), bytes).unwrap();
    }
    read_all(dir.path()).unwrap();
    // A shard under the name of another.
    for extension in ["json", "safetensors"] {
        let path = |i: usize| dir.path().join(format!("shard-0000{i}.{extension}"));
        std::fs::copy(path(2), path(1)).unwrap();
    }
    assert!(read_all(dir.path()).unwrap_err().to_string().contains("3 samples, expected 4"));
}

#[test]
fn a_damaged_shard_is_captured_again_once_it_is_removed() {
    let (whole, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(whole.path(), manifest(), Partition::WHOLE).unwrap();
    fill(dir.path(), manifest(), Partition::WHOLE).unwrap();
    let path = dir.path().join("shard-00001.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..40]).unwrap();
    assert!(matches!(fill(dir.path(), manifest(), Partition::WHOLE), Err(Error::Shard { .. })));
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(path.with_extension("json")).unwrap();
    assert!(fill(dir.path(), manifest(), Partition::WHOLE).unwrap());
    assert_eq!(files(dir.path()), files(whole.path()));
}

#[test]
fn hostile_manifests_are_refused_quickly() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), manifest(), Partition::WHOLE).unwrap();
    let path = dir.path().join("manifest.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value) in [
        ("samples", serde_json::json!(u64::MAX)),
        ("samples", serde_json::json!(100_000_000)),
        ("shard_samples", serde_json::json!(0)),
        ("shard_samples", serde_json::json!(u64::MAX)),
        ("poolings", serde_json::json!([])),
        ("poolings", serde_json::json!(["max/all", "max/all"])),
        ("dtype", serde_json::json!("f8")),
        ("sites", serde_json::json!({"lm.layers.0.mlp.up_proj": u64::MAX})),
        ("sites", serde_json::json!({"nowhere": 1})),
        ("format_version", serde_json::json!(1)),
        ("format_version", serde_json::json!(3)),
    ] {
        let mut changed = json.clone();
        changed[key] = value.clone();
        std::fs::write(&path, changed.to_string()).unwrap();
        assert!(ActivationStore::open(dir.path()).is_err(), "{key} {value}");
        assert!(verify(dir.path()).map_or(true, |v| !v.is_sound()), "{key} {value}");
    }
}
