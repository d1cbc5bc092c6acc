use std::collections::BTreeMap;

use crate::builder::split_name;
use crate::{Condition, ImageRef, Recipe, Result, Sample, manifest};

/// Entries left out, by source and reason.
pub(crate) type Dropped = BTreeMap<(String, &'static str), usize>;

/// What the [builder](crate::builder) made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The samples of the manifest, by id.
    pub samples: Vec<Sample>,
    /// What is in it.
    pub datasheet: Datasheet,
}

/// What a manifest holds, for its reader: counts, hashes, and how it was built.
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
    recipe: Recipe,
    seed: u64,
    dropped: Dropped,
    largest: usize,
}

impl Datasheet {
    /// Counts and hashes the samples of any manifest.
    ///
    /// # Errors
    ///
    /// Those of [`manifest::sha256`], whose hashes these are.
    pub fn of(samples: &[Sample]) -> Result<Self> {
        let mut counts: BTreeMap<[String; 4], usize> = BTreeMap::new();
        let mut splits: BTreeMap<&'static str, Vec<Sample>> = BTreeMap::new();
        for sample in samples {
            let condition = match (sample.condition, &sample.attack) {
                (Condition::Standard, _) => "standard".to_owned(),
                (Condition::Adversarial, None) => "adversarial".to_owned(),
                (Condition::Adversarial, Some(attack)) => format!("adversarial: {attack}"),
            };
            let split = split_name(sample.split);
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

    pub(crate) fn built_by(self, recipe: Recipe, seed: u64, dropped: Dropped, largest: usize) -> Self {
        Self { built: Some(Origin { recipe, seed, dropped, largest }), ..self }
    }

    /// The hash of the samples, as [`manifest::sha256`] has it.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Entries that the builder left out, with the source and the reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&str, &str, usize)> {
        self.built.iter().flat_map(|built| &built.dropped).map(|((source, reason), n)| (source.as_str(), *reason, *n))
    }

    /// The sheet in Markdown, with room for what only its owner knows.
    pub fn markdown(&self) -> String {
        let [toxic, non_toxic] = self.labels;
        let mut out = format!("# Datasheet\n\n{} samples, {} with an image file. ", self.samples, self.images);
        out += &format!("Labelled answers: {toxic} toxic, {non_toxic} non-toxic.\n");
        if let Some(Origin { recipe, seed, largest, .. }) = &self.built {
            let (name, about, software) = (&recipe.name, &recipe.about, env!("CARGO_PKG_VERSION"));
            out += &format!("\nBuilt by recipe `{name}`, seed {seed}, mm-toxic-qa {software}. {about}\n");
            out += &format!("\n- test: {} in each category\n", number(recipe.test_per_category));
            out += &format!("- dev: {} in each category\n", recipe.dev_per_category);
            out += &format!("- calibration: {} of each label\n", number(recipe.calibration_per_label));
            out += &format!("- utility: {}\n", number(recipe.utility));
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
        out += "\n## Licences and consent\n\nTo be filled in: the licence of each source, and what it allows to be done with these samples.\n\n";
        let mut sources: Vec<&String> = self.counts.keys().map(|[source, ..]| source).collect();
        sources.dedup();
        sources.iter().for_each(|source| out += &format!("- {}:\n", cell(source)));
        out
    }
}

fn number(limit: Option<usize>) -> String {
    limit.map_or_else(|| "all".to_owned(), |limit| limit.to_string())
}

/// Text that cannot break a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}
