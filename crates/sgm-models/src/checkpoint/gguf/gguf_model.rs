//! A model in GGUF files, presented as a Hugging Face directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::Tokenizer;

use crate::checkpoint::gguf::header::Gguf;
use crate::checkpoint::gguf::weights::GgufWeights;
use crate::checkpoint::gguf::{config, tokenizer};
use crate::error::{Error, Result};

/// A model in one or two GGUF files.
pub(crate) struct GgufModel {
    text: Arc<Gguf>,
    mmproj: Option<Arc<Gguf>>,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl GgufModel {
    /// Opens a language model and the vision tower beside it. A vision tower of another family is ignored.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let text = Arc::new(Gguf::open(path)?);
        let Some(mmproj) = mmproj_beside(path)? else { return Self::new(text, None) };
        match Self::new(text.clone(), Some(&mmproj)) {
            Err(error @ Error::Unsupported { .. }) => {
                tracing::warn!(%error, mmproj = %mmproj.display(), "the model will take text only");
                Self::new(text, None)
            }
            opened => opened,
        }
    }

    /// Replaces the vision tower.
    pub(crate) fn with_mmproj(&self, path: &Path) -> Result<Self> {
        Self::new(self.text.clone(), Some(path))
    }

    fn new(text: Arc<Gguf>, mmproj: Option<&Path>) -> Result<Self> {
        let mmproj = mmproj.map(Gguf::open).transpose()?.map(Arc::new);
        Ok(Self { files: config::files(&text, mmproj.as_deref())?, text, mmproj })
    }

    pub(crate) fn path(&self) -> &Path {
        self.text.path()
    }

    /// The paths of the language model and of the vision tower.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        std::iter::once(&self.text).chain(&self.mmproj).map(|file| file.path()).collect()
    }

    /// The contents of a file that the Hugging Face directory would have.
    pub(crate) fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.as_slice())
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        tokenizer::tokenizer(&self.text, self.mmproj.is_some())
    }

    pub(crate) fn weights(&self) -> Result<GgufWeights> {
        GgufWeights::new(self.text.clone(), self.mmproj.clone())
    }
}

impl fmt::Debug for GgufModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mmproj = self.mmproj.as_ref().map(|mmproj| mmproj.path());
        f.debug_struct("GgufModel").field("text", &self.path()).field("mmproj", &mmproj).finish_non_exhaustive()
    }
}

/// Finds a file with `mmproj` in its name beside the language model.
fn mmproj_beside(path: &Path) -> Result<Option<PathBuf>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let io = |source| Error::Io { path: directory.to_owned(), source };
    let is_mmproj = |name: &str| name.contains("mmproj") && name.ends_with(".gguf");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        let other = Some(entry.file_name().as_os_str()) != path.file_name();
        if other && is_mmproj(&entry.file_name().to_string_lossy().to_lowercase()) {
            found.push(entry.path());
        }
    }
    found.sort();
    if let [first, _, ..] = found.as_slice() {
        tracing::warn!(mmproj = %first.display(), "there are several vision towers beside the model; taking the first");
    }
    Ok(found.into_iter().next())
}
