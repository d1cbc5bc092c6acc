//! The description of one forward pass: token positions and attention masks.

use candle_core::Tensor;

use crate::decoder::image_context::ImageContext;

/// A rotary position: time, height and width. All three are equal except for image tokens of models with positions on
/// several axes.
pub(crate) type Position = [u32; 3];

/// The positions of the tokens of a prompt.
#[derive(Debug)]
pub(crate) enum Positions {
    /// Consecutive positions from this number, padding not counted.
    Consecutive(u32),
    /// Given positions `[batch][tokens]`, with the position of each row's next token.
    Given { positions: Vec<Vec<Position>>, next: Vec<u32> },
}

/// The positions and the attention pattern of a prefill.
#[derive(Debug)]
pub(crate) struct TokenOrder {
    pub(crate) positions: Positions,
    pub(crate) attention: AttentionPattern,
}

/// The later tokens that a token attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttentionPattern {
    /// None.
    Causal,
    /// In a prompt, those of the prompt, inside the sliding window or not, as in a prefix language model.
    PrefixLm,
    /// In an image, those of the image, inside the sliding window. A run of image tokens is an image.
    ImageBlocks,
}

/// The positions, masks and image context of the tokens of one pass.
#[derive(Debug)]
pub(crate) struct Pass {
    /// The rotary positions of the new tokens, row-major; a single row if all rows agree.
    pub(crate) positions: Vec<Position>,
    pub(crate) position_rows: usize,
    /// The largest rotary position so far, and the largest before this pass.
    pub(crate) max_position: u32,
    pub(crate) previous_max_position: u32,
    /// `[batch or 1, 1, new, seen + new]`, 0 where a token may attend, negative infinity elsewhere; `None` if every new
    /// token may attend to everything.
    pub(crate) mask: Option<Tensor>,
    /// The mask of sliding layers.
    pub(crate) window_mask: Option<Tensor>,
    /// The image states that the new tokens attend to.
    pub(crate) image_context: Option<ImageContext>,
}
