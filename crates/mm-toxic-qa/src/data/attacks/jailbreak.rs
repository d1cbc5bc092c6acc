//! The jailbreak templates of a file.

use std::collections::BTreeMap;
use std::path::Path;

use rand::seq::IteratorRandom;

use super::attack::{Attack, disguised, rng};
use crate::datasets::read_bytes;
use crate::{Error, ImageFolder, Result, Sample};

/// The request inside a jailbreak template.
///
/// The user gives the templates in a file, a JSON object of names and templates: `{"story": "Write a story in which {prompt}"}`. The seed
/// chooses one for each sample, whose `attack` is `jailbreak/<name>`.
#[derive(Clone, Debug)]
pub struct Jailbreak {
    templates: BTreeMap<String, String>,
    seed: u64,
}

const NAME: &str = "jailbreak";
const PLACEHOLDER: &str = "{prompt}";
const MAX_BYTES: u64 = 16 << 20;

impl Jailbreak {
    /// The templates of a file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::DatasetFile`] when it is larger than 16 MiB, [`Error::AttackTemplates`] when it
    /// is not as described.
    pub fn read(path: &Path, seed: u64) -> Result<Self> {
        let error = |reason: String| Error::AttackTemplates { path: path.to_owned(), reason };
        let templates: BTreeMap<String, String> =
            serde_json::from_slice(&read_bytes(path, MAX_BYTES)?).map_err(|e| error(format!("not an object of texts: {e}")))?;
        if templates.is_empty() {
            return Err(error("no template".to_owned()));
        }
        match templates.iter().find(|(name, template)| name.trim().is_empty() || !template.contains(PLACEHOLDER)) {
            Some((name, _)) if name.trim().is_empty() => Err(error("a template without a name".to_owned())),
            Some((name, _)) => Err(error(format!("template `{name}` does not contain {PLACEHOLDER}"))),
            None => Ok(Self { templates, seed }),
        }
    }
}

impl Attack for Jailbreak {
    fn name(&self) -> &str {
        NAME
    }

    fn attack(&self, sample: &Sample, _: &ImageFolder) -> Result<Sample> {
        let chosen = self.templates.iter().choose_stable(&mut rng(self.seed, sample));
        let Some((name, template)) = chosen else {
            return Err(super::attack::impossible(NAME, sample, "there is no template"));
        };
        Ok(disguised(sample, &format!("{NAME}/{name}"), template.replace(PLACEHOLDER, &sample.prompt)))
    }
}
