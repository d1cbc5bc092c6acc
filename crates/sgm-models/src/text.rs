//! Language models without images: the decoder alone.

use crate::auto::{Embedded, Family, POSITION_IDS, Parts};
use crate::checkpoint::Checkpoint;
use crate::decoder::Decoder;
use crate::decoder_config::DecoderConfig;
use crate::linear::Weights;
use crate::model::ModelInputs;
use crate::processor::Processor;
use crate::{Error, Result};

#[derive(Debug)]
struct Text;

/// Loads a `...ForCausalLM` checkpoint of any text model the decoder knows.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<Parts> {
    let text = DecoderConfig::from_section(checkpoint.config(), "llama")?;
    let decoder = Decoder::new(&text, &weights.pp("model"), weights)?;
    Ok(Parts { text, decoder, processor: Processor::load(checkpoint, None, None)?, family: Box::new(Text) })
}

impl Family for Text {
    fn embed(&self, decoder: &Decoder, inputs: &ModelInputs) -> Result<Embedded> {
        if let Some(name) = inputs.tensors.keys().find(|name| *name != POSITION_IDS) {
            return Err(Error::Inputs { reason: format!("there is `{name}`, but this model takes text only") });
        }
        inputs.dims()?;
        Ok(Embedded::causal(decoder.embed(&inputs.input_ids)?))
    }
}
