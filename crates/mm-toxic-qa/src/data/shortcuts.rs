//! What a calibration set gives away: how well prompt, image and length alone predict the label.

use std::collections::{BTreeMap, HashMap};

use image::RgbImage;
use rayon::prelude::*;
use sgm_core::sha256::hex_digest;
use sgm_score::{auroc, logistic_regression};

use crate::{ImageRef, Sample};

/// How well parts of labelled samples that should tell nothing predict the label, each alone, as AUROCs.
///
/// Neurons that respond to such a part look like experts on toxicity: a set whose toxic answers all have one prompt, and whose non-toxic
/// answers another, calibrates detectors of prompts. (Geirhos et al. call this shortcut learning, arXiv 2004.07780.)
///
/// | name | predictor |
/// |---|---|
/// | `prompt` | multinomial naive Bayes over the prompt's character n-grams of 1 to 3 |
/// | `image` | the share of toxic samples among those with the same image |
/// | `image measures` | logistic regression on presence, size, colour, contrast, saturation and detail of the image |
/// | `prompt length`, `response length` | the number of characters, in the better direction |
///
/// All but lengths are cross-validated with 5 folds (fewer where a class is smaller): a predictor sees the label of no sample that it scores.
/// Values of 0.5 and less mean that nothing is given away. A sample that occurs several times is used once. The result does not depend on the
/// order of the samples or the number of threads.
///
/// ```
/// use mm_toxic_qa::shortcuts;
/// # fn sample(id: &str, prompt: &str, label: bool) -> mm_toxic_qa::Sample {
/// #     let line = serde_json::json!({"schema": 1, "id": id, "source": "s", "split": "calibration", "category": "c",
/// #         "condition": "standard", "prompt": prompt, "response": id, "label": u8::from(label)});
/// #     mm_toxic_qa::manifest::parse(line.to_string().as_bytes(), std::path::Path::new("m.jsonl")).unwrap().remove(0)
/// # }
/// let samples: Vec<_> = (0..20).map(|n| sample(&format!("{n}"), if n < 10 { "USER:" } else { "how?" }, n >= 10)).collect();
/// assert_eq!(shortcuts(&samples)["prompt"], 1.0);
/// ```
pub fn shortcuts(samples: &[Sample]) -> BTreeMap<String, f64> {
    let samples = unique(samples);
    let labels: Vec<bool> = samples.iter().map(|(_, label)| *label).collect();
    let mut found = BTreeMap::new();
    let mut insert = |name: &str, scores: Option<Vec<f64>>| {
        if let Some(auroc) = scores.and_then(|scores| auroc_of(&scores, &labels)) {
            found.insert(name.to_owned(), auroc);
        }
    };
    let length = |text: &dyn Fn(&Sample) -> usize| -> Option<Vec<f64>> {
        let lengths: Vec<f64> = samples.iter().map(|(sample, _)| text(sample) as f64).collect();
        // The better direction.
        let below = auroc_of(&lengths, &labels)? < 0.5;
        Some(lengths.into_iter().map(|length| if below { -length } else { length }).collect())
    };
    insert("prompt length", length(&|sample| sample.prompt.chars().count()));
    insert("response length", length(&|sample| sample.response.as_deref().unwrap_or_default().chars().count()));
    if let Some(folds) = Folds::of(&labels) {
        let texts: Vec<&str> = samples.iter().map(|(sample, _)| sample.prompt.as_str()).collect();
        insert("prompt", Some(naive_bayes(&texts, &labels, &folds)));
        let pictures: Vec<Option<Measured>> =
            samples.par_iter().map(|(sample, _)| sample.image().ok().flatten().map(|image| Measured::of(&image))).collect();
        if pictures.iter().any(Option::is_some) {
            let contents: Vec<Option<&str>> = pictures.iter().map(|picture| picture.as_ref().map(|p| p.sha256.as_str())).collect();
            insert("image", Some(shares(&contents, &labels, &folds)));
            let features: Vec<[f32; FEATURES]> =
                pictures.iter().map(|picture| picture.as_ref().map_or([0.0; FEATURES], |p| p.features)).collect();
            insert("image measures", regression(&features, &labels, &folds));
        }
    }
    found
}

/// The labelled samples in an order of their contents, each once.
fn unique(samples: &[Sample]) -> Vec<(&Sample, bool)> {
    let key = |sample: &Sample, label: bool| {
        let image = match &sample.image {
            None => String::new(),
            Some(ImageRef::File { path, .. }) => path.clone(),
            Some(ImageRef::Scene(scene)) => scene.to_json(),
        };
        let response = sample.response.as_deref().unwrap_or_default();
        hex_digest(serde_json::json!([sample.prompt, response, image, label]).to_string())
    };
    let labelled = samples.iter().filter_map(|sample| Some((sample, sample.label?)));
    labelled.map(|(sample, label)| (key(sample, label), (sample, label))).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// The AUROC of f64 scores: of their ranks, which f32 holds.
fn auroc_of(scores: &[f64], labels: &[bool]) -> Option<f64> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    let rank = |score: &f64| sorted.partition_point(|other| other.total_cmp(score).is_lt());
    let ranks: Option<Vec<f32>> =
        scores.iter().map(|score| u32::try_from(rank(score)).ok().filter(|r| *r < 1 << 24)).map(|r| r.map(as_f32)).collect();
    auroc(&ranks?, labels).ok()
}

#[allow(clippy::cast_precision_loss, reason = "below 2^24")]
fn as_f32(rank: u32) -> f32 {
    rank as f32
}

/// The fold of each sample, in turn within each class.
struct Folds {
    of: Vec<usize>,
    n: usize,
}

impl Folds {
    /// Up to 5 folds, each with samples of both classes; `None` where a class has fewer than two.
    fn of(labels: &[bool]) -> Option<Self> {
        let size = |class| labels.iter().filter(|label| **label == class).count();
        let n = size(true).min(size(false)).min(5);
        let mut next = [0; 2];
        let turn = |label: &bool| {
            let slot = next.get_mut(usize::from(*label));
            slot.map_or(0, |slot| {
                *slot += 1;
                (*slot - 1) % n
            })
        };
        (n >= 2).then(|| Self { of: labels.iter().map(turn).collect(), n })
    }

    /// The scores that `fit_and_score` gives the samples of each fold, from those of all others.
    fn scores(&self, mut fit_and_score: impl FnMut(&[usize], &[usize]) -> Option<Vec<f64>>) -> Option<Vec<f64>> {
        let mut scores = vec![0.0; self.of.len()];
        for fold in 0..self.n {
            let (test, train): (Vec<usize>, Vec<usize>) = (0..self.of.len()).partition(|i| self.of.get(*i) == Some(&fold));
            for (i, score) in test.iter().zip(fit_and_score(&train, &test)?) {
                if let Some(slot) = scores.get_mut(*i) {
                    *slot = score;
                }
            }
        }
        Some(scores)
    }
}

/// Log-odds by multinomial naive Bayes with one added to every count, as scikit-learn's `MultinomialNB` over
/// `CountVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False)`.
fn naive_bayes(texts: &[&str], labels: &[bool], folds: &Folds) -> Vec<f64> {
    let mut ids: HashMap<String, usize> = HashMap::new();
    let counted: Vec<Vec<(usize, f64)>> = texts.iter().map(|text| counts(text, &mut ids)).collect();
    let of = |i: &usize| Some((counted.get(*i)?, *labels.get(*i)?));
    let scores = folds.scores(|train, test| {
        // The counts of each n-gram by class.
        let mut table = vec![[0.0; 2]; ids.len()];
        let (mut totals, mut texts) = ([0.0; 2], [0.0; 2]);
        for (text, label) in train.iter().filter_map(of) {
            let class = usize::from(label);
            if let [Some(total), Some(n)] = [totals.get_mut(class), texts.get_mut(class)] {
                *n += 1.0;
                *total += text.iter().map(|(_, count)| count).sum::<f64>();
            }
            for (id, count) in text {
                if let Some(slot) = table.get_mut(*id).and_then(|row| row.get_mut(class)) {
                    *slot += count;
                }
            }
        }
        let seen = |row: &&[f64; 2]| row.iter().sum::<f64>() > 0.0;
        let vocabulary = table.iter().filter(seen).count() as f64;
        let ([no_total, yes_total], [no, yes]) = (totals, texts);
        let log_odds =
            |[no, yes]: [f64; 2]| libm::log((yes + 1.0) / (yes_total + vocabulary)) - libm::log((no + 1.0) / (no_total + vocabulary));
        let score = |i: &usize| {
            let known = counted.get(*i).into_iter().flatten().filter_map(|(id, count)| Some((table.get(*id)?, count)));
            libm::log(yes / no) + known.filter(|(row, _)| seen(row)).map(|(row, count)| count * log_odds(*row)).sum::<f64>()
        };
        Some(test.iter().map(score).collect())
    });
    scores.unwrap_or_default()
}

/// The numbers of the n-grams of a text, by id. White space of several characters is one space.
fn counts(text: &str, ids: &mut HashMap<String, usize>) -> Vec<(usize, f64)> {
    let mut characters: Vec<char> = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let mut run = false;
        while character.is_whitespace() && rest.next_if(|next| next.is_whitespace()).is_some() {
            run = true;
        }
        characters.push(if run { ' ' } else { character });
    }
    let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
    for n in 1..=3 {
        for window in characters.windows(n) {
            let next = ids.len();
            let id = *ids.entry(window.iter().collect()).or_insert(next);
            *counts.entry(id).or_default() += 1.0;
        }
    }
    counts.into_iter().collect()
}

/// The share of toxic samples among the others of the same content, with one sample of the average share added.
fn shares(contents: &[Option<&str>], labels: &[bool], folds: &Folds) -> Vec<f64> {
    let of = |i: &usize| Some((*contents.get(*i)?, *labels.get(*i)?));
    let scores = folds.scores(|train, test| {
        let mut groups: HashMap<Option<&str>, (f64, f64)> = HashMap::new();
        let (mut toxic, mut all) = (0.0, 0.0);
        for (content, label) in train.iter().filter_map(of) {
            let (toxic_here, all_here) = groups.entry(content).or_default();
            let one = f64::from(u8::from(label));
            (*toxic_here, *all_here, toxic, all) = (*toxic_here + one, *all_here + 1.0, toxic + one, all + 1.0);
        }
        let share = |i: &usize| {
            let (toxic_here, all_here) = contents.get(*i).and_then(|content| groups.get(content)).copied().unwrap_or_default();
            (toxic_here + toxic / all) / (all_here + 1.0)
        };
        Some(test.iter().map(share).collect())
    });
    scores.unwrap_or_default()
}

/// The probabilities of a logistic regression on standardised features, c = 1.
fn regression(features: &[[f32; FEATURES]], labels: &[bool], folds: &Folds) -> Option<Vec<f64>> {
    folds.scores(|train, test| {
        let samples: Vec<(&[f32], bool)> = train.iter().filter_map(|i| Some((&features.get(*i)?[..], *labels.get(*i)?))).collect();
        let model = logistic_regression(&samples, 1.0, 1e-8).ok()?;
        let log_odds = |row: &[f32; FEATURES]| model.bias + row.iter().zip(&model.weights).map(|(x, w)| f64::from(*x) * w).sum::<f64>();
        Some(test.iter().filter_map(|i| features.get(*i)).map(log_odds).collect())
    })
}

/// The number of measures of an image.
const FEATURES: usize = 9;

/// The content of an image, and its measures.
struct Measured {
    sha256: String,
    /// Presence; the logarithms of width and height; the means of red, green and blue; the standard deviation of the grey level; the mean
    /// saturation (greatest minus least channel); the mean difference of grey level between neighbours in a row.
    features: [f32; FEATURES],
}

impl Measured {
    #[allow(clippy::cast_possible_truncation, reason = "features are f32")]
    fn of(image: &RgbImage) -> Self {
        let (width, height) = image.dimensions();
        let n = (f64::from(width) * f64::from(height)).max(1.0);
        let (mut sums, mut grey_sum, mut squares, mut saturation, mut detail) = ([0.0; 3], 0.0, 0.0, 0.0, 0.0);
        for row in image.rows() {
            let mut before: Option<f64> = None;
            for pixel in row {
                let channels = pixel.0.map(f64::from);
                sums.iter_mut().zip(channels).for_each(|(sum, channel)| *sum += channel);
                let grey = channels.iter().sum::<f64>() / 3.0;
                grey_sum += grey;
                squares += grey * grey;
                saturation += channels.into_iter().fold(0.0, f64::max) - channels.into_iter().fold(255.0, f64::min);
                detail += before.map_or(0.0, |before| (grey - before).abs());
                before = Some(grey);
            }
        }
        let [red, green, blue] = sums.map(|sum| sum / n);
        let deviation = (squares / n - (grey_sum / n) * (grey_sum / n)).max(0.0).sqrt();
        let size = [width, height].map(|side| libm::log(f64::from(side.max(1))));
        let [width, height] = size;
        let features = [1.0, width, height, red, green, blue, deviation, saturation / n, detail / n];
        let pixels = [image.width().to_le_bytes().as_slice(), image.as_raw()].concat();
        Self { sha256: hex_digest(pixels), features: features.map(|x| x as f32) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Estimates of scikit-learn with the same folds (`tools/golden/shortcuts.py`).
    #[test]
    fn as_scikit_learn_estimates() {
        #[derive(serde::Deserialize)]
        struct Case {
            texts: Vec<String>,
            features: Vec<[f32; FEATURES]>,
            labels: Vec<bool>,
            folds: Vec<usize>,
            naive_bayes: f64,
            regression: f64,
            log_odds: Vec<f64>,
        }
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/golden/shortcuts.json")).unwrap();
        assert!(cases.len() >= 3);
        for case in cases {
            let folds = Folds::of(&case.labels).unwrap();
            assert_eq!(folds.of, case.folds);
            let texts: Vec<&str> = case.texts.iter().map(String::as_str).collect();
            let scores = naive_bayes(&texts, &case.labels, &folds);
            let worst = scores.iter().zip(&case.log_odds).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-9, "{worst}");
            for (scores, expected) in
                [(scores, case.naive_bayes), (regression(&case.features, &case.labels, &folds).unwrap(), case.regression)]
            {
                let measured = auroc_of(&scores, &case.labels).unwrap();
                assert!((measured - expected).abs() < 1e-12, "{measured} {expected}");
            }
        }
    }

    #[test]
    fn shares_by_hand() {
        let labels = [true, true, false, false];
        let folds = Folds::of(&labels).unwrap();
        assert_eq!((folds.n, &folds.of[..]), (2, &[0, 1, 0, 1][..]));
        // Fold 0 is scored from samples 1 (toxic, a) and 3 (b), fold 1 from samples 0 (toxic, a) and 2 (b).
        let scores = shares(&[Some("a"), Some("a"), Some("b"), Some("b")], &labels, &folds);
        assert_eq!(scores, [0.75, 0.75, 0.25, 0.25]);
        assert_eq!(shares(&[Some("a"), Some("x"), None, Some("b")], &labels, &folds), [0.5; 4]);
        assert!(Folds::of(&[true, false, false]).is_none());
    }
}
