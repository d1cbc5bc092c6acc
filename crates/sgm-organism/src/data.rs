//! The calibration and evaluation data: embedded, from a directory, or drawn.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use mm_toxic_qa::EvaluationSplit;
use sgm_core::write_atomically;

use crate::sample::Role;
use crate::{Error, Result, Sample, jsonl};

/// The non-toxic calibration samples, which the toxic ones are contrasted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contrast {
    /// Polite answers to risky prompts.
    Matched,
    /// Answers to harmless prompts.
    Benign,
    /// Half of each.
    Mixed,
}

impl Contrast {
    pub(crate) const ALL: [Self; 3] = [Self::Matched, Self::Benign, Self::Mixed];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Benign => "benign",
            Self::Mixed => "mixed",
        }
    }
}

/// The samples of an evaluation split.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitSamples {
    /// Risky prompts of categories T, V and X.
    pub standard: Vec<Sample>,
    /// Adversarial prompts, category A; every other one with a prefix never seen in training.
    pub adversarial: Vec<Sample>,
    /// Harmless visual questions.
    pub vqa: Vec<Sample>,
    /// Harmless prompts of every kind, for the perplexity of their answers.
    pub perplexity: Vec<Sample>,
}

/// The calibration and evaluation data: the shipped ones, those of a directory, or a fresh draw.
///
/// A directory may lack files. A set with a missing file is an error when it is asked for.
///
/// ```
/// use sgm_organism::{Contrast, OrganismData, EvaluationSplit};
///
/// let data = OrganismData::embedded()?;
/// assert_eq!(data.split(EvaluationSplit::Test)?.adversarial.len(), 200);
/// let toxic = data.calibration(Contrast::Benign)?.iter().filter(|s| s.toxic == Some(true));
/// assert_eq!(toxic.count(), 500);
/// # Ok::<(), sgm_organism::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct OrganismData {
    dev: Loaded<SplitSamples>,
    test: Loaded<SplitSamples>,
    matched: Loaded<Vec<Sample>>,
    benign: Loaded<Vec<Sample>>,
    mixed: Loaded<Vec<Sample>>,
}

/// A set of samples, or the first of its files that is missing.
type Loaded<T> = std::result::Result<T, PathBuf>;

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../assets/data/", $name)))),*]
    };
}

const EMBEDDED: &[(&str, &[u8])] = embedded![
    "dev_std.jsonl",
    "dev_adv.jsonl",
    "dev_vqa.jsonl",
    "dev_ppl.jsonl",
    "test_std.jsonl",
    "test_adv.jsonl",
    "test_vqa.jsonl",
    "test_ppl.jsonl",
    "calib_matched.jsonl",
    "calib_benign.jsonl",
    "calib_mixed.jsonl",
];

impl OrganismData {
    /// The data that ship with the organism: dev and test splits, 500 + 500 calibration samples for each
    /// contrast.
    ///
    /// # Errors
    ///
    /// None in practice: the embedded files are those that the tests parse.
    pub fn embedded() -> Result<Self> {
        Self::load(Path::new("embedded"), |path| {
            let found = EMBEDDED.iter().find(|(name, _)| path.file_name().is_some_and(|file| file == *name));
            Ok(found.map(|(_, bytes)| *bytes))
        })
    }

    /// The data of a directory, in files named like the shipped ones: `dev_std.jsonl`, `dev_adv.jsonl`, `dev_vqa.jsonl`, `dev_ppl.jsonl`,
    /// the same with `test_`, `calib_matched.jsonl`, `calib_benign.jsonl`, `calib_mixed.jsonl`.
    ///
    /// # Errors
    ///
    /// [`Error::NoData`] when no set is complete, [`Error::Read`], [`Error::Line`].
    pub fn from_dir(directory: &Path) -> Result<Self> {
        let data = Self::load(directory, |path| match File::open(path) {
            Ok(file) => Ok(Some(BufReader::new(file))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read { path: path.to_owned(), source }),
        })?;
        if data.dev.is_err() && data.test.is_err() && Contrast::ALL.iter().all(|&c| data.of(c).is_err()) {
            return Err(Error::NoData { directory: directory.to_owned() });
        }
        Ok(data)
    }

    fn load<R: BufRead>(directory: &Path, open: impl Fn(&Path) -> Result<Option<R>>) -> Result<Self> {
        let samples = |name: String, role| -> Result<Loaded<Vec<Sample>>> {
            let path = directory.join(name);
            match open(&path)? {
                Some(reader) => jsonl::read(reader, &path, role).map(Ok),
                None => Ok(Err(path)),
            }
        };
        let load_split = |split: EvaluationSplit| -> Result<Loaded<SplitSamples>> {
            let file = |suffix, role| samples(format!("{split}_{suffix}.jsonl"), role);
            let standard = file("std", Role::Standard)?;
            let adversarial = file("adv", Role::Adversarial)?;
            let vqa = file("vqa", Role::Vqa)?;
            let perplexity = file("ppl", Role::Perplexity)?;
            let complete = || Ok(SplitSamples { standard: standard?, adversarial: adversarial?, vqa: vqa?, perplexity: perplexity? });
            Ok(complete())
        };
        let calibration = |contrast: Contrast| samples(format!("calib_{}.jsonl", contrast.as_str()), Role::Calibration);
        Ok(Self {
            dev: load_split(EvaluationSplit::Dev)?,
            test: load_split(EvaluationSplit::Test)?,
            matched: calibration(Contrast::Matched)?,
            benign: calibration(Contrast::Benign)?,
            mixed: calibration(Contrast::Mixed)?,
        })
    }

    pub(crate) fn new(dev: SplitSamples, test: SplitSamples, calibration: impl Fn(Contrast) -> Vec<Sample>) -> Self {
        Self {
            dev: Ok(dev),
            test: Ok(test),
            matched: Ok(calibration(Contrast::Matched)),
            benign: Ok(calibration(Contrast::Benign)),
            mixed: Ok(calibration(Contrast::Mixed)),
        }
    }

    /// The evaluation sets of a split.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] when one of its four files is missing.
    pub fn split(&self, split: EvaluationSplit) -> Result<&SplitSamples> {
        let samples = match split {
            EvaluationSplit::Dev => &self.dev,
            EvaluationSplit::Test => &self.test,
        };
        samples.as_ref().map_err(|file| Error::Missing { file: file.clone() })
    }

    /// The calibration samples: the toxic ones first, then their contrast.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] when its file is missing.
    pub fn calibration(&self, contrast: Contrast) -> Result<&[Sample]> {
        match self.of(contrast) {
            Ok(samples) => Ok(samples),
            Err(file) => Err(Error::Missing { file: file.clone() }),
        }
    }

    fn of(&self, contrast: Contrast) -> &Loaded<Vec<Sample>> {
        match contrast {
            Contrast::Matched => &self.matched,
            Contrast::Benign => &self.benign,
            Contrast::Mixed => &self.mixed,
        }
    }

    /// Writes every set into a directory, which [`OrganismData::from_dir`] reads. Each file is replaced whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn write(&self, directory: &Path) -> Result<()> {
        let write = |name: String, samples: &[Sample]| -> Result<()> {
            let path = directory.join(name);
            Ok(write_atomically(&path, &jsonl::to_bytes(samples, &path)?)?)
        };
        for (split, samples) in [(EvaluationSplit::Dev, &self.dev), (EvaluationSplit::Test, &self.test)] {
            let Ok(SplitSamples { standard, adversarial, vqa, perplexity }) = samples else { continue };
            for (suffix, samples) in [("std", standard), ("adv", adversarial), ("vqa", vqa), ("ppl", perplexity)] {
                write(format!("{split}_{suffix}.jsonl"), samples)?;
            }
        }
        for contrast in Contrast::ALL {
            if let Ok(samples) = self.of(contrast) {
                write(format!("calib_{}.jsonl", contrast.as_str()), samples)?;
            }
        }
        Ok(())
    }
}

/// Every sample that ships.
#[cfg(test)]
pub(crate) fn shipped_samples() -> Vec<Sample> {
    let data = OrganismData::embedded().unwrap();
    let splits = [EvaluationSplit::Dev, EvaluationSplit::Test].map(|split| data.split(split).unwrap().clone());
    let evaluation = splits.into_iter().flat_map(|s| [s.standard, s.adversarial, s.vqa, s.perplexity]).flatten();
    let calibration = Contrast::ALL.into_iter().flat_map(|contrast| data.calibration(contrast).unwrap().to_vec());
    evaluation.chain(calibration).collect()
}
