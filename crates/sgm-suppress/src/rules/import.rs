//! Interventions and expertise of the AurA and AcT reference implementations: one torch file per module.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sgm_capture::torch_vectors;
use sgm_core::{Expertise, Intervention, Metadata, Site, SiteExpertise, SiteIntervention};

use crate::{Error, Result};

/// The contents of a tree of torch files.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedTree {
    /// The vectors, by site.
    pub contents: Imported,
    /// Files left out because their modules are not MLP projections of the language model, relative to the tree.
    pub skipped: Vec<PathBuf>,
}

/// The kind of vectors in torch files.
#[derive(Debug, Clone, PartialEq)]
pub enum Imported {
    /// Scales, if every file has `alpha`.
    Intervention(Intervention),
    /// AUROCs, if every file has `auroc` and none has `alpha`.
    Expertise(Expertise),
}

/// The largest size of a file; vectors of neurons are smaller.
const MAX_BYTES: u64 = 64 << 20;
const MAX_DEPTH: usize = 16;

/// Reads every `*.statedict` below a directory: each a dictionary saved by torch with `alpha` (`[neurons]`, or with leading dimensions of
/// size 1) or `auroc`, and named for its module in any Hugging Face layout, such as `model.layers.3.mlp.up_proj.statedict` (a trailing
/// `:0`, the index of the module's output, is allowed).
///
/// The files do not name their model and data, which the caller should add to the metadata. Scales above 1, as in the public revision for
/// multimodal models, are kept; glasses refuse them.
///
/// # Errors
///
/// [`Error::Import`] naming the file when it is damaged, has neither vector, has another kind than the others or the same site as another,
/// and when there are no files; [`Error::Core`] when a value is out of range.
pub fn import(directory: impl AsRef<Path>) -> Result<ImportedTree> {
    let directory = directory.as_ref();
    let mut files = Vec::new();
    collect(directory, MAX_DEPTH, &mut files)?;
    files.sort();
    let (mut sites, mut skipped): (BTreeMap<Site, (PathBuf, Vectors)>, Vec<PathBuf>) = (BTreeMap::new(), Vec::new());
    for path in files {
        let Some(site) = site(&path) else {
            skipped.push(path.strip_prefix(directory).unwrap_or(&path).to_owned());
            continue;
        };
        if let Some((other, _)) = sites.get(&site) {
            return Err(refused(&path, format!("{site} is in {} too; import one tree at a time", other.display())));
        }
        let vectors = read(&path)?;
        sites.insert(site, (path, vectors));
    }
    if sites.is_empty() {
        return Err(refused(directory, "no *.statedict below it is named like an MLP projection of a language model".to_owned()));
    }
    let contents = assemble(sites)?;
    Ok(ImportedTree { contents, skipped })
}

type Vectors = BTreeMap<String, Vec<f32>>;

fn assemble(sites: BTreeMap<Site, (PathBuf, Vectors)>) -> Result<Imported> {
    let mut metadata = Metadata { created_by: Some(concat!("sgm ", env!("CARGO_PKG_VERSION")).to_owned()), ..Metadata::default() };
    metadata.other.insert("imported_from".to_owned(), "torch files, one per module".to_owned());
    metadata.scorer = Some("auroc".to_owned());
    let scaled = sites.values().any(|(_, vectors)| vectors.contains_key("alpha"));
    if scaled {
        metadata.method = Some(serde_json::json!({ "name": "imported" }));
    }
    let (mut intervention, mut expertise) = (Intervention::new(metadata.clone()), Expertise::new(metadata));
    for (site, (path, mut vectors)) in sites {
        match (vectors.remove("alpha"), vectors.remove("auroc")) {
            (Some(scale), auroc) => intervention.insert(site, SiteIntervention { auroc, ..SiteIntervention::from_scale(scale) })?,
            (None, Some(auroc)) if !scaled => expertise.insert(site, SiteExpertise { auroc, auroc_se: None })?,
            (None, Some(_)) => return Err(refused(&path, "it has no `alpha`, as other files of the tree have".to_owned())),
            (None, None) => return Err(refused(&path, "it has no tensor `alpha` or `auroc`".to_owned())),
        }
    }
    Ok(if scaled { Imported::Intervention(intervention) } else { Imported::Expertise(expertise) })
}

/// The site of a file's name.
fn site(path: &Path) -> Option<Site> {
    let module = path.file_stem()?.to_str()?;
    let module = match module.rsplit_once(':') {
        Some((module, output)) if output.bytes().all(|b| b.is_ascii_digit()) => module,
        _ => module,
    };
    Site::from_checkpoint_name(module)
}

/// The files below a directory; links to directories are not followed.
fn collect(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |e: std::io::Error| refused(directory, format!("it cannot be listed: {e}"));
    if depth == 0 {
        return Err(refused(directory, format!("it lies more than {MAX_DEPTH} directories deep")));
    }
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            collect(&path, depth - 1, files)?;
        } else if path.extension().is_some_and(|extension| extension == "statedict") {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vectors> {
    let unreadable = |e: std::io::Error| refused(path, format!("it cannot be read: {e}"));
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_BYTES {
        return Err(refused(path, format!("it has {size} bytes, too many for one vector of neurons")));
    }
    torch_vectors(path, &["alpha", "auroc"]).map_err(|error| match error {
        sgm_capture::Error::Import { path, reason } => Error::Import { path, reason },
        other => other.into(),
    })
}

fn refused(path: &Path, reason: String) -> Error {
    Error::Import { path: path.to_owned(), reason }
}
