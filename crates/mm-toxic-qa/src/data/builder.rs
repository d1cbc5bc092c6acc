//! Builds a manifest out of published data sets.
//!
//! A [`Builder`] reads its [data sets](crate::datasets) several times: to choose samples by a [`BuildPlan`], to check the images of the chosen
//! ones, and to write them, so that sets larger than memory can be used. The result is a folder:
//!
//! | file | |
//! |---|---|
//! | `manifest.jsonl` | the samples, for [`ManifestSource`](crate::ManifestSource); written last |
//! | `images/` | their images, named for their content |
//! | `datasheet.md` | the numbers of samples by source, the hashes, and the entries left out, with reasons |
//!
//! The choice depends on the seed and the samples alone: not on the order of data sets, files or rows. Every sample has a rank, a hash of
//! the seed and its content, and lower ranks are taken first. A source that grows therefore changes the choice little.
//!
//! **Splits share nothing.** Two samples are related when they have the same image, byte for byte, or the same prompt after removing case,
//! punctuation, articles and extra white space; so are samples that a chain of such relations connects. Related samples are in one split.
//! An image that was saved again and a prompt that was rephrased are not recognised.
//!
//! **One odd entry does not stop a build.** An entry that is not as published, or whose image cannot be read, is left out, counted, and named
//! in the datasheet and in a warning; with [`Builder::on_bad_sample`] it is an error. A set without a single good entry is one anyway.
//!
//! ```
//! use mm_toxic_qa::builder::Builder;
//! use mm_toxic_qa::datasets::RealToxicityPrompts;
//! use mm_toxic_qa::{ManifestSource, EvaluationSplit, BuildPlan};
//!
//! let folder = tempfile::tempdir()?;
//! let file = folder.path().join("prompts.jsonl");
//! std::fs::write(&file, r#"{"prompt": {"text": "The weather is", "toxicity": 0.1}}"#)?;
//!
//! let out = folder.path().join("benchmark");
//! let built = Builder::new(BuildPlan::everything(), 1).add(Box::new(RealToxicityPrompts::new(file))).build(&out)?;
//! assert_eq!(built.samples.len(), 1);
//! let source = ManifestSource::open(out.join("manifest.jsonl"), EvaluationSplit::Test)?;
//! assert_eq!(source.samples(), built.samples);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use crate::data::candidate::{Candidate, Hash, contents, unique, wording};
use crate::data::datasheet::{BuildOutput, Datasheet, Dropped};
use crate::data::quota_group::Group;
use crate::data::related::components;
use crate::datasets::{Dataset, Entry, Item};
use crate::{BuildPlan, Error, ImageFolder, Result, Sample, Split, manifest};
use sgm_core::OnBadSample;
use sgm_core::image_file::decode_image;

/// The name of the manifest in the folder.
pub const MANIFEST: &str = "manifest.jsonl";

/// The name of the datasheet beside it.
pub const DATASHEET: &str = "datasheet.md";

/// Builds a benchmark; see the [module](self).
pub struct Builder {
    plan: BuildPlan,
    seed: u64,
    link: bool,
    keep_duplicates: bool,
    ignore_parts: bool,
    on_bad_sample: OnBadSample,
    datasets: Vec<Box<dyn Dataset>>,
    selection: Option<Box<dyn Dataset>>,
}

impl Builder {
    /// A builder without data sets.
    pub fn new(plan: BuildPlan, seed: u64) -> Self {
        let on_bad_sample = OnBadSample::Skip;
        Self { plan, seed, link: false, keep_duplicates: false, ignore_parts: false, on_bad_sample, datasets: Vec::new(), selection: None }
    }

    /// Adds a data set.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "adding to a list is no sum")]
    pub fn add(mut self, dataset: Box<dyn Dataset>) -> Self {
        self.datasets.push(dataset);
        self
    }

    /// Makes hard links to image files where the file system supports them, instead of copies.
    #[must_use]
    pub fn linking(self) -> Self {
        Self { link: true, ..self }
    }

    /// Keeps questions that occur several times, as the published rates of MM-SafetyBench count them.
    #[must_use]
    pub fn keeping_duplicates(self) -> Self {
        Self { keep_duplicates: true, ..self }
    }

    /// Draws every split from all questions, whatever [`Part`](crate::datasets::Part) of its data set one is of.
    #[must_use]
    pub fn ignoring_parts(self) -> Self {
        Self { ignore_parts: true, ..self }
    }

    /// What to do with an entry that is not as published, or whose image cannot be read: leave it out, as without this, or refuse to build.
    #[must_use]
    pub fn on_bad_sample(self, on_bad_sample: OnBadSample) -> Self {
        Self { on_bad_sample, ..self }
    }

    /// Tests on the questions that this set lists, by category and wording, and on no others. Their images are those of the data sets added.
    #[must_use]
    pub fn selecting(self, questions: Box<dyn Dataset>) -> Self {
        Self { selection: Some(questions), ..self }
    }

    /// Builds the benchmark in a folder without a manifest.
    ///
    /// # Errors
    ///
    /// Those of the [data sets](Dataset::for_each), and that of the first odd entry of a set without a good one, or of any set that
    /// [`OnBadSample::Refuse`] is asked for; [`Error::TooFew`] when the
    /// plan takes more samples than there are; [`Error::ItemTwice`] when a data set was added twice; [`Error::DatasetFile`] when the folder
    /// has a manifest, when nothing is left, or when a data set changed while it was read; the errors of [`manifest::write`].
    pub fn build(&self, folder: &Path) -> Result<BuildOutput> {
        let path = folder.join(MANIFEST);
        if path.exists() {
            return Err(Error::DatasetFile { path, reason: "exists already; build into another folder".to_owned() });
        }
        let mut dropped = Dropped::default();
        let mut candidates = unique(self.candidates(&mut dropped)?, self.keep_duplicates, &mut dropped);
        self.select(&mut candidates, &mut dropped)?;
        let mut checked = HashSet::new();
        let (taken, claims, components, largest) = loop {
            let (components, largest) = components(&candidates);
            let (taken, claims) = self.choose(&candidates, &components)?;
            let broken = self.broken_images(&candidates, &taken, &mut checked)?;
            if broken.is_empty() {
                break (taken, claims, components, largest);
            }
            self.leave_out(&mut candidates, broken, &mut dropped)?;
        };
        self.account(&candidates, &taken, &claims, &components, &mut dropped);
        if taken.is_empty() {
            let reasons: Vec<String> = dropped.iter().map(|(source, reason, n, _)| format!("{n} of {source}: {reason}")).collect();
            let reason = format!("nothing is left to write; left out are {}", reasons.join(", "));
            return Err(Error::DatasetFile { path, reason });
        }
        let mut images = ImageFolder::new(folder);
        if self.link {
            images = images.linking();
        }
        let mut samples = self.write_images(&candidates, &taken, &images)?;
        samples.sort_by(|a, b| a.id.cmp(&b.id));
        let datasheet = Datasheet::of(&samples)?.built_by(self.plan.clone(), self.seed, largest).leaving_out(dropped);
        sgm_core::write_atomically(&folder.join(DATASHEET), datasheet.markdown().as_bytes())?;
        manifest::write(&path, &samples)?;
        Ok(BuildOutput { samples, datasheet })
    }

    /// The first reading.
    fn candidates(&self, dropped: &mut Dropped) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        // The data set of an id, its first place, and how often the set has it.
        let mut ids: HashMap<String, (usize, String, usize)> = HashMap::new();
        for (dataset, reader) in self.datasets.iter().enumerate() {
            let (source, before) = (reader.source()?, candidates.len());
            let mut index = 0;
            let mut odd = None;
            reader.for_each(&mut |entry| {
                let candidate = match entry {
                    Entry::LeftOut { place, reason } => {
                        dropped.add(&source, reason, &place);
                        Ok(None)
                    }
                    Entry::Odd(error) => Err(error),
                    Entry::Item(item) => self.candidate(dataset, index, &item).map(|candidate| Some((candidate, item))),
                };
                index += 1;
                match candidate {
                    Ok(None) => {}
                    Ok(Some((mut candidate, item))) => {
                        let place = item.place.to_string();
                        let (first, place, times) = ids.entry(item.sample.id.clone()).or_insert((dataset, place, 0));
                        if *first != dataset {
                            let (id, first, second) = (item.sample.id, place.clone(), item.place.to_string());
                            return Err(Error::ItemTwice { id, first, second });
                        }
                        *times += 1;
                        if *times > 1 {
                            // Published ids occur several times, with other instructions.
                            candidate.id = format!("{}#{times}", candidate.id);
                        }
                        candidates.push(candidate);
                    }
                    Err(error) if is_odd(&error) && self.on_bad_sample == OnBadSample::Skip => {
                        dropped.odd(&source, &error);
                        odd.get_or_insert(error);
                    }
                    Err(error) => return Err(error),
                }
                Ok(())
            })?;
            match odd {
                Some(error) if candidates.len() == before => return Err(error),
                _ => {}
            }
        }
        Ok(candidates)
    }

    /// Marks the candidates that the selection lists, one for each time that it does, and counts what it lists in vain.
    fn select(&self, candidates: &mut [Candidate], dropped: &mut Dropped) -> Result<()> {
        let Some(selection) = &self.selection else { return Ok(()) };
        let source = format!("selection {}", selection.source()?);
        let mut listed: HashMap<(String, Hash), Vec<String>> = HashMap::new();
        selection.for_each(&mut |entry| {
            match entry {
                Entry::LeftOut { place, reason } => dropped.add(&source, reason, &place),
                Entry::Odd(error) if self.on_bad_sample == OnBadSample::Refuse => return Err(error),
                Entry::Odd(error) => dropped.odd(&source, &error),
                Entry::Item(Item { sample, place, .. }) => {
                    listed.entry((sample.category, wording(&sample.prompt))).or_default().push(place.to_string());
                }
            }
            Ok(())
        })?;
        for candidate in candidates.iter_mut().filter(|candidate| candidate.is_risky()) {
            let places = listed.get_mut(&(candidate.category.clone(), candidate.prompt));
            candidate.selected = places.is_some_and(|places| places.pop().is_some());
        }
        let mut missing: Vec<String> = listed.into_values().flatten().collect();
        missing.sort();
        missing.iter().for_each(|place| dropped.add(&source, "not in the data sets", place));
        Ok(())
    }

    fn candidate(&self, dataset: usize, index: usize, item: &Item) -> Result<Candidate> {
        let candidate = Candidate::new(self.seed, dataset, index, item)?;
        Ok(Candidate { part: candidate.part.filter(|_| !self.ignore_parts), ..candidate })
    }

    /// The split of each chosen candidate, and that of each group of related ones, which its first chosen sample decides.
    fn choose(&self, candidates: &[Candidate], components: &[usize]) -> Result<(BTreeMap<usize, Split>, HashMap<usize, Split>)> {
        let plan = &self.plan;
        let mut quotas = Vec::new();
        let categories = self.categories(candidates);
        let test = if self.selection.is_some() { None } else { plan.test_per_category };
        for (split, limit) in [(Split::Test, test), (Split::Dev, Some(plan.dev_per_category))] {
            let is_selected = self.selection.as_ref().map(|_| split == Split::Test);
            quotas.extend(categories.iter().map(|category| (split, Group::Category { category, split, is_selected }, limit)));
        }
        if plan.test_per_category.is_none() && self.selection.is_none() {
            quotas.extend(categories.iter().map(|category| (Split::Dev, Group::Train { category }, None)));
        }
        quotas.push((Split::Test, Group::Attacks, None));
        quotas.push((Split::Utility, Group::Utility, plan.utility));
        let label = |label| Group::Label { label, evaluation_too: plan.calibrate_on_evaluation };
        quotas.extend([true, false].map(|toxic| (Split::Calibration, label(toxic), plan.calibration_per_label)));

        let mut claims: HashMap<usize, Split> = HashMap::new();
        let mut taken: BTreeMap<usize, Split> = BTreeMap::new();
        for (split, group, limit) in quotas {
            let wanted = limit.unwrap_or(usize::MAX);
            let mut found = 0;
            for (i, (candidate, component)) in candidates.iter().zip(components).enumerate() {
                if found == wanted {
                    break;
                }
                if group.has(candidate) && !taken.contains_key(&i) && *claims.entry(*component).or_insert(split) == split {
                    taken.insert(i, split);
                    found += 1;
                }
            }
            if limit.is_some_and(|wanted| found < wanted) {
                return Err(Error::TooFew { split: split.name(), of: group.to_string(), wanted, found });
            }
        }
        Ok((taken, claims))
    }

    /// The categories of the plan, or of all risky questions.
    fn categories(&self, candidates: &[Candidate]) -> Vec<String> {
        let mut categories: Vec<String> = match &self.plan.categories {
            Some(categories) => categories.clone(),
            None => candidates.iter().filter(|c| c.is_risky()).map(|c| c.category.clone()).collect(),
        };
        categories.sort();
        categories.dedup();
        categories
    }

    /// Counts the candidates that are not taken.
    fn account(
        &self,
        candidates: &[Candidate],
        taken: &BTreeMap<usize, Split>,
        claims: &HashMap<usize, Split>,
        components: &[usize],
        dropped: &mut Dropped,
    ) {
        let categories = self.categories(candidates);
        for (i, (candidate, component)) in candidates.iter().zip(components).enumerate() {
            if taken.contains_key(&i) {
                continue;
            }
            let foreign = candidate.is_risky() && categories.binary_search(&candidate.category).is_err();
            let reason = match claims.get(component) {
                _ if foreign => "category not in the plan",
                Some(&claim) if !candidate.fits(claim) => "shares an image or prompt with another split",
                _ if candidate.is_risky() && self.selection.is_some() && !candidate.selected => "not in the selection",
                _ => "more than the plan takes",
            };
            dropped.count(&candidate.source, reason);
        }
    }

    /// Calls `each` with the candidates taken and their items, by another reading.
    fn read_again(
        &self,
        candidates: &[Candidate],
        taken: impl Iterator<Item = usize>,
        each: &mut dyn FnMut(usize, &Candidate, Item) -> Result<()>,
    ) -> Result<()> {
        let of = |i: usize| Some((i, candidates.get(i)?));
        let mut wanted: HashMap<(usize, usize), (usize, &Candidate)> =
            taken.filter_map(of).map(|(i, candidate)| ((candidate.dataset, candidate.index), (i, candidate))).collect();
        for (dataset, reader) in self.datasets.iter().enumerate() {
            if !wanted.keys().any(|(of, _)| *of == dataset) {
                continue;
            }
            let mut index = 0;
            reader.for_each(&mut |entry| {
                let found = wanted.remove(&(dataset, index));
                index += 1;
                let Some((i, candidate)) = found else { return Ok(()) };
                let Entry::Item(item) = entry else { return Err(changed(Path::new("a data set"))) };
                if Candidate::new(self.seed, candidate.dataset, candidate.index, &item)?.rank != candidate.rank {
                    return Err(changed(&item.place.path));
                }
                each(i, candidate, item)
            })?;
        }
        if wanted.is_empty() { Ok(()) } else { Err(changed(Path::new("a data set"))) }
    }

    /// The chosen candidates whose image cannot be decoded, with the error. Those in `checked` are known to be good.
    fn broken_images(
        &self,
        candidates: &[Candidate],
        taken: &BTreeMap<usize, Split>,
        checked: &mut HashSet<(usize, usize)>,
    ) -> Result<BTreeMap<usize, Error>> {
        let new = |i: &usize| {
            let unknown = |c: &Candidate| c.image.is_some() && !checked.contains(&(c.dataset, c.index));
            candidates.get(*i).is_some_and(unknown)
        };
        let mut broken = BTreeMap::new();
        let unchecked: Vec<usize> = taken.keys().copied().filter(new).collect();
        self.read_again(candidates, unchecked.into_iter(), &mut |i, candidate, item| {
            let bytes = item.picture.as_ref().map(contents).transpose()?.unwrap_or_default();
            match decode_image(&candidate.id, &bytes) {
                Ok(_) => {
                    checked.insert((candidate.dataset, candidate.index));
                }
                Err(source) => {
                    let error = Error::Image { id: format!("{} ({})", candidate.id, item.place), source: Box::new(source) };
                    if self.on_bad_sample == OnBadSample::Refuse {
                        return Err(error);
                    }
                    broken.insert(i, error);
                }
            }
            Ok(())
        })?;
        Ok(broken)
    }

    /// Removes candidates with broken images.
    fn leave_out(&self, candidates: &mut Vec<Candidate>, mut broken: BTreeMap<usize, Error>, dropped: &mut Dropped) -> Result<()> {
        let mut i = 0..;
        let mut removed: HashMap<usize, Error> = HashMap::new();
        candidates.retain(|candidate| match i.next().and_then(|i: usize| broken.remove(&i)) {
            None => true,
            Some(error) => {
                dropped.odd(&candidate.source, &error);
                removed.entry(candidate.dataset).or_insert(error);
                false
            }
        });
        match removed.into_iter().find(|(dataset, _)| !candidates.iter().any(|candidate| candidate.dataset == *dataset)) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// The last reading: the samples chosen, with their images in the folder.
    fn write_images(&self, candidates: &[Candidate], taken: &BTreeMap<usize, Split>, images: &ImageFolder) -> Result<Vec<Sample>> {
        let mut samples = Vec::with_capacity(taken.len());
        self.read_again(candidates, taken.keys().copied(), &mut |i, candidate, item| {
            let image = item.picture.as_ref().map(|picture| images.put(picture)).transpose()?;
            let split = taken.get(&i).copied().unwrap_or(item.sample.split);
            samples.push(Sample { id: candidate.id.clone(), split, image, ..item.sample });
            Ok(())
        })?;
        Ok(samples)
    }
}

/// Whether an error is about one entry: the others can be used.
fn is_odd(error: &Error) -> bool {
    matches!(error, Error::DatasetEntry { .. } | Error::Io { .. } | Error::DatasetFile { .. } | Error::Image { .. })
}

fn changed(path: &Path) -> Error {
    Error::DatasetFile { path: path.to_owned(), reason: "changed while it was read; build again".to_owned() }
}
