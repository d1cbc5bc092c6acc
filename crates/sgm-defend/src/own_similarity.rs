//! A similarity of image and text from the model itself.

use std::sync::Arc;

use candle_core::DType;
use image::RgbImage;
use sgm_models::{Mllm, Padding, Prompt, TokenKind, response_nll};
use sgm_score::LogisticModel;

use crate::question::{unanswered, without_images};
use crate::scorer::classifier;
use crate::{BoxError, Error, ImageTextSimilarity, Result};

/// Sequences that run together.
const BATCH: usize = 32;

/// A similarity of image and text from the model itself, in place of CLIP.
///
/// * The similarity of a text with the image is their pointwise mutual information according to the model, for each token of the text and
///   mapped into 0 to 1 by the logistic function: `log p(text | image, question) - log p(text | question)`, the text taken as the whole
///   answer. It is 0.5 where the image does not matter.
/// * The unsafety of an image is a probability from a logistic regression on the mean of the model's last hidden states over the image's
///   tokens, fitted to labelled images. The text that describes unsafe images is not read.
///
/// The scales are not those of CLIP, nor of ETA's published thresholds: see
/// [`EtaOptions::for_local_scorers`](crate::EtaOptions::for_local_scorers).
#[derive(Debug)]
pub struct OwnSimilarity<'m, M: ?Sized> {
    model: &'m M,
    unsafe_image: LogisticModel,
}

impl<'m, M: Mllm + ?Sized> OwnSimilarity<'m, M> {
    /// Fits the unsafety to images, each with whether it is unsafe.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] when all images are unsafe or none is, or when the model has no tokens for images; the errors of the model.
    pub fn fit(model: &'m M, images: &[(Arc<RgbImage>, bool)]) -> Result<Self> {
        if !images.iter().any(|(_, is_unsafe)| *is_unsafe) || images.iter().all(|(_, is_unsafe)| *is_unsafe) {
            let reason = "it needs unsafe and safe images".to_owned();
            return Err(Error::Fit { scorer: "the unsafety of images", reason });
        }
        let rows = looks(model, &images.iter().map(|(image, _)| image.clone()).collect::<Vec<_>>())?;
        Ok(Self { model, unsafe_image: classifier(&rows, images.iter().map(|(_, is_unsafe)| *is_unsafe))? })
    }
}

impl<M: Mllm + ?Sized> ImageTextSimilarity for OwnSimilarity<'_, M> {
    fn similarities(&self, prompt: &Prompt, texts: &[&str]) -> std::result::Result<Vec<f64>, BoxError> {
        let seeing = unanswered(prompt);
        let blind = without_images(&seeing);
        let likely = |prompt: &Prompt| {
            let examples: Vec<(Prompt, String)> = texts.iter().map(|text| (prompt.clone(), (*text).to_owned())).collect();
            response_nll(self.model, &examples, BATCH)
        };
        let (seeing, blind) = (likely(&seeing)?, likely(&blind)?);
        let mean = |nll: &Vec<f64>| nll.iter().sum::<f64>() / nll.len().max(1) as f64;
        Ok(seeing.iter().zip(&blind).map(|(seeing, blind)| 1.0 / (1.0 + (mean(seeing) - mean(blind)).exp())).collect())
    }

    /// The unsafety of the most unsafe image of the prompt.
    fn unsafety(&self, prompt: &Prompt, _says_unsafe: &str) -> std::result::Result<f64, BoxError> {
        let scores = looks(self.model, &prompt.images())?.into_iter().map(|look| f64::from(self.unsafe_image.score(&look)));
        scores.reduce(f64::max).ok_or_else(|| "the prompt shows no image".into())
    }
}

/// The mean of the model's last hidden states over the tokens of each image, f32 `[images, hidden]`, in a prompt with that image alone.
fn looks<M: Mllm + ?Sized>(model: &M, images: &[Arc<RgbImage>]) -> Result<Vec<Vec<f32>>> {
    let mut looks = Vec::with_capacity(images.len());
    for images in images.chunks(BATCH) {
        let prompts: Vec<Prompt> = images.iter().map(|image| Prompt::user("", Some(image.clone()))).collect();
        let inputs = model.processor().prompts(&prompts, Padding::Right)?;
        let hidden = model.prefill(&inputs, &mut model.new_cache())?;
        let hidden = hidden.to_dtype(DType::F32).and_then(|hidden| hidden.to_vec3::<f32>()).map_err(sgm_models::Error::from)?;
        for (states, kinds) in hidden.iter().zip(&inputs.kinds) {
            let states: Vec<&Vec<f32>> = states.iter().zip(kinds).filter(|(_, kind)| **kind == TokenKind::Image).map(|(s, _)| s).collect();
            let Some(width) = states.first().map(|state| state.len()) else {
                let reason = "the model has no tokens for images; it attends to them from elsewhere".to_owned();
                return Err(Error::Fit { scorer: "the unsafety of images", reason });
            };
            let mut mean = vec![0f64; width];
            states.iter().for_each(|state| mean.iter_mut().zip(*state).for_each(|(sum, x)| *sum += f64::from(*x)));
            #[allow(clippy::cast_possible_truncation, reason = "features are f32")]
            looks.push(mean.into_iter().map(|sum| (sum / states.len() as f64) as f32).collect());
        }
    }
    Ok(looks)
}
