//! The names that checkpoints give to sites.

use crate::site::parse_index;
use crate::{Projection, Site};

/// The prefixes of language-model layers in checkpoints. The whole path must match, because vision towers may have `gate_proj` and
/// `up_proj` too (Qwen2.5-VL, Pixtral).
const LAYER_PREFIXES: [&str; 6] = [
    "lm.layers.",
    // Text models; LLaVA as first published.
    "model.layers.",
    // LLaVA checkpoints of the hub, Llama-3.2-Vision.
    "language_model.model.layers.",
    // Module names of transformers >= 4.52; Qwen3-VL.
    "model.language_model.layers.",
    "language_model.layers.",
    // SmolVLM, Idefics3.
    "model.text_model.layers.",
];

impl Site {
    /// The site that a checkpoint's tensor or module name belongs to.
    ///
    /// Accepts a site's own name, the module names of the Hugging Face layouts (old and new), also of single experts, and
    /// GGUF's `blk.{i}.ffn_{gate|up|down}`, each with or without `.weight` or `.bias`. Names outside
    /// the language model's MLPs give `None`.
    pub fn from_checkpoint_name(name: &str) -> Option<Self> {
        let module = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")).unwrap_or(name);
        if let Some(rest) = module.strip_prefix("blk.") {
            let (layer, ffn) = rest.split_once('.')?;
            let projection = match ffn {
                "ffn_gate" => Projection::Gate,
                "ffn_up" => Projection::Up,
                "ffn_down" => Projection::Down,
                _ => return None,
            };
            return Some(Self::new(parse_index(layer)?, projection));
        }
        let (layer, within) = in_mlp(module)?;
        match within.strip_prefix("experts.") {
            None => Some(Self::new(layer, within.parse().ok()?)),
            Some(expert) => {
                let (expert, projection) = expert.split_once('.')?;
                Some(Self::of_expert(layer, parse_index(expert)?, expert_projection(projection)?))
            }
        }
    }

    /// The sites whose neurons are the rows of a checkpoint's tensor, in order and with as many rows each; none for tensors
    /// outside the language model's MLPs.
    ///
    /// That is one site, as for [`from_checkpoint_name`](Self::from_checkpoint_name), or gate and up together where they are
    /// one matrix `gate_up_proj` (Phi-3).
    pub fn all_in_checkpoint_tensor(name: &str) -> Vec<Self> {
        let module = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")).unwrap_or(name);
        match in_mlp(module) {
            Some((layer, "gate_up_proj")) => vec![Self::new(layer, Projection::Gate), Self::new(layer, Projection::Up)],
            _ => Self::from_checkpoint_name(name).into_iter().collect(),
        }
    }
}

/// The layer, and the name within its MLP or mixture of experts, of a module of the language model.
pub(crate) fn in_mlp(module: &str) -> Option<(usize, &str)> {
    let rest = LAYER_PREFIXES.iter().find_map(|prefix| module.strip_prefix(prefix))?;
    // The second name is Mixtral's.
    let (layer, name) = rest.split_once(".mlp.").or_else(|| rest.split_once(".block_sparse_moe."))?;
    Some((parse_index(layer)?, name))
}

/// A projection of a single expert, by its name or by Mixtral's.
pub(crate) fn expert_projection(name: &str) -> Option<Projection> {
    match name {
        "w1" => Some(Projection::Gate),
        "w3" => Some(Projection::Up),
        "w2" => Some(Projection::Down),
        _ => name.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_names_the_same_site() {
        let site = Some(Site::new(12, Projection::Down));
        for name in [
            "lm.layers.12.mlp.down_proj",
            "model.layers.12.mlp.down_proj.weight",
            "language_model.model.layers.12.mlp.down_proj.bias",
            "model.language_model.layers.12.mlp.down_proj.weight",
            "model.text_model.layers.12.mlp.down_proj",
            "blk.12.ffn_down.weight",
        ] {
            assert_eq!(Site::from_checkpoint_name(name), site, "{name}");
        }
        let expert = Some(Site::of_expert(12, 7, Projection::Down));
        for name in ["model.layers.12.mlp.experts.7.down_proj.weight", "model.layers.12.block_sparse_moe.experts.7.w2.weight"] {
            assert_eq!(Site::from_checkpoint_name(name), expert, "{name}");
        }
        let fused = Site::all_in_checkpoint_tensor("model.layers.3.mlp.gate_up_proj.weight");
        assert_eq!(fused, [Site::new(3, Projection::Gate), Site::new(3, Projection::Up)]);
        assert_eq!(Site::all_in_checkpoint_tensor("model.layers.12.mlp.down_proj.weight"), site.as_slice());
        assert!(Site::all_in_checkpoint_tensor("visual.blocks.3.mlp.gate_up_proj.weight").is_empty());
        for name in [
            // Qwen2.5-VL's vision tower has gated MLPs too.
            "visual.blocks.12.mlp.down_proj.weight",
            "model.visual.blocks.12.mlp.gate_proj.bias",
            "model.visual.layers.12.mlp.down_proj",
            "model.layers.12.self_attn.o_proj.weight",
            "model.layers.12.mlp.experts.down_proj",
            "model.layers.12.mlp.shared_expert.down_proj.weight",
            "model.layers.12.mlp.gate.weight",
            "blk.12.ffn_norm.weight",
            "",
        ] {
            assert_eq!(Site::from_checkpoint_name(name), None, "{name}");
        }
    }
}
