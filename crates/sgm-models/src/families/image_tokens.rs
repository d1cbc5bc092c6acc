//! Image tokens: their id in a configuration, and their embeddings.

use candle_core::Tensor;

use crate::checkpoint::section::Section;
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::processor::model_inputs::ModelInputs;

/// The id of the token that stands for an image feature, under its new or its old key.
pub(crate) fn image_token(config: &Section, default: u32) -> Result<u32> {
    match config.u32("image_token_id")? {
        Some(id) => Ok(id),
        None => Ok(config.u32("image_token_index")?.unwrap_or(default)),
    }
}

/// Embeds tokens as `[batch, tokens, hidden]`, with features `[features, hidden]` in place of the image tokens, in
/// order over the batch.
pub(crate) fn embed_with_features(decoder: &Decoder, inputs: &ModelInputs, image_token: u32, features: Option<&Tensor>) -> Result<Tensor> {
    let (batch, tokens) = inputs.dims()?;
    let ids = inputs.input_ids.flatten_all()?.to_vec1::<u32>()?;
    // The image token may have no row in the embedding table; its embedding is replaced below.
    let text: Vec<u32> = ids.iter().map(|id| if *id == image_token { 0 } else { *id }).collect();
    let embedded = decoder.embed(&Tensor::new(text.as_slice(), decoder.device())?)?;
    let placeholders = ids.iter().filter(|id| **id == image_token).count();
    let given = features.map_or(Ok(0), |f| f.dim(0))?;
    if given != placeholders {
        return Err(Error::Inputs { reason: format!("{placeholders} image tokens but {given} image features") });
    }
    let hidden = embedded.dim(1)?;
    let merged = match features {
        None => embedded,
        Some(features) => replace_image_rows(&embedded, features, &ids, image_token)?,
    };
    Ok(merged.reshape((batch, tokens, hidden))?)
}

/// Replaces the rows of image tokens in `base [tokens, hidden]` by `features [features, hidden]`, in order.
pub(crate) fn replace_image_rows(base: &Tensor, features: &Tensor, ids: &[u32], image_token: u32) -> Result<Tensor> {
    let mut next_feature = ids.len()..;
    let index = ids.iter().enumerate().map(|(i, id)| if *id == image_token { next_feature.next().unwrap_or(i) } else { i });
    let index = index.map(|i| u32::try_from(i).map_err(|_| Error::Inputs { reason: "more than 2^32 tokens".to_owned() }));
    let index = Tensor::new(index.collect::<Result<Vec<u32>>>()?, base.device())?;
    Ok(Tensor::cat(&[base, &features.to_dtype(base.dtype())?], 0)?.index_select(&index, 0)?)
}
