use sgm_core::Intervention;
use sgm_models::{GenerateOptions, Generation, Generator, Mllm, Prompt, View};
use sgm_suppress::{AdaptiveGlasses, Amplify, Glasses};

use crate::Result;

/// A model that wears glasses, while the model itself goes without.
///
/// The glasses are on a [`View`] of the model. So one model answers with and without them, at the same time from as many threads
/// as one likes, and without them its answers are to the bit what they always were. An intervention with a probe is worn as
/// [`AdaptiveGlasses`], any other as [`Glasses`].
#[derive(Debug)]
pub struct Worn<'m, M: ?Sized> {
    view: View<'m, M>,
    _glasses: Kind,
}

/// Keeps the glasses on.
#[derive(Debug)]
enum Kind {
    Static(#[allow(dead_code, reason = "a guard")] Glasses),
    Adaptive(#[allow(dead_code, reason = "a guard")] AdaptiveGlasses),
}

impl<'m, M: Mllm + ?Sized> Worn<'m, M> {
    /// Puts an intervention on a view of the model.
    ///
    /// # Errors
    ///
    /// As [`Glasses::wear`] and [`AdaptiveGlasses::wear`].
    pub fn new(model: &'m M, intervention: &Intervention, amplify: Amplify) -> Result<Self> {
        let view = View::new(model);
        let glasses = match intervention.probe {
            None => Kind::Static(Glasses::wear(&view, intervention, amplify)?),
            Some(_) => Kind::Adaptive(AdaptiveGlasses::wear(&view, intervention, amplify)?),
        };
        Ok(Self { view, _glasses: glasses })
    }

    /// The model with its glasses on, for anything else than answers: likelihoods, capture.
    pub fn model(&self) -> &View<'m, M> {
        &self.view
    }
}

impl<M: Mllm + ?Sized> Generator for Worn<'_, M> {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> sgm_models::Result<Vec<Generation>> {
        self.view.generate(prompts, options)
    }
}
