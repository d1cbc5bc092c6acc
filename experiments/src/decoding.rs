//! The time that glasses add to the decoding of a token.

use std::time::Instant;

use anyhow::{Context, Result};
use sgm::core::{Condition, Intervention, Probe, SiteIntervention};
use sgm::defend::ModelWithGlasses;
use sgm::models::{AutoMllm, Cache, Mllm, Padding, Prompt, TappedModel};
use sgm::suppress::Amplify;

/// Times decoding without glasses and with them: always acting, and under a condition that holds or does not.
///
/// # Errors
///
/// Those of the model.
pub fn compare(name: &str, model: &AutoMllm, glasses: &Intervention, prompts: &[Prompt], rounds: usize) -> Result<()> {
    let contenders = contenders(glasses);
    let inputs = model.processor().prompts(prompts, Padding::Left)?;
    let plain = TappedModel::new(model);
    let wear = |glasses: &Option<Intervention>| glasses.as_ref().map(|g| ModelWithGlasses::new(model, g, Amplify::Refuse)).transpose();
    let worn = contenders.iter().map(|(_, glasses)| wear(glasses)).collect::<Result<Vec<_>, _>>()?;
    let models: Vec<&TappedModel<_>> = worn.iter().map(|worn| worn.as_ref().map_or(&plain, ModelWithGlasses::model)).collect();
    let read = |model: &&TappedModel<_>| {
        let mut cache = model.new_cache();
        model.prefill(&inputs, &mut cache)?;
        Ok(cache)
    };
    let caches = models.iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut seconds = vec![Vec::with_capacity(rounds); contenders.len()];
    for _ in 0..rounds {
        for ((model, cache), seconds) in models.iter().zip(&caches).zip(&mut seconds) {
            seconds.push(decode(*model, cache.clone(), prompts.len())?);
        }
    }
    let base = seconds.first().cloned().unwrap_or_default();
    for ((worn, _), seconds) in contenders.iter().zip(&seconds) {
        let percent = |ratio: f64| format!("{:+.1} %", 100.0 * (ratio - 1.0));
        let ratio = percent(quantile(seconds, 0.5) / quantile(&base, 0.5));
        // The 95 % interval of the median of the rounds' own ratios, by order statistics.
        let ratios: Vec<f64> = seconds.iter().zip(&base).map(|(with, without)| with / without).collect();
        let half = 0.98 / (rounds.max(4) as f64).sqrt();
        let [low, high] = [0.5 - half, 0.5 + half].map(|level| percent(quantile(&ratios, level)));
        let batch = prompts.len();
        println!("| {name}: {worn} | {batch} | {:.0} | {ratio} [{low}, {high}] |", 1e6 * quantile(seconds, 0.5));
    }
    Ok(())
}

/// Decodes with one contender alone, in so many rounds of five tokens, for a profiler to watch.
///
/// # Errors
///
/// For an unknown contender, and those of the model.
pub fn alone(model: &AutoMllm, glasses: &Intervention, contender: &str, prompt: Prompt, rounds: usize) -> Result<()> {
    let contenders = contenders(glasses);
    let names = || contenders.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = contenders.iter().find(|(name, _)| *name == contender);
    let (_, glasses) = found.with_context(|| format!("no contender {contender:?}, there are {}", names()))?;
    let plain = TappedModel::new(model);
    let worn = glasses.as_ref().map(|g| ModelWithGlasses::new(model, g, Amplify::Refuse)).transpose()?;
    let worn_model = worn.as_ref().map_or(&plain, ModelWithGlasses::model);
    let mut cache = worn_model.new_cache();
    worn_model.prefill(&model.processor().prompts(&[prompt], Padding::Left)?, &mut cache)?;
    (0..rounds).try_for_each(|_| decode(worn_model, cache.clone(), 1).map(drop))
}

/// The glasses that always act, and under a condition that holds or does not, by name.
fn contenders(glasses: &Intervention) -> Vec<(&'static str, Option<Intervention>)> {
    let with = |change: &dyn Fn(&mut Option<Condition>)| {
        let mut changed = glasses.clone();
        change(&mut changed.condition);
        Some(changed)
    };
    let mut contenders = vec![("no glasses", None), ("always on", with(&|condition| *condition = None))];
    if glasses.condition.is_some() {
        contenders.push(("condition holds", with(&|condition| condition.iter_mut().for_each(|c| c.threshold = 0.0))));
        // No sum of responses outweighs this bias.
        contenders.push(("condition fails", with(&|condition| condition.iter_mut().for_each(|c| c.probe.bias = -1e6))));
    }
    contenders
}

/// The seconds of one step of decoding.
fn decode<M: Mllm>(model: &M, mut cache: Cache, batch: usize) -> Result<f64> {
    const STEPS: u32 = 4;
    let tokens = vec![5; batch];
    // The first step copies the cache.
    let device = model.decode(&tokens, &mut cache)?.device().clone();
    device.synchronize()?;
    let start = Instant::now();
    for _ in 0..STEPS {
        std::hint::black_box(model.decode(&tokens, &mut cache)?);
    }
    device.synchronize()?;
    Ok(start.elapsed().as_secs_f64() / f64::from(STEPS))
}

/// Glasses that change every neuron of every site a little, under a condition whose probe reads them all.
///
/// # Errors
///
/// None for a sound model.
pub fn everywhere(model: &AutoMllm) -> Result<Intervention> {
    let (mut glasses, mut probe) = (Intervention::default(), Probe::default());
    for info in &model.info().sites {
        let shift = Some(vec![1e-3; info.width]);
        glasses.insert(info.site, SiteIntervention { shift, ..SiteIntervention::from_scale(vec![0.99; info.width]) })?;
        probe.insert(info.site, vec![1e-3; info.width])?;
    }
    glasses.condition = Some(Condition { probe, threshold: 0.5 });
    Ok(glasses)
}

/// A value below which a share of the values lies.
pub fn quantile(values: &[f64], level: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (level * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
