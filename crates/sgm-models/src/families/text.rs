//! Language models without images: the decoder alone.

use crate::checkpoint::model_files::Checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::layers::linear::Weights;
use crate::processor::batch::Processor;
use crate::processor::model_inputs::{ModelInputs, POSITION_IDS};
use crate::vision::feature_cache::FeatureCache;

#[derive(Debug)]
struct Text;

/// Loads a `...ForCausalLM` checkpoint of any supported text model.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let text = DecoderConfig::from_section(checkpoint.config(), "llama")?;
    let decoder = Decoder::new(&text, &weights.pp("model"), weights)?;
    Ok(FamilyParts { text, decoder, processor: Processor::load(checkpoint, None, None)?, family: Box::new(Text) })
}

impl Family for Text {
    fn embed(&self, decoder: &Decoder, _images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        if let Some(name) = inputs.tensors.keys().find(|name| *name != POSITION_IDS) {
            return Err(Error::Inputs { reason: format!("there is `{name}`, but this model takes text only") });
        }
        inputs.dims()?;
        Ok(DecoderInput::causal(decoder.embed(&inputs.input_ids)?))
    }
}
