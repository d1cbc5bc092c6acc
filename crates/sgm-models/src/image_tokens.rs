//! Images in the token stream: the text that stands for them, and their features in its place.

use std::fmt;

use candle_core::Tensor;

use crate::decoder::Decoder;
use crate::image_processor::ImageLayout;
use crate::model::ModelInputs;
use crate::processor::Padding;
use crate::{Error, Result};

/// How a family's processor writes images into the text that is tokenised.
pub(crate) trait ImageText: fmt::Debug + Send + Sync {
    /// What the chat template writes for one image.
    fn placeholder(&self) -> &str;

    /// What the tokenizer sees instead of the placeholder of this image.
    fn expansion(&self, image: &ImageLayout) -> String;

    /// The text of one prompt with its images expanded; the number of placeholders, if that is not the number of images.
    fn expand(&self, text: &str, images: &[ImageLayout]) -> std::result::Result<String, usize> {
        let mut pieces = text.split(self.placeholder());
        let mut expanded = pieces.next().unwrap_or_default().to_owned();
        let mut images = images.iter();
        for piece in pieces {
            let image = images.next().ok_or_else(|| text.matches(self.placeholder()).count())?;
            expanded.push_str(&self.expansion(image));
            expanded.push_str(piece);
        }
        if images.next().is_some() { Err(text.matches(self.placeholder()).count()) } else { Ok(expanded) }
    }

    /// The text with the special tokens that other families' tokenizers add, its images not yet expanded; none where the
    /// tokenizer adds them.
    fn frame(&self, _text: &str) -> Option<String> {
        None
    }

    /// Adds what can only be known from token ids or from a whole prompt; `rows` has the text of each prompt and the
    /// number of its images, `padding` says where the batch has its padding.
    fn finish(&self, _inputs: &mut ModelInputs, _rows: &[(String, usize)], _padding: Padding) -> Result<()> {
        Ok(())
    }
}

/// Every image becomes the same number of image tokens.
#[derive(Debug)]
pub(crate) struct FixedLength {
    pub(crate) token: String,
    pub(crate) features: usize,
}

impl ImageText for FixedLength {
    fn placeholder(&self) -> &str {
        &self.token
    }

    fn expansion(&self, _: &ImageLayout) -> String {
        self.token.repeat(self.features)
    }
}

/// Token embeddings `[batch, tokens, hidden]` with features `[features, hidden]` in place of the image tokens, in order
/// over the batch.
pub(crate) fn embed_with_features(decoder: &Decoder, inputs: &ModelInputs, image_token: u32, features: Option<&Tensor>) -> Result<Tensor> {
    let (batch, tokens) = inputs.dims()?;
    let ids = inputs.input_ids.flatten_all()?.to_vec1::<u32>()?;
    // The image token may have no row in the embedding table; what stands there is replaced anyway.
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
        Some(features) => place(&embedded, features, &ids, image_token)?,
    };
    Ok(merged.reshape((batch, tokens, hidden))?)
}

/// Rows `base [tokens, hidden]`, those of image tokens replaced by `features [features, hidden]` in order.
pub(crate) fn place(base: &Tensor, features: &Tensor, ids: &[u32], image_token: u32) -> Result<Tensor> {
    let mut next_feature = ids.len()..;
    let index = ids.iter().enumerate().map(|(i, id)| if *id == image_token { next_feature.next().unwrap_or(i) } else { i });
    let index = index.map(|i| u32::try_from(i).map_err(|_| Error::Inputs { reason: "more than 2^32 tokens".to_owned() }));
    let index = Tensor::new(index.collect::<Result<Vec<u32>>>()?, base.device())?;
    Ok(Tensor::cat(&[base, &features.to_dtype(base.dtype())?], 0)?.index_select(&index, 0)?)
}
