//! The datasheet of a manifest.

use std::collections::BTreeMap;

use crate::{BuildPlan, Condition, ImageRef, Result, Sample, manifest};

/// Entries left out, by source and reason.
pub(crate) type Dropped = BTreeMap<(String, &'static str), usize>;

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
    sha256: String,
    by_split: BTreeMap<&'static str, String>,
    built: Option<Origin>,
}

#[derive(Clone, Debug)]
struct Origin {
    plan: BuildPlan,
    seed: u64,
    dropped: Dropped,
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
            sha256: manifest::sha256(samples)?,
            by_split,
            built: None,
        })
    }

    pub(crate) fn built_by(self, plan: BuildPlan, seed: u64, dropped: Dropped, largest: usize) -> Self {
        Self { built: Some(Origin { plan, seed, dropped, largest }), ..self }
    }

    /// The hash of the samples by [`manifest::sha256`].
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Entries that the builder left out, with the source and the reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.built.iter().flat_map(|built| &built.dropped).map(|((source, reason), n)| (source.as_str(), *reason, *n))
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
        if let Some(built) = &self.built {
            out += "\n## Left out\n\n";
            if built.dropped.is_empty() {
                out += "Nothing.\n";
            } else {
                out += "| source | reason | entries |\n|---|---|---:|\n";
                for ((source, reason), n) in &built.dropped {
                    out += &format!("| {} | {reason} | {n} |\n", cell(source));
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
