//! Pixtral and Mistral Small 3.1: a Pixtral tower, a projector that may merge patches, and a decoder such as Mistral.

use candle_core::Tensor;
use candle_nn::Module;

use crate::checkpoint::model_files::Checkpoint;
use crate::checkpoint::section::Section;
use crate::decoder::config::DecoderConfig;
use crate::decoder::transformer::Decoder;
use crate::error::Result;
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::{embed_with_features, image_token};
use crate::families::llava::{Projector, deepest, feature_layers, load_decoder};
use crate::layers::derivative::RmsNorm;
use crate::layers::linear::{Linear, Weights};
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::image_text::ImageText;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::images::layout::ImageLayout;
use crate::processor::model_inputs::ModelInputs;
use crate::vision::feature_cache::FeatureCache;
use crate::vision::pixtral::{PatchGrid, PixtralConfig, PixtralVision};

const VISION: [&str; 2] = ["vision_tower", "model.vision_tower"];
const PROJECTOR: [&str; 2] = ["multi_modal_projector", "model.multi_modal_projector"];
const PROCESSOR: &str = "processor_config.json";

#[derive(Debug)]
struct Pixtral {
    tower: PixtralVision,
    /// The numbers of tower layers whose states are the features.
    layers: Vec<usize>,
    merger: Option<Merger>,
    projector: Projector,
    image_token: u32,
}

/// Loads a `Mistral3ForConditionalGeneration` checkpoint, or a `LlavaForConditionalGeneration` checkpoint with a Pixtral
/// tower.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    let merges = checkpoint.architecture()? == "Mistral3ForConditionalGeneration";
    let mut text = DecoderConfig::from_section(&config.section("text_config")?, if merges { "mistral" } else { "llama" })?;
    if merges {
        // Tied by default in transformers, which the published files contradict by a head of their own.
        text.tied = config.bool("tie_word_embeddings")?.unwrap_or(true);
    } else if config.string("vision_feature_select_strategy")? != Some("full") {
        return Err(config.error("vision_feature_select_strategy", "must be full: a Pixtral tower has no class token to leave out"));
    }
    let vision = PixtralConfig::from_section(&config.section("vision_config")?)?;
    let layers = feature_layers(config, vision.layers, if merges { -1 } else { -2 })?;
    let tower = weights.first(&VISION, "patch_conv.weight", "vision tower")?;
    (deepest(&layers)..vision.layers).for_each(|layer| tower.leave_out(&format!("transformer.layers.{layer}")));
    let tower = PixtralVision::new(&vision, deepest(&layers), &tower)?;
    let merger = if merges {
        if layers.len() != 1 {
            return Err(config.error("vision_feature_layer", "must be one layer"));
        }
        let weights = weights.first(&PROJECTOR, "patch_merger.merging_layer.weight", "projector")?;
        Some(Merger::new(config, vision.hidden, text.rms_eps, &weights)?)
    } else {
        None
    };
    let projector = Projector::load(config, vision.hidden * layers.len(), text.hidden, !merges, weights)?;
    let image_token = image_token(config, if merges { 10 } else { 32_000 })?;

    let settings = TextSettings::read(checkpoint, vision.patch, merger.as_ref().map_or(1, |merger| merger.side))?;
    let TextSettings { side, line_end, image_end } = settings;
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, 0)?.with_token_side(side),
        token: image_token,
        text: Box::new(move |token| Box::new(PixtralImageText { token, ends: [line_end, image_end] })),
    };
    let processor = Processor::load(checkpoint, Some(images), None)?;
    let decoder = load_decoder(&text, weights)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(Pixtral { tower, layers, merger, projector, image_token }) })
}

impl Family for Pixtral {
    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        let features = match inputs.tensors.get("pixel_values") {
            Some(pixels) => Some(self.features(pixels, inputs.tensor("image_sizes")?, images)?),
            None => None,
        };
        Ok(DecoderInput::causal(embed_with_features(decoder, inputs, self.image_token, features.as_ref())?))
    }
}

impl Pixtral {
    /// The features `[tokens, hidden]` of all images.
    fn features(&self, pixels: &Tensor, sizes: &Tensor, cache: &FeatureCache) -> Result<Tensor> {
        let grids = PatchGrid::read(sizes, pixels, self.tower.patch())?;
        let features = grids.iter().enumerate().map(|(i, grid)| {
            let image = grid.cut(&pixels.narrow(0, i, 1)?, self.tower.patch())?;
            cache.of_one(&image, "", |image| self.image(image, *grid))
        });
        Ok(Tensor::cat(&features.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// The features `[tokens, hidden]` of an image `[1, 3, height, width]` of whole patches.
    fn image(&self, image: &Tensor, grid: PatchGrid) -> Result<Tensor> {
        let states = Tensor::cat(&self.tower.hidden_states(image, grid, &self.layers)?, 1)?.contiguous()?;
        match &self.merger {
            None => self.projector.forward(&states),
            Some(merger) => self.projector.forward(&merger.forward(&states, grid)?),
        }
    }
}

/// The part of the projector that merges squares of patches into tokens.
#[derive(Debug)]
struct Merger {
    norm: RmsNorm,
    merge: Linear,
    /// The side of the squares in patches.
    side: usize,
}

impl Merger {
    fn new(config: &Section, hidden: usize, eps: f64, weights: &Weights<'_>) -> Result<Self> {
        const KEY: &str = "spatial_merge_size";
        let side = config.positive(KEY, 2)?;
        let inputs = side.checked_mul(side).and_then(|patches| patches.checked_mul(hidden));
        let inputs = inputs.ok_or_else(|| config.error(KEY, format!("{side} is too large")))?;
        Ok(Self {
            norm: weights.rms_norm("norm", hidden, eps, false)?,
            merge: weights.pp("patch_merger").linear("merging_layer", inputs, hidden, false)?,
            side,
        })
    }

    /// Merges states `[patches, hidden]` of an image to `[tokens, hidden]`. Patches beyond a whole square are left out.
    fn forward(&self, states: &Tensor, grid: PatchGrid) -> Result<Tensor> {
        let (side, (_, hidden)) = (self.side, states.dims2()?);
        let (rows, cols) = (grid.rows / side, grid.cols / side);
        let image = self.norm.forward(states)?.reshape((grid.rows, grid.cols, hidden))?;
        let image = image.narrow(0, 0, rows * side)?.narrow(1, 0, cols * side)?.contiguous()?;
        // The values of a channel are adjacent.
        let squares = image.reshape((rows, side, cols, side, hidden))?.permute((0, 2, 4, 1, 3))?;
        Ok(self.merge.forward(&squares.reshape((rows * cols, hidden * side * side))?)?)
    }
}

/// The settings of the processor for the text of images.
struct TextSettings {
    /// The side of a token in pixels.
    side: u32,
    line_end: String,
    image_end: String,
}

impl TextSettings {
    /// Reads `processor_config.json`. Without a size there, tokens are those of the model.
    fn read(checkpoint: &Checkpoint, patch: usize, merge: usize) -> Result<Self> {
        let file = checkpoint.json(PROCESSOR)?;
        let sizes = match &file {
            Some(file) if file.get("patch_size").is_some() => {
                let given = (file.positive("patch_size", 16)?, file.positive("spatial_merge_size", 1)?);
                if given.0.checked_mul(given.1) != patch.checked_mul(merge) {
                    let reason = format!("tokens are {} times {} pixels wide, but {patch} times {merge} in config.json", given.0, given.1);
                    return Err(file.error("patch_size", reason));
                }
                given
            }
            _ => (patch, merge),
        };
        let side = sizes.0.checked_mul(sizes.1).and_then(|side| u32::try_from(side).ok()).filter(|side| *side <= 4096);
        let name = |key: &str, default: &str| -> Result<String> {
            Ok(file.as_ref().map_or(Ok(None), |file| file.string(key))?.unwrap_or(default).to_owned())
        };
        Ok(Self {
            side: side.ok_or_else(|| checkpoint.config().error("vision_config.patch_size", "is too large"))?,
            line_end: name("image_break_token", "[IMG_BREAK]")?,
            image_end: name("image_end_token", "[IMG_END]")?,
        })
    }
}

/// The text of an image: its tokens in rows, with a token at the end of each.
#[derive(Debug)]
struct PixtralImageText {
    token: String,
    /// The ends of a row, and of the last row.
    ends: [String; 2],
}

impl ImageText for PixtralImageText {
    fn placeholder(&self) -> &str {
        &self.token
    }

    fn expansion(&self, image: &ImageLayout) -> String {
        let [line_end, image_end] = &self.ends;
        let row = self.token.repeat(image.cols);
        let rows = vec![row; image.rows];
        rows.join(line_end) + image_end
    }

    fn special_tokens(&self) -> &[String] {
        &self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_tokens_end_with_a_break_and_the_last_with_the_end_of_the_image() {
        let text = PixtralImageText { token: "*".to_owned(), ends: ["|".to_owned(), "#".to_owned()] };
        let expansion = |rows, cols| text.expansion(&ImageLayout { height: 1, width: 1, rows, cols });
        assert_eq!((expansion(1, 1), expansion(2, 3)), ("*#".to_owned(), "***|***#".to_owned()));
    }
}
