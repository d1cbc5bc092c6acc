//! Prints reports as Markdown tables, or writes one as an HTML page with the data behind it.
//!
//!     report out/report.json
//!     report out/report.json --html out/page.html --tuning tune.json --intervention out/glasses.sgm.safetensors
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use sgm::capture::ActivationStore;
use sgm::core::{Expertise, Intervention, write_atomically};
use sgm::toxic_qa::html_report::{Answers, AurocDistribution, HtmlReport, SiteSuppression};
use sgm::toxic_qa::{Report, read_records};
use sgm_examples::html_report::{attribution, auroc, file_sha256, organism_prompts};

/// Prints reports as Markdown tables, or writes one as an HTML page with the data behind it.
#[derive(Parser)]
#[command(version)]
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
    /// Write the chart of harmful rates alone: an SVG file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Only these runs.
    #[arg(long, value_delimiter = ',')]
    runs: Vec<String>,
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
    /// The directory of the organism's data, if it is not the embedded one; for the pictures of its prompts.
    #[arg(long)]
    organism_data: Option<PathBuf>,
}

fn main() -> Result<()> {
    let Arguments { reports, page } = Arguments::parse();
    if [&page.html, &page.svg, &page.markdown, &page.json].iter().all(|file| file.is_none()) {
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
    write(&page.svg, &|| shown.harm_svg().context("no harmful rate was measured"))?;
    write(&page.markdown, &|| Ok(shown.markdown()))?;
    write(&page.json, &|| Ok(serde_json::to_string_pretty(&shown)?))
}

impl PageArguments {
    fn read(&self, report: &Path) -> Result<HtmlReport> {
        let mut page = HtmlReport::new(Report::read(report)?);
        page.report.runs.retain(|run| self.runs.is_empty() || self.runs.contains(&run.name));
        page.tuning = self.tuning.as_deref().map(Report::read).transpose()?;
        let files =
            [Some(report), self.tuning.as_deref(), self.intervention.as_deref(), self.expertise.as_deref(), self.answers.as_deref()];
        for path in files.into_iter().flatten() {
            page.files.insert(path.display().to_string(), file_sha256(path)?);
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
            let answers = Answers::pair(&read_records(path)?, &file_sha256(intervention)?, name.trim_end_matches(".sgm.safetensors"), 2);
            let mut answers = answers.with_context(|| format!("{}: no answer with {}", path.display(), intervention.display()))?;
            let provenance = &page.report.provenance;
            if provenance.model == "organism"
                && !answers.show_pictures(&organism_prompts(&provenance.split, self.organism_data.as_deref())?)?
            {
                bail!("{}: the answers are to other prompts than those of the organism's data; give --organism-data", path.display());
            }
            page.answers = Some(answers);
        }
        Ok(page)
    }
}
