//! Baking into a model directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sgm_core::gguf::{is_mmproj_name, language_models_in};
use sgm_core::{Intervention, quantisation};

use crate::edit::Edit;
use crate::fold::{self, Options};
use crate::model_config::{self, CONFIG};
use crate::record::{RECORD, Record};
use crate::rewrite::rewrite;
use crate::site_tensors::SiteTensors;
use crate::stacked_experts::Mixtures;
use crate::{Error, Result};

const INDEX: &str = "model.safetensors.index.json";

/// Bakes an intervention into a copy of a model directory, as [`crate::bake()`] does.
pub(crate) fn bake_directory(model: &Path, intervention: &Intervention, options: Options, out: &Path) -> Result<Record> {
    fold::check(intervention, options.amplify)?;
    refuse_existing(out)?;
    let record = model.join(RECORD);
    if fs::symlink_metadata(&record).is_ok() {
        return Err(Error::AlreadyBaked { record });
    }
    let mut files = Vec::new();
    list(model, Path::new(""), &mut files)?;
    files.sort();
    let mut weights = files.iter().filter(|file| is_top(file) && has_extension(file, &["safetensors"])).collect::<Vec<_>>();
    let is_gguf = weights.is_empty();
    let mut tensors = if is_gguf {
        let parts = gguf_model(model)?;
        weights = parts.iter().filter_map(|part| files.iter().find(|file| model.join(file) == part.path)).collect();
        parts
    } else {
        refuse_quantised(&model.join(CONFIG))?;
        weights.iter().map(|file| read_header(&model.join(file))).collect::<Result<Vec<_>>>()?
    };
    // The router of stacked experts may be in another file.
    let mut mixtures = Mixtures::default();
    tensors.iter().for_each(|file| mixtures.extend(&file.mixtures));
    tensors.iter_mut().try_for_each(|file| file.place_stacks(&mixtures))?;
    let indexed = indexed(model, &weights, &tensors)?;
    let plan = fold::plan(&tensors, intervention, options.alignment)?;
    let mut record = Record::new(intervention, options.amplify, plan.widening.as_ref());
    let mut edits: BTreeMap<&Path, Vec<Edit<'_>>> = weights.iter().map(|file| file.as_path()).zip(plan.edits).collect();
    if let Some(widening) = plan.widening.as_ref().filter(|_| !is_gguf) {
        let grown = edits.iter().filter(|(file, _)| indexed.contains(**file)).flat_map(|(_, edits)| edits);
        let more = grown.filter_map(|edit| edit.tensor()?.more()).fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        if !indexed.is_empty() {
            edits.insert(Path::new(INDEX), model_config::enlarge_index(&read(&model.join(INDEX))?, more));
        }
        let config = model.join(CONFIG);
        edits.insert(Path::new(CONFIG), vec![model_config::widen(&config, &read(&config)?, widening)?]);
    }
    let other = |file: &&PathBuf| match weights.iter().position(|weight| weight == file).and_then(|at| tensors.get(at)) {
        Some(tensors) => tensors.tensors.is_empty() && !indexed.is_empty() && !indexed.contains(*file),
        None => !is_mmproj_name(file) && has_extension(file, &["safetensors", "bin", "pt", "pth", "gguf", "h5", "msgpack", "onnx"]),
    };
    record.unbaked_weights = files.iter().filter(other).map(|file| file.display().to_string()).collect();
    for file in &record.unbaked_weights {
        tracing::warn!(file, "may hold weights too and is copied unchanged");
    }

    let parent = make_parent(out)?;
    refuse_inside(model, &parent, out)?;
    let place = temporary_directory(&parent, out)?;
    for file in &files {
        let (from, to) = (model.join(file), place.path().join(file));
        let edits = edits.remove(file.as_path()).unwrap_or_default();
        let rewritten = copy_file(&from, &to, &edits)?;
        record.add(&file.display().to_string(), &edits, rewritten);
    }
    let path = place.path().join(RECORD);
    let io = |path: &Path, action| {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    };
    let mut file = File::create_new(&path).map_err(io(&path, "create"))?;
    file.write_all(&record.to_json(&path)?).and_then(|()| file.sync_all()).map_err(io(&path, "write"))?;
    for directory in files.iter().filter_map(|file| file.parent()).chain([Path::new("")]).collect::<BTreeSet<_>>() {
        sync_directory(&place.path().join(directory))?;
    }
    fs::rename(place.path(), out).map_err(io(out, "give the finished directory its name"))?;
    // It is no longer there under its temporary name.
    let _ = place.keep();
    sync_directory(&parent)?;
    Ok(record)
}

/// Refuses a checkpoint whose configuration says that it is quantised.
fn refuse_quantised(config: &Path) -> Result<()> {
    if config.exists() {
        let wrong = |reason: String| Error::Config { path: config.to_owned(), key: "(file)".to_owned(), reason };
        let json: serde_json::Map<_, _> = serde_json::from_slice(&read(config)?).map_err(|e| wrong(format!("no JSON object: {e}")))?;
        if quantisation::of_config(&json)?.is_some() {
            return Err(sgm_core::Error::Quantised { how: "in 8-bit floats, which can be run and not baked".to_owned() }.into());
        }
    }
    Ok(())
}

/// Refuses a name that something has already, even if that is a dangling link.
pub(crate) fn refuse_existing(out: &Path) -> Result<()> {
    if fs::symlink_metadata(out).is_ok() { Err(Error::Exists { path: out.to_owned() }) } else { Ok(()) }
}

/// Creates the directory that contains a result.
pub(crate) fn make_parent(out: &Path) -> Result<PathBuf> {
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|source| Error::Io { path: parent.to_owned(), action: "create", source })?;
    Ok(parent.to_owned())
}

/// Flushes a directory's entries to disk.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(|source| Error::Io {
        path: directory.to_owned(),
        action: "flush to disk",
        source,
    })?;
    Ok(())
}

fn refuse_inside(model: &Path, parent: &Path, out: &Path) -> Result<()> {
    let real = |path: &Path| path.canonicalize().map_err(|source| Error::Io { path: path.to_owned(), action: "find", source });
    if real(parent)?.starts_with(real(model)?) {
        return Err(Error::Inside { out: out.to_owned(), model: model.to_owned() });
    }
    Ok(())
}

fn temporary_directory(parent: &Path, out: &Path) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sgm-bake-");
    #[cfg(unix)]
    {
        // Like other new directories; the default of temporary ones is access by the owner only.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    builder.tempdir_in(parent).map_err(|source| Error::Io { path: out.to_owned(), action: "create a directory beside", source })
}

/// The files below a directory, relative to the model's; hidden directories (`.git`, `.cache`) are left out.
fn list(model: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let directory = model.join(below);
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, action: "read", source }
    };
    for entry in fs::read_dir(&directory).map_err(io(&directory))? {
        let entry = entry.map_err(io(&directory))?;
        let (path, name) = (entry.path(), below.join(entry.file_name()));
        if entry.file_type().map_err(io(&path))?.is_dir() {
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                list(model, &name, files)?;
            }
        } else if fs::metadata(&path).map_err(io(&path))?.is_file() {
            // Links to files are followed, as in the Hugging Face cache; links to directories might be circular.
            files.push(name);
        } else {
            return Err(Error::NotAFile { path });
        }
    }
    Ok(())
}

/// The headers of the one GGUF model of a directory.
fn gguf_model(model: &Path) -> Result<Vec<SiteTensors>> {
    let models = language_models_in(model).map_err(|source| Error::Io { path: model.to_owned(), action: "read", source })?;
    match models.as_slice() {
        [first] => SiteTensors::read_gguf_model(first),
        _ => Err(Error::NoWeights { path: model.to_owned() }),
    }
}

fn is_top(file: &Path) -> bool {
    file.components().count() == 1
}

fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    file.extension().is_some_and(|extension| extensions.iter().any(|e| extension.eq_ignore_ascii_case(e)))
}

fn read_header(path: &Path) -> Result<SiteTensors> {
    let io = |source| Error::Io { path: path.to_owned(), action: "read", source };
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    SiteTensors::read_safetensors(path, BufReader::new(file), length)
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files named by the index of a sharded checkpoint, which must fit them; empty without an index.
fn indexed(model: &Path, weights: &[&PathBuf], tensors: &[SiteTensors]) -> Result<BTreeSet<PathBuf>> {
    let path = model.join(INDEX);
    let wrong = |reason: String| Error::Index { path: path.clone(), reason };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(source) => return Err(Error::Io { path, action: "read", source }),
    };
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("no JSON object: {e}")))?;
    let there: BTreeMap<&Path, BTreeSet<&str>> =
        weights.iter().zip(tensors).map(|(file, t)| (file.as_path(), t.names.iter().map(String::as_str).collect())).collect();
    for (tensor, file) in &index.weight_map {
        match there.get(Path::new(file)) {
            None => return Err(wrong(format!("`{file}` is missing"))),
            Some(names) if !names.contains(tensor.as_str()) => return Err(wrong(format!("`{file}` has no tensor {tensor}"))),
            Some(_) => {}
        }
    }
    Ok(index.weight_map.into_values().map(PathBuf::from).collect())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), action: "read", source })
}

/// Copies a file to a new one, edited, and flushes it to disk.
fn copy_file(from: &Path, to: &Path, edits: &[Edit<'_>]) -> Result<crate::rewrite::Rewritten> {
    let io = |path: &Path, action| {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    };
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).map_err(io(directory, "create"))?;
    }
    let source = File::open(from).map_err(io(from, "read"))?;
    let length = source.metadata().map_err(io(from, "read"))?.len();
    let mut sink = BufWriter::new(File::create_new(to).map_err(io(to, "create"))?);
    let rewritten = rewrite((from, source, length), (to, &mut sink), edits)?;
    sink.get_ref().sync_all().map_err(io(to, "flush to disk"))?;
    Ok(rewritten)
}
