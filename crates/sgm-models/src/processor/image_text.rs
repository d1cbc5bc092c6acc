//! The text that stands for images in a prompt.

use std::fmt;

use crate::error::Result;
use crate::processor::images::layout::ImageLayout;
use crate::processor::model_inputs::{ModelInputs, Padding};

/// The way in which a family represents images in the text to tokenise.
pub(crate) trait ImageText: fmt::Debug + Send + Sync {
    /// The placeholder for one image in the output of the chat template.
    fn placeholder(&self) -> &str;

    /// The text that replaces the placeholder of an image before tokenisation.
    fn expansion(&self, image: &ImageLayout) -> String;

    /// Expands the images in the text of one prompt. The error is the number of placeholders, if it is not the number
    /// of images.
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

    /// The tokens of expansions beside the image token, each of which the tokenizer must have.
    fn special_tokens(&self) -> &[String] {
        &[]
    }

    /// Adds special tokens to a text whose images are not expanded yet; `None` if the tokenizer adds them.
    fn add_special_tokens(&self, _text: &str) -> Option<String> {
        None
    }

    /// Adds tensors that depend on token ids or on whole prompts. `prompts` has the text of each prompt and its number
    /// of images.
    fn complete_inputs(&self, _inputs: &mut ModelInputs, _prompts: &[(String, usize)], _padding: Padding) -> Result<()> {
        Ok(())
    }
}

/// An image text of a fixed number of image tokens.
#[derive(Debug)]
pub(crate) struct FixedLengthText {
    pub(crate) token: String,
    pub(crate) features: usize,
}

impl ImageText for FixedLengthText {
    fn placeholder(&self) -> &str {
        &self.token
    }

    fn expansion(&self, _: &ImageLayout) -> String {
        self.token.repeat(self.features)
    }
}
