//! Captures of the AurA and AcT reference implementations: one torch file per sample and module.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sgm_core::Site;
use sgm_core::TokenSelection;

use crate::rows::Responses;
use crate::{Error, Manifest, Pool, Result, StoreDtype, StoreWriter, torch_vectors};

/// The import of a capture of the AurA or AcT reference implementation into a store.
///
/// The directory of the data set has files `{subset}/{module}/{pooling}/{id}.pt`, each a dictionary whose `responses` (AurA) or `outputs`
/// (AcT) is the pooled tensor `[neurons]`. Modules are named as in any Hugging Face layout; a sample is named `{subset}/{id}`, because ids
/// are unique within a subset only. Files written on a CPU hold a whole batch's storage each, of which the tensor is a view: the view is
/// read.
///
/// The numbers are not changed. With a batch size over 1 the reference also pools over padding when the model's padding token is not 0,
/// which the files do not show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The subset of toxic samples, in the reference `toxic`.
    pub toxic: String,
    /// The subset of non-toxic samples, in the reference `non-toxic`.
    pub non_toxic: String,
    /// The model's name.
    pub model: String,
    /// The tokens over which the capture pooled, for the store's manifest: all in the reference.
    pub tokens: TokenSelection,
    /// The dtype of stored responses.
    pub dtype: StoreDtype,
}

/// A summary of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The number of samples.
    pub samples: usize,
    /// Modules left out: those that are not MLP projections of the language model.
    pub skipped: Vec<String>,
}

/// The files of one subset.
struct Subset {
    directory: PathBuf,
    name: String,
    /// The directory of each site.
    modules: BTreeMap<Site, String>,
}

impl Import {
    /// Writes the capture in `from` to a new store in `into`.
    ///
    /// Samples are ordered by subset, the toxic one first, then by id.
    ///
    /// # Errors
    ///
    /// [`Error::Import`] naming the file when one is missing, unreadable or of another width than the others of its module, or
    /// when there are no modules, samples or poolings; [`Error::Exists`] when `into` has a store.
    pub fn run(&self, from: &Path, into: &Path) -> Result<Imported> {
        let mut skipped = BTreeSet::new();
        let toxic = Subset::open(from, &self.toxic, &mut skipped)?;
        let non_toxic = Subset::open(from, &self.non_toxic, &mut skipped)?;
        let pools = toxic.pools()?;
        let mut writer = None;
        let mut imported = 0;
        for (subset, label) in [(&toxic, true), (&non_toxic, false)] {
            for id in subset.ids(pools.first())? {
                let responses = subset.read(&toxic.modules, &pools, &id)?;
                let writer = match &mut writer {
                    Some(writer) => writer,
                    None => writer.insert(StoreWriter::create(into, self.manifest(&pools, &responses))?),
                };
                writer.push_all(&format!("{}/{id}", subset.name), label, &responses)?;
                imported += 1;
            }
        }
        writer.map_or(Ok(()), StoreWriter::finish)?;
        Ok(Imported { samples: imported, skipped: skipped.into_iter().collect() })
    }

    fn manifest(&self, pools: &[Pool], first: &Responses) -> Manifest {
        let widths = first.first().into_iter().flatten().map(|(site, values)| (*site, values.len()));
        let mut manifest = Manifest::new(&self.model, "", "", widths);
        manifest.poolings = pools.iter().map(|pool| format!("{}/{}", pool.name(), self.tokens)).collect();
        manifest.dtype = self.dtype;
        manifest.shard_samples = manifest.usual_shard_samples(1);
        manifest.settings = [("imported_from".to_owned(), "torch files, one per sample and module".to_owned())].into();
        manifest
    }
}

impl Subset {
    fn open(from: &Path, name: &str, skipped: &mut BTreeSet<String>) -> Result<Self> {
        let directory = from.join(name);
        let mut modules = BTreeMap::new();
        for module in names(&directory)? {
            match Site::from_checkpoint_name(&module) {
                Some(site) => {
                    if let Some(other) = modules.insert(site, module.clone()) {
                        return Err(refused(&directory, format!("{module} and {other} are the same site")));
                    }
                }
                None => {
                    skipped.insert(module);
                }
            }
        }
        if modules.is_empty() {
            return Err(refused(&directory, "no directory below it is named like an MLP projection of a language model".to_owned()));
        }
        Ok(Self { directory, name: name.to_owned(), modules })
    }

    fn path(&self, module: &str, pool: Pool) -> PathBuf {
        self.directory.join(module).join(pool.name())
    }

    /// The poolings, by the first module.
    fn pools(&self) -> Result<Vec<Pool>> {
        let module = self.modules.values().next().map(|module| self.directory.join(module)).unwrap_or_default();
        let found = names(&module)?;
        let pools: Vec<Pool> = Pool::ALL.into_iter().filter(|pool| found.iter().any(|name| name == pool.name())).collect();
        if pools.is_empty() {
            return Err(refused(&module, format!("no pooling below it is known: {}", found.join(", "))));
        }
        Ok(pools)
    }

    /// The ids of the samples in order, by the first module's files.
    fn ids(&self, pool: Option<&Pool>) -> Result<Vec<String>> {
        let first = self.modules.values().next().zip(pool).map(|(module, pool)| self.path(module, *pool)).unwrap_or_default();
        let ids: Vec<_> = names(&first)?.iter().filter_map(|name| name.strip_suffix(".pt").map(str::to_owned)).collect();
        if ids.is_empty() {
            return Err(refused(&first, "it has no .pt files".to_owned()));
        }
        Ok(ids)
    }

    /// One sample's responses to all of `sites`.
    fn read(&self, sites: &BTreeMap<Site, String>, pools: &[Pool], id: &str) -> Result<Responses> {
        let of = |pool: &Pool| {
            let site = |site: &Site| {
                let module = self.modules.get(site).ok_or_else(|| refused(&self.directory, format!("it has no {site}")))?;
                Ok((*site, read(&self.path(module, *pool).join(format!("{id}.pt")))?))
            };
            sites.keys().map(site).collect::<Result<BTreeMap<_, _>>>()
        };
        pools.iter().map(of).collect()
    }
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::Io { path: directory.to_owned(), action: "list", source };
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    let name = |entry: std::io::Result<std::fs::DirEntry>| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    let mut names = entries.map(name).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// The responses in a torch file.
fn read(path: &Path) -> Result<Vec<f32>> {
    const NAMES: [&str; 2] = ["responses", "outputs"];
    let mut vectors = torch_vectors(path, &NAMES)?;
    let found = NAMES.iter().find_map(|name| vectors.remove(*name));
    found.ok_or_else(|| refused(path, "it has no tensor `responses` or `outputs`".to_owned()))
}

fn refused(path: &Path, reason: String) -> Error {
    Error::Import { path: path.to_owned(), reason }
}
