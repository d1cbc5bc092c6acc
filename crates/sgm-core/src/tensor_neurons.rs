//! The neurons that a checkpoint's tensor holds, by its name, also in mixtures of experts.

use crate::alias::{expert_projection, in_mlp};
use crate::site::parse_index;
use crate::{Projection, Site};

/// The neurons of a tensor of the language model's MLPs.
///
/// Neurons lie in groups, one after the other, with the same number of neurons each. A neuron belongs to all sites of its
/// group: an output of an expert is also a part of the same output of the whole mixture. A group without sites holds
/// neurons that are of no site, such as those within a shared expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorNeurons {
    /// The rows of a matrix `[neurons, inputs]`, or the values of a bias.
    Rows(Vec<Vec<Site>>),
    /// All experts of a layer in one tensor: `[experts, neurons, inputs]`, or `[experts, inputs, neurons]` in Qwen3-VL's files,
    /// with the neurons of these projections one after the other.
    Stacked {
        /// The layer.
        layer: usize,
        /// The projections.
        projections: Vec<Projection>,
    },
}

impl TensorNeurons {
    /// The neurons of a tensor of a Hugging Face layout (old or new); `None` for tensors outside the language model's MLPs.
    pub fn of(name: &str) -> Option<Self> {
        let module = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"));
        let (layer, within) = in_mlp(module.unwrap_or(name))?;
        if let Some(of_expert) = within.strip_prefix("experts.") {
            return match (of_expert.split_once('.'), module) {
                (Some((expert, projection)), Some(_)) => {
                    Some(Self::Rows(vec![sites_of_expert(layer, parse_index(expert)?, expert_projection(projection)?)]))
                }
                // Stacked experts are parameters, not modules with a weight.
                (None, None) => Some(Self::Stacked { layer, projections: projections(of_expert)? }),
                _ => None,
            };
        }
        module?;
        if let Some(projection) = within.strip_prefix("shared_expert.") {
            let whole = projection == Projection::Down.name();
            projection.parse::<Projection>().ok()?;
            return Some(Self::Rows(vec![if whole { vec![Site::new(layer, Projection::Down)] } else { Vec::new() }]));
        }
        Some(Self::Rows(projections(within)?.into_iter().map(|projection| vec![Site::new(layer, projection)]).collect()))
    }

    /// The groups of neurons of a tensor that stacks this number of experts, in order. The number has no effect on a matrix.
    pub fn groups(&self, experts: usize) -> Vec<Vec<Site>> {
        match self {
            Self::Rows(groups) => groups.clone(),
            Self::Stacked { layer, projections } => {
                let of = |expert| projections.iter().map(move |projection| sites_of_expert(*layer, expert, *projection));
                (0..experts).flat_map(of).collect()
            }
        }
    }

    /// The name of the router of a mixture of experts, whose weight is `[experts, hidden]`, by the name of a tensor that stacks
    /// its experts.
    pub fn router(name: &str) -> Option<String> {
        let (mixture, _) = name.rsplit_once(".experts.")?;
        Some(format!("{mixture}.gate.weight"))
    }
}

fn sites_of_expert(layer: usize, expert: usize, projection: Projection) -> Vec<Site> {
    let own = Site::of_expert(layer, expert, projection);
    if projection == Projection::Down { vec![own, Site::new(layer, projection)] } else { vec![own] }
}

fn projections(name: &str) -> Option<Vec<Projection>> {
    if name == "gate_up_proj" { Some(vec![Projection::Gate, Projection::Up]) } else { Some(vec![name.parse().ok()?]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Projection::{Down, Gate, Up};

    fn rows(name: &str) -> Option<Vec<Vec<Site>>> {
        match TensorNeurons::of(name)? {
            TensorNeurons::Rows(groups) => Some(groups),
            TensorNeurons::Stacked { .. } => None,
        }
    }

    #[test]
    fn outputs_of_experts_are_outputs_of_the_mixture_too() {
        let whole = Site::new(3, Down);
        for name in ["model.layers.3.mlp.experts.5.down_proj.weight", "model.layers.3.block_sparse_moe.experts.5.w2.weight"] {
            assert_eq!(rows(name), Some(vec![vec![Site::of_expert(3, 5, Down), whole]]), "{name}");
        }
        assert_eq!(rows("model.layers.3.mlp.experts.5.up_proj.weight"), Some(vec![vec![Site::of_expert(3, 5, Up)]]));
        assert_eq!(rows("model.layers.3.mlp.shared_expert.down_proj.weight"), Some(vec![vec![whole]]));
        assert_eq!(rows("model.layers.3.mlp.shared_expert.up_proj.weight"), Some(vec![Vec::new()]));
        assert_eq!(rows("model.layers.3.mlp.gate_up_proj.weight"), Some(vec![vec![Site::new(3, Gate)], vec![Site::new(3, Up)]]));
        for name in
            ["model.layers.3.mlp.gate.weight", "model.layers.3.mlp.shared_expert_gate.weight", "model.layers.3.mlp.experts.5.weight"]
        {
            assert_eq!(TensorNeurons::of(name), None, "{name}");
        }
    }

    #[test]
    fn stacked_experts_are_groups_of_their_projections() {
        let name = "model.language_model.layers.1.mlp.experts.gate_up_proj";
        let sites = |expert| [vec![Site::of_expert(1, expert, Gate)], vec![Site::of_expert(1, expert, Up)]];
        assert_eq!(TensorNeurons::of(name).unwrap().groups(2), [sites(0), sites(1)].concat());
        assert_eq!(TensorNeurons::router(name).unwrap(), "model.language_model.layers.1.mlp.gate.weight");
        // Of another layout, such as biases, or of a vision tower.
        for name in [
            "model.layers.1.mlp.experts.gate_up_proj_bias",
            "model.layers.1.mlp.experts.gate_up_proj.weight",
            "visual.layers.1.mlp.experts.down_proj",
        ] {
            assert_eq!(TensorNeurons::of(name), None, "{name}");
        }
    }
}
