//! A model that wears glasses.

use sgm_core::{Amplify, Intervention};
use sgm_models::{GenerateOptions, Generation, Generator, Mllm, Prompt, TappedModel};

use super::conditional_glasses::ConditionalGlasses;
use super::glasses::Glasses;
use crate::Result;

/// A model that wears glasses, while the model itself goes without.
///
/// The glasses are attached to a [`TappedModel`]. One model answers with and without them, at the same time and from any number of
/// threads, and without them its answers keep every bit. An intervention with a condition is worn as [`ConditionalGlasses`], any other as
/// [`Glasses`].
#[derive(Debug)]
pub struct ModelWithGlasses<'m, M: ?Sized> {
    tapped: TappedModel<'m, M>,
    _glasses: Worn,
}

/// Keeps glasses on.
#[derive(Debug)]
pub(crate) enum Worn {
    Static(#[allow(dead_code, reason = "a guard")] Glasses),
    Conditional(#[allow(dead_code, reason = "a guard")] ConditionalGlasses),
}

impl Worn {
    /// Puts an intervention on a model, under its condition if it has one.
    pub(crate) fn on<M: Mllm + ?Sized>(model: &M, intervention: &Intervention, amplify: Amplify) -> Result<Self> {
        Ok(match intervention.condition {
            None => Self::Static(Glasses::wear(model, intervention, amplify)?),
            Some(_) => Self::Conditional(ConditionalGlasses::wear(model, intervention, amplify)?),
        })
    }
}

impl<'m, M: Mllm + ?Sized> ModelWithGlasses<'m, M> {
    /// Puts an intervention on a tapped model.
    ///
    /// # Errors
    ///
    /// As [`Glasses::wear`] and [`ConditionalGlasses::wear`].
    pub fn new(model: &'m M, intervention: &Intervention, amplify: Amplify) -> Result<Self> {
        let tapped = TappedModel::new(model);
        let glasses = Worn::on(&tapped, intervention, amplify)?;
        Ok(Self { tapped, _glasses: glasses })
    }

    /// The model with its glasses on, for anything else than answers: likelihoods, capture.
    pub fn model(&self) -> &TappedModel<'m, M> {
        &self.tapped
    }
}

impl<M: Mllm + ?Sized> Generator for ModelWithGlasses<'_, M> {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> sgm_models::Result<Vec<Generation>> {
        self.tapped.generate(prompts, options)
    }
}
