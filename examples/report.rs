//! Prints reports as Markdown tables, or shows one on a page with what led to it.
//!
//!     report out/report.json
//!     report out/report.json --html out/page.html --tuning tune.json --intervention out/glasses.sgm.safetensors --store STORE --answers out/answers.jsonl
#![allow(clippy::print_stdout, reason = "a binary")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use sgm::capture::ActivationStore;
use sgm::core::{Expertise, Intervention, write_atomically};
use sgm::score::{Attribution, AttributionOptions, Modality, permutation_null, score_store};
use sgm::toxic_qa::page::{Answers, AurocDistribution, LayerAttribution, ModalityAttribution, Page, SiteSuppression};
use sgm::toxic_qa::{Contrast, Evaluation, OrganismSource, Part, Report, Sample, Source, read_records};
use sha2::{Digest, Sha256};

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// Report files, as `glasses` and `tune` write them.
    #[arg(required = true)]
    reports: Vec<PathBuf>,
    #[command(flatten)]
    page: PageArguments,
}

#[derive(Parser)]
struct PageArguments {
    /// Write a page of the report: one HTML file.
    #[arg(long)]
    html: Option<PathBuf>,
    /// Write the same page as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Write the page's data.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A report of `tune`, for the trade-off between harm and utility.
    #[arg(long)]
    tuning: Option<PathBuf>,
    /// An intervention, for the sites it acts on; its answers are those shown.
    #[arg(long)]
    intervention: Option<PathBuf>,
    /// An expertise file, for the distribution of AUROC, if there is no store.
    #[arg(long)]
    expertise: Option<PathBuf>,
    /// An activation store, for AUROC, its permutation null and, where it has pools over text, image and response, attribution.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Permutations of the labels.
    #[arg(long, default_value_t = 200)]
    permutations: usize,
    /// Answers (`answers.jsonl`) to show word for word; of a model that says harmful things, mind who reads the page.
    #[arg(long, requires = "intervention")]
    answers: Option<PathBuf>,
    /// Where the organism's prompts came from, if not from the embedded data; for their pictures.
    #[arg(long)]
    organism_data: Option<PathBuf>,
}

fn main() -> Result<()> {
    let Arguments { reports, page } = Arguments::parse();
    if page.html.is_none() && page.markdown.is_none() && page.json.is_none() {
        for path in reports {
            println!("{}\n", Report::read(&path)?.markdown());
        }
        return Ok(());
    }
    let [report] = reports.as_slice() else { bail!("a page shows one report, not {}", reports.len()) };
    let shown = page.read(report)?;
    let write = |path: &Option<PathBuf>, text: &dyn Fn() -> Result<String>| -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        write_atomically(path, text()?.as_bytes())?;
        println!("written to {}", path.display());
        Ok(())
    };
    write(&page.html, &|| Ok(shown.html()?))?;
    write(&page.markdown, &|| Ok(shown.markdown()))?;
    write(&page.json, &|| Ok(serde_json::to_string_pretty(&shown)?))
}

impl PageArguments {
    fn read(&self, report: &Path) -> Result<Page> {
        let mut page = Page::new(Report::read(report)?);
        page.tuning = self.tuning.as_deref().map(Report::read).transpose()?;
        let files =
            [Some(report), self.tuning.as_deref(), self.intervention.as_deref(), self.expertise.as_deref(), self.answers.as_deref()];
        for path in files.into_iter().flatten() {
            page.files.insert(path.display().to_string(), sha256(path)?);
        }
        if let Some(path) = &self.intervention {
            page.sites = SiteSuppression::of(&Intervention::load(path)?);
        }
        if let Some(path) = &self.expertise {
            page.auroc = Some(AurocDistribution::new(&Expertise::load(path)?, None));
        }
        if let Some(path) = &self.store {
            let store = ActivationStore::open(path)?;
            page.auroc = Some(auroc(&store, self.permutations)?);
            page.attribution = attribution(&store)?;
        }
        if let (Some(path), Some(intervention)) = (&self.answers, &self.intervention) {
            let name = intervention.file_name().unwrap_or_default().to_string_lossy();
            let answers = Answers::pair(&read_records(path)?, &sha256(intervention)?, name.trim_end_matches(".sgm.safetensors"), 2);
            let mut answers = answers.with_context(|| format!("{}: no answer with {}", path.display(), intervention.display()))?;
            let provenance = &page.report.provenance;
            if provenance.model == "organism" && !answers.show_pictures(&self.prompts(&provenance.part)?)? {
                bail!("{}: the answers are to other prompts than those of the organism's data; give --organism-data", path.display());
            }
            page.answers = Some(answers);
        }
        Ok(page)
    }

    /// The risky prompts of the organism.
    fn prompts(&self, part: &str) -> Result<Vec<Sample>> {
        let part = if part == "dev" { Part::Dev } else { Part::Test };
        let source = match &self.organism_data {
            Some(directory) => OrganismSource::from_dir(directory, part, Contrast::Benign)?,
            None => OrganismSource::embedded(part, Contrast::Benign)?,
        };
        let Evaluation { standard, adversarial, .. } = source.evaluation()?;
        Ok([standard, adversarial].concat())
    }
}

/// The AUROCs of all neurons, and of all under permuted labels.
fn auroc(store: &ActivationStore, permutations: usize) -> Result<AurocDistribution> {
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

/// What experts respond to; `None` where the store lacks a pool for it.
fn attribution(store: &ActivationStore) -> Result<Option<ModalityAttribution>> {
    let pooling = |mask: &str| store.manifest().poolings.iter().find(|pooling| pooling.ends_with(mask)).cloned();
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

fn sha256(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}
