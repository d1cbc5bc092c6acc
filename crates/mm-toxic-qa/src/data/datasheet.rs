//! The datasheet of a manifest.

use std::collections::BTreeMap;

use crate::{BuildPlan, Condition, ImageRef, Result, Sample, manifest, shortcuts};

/// Entries left out, by source and reason: their number, and the names of some.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dropped(BTreeMap<(String, String), (usize, Vec<String>)>);

/// The number of names for one reason.
const NAMES: usize = 20;

impl Dropped {
    /// Counts an entry that has no name worth telling.
    pub(crate) fn count(&mut self, source: &str, reason: &str) {
        self.0.entry((source.to_owned(), reason.to_owned())).or_default().0 += 1;
    }

    /// Counts and names an entry.
    pub(crate) fn add(&mut self, source: &str, reason: &str, name: &impl ToString) {
        let (n, names) = self.0.entry((source.to_owned(), reason.to_owned())).or_default();
        *n += 1;
        if names.len() < NAMES {
            names.push(name.to_string());
        }
    }

    /// Counts and names an entry that cannot be used, and warns of it.
    pub(crate) fn odd(&mut self, source: &str, error: &crate::Error) {
        tracing::warn!("left out: {error}");
        self.add(source, "not as published", error);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str, usize, &[String])> {
        self.0.iter().map(|((source, reason), (n, names))| (source.as_str(), reason.as_str(), *n, &names[..]))
    }
}

/// The output of the [builder](crate::builder).
#[derive(Clone, Debug)]
pub struct BuildOutput {
    /// The samples of the manifest, by id.
    pub samples: Vec<Sample>,
    /// Their datasheet.
    pub datasheet: Datasheet,
}

/// The contents of a manifest for its reader: counts, hashes, and how it was built.
#[derive(Clone, Debug)]
pub struct Datasheet {
    counts: BTreeMap<[String; 4], usize>,
    labels: [usize; 2],
    images: usize,
    samples: usize,
    shortcuts: BTreeMap<String, f64>,
    sha256: String,
    by_split: BTreeMap<&'static str, String>,
    built: Option<Origin>,
    dropped: Option<Dropped>,
}

#[derive(Clone, Debug)]
struct Origin {
    plan: BuildPlan,
    seed: u64,
    largest: usize,
}

impl Datasheet {
    /// Counts and hashes the samples of any manifest.
    ///
    /// # Errors
    ///
    /// As [`manifest::sha256`], which makes the hashes.
    pub fn of(samples: &[Sample]) -> Result<Self> {
        let mut counts: BTreeMap<[String; 4], usize> = BTreeMap::new();
        let mut splits: BTreeMap<&'static str, Vec<Sample>> = BTreeMap::new();
        for sample in samples {
            let condition = match (sample.condition, &sample.attack) {
                (Condition::Standard, _) => "standard".to_owned(),
                (Condition::Adversarial, None) => "adversarial".to_owned(),
                (Condition::Adversarial, Some(attack)) => format!("adversarial: {attack}"),
            };
            let split = sample.split.name();
            *counts.entry([sample.source.clone(), split.to_owned(), sample.category.clone(), condition]).or_default() += 1;
            splits.entry(split).or_default().push(sample.clone());
        }
        let of = |label| samples.iter().filter(|sample| sample.label == Some(label)).count();
        let by_split = splits.into_iter().map(|(split, samples)| Ok((split, manifest::sha256(&samples)?))).collect::<Result<_>>()?;
        Ok(Self {
            counts,
            labels: [of(true), of(false)],
            images: samples.iter().filter(|sample| matches!(sample.image, Some(ImageRef::File { .. }))).count(),
            samples: samples.len(),
            shortcuts: shortcuts(samples),
            sha256: manifest::sha256(samples)?,
            by_split,
            built: None,
            dropped: None,
        })
    }

    pub(crate) fn built_by(self, plan: BuildPlan, seed: u64, largest: usize) -> Self {
        Self { built: Some(Origin { plan, seed, largest }), ..self }
    }

    pub(crate) fn leaving_out(self, dropped: Dropped) -> Self {
        Self { dropped: Some(dropped), ..self }
    }

    /// The hash of the samples by [`manifest::sha256`].
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// How well prompt, image and length alone predict the label of the labelled answers, by [`shortcuts`].
    pub fn shortcuts(&self) -> &BTreeMap<String, f64> {
        &self.shortcuts
    }

    /// Entries that were left out: the source, the reason, their number.
    pub fn dropped(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.dropped.iter().flat_map(Dropped::iter).map(|(source, reason, n, _)| (source, reason, n))
    }

    /// Entries that were left out, a line for each reason, with the names of the first; empty when there are none.
    pub fn left_out(&self) -> String {
        let mut out = String::new();
        for (source, reason, n, names) in self.dropped.iter().flat_map(Dropped::iter) {
            out += &format!("{n} of {source}: {reason}");
            if !names.is_empty() {
                out += &format!(" ({}{})", names.join("; "), if n > names.len() { "; ..." } else { "" });
            }
            out.push('\n');
        }
        out
    }

    /// The datasheet in Markdown, with a section for its owner to fill in.
    pub fn markdown(&self) -> String {
        let [toxic, non_toxic] = self.labels;
        let mut out = format!("# Datasheet\n\n{} samples, {} with an image file. ", self.samples, self.images);
        out += &format!("Labelled answers: {toxic} toxic, {non_toxic} non-toxic.\n");
        if let Some(Origin { plan, seed, largest, .. }) = &self.built {
            let (name, about, software) = (&plan.name, &plan.about, env!("CARGO_PKG_VERSION"));
            out += &format!("\nBuilt by plan `{name}`, seed {seed}, mm-toxic-qa {software}. {about}\n");
            out += &format!("\n- test: {} in each category\n", number(plan.test_per_category));
            out += &format!("- dev: {} in each category\n", plan.dev_per_category);
            out += &format!("- calibration: {} of each label\n", number(plan.calibration_per_label));
            out += &format!("- utility: {}\n", number(plan.utility));
            out += &format!("\nNo two splits share an image or a prompt. The largest group of related samples has {largest}.\n");
        }
        out += "\n## Hashes\n\nOver samples and images, whatever their order and names.\n\n| samples | SHA-256 |\n|---|---|\n";
        out += &format!("| all | `{}` |\n", self.sha256);
        for (split, sha256) in &self.by_split {
            out += &format!("| {split} | `{sha256}` |\n");
        }
        out += "\n## Samples\n\n| source | split | category | condition | samples |\n|---|---|---|---|---:|\n";
        for ([source, split, category, condition], n) in &self.counts {
            let [source, category, condition] = [source, category, condition].map(|text| cell(text));
            out += &format!("| {source} | {split} | {category} | {condition} | {n} |\n");
        }
        if !self.shortcuts.is_empty() {
            out += "\n## What gives the label away\n\nThe AUROC with which each of these alone, cross-validated, tells toxic from non-toxic \
                    answers; 0.5 or less is chance.\n\n| predictor | AUROC |\n|---|---:|\n";
            self.shortcuts.iter().for_each(|(name, auroc)| out += &format!("| {name} | {auroc:.3} |\n"));
            if let Some(warning) = sgm_core::shortcut_warning(&self.shortcuts) {
                out += &format!("\n**{warning}**\n");
            }
        }
        if let Some(dropped) = &self.dropped {
            out += "\n## Left out\n\n";
            if dropped.0.is_empty() {
                out += "Nothing.\n";
            } else {
                out += "| source | reason | entries |\n|---|---|---:|\n";
                for (source, reason, n, _) in dropped.iter() {
                    out += &format!("| {} | {reason} | {n} |\n", cell(source));
                }
                for (source, reason, n, names) in dropped.iter().filter(|(.., names)| !names.is_empty()) {
                    let first = if n > names.len() { format!(", the first {}", names.len()) } else { String::new() };
                    out += &format!("\n{}, {reason}{first}:\n\n", cell(source));
                    names.iter().for_each(|name| out += &format!("- {}\n", cell(name)));
                }
            }
        }
        out += "\n## Licences and consent\n\n";
        out += "To be filled in: the licence of each source, and what it allows to be done with these samples.\n\n";
        let mut sources: Vec<&String> = self.counts.keys().map(|[source, ..]| source).collect();
        sources.dedup();
        sources.iter().for_each(|source| out += &format!("- {}:\n", cell(source)));
        out
    }
}

fn number(limit: Option<usize>) -> String {
    limit.map_or_else(|| "all".to_owned(), |limit| limit.to_string())
}

/// A text for a cell of a Markdown table, on one line and escaped.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}
