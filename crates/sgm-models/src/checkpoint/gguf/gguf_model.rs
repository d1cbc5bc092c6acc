//! A model in GGUF files, presented as a Hugging Face directory.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokenizers::Tokenizer;

use crate::checkpoint::gguf::header::Gguf;
use crate::checkpoint::gguf::pairing::{candidates_beside, check_fit, check_names};
use crate::checkpoint::gguf::projector::Projector;
use crate::checkpoint::gguf::weights::{GgufWeights, ReadNames};
use crate::checkpoint::gguf::{config, tokenizer};
use crate::error::Result;

/// A language model in one GGUF file, or in several parts, and the file of its vision tower if it has one.
pub(crate) struct GgufModel {
    text: Arc<Gguf>,
    mmproj: Option<(Arc<Gguf>, Projector)>,
    files: Vec<(&'static str, Vec<u8>)>,
    read: ReadNames,
}

impl GgufModel {
    /// Opens a language model, from any of its parts, and the vision tower beside it: the first file with `mmproj` in
    /// its name that fits. A file that does not fit, or cannot be used, is named in a warning.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let text = Arc::new(Gguf::open(path)?);
        let mut taken: Option<Self> = None;
        for candidate in candidates_beside(path)? {
            let file = candidate.display();
            match Self::beside(&text, &candidate) {
                Err(error) => {
                    tracing::warn!(%error, mmproj = %file, model = %path.display(), "the vision tower beside the model is not used")
                }
                Ok(opened) => match &taken {
                    None => taken = Some(opened),
                    Some(_) => tracing::warn!(mmproj = %file, "a second vision tower fits the model; the first in order of names is used"),
                },
            }
        }
        let Some(opened) = taken else { return Self::new(text, None) };
        if let Some((mmproj, projector)) = &opened.mmproj {
            tracing::info!(model = %path.display(), mmproj = %mmproj.path().display(), projector = projector.name(), "the vision tower beside the model is used");
        }
        Ok(opened)
    }

    /// Opens a language model with a vision tower beside it, if the two belong together.
    fn beside(text: &Arc<Gguf>, path: &Path) -> Result<Self> {
        let mmproj = Gguf::open(path)?;
        let projector = check_fit(text, &mmproj)?;
        check_names(text, &mmproj, projector)?;
        Self::new(text.clone(), Some((Arc::new(mmproj), projector)))
    }

    /// Replaces the vision tower by one that the caller names; its name may be any.
    pub(crate) fn with_mmproj(&self, path: &Path) -> Result<Self> {
        let mmproj = Gguf::open(path)?;
        let projector = check_fit(&self.text, &mmproj)?;
        Self::new(self.text.clone(), Some((Arc::new(mmproj), projector)))
    }

    fn new(text: Arc<Gguf>, mmproj: Option<(Arc<Gguf>, Projector)>) -> Result<Self> {
        let files = config::files(&text, mmproj.as_ref().map(|(mmproj, projector)| (&**mmproj, *projector)))?;
        Ok(Self { text, mmproj, files, read: ReadNames::default() })
    }

    pub(crate) fn path(&self) -> &Path {
        self.text.path()
    }

    /// The paths of the language model, all parts of it, and of the vision tower.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        self.text.paths().chain(self.mmproj.iter().map(|(mmproj, _)| mmproj.path())).collect()
    }

    /// The contents of a file that the Hugging Face directory would have.
    pub(crate) fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.as_slice())
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        tokenizer::tokenizer(&self.text, self.mmproj.as_ref().map(|(_, projector)| projector.image_token()))
    }

    pub(crate) fn weights(&self) -> Result<GgufWeights> {
        GgufWeights::new(self.text.clone(), self.mmproj.clone(), self.read.clone())
    }
}

impl fmt::Debug for GgufModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mmproj = self.mmproj.as_ref().map(|(mmproj, _)| mmproj.path());
        f.debug_struct("GgufModel").field("text", &self.path()).field("mmproj", &mmproj).finish_non_exhaustive()
    }
}
