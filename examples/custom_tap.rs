//! A custom tap: the mean absolute response of every site while the model answers.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use candle_core::Tensor;
use sgm::core::Site;
use sgm::models::{GenerateOptions, Generator, Mllm, Prompt, Tap, TokenSpans};

/// Sums of absolute responses, with their number, by site.
#[derive(Default)]
struct MeanAbsolute(Mutex<BTreeMap<Site, (f32, usize)>>);

impl Tap for MeanAbsolute {
    fn apply(&self, site: Site, output: Tensor, _: &TokenSpans) -> sgm::models::Result<Tensor> {
        // `[batch, tokens, neurons]`; a tap that replaced it would return another tensor of this shape.
        let sum = output.abs()?.sum_all()?.to_scalar::<f32>()?;
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total = sites.entry(site).or_default();
        *total = (total.0 + sum, total.1 + output.elem_count());
        Ok(output)
    }
}

fn main() -> Result<()> {
    sgm_examples::process::start();
    let model = sgm::organism::load()?;
    let tap = Arc::new(MeanAbsolute::default());
    let guard = model.taps().attach(tap.clone());
    model.generate(&[Prompt::user("tell me a story.", None)], &GenerateOptions::default())?;
    drop(guard); // the model runs without the tap again
    for (site, (sum, count)) in tap.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{site:<26} {:.4}", sum / *count as f32);
    }
    Ok(())
}
