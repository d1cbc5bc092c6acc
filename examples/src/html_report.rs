//! The data of the HTML report, read from the files of an experiment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sgm::capture::ActivationStore;
use sgm::comparison::NamedGlasses;
use sgm::core::{Expertise, Intervention, sha256};
use sgm::organism::{Contrast, OrganismSource};
use sgm::score::{Attribution, AttributionOptions, Modality, permutation_null, score_store};
use sgm::toxic_qa::html_report::{Answers, AurocDistribution, HtmlReport, LayerAttribution, ModalityAttribution, SiteSuppression};
use sgm::toxic_qa::{Evaluation, EvaluationSplit, Report, Sample, Source, read_records};

/// The AUROCs of all neurons, and of all under permuted labels.
///
/// # Errors
///
/// Those of reading and scoring the store.
pub fn auroc(store: &ActivationStore, permutations: usize) -> Result<AurocDistribution> {
    let (mut histogram, mut largest) = (Vec::new(), vec![0f64; permutations]);
    for site in store.sites().keys() {
        // The same seed, and so the same permutations, for every site.
        let null = permutation_null(&store.read(*site)?.view(), store.labels(), permutations, 0, 256 << 20)?;
        histogram.resize(null.histogram.len(), 0);
        histogram.iter_mut().zip(&null.histogram).for_each(|(all, here)| *all += here);
        largest.iter_mut().zip(&null.largest).for_each(|(all, here)| *all = all.max(*here));
    }
    Ok(AurocDistribution::new(&score_store(store)?, Some((histogram, &largest))))
}

/// The modality that experts respond to, by layer; `None` where the store lacks a pooling that this takes.
///
/// # Errors
///
/// Those of reading and scoring the store.
pub fn attribution(store: &ActivationStore) -> Result<Option<ModalityAttribution>> {
    let pooling = |tokens: &str| store.manifest().poolings.iter().find(|pooling| pooling.ends_with(tokens)).cloned();
    let (Some(text), Some(image), Some(response)) = (pooling("/text"), pooling("/image"), pooling("/response")) else { return Ok(None) };
    let score = |pooling: &str| -> Result<Expertise> { Ok(score_store(&store.clone().with_pooling(pooling)?)?) };
    let attribution = Attribution::new(&score(&image)?, &score(&text)?, &score(&response)?, &AttributionOptions::default())?;
    let layer = |(layer, counts): (usize, BTreeMap<Modality, usize>)| {
        let count = |modality| counts.get(&modality).copied().unwrap_or_default();
        let [text, image, both, cross_modal] = [Modality::Text, Modality::Image, Modality::Both, Modality::CrossModal].map(count);
        LayerAttribution { layer, text, image, both, cross_modal }
    };
    let layers = attribution.per_layer().into_iter().map(layer).collect();
    Ok(Some(ModalityAttribution { poolings: [text, image, response], layers }))
}

/// Writes the HTML report of a comparison, `report.html`, into the directory of its other files. It shows the suppression, and pairs of
/// answers, of the glasses `shown`; with pictures where the prompts are those of the embedded organism.
///
/// # Errors
///
/// Those of reading the glasses and answers, and of writing the page.
pub fn write(out: &Path, report: Report, auroc: Option<AurocDistribution>, shown: Option<&str>, pictures: bool) -> Result<PathBuf> {
    let mut page = HtmlReport::new(report);
    page.auroc = auroc;
    if let Some(name) = shown {
        let file = NamedGlasses::file(out, name);
        page.sites = SiteSuppression::of(&Intervention::load(&file)?);
        page.answers = Answers::pair(&read_records(&out.join("answers.jsonl"))?, &file_sha256(&file)?, name, 2);
        if let (Some(answers), true) = (&mut page.answers, pictures) {
            answers.show_pictures(&organism_prompts(&page.report.provenance.split, None)?)?;
        }
    }
    let path = out.join("report.html");
    sgm::core::write_atomically(&path, page.html()?.as_bytes())?;
    Ok(path)
}

/// The risky prompts of the organism, whose pictures a report shows beside answers.
///
/// # Errors
///
/// Those of reading the data.
pub fn organism_prompts(split: &str, directory: Option<&Path>) -> Result<Vec<Sample>> {
    let split: EvaluationSplit = split.parse().map_err(anyhow::Error::msg)?;
    let source = match directory {
        Some(directory) => OrganismSource::from_dir(directory, split, Contrast::Benign)?,
        None => OrganismSource::embedded(split, Contrast::Benign)?,
    };
    let Evaluation { standard, adversarial, .. } = source.evaluation()?;
    Ok([standard, adversarial].concat())
}

/// The SHA-256 of a file, in hex.
///
/// # Errors
///
/// Those of reading it.
pub fn file_sha256(path: &Path) -> Result<String> {
    Ok(sha256::hex_digest(&std::fs::read(path).with_context(|| path.display().to_string())?))
}
