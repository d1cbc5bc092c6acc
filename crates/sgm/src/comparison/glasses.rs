//! Glasses by name, and their files.

use std::path::{Path, PathBuf};

use sgm_core::Intervention;
use sgm_models::Mllm;
use sgm_suppress::{Budget, Calibrator, Preset};

use super::error::{Error, Result};

/// The glasses of a name: a preset, and the budget of its strength.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedGlasses {
    /// What is fitted.
    pub preset: Preset,
    /// What limits the strength; full strength without one.
    pub budget: Option<Budget>,
}

/// The metadata entry with the settings of a fit.
const SETTINGS: &str = "fit_settings";

impl NamedGlasses {
    /// The glasses of a preset's name, with a condition, if there is one, that holds for at most a share of benign prompts. The budget is that
    /// of the name, as in `bakeable@0.005`, or else the one given.
    ///
    /// # Errors
    ///
    /// [`Error::Budget`], and [`Error::Suppress`] for the name of no preset.
    pub fn new(name: &str, false_positive_rate: f64, budget: Option<&Budget>) -> Result<Self> {
        let (name, own) = match name.split_once('@') {
            Some((name, nats)) => (name, Some(budget_of(nats)?)),
            None => (name, None),
        };
        Ok(Self { preset: Preset::named(name)?.with_false_positive_rate(false_positive_rate), budget: own.or_else(|| budget.cloned()) })
    }

    /// Fits the glasses, and finds their strength if there is a budget.
    ///
    /// # Errors
    ///
    /// Those of [`Preset::fit`] and [`Preset::fit_within`].
    pub fn fit<M: Mllm>(&self, model: &M, calibrator: &Calibrator) -> Result<Intervention> {
        Ok(match &self.budget {
            None => self.preset.fit(model, calibrator)?,
            Some(budget) => self.preset.fit_within(model, calibrator, budget)?,
        })
    }

    /// Reads the glasses from a file that an interrupted run has written, or else fits and writes them. Those in the file are taken if they
    /// were fitted with the same settings, by the same version of this software, to the same samples and weights; `context` is what else
    /// they depend on, such as the judge.
    ///
    /// # Errors
    ///
    /// Those of [`fit`](Self::fit) and of the file.
    pub fn fit_or_read<M: Mllm>(&self, model: &M, calibrator: &Calibrator, context: &str, file: &Path) -> Result<Intervention> {
        let settings = self.settings(model, context);
        if file.exists() {
            let glasses = Intervention::load(file)?;
            if glasses.metadata.other.get(SETTINGS) == Some(&settings) && glasses.metadata.calibration.as_ref() == calibrator.calibration()
            {
                tracing::info!(file = %file.display(), "the glasses were fitted before");
                return Ok(glasses);
            }
        }
        self.fit_and_write(model, calibrator, context, file)
    }

    /// Fits the glasses and writes them to a file, with their settings in the metadata entry `fit_settings`.
    ///
    /// # Errors
    ///
    /// Those of [`fit`](Self::fit) and of the file.
    pub fn fit_and_write<M: Mllm>(&self, model: &M, calibrator: &Calibrator, context: &str, file: &Path) -> Result<Intervention> {
        let mut glasses = self.fit(model, calibrator)?;
        glasses.metadata.other.insert(SETTINGS.to_owned(), self.settings(model, context));
        glasses.save(file)?;
        Ok(glasses)
    }

    /// All that a fit depends on, but for the samples.
    fn settings<M: Mllm>(&self, model: &M, context: &str) -> String {
        let (software, info) = (concat!("sgm ", env!("CARGO_PKG_VERSION")), model.info());
        let settings = format!("{:?}", (&self.preset, &self.budget));
        serde_json::json!({"software": software, "model": info.name, "weights": info.weights, "glasses": settings, "context": context})
            .to_string()
    }

    /// The file of the glasses of a name in a directory.
    pub fn file(directory: &Path, name: &str) -> PathBuf {
        directory.join(format!("{}.sgm.safetensors", if name == "sgm" { "glasses" } else { name }))
    }

    /// The glasses of a name in a directory that an earlier run wrote, maybe under a former name.
    ///
    /// # Errors
    ///
    /// [`Error::NoGlasses`], and those of reading them.
    pub fn read(directory: &Path, name: &str) -> Result<Intervention> {
        let former = Preset::FORMER.iter().filter(|(_, present)| *present == name).map(|(former, _)| *former);
        let mut files = std::iter::once(name).chain(former).map(|name| Self::file(directory, name));
        match files.find(|file| file.exists()) {
            Some(file) => Ok(Intervention::load(file)?),
            None => Err(Error::NoGlasses { name: name.to_owned(), directory: directory.to_owned() }),
        }
    }
}

/// The budget of so many nats.
pub(super) fn budget_of(nats: &str) -> Result<Budget> {
    let divergence = nats.parse().ok().filter(|nats: &f64| *nats > 0.0 && nats.is_finite());
    Ok(Budget { divergence: divergence.ok_or_else(|| Error::Budget(nats.to_owned()))?, ..Budget::default() })
}
