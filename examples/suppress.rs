//! Makes interventions and works with them: from expertise, from a store of activations, or from other software's files.
//!
//!     suppress --expertise expertise.safetensors --out glasses.sgm.safetensors --operator sgm --layers 0-3
//!     suppress --store STORE --operator linear-act --false-discovery 0.05 --out moved.sgm.safetensors
#![allow(clippy::print_stdout, reason = "a binary")]

mod recipe;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use sgm::core::{Dose, Gate, Intervention};
use sgm::suppress::{Imported, import};

#[derive(Parser)]
#[command(about, version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    recipe: Option<recipe::Recipe>,
}

#[derive(Subcommand)]
enum Command {
    /// Says what an intervention does, layer by layer.
    Describe { file: PathBuf },
    /// Says how the second intervention differs from the first.
    Diff { first: PathBuf, second: PathBuf },
    /// Makes one intervention of several, the first one acting first.
    Compose {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[arg(long)]
        out: PathBuf,
    },
    /// Changes how strongly an intervention acts and, if it has a probe, when.
    Adjust {
        file: PathBuf,
        /// Multiplies what it changes.
        #[arg(long, default_value_t = 1.0)]
        strength: f32,
        /// The score of the prompt's end that switches it on.
        #[arg(long)]
        gate: Option<f32>,
        /// The dose's least strength, the log-odds up to which it holds, and those of full strength: `0.65,0,13`.
        #[arg(long, value_delimiter = ',', num_args = 3)]
        dose: Option<Vec<f32>>,
        #[arg(long)]
        out: PathBuf,
    },
    /// Reads AurA or AcT files: one .statedict per module, with `alpha` (makes an intervention) or `auroc` (an expertise).
    Import {
        directory: PathBuf,
        /// The model they are for.
        #[arg(long)]
        model: Option<String>,
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match (arguments.command, arguments.recipe) {
        (Some(Command::Describe { file }), _) => println!("{}", Intervention::load(file)?.describe()),
        (Some(Command::Diff { first, second }), _) => println!("{}", Intervention::load(first)?.diff(&Intervention::load(second)?)?),
        (Some(Command::Compose { files, out }), _) => {
            let parts = files.iter().map(Intervention::load).collect::<Result<Vec<_>, _>>()?;
            let composed = Intervention::compose(&parts.iter().collect::<Vec<_>>())?;
            composed.intervention.save(&out)?;
            println!("{}\nwritten to {}", composed.conflicts, out.display());
        }
        (Some(Command::Adjust { file, strength, gate, dose, out }), _) => {
            // Above 1 a blend stops scales at 0.
            let mut adjusted = Intervention::blend(&[(&Intervention::load(file)?, strength)])?;
            if let Some(probe) = &mut adjusted.probe {
                probe.gate = gate.map_or(probe.gate, |on| Gate { on, off: on / 2.0, ..probe.gate });
                if let Some([least, from, full]) = dose.as_deref() {
                    probe.dose = Some(Dose { least: *least, from: *from, full: *full });
                }
            } else if gate.is_some() || dose.is_some() {
                bail!("it has no probe, so there is no gate and no dose to change");
            }
            adjusted.save(&out)?;
            println!("{}\nwritten to {}", adjusted.describe(), out.display());
        }
        (Some(Command::Import { directory, model, out }), _) => {
            let tree = import(&directory)?;
            tree.skipped.iter().for_each(|file| println!("{}: left out, it is no MLP projection of the language model", file.display()));
            match tree.contents {
                Imported::Intervention(mut glasses) => {
                    glasses.metadata.base_model = model;
                    glasses.save(&out)?;
                    println!("{}", glasses.describe());
                }
                Imported::Expertise(mut expertise) => {
                    expertise.metadata.base_model = model;
                    expertise.save(&out)?;
                    println!("{} neurons' AUROC", expertise.neurons());
                }
            }
            println!("written to {}", out.display());
        }
        (None, Some(recipe)) => {
            let glasses = recipe.run()?;
            glasses.save(&recipe.out)?;
            println!("{}\nwritten to {}, with a card beside it", glasses.describe(), recipe.out.display());
        }
        (None, None) => bail!("nothing to do; see --help"),
    }
    Ok(())
}
