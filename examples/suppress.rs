//! Makes interventions and works with them: from expertise, from a store of activations, or from other software's files.
//!
//!     suppress --expertise expertise.safetensors --out glasses.sgm.safetensors --rule sgm --layers 0-3
//!     suppress --store STORE --rule linear-act --false-discovery 0.05 --out moved.sgm.safetensors
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use sgm::core::Intervention;
use sgm::suppress::{Imported, import};
use sgm_examples::suppress_arguments::SuppressArguments;

/// Makes interventions and works with them: from expertise, from a store of activations, or from other software's files.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    make: Option<SuppressArguments>,
}

#[derive(Subcommand)]
enum Command {
    /// Describes an intervention, layer by layer.
    Describe { file: PathBuf },
    /// Compares the second intervention with the first.
    Diff { first: PathBuf, second: PathBuf },
    /// Makes one intervention of several, the first one acting first.
    Compose {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[arg(long)]
        out: PathBuf,
    },
    /// Changes the strength of an intervention and the threshold of its condition.
    Adjust {
        file: PathBuf,
        /// The factor of its scales, shifts and added neurons.
        #[arg(long, default_value_t = 1.0)]
        strength: f32,
        /// The score of the last prompt token from which on the condition holds.
        #[arg(long, alias = "gate")]
        threshold: Option<f32>,
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
    match (arguments.command, arguments.make) {
        (Some(Command::Describe { file }), _) => println!("{}", Intervention::load(file)?.describe()),
        (Some(Command::Diff { first, second }), _) => println!("{}", Intervention::load(first)?.diff(&Intervention::load(second)?)?),
        (Some(Command::Compose { files, out }), _) => {
            let parts = files.iter().map(Intervention::load).collect::<Result<Vec<_>, _>>()?;
            let composed = Intervention::compose(&parts.iter().collect::<Vec<_>>())?;
            composed.intervention.save(&out)?;
            println!("{}\nwritten to {}", composed.conflicts, out.display());
        }
        (Some(Command::Adjust { file, strength, threshold, out }), _) => {
            // Above 1 a blend stops scales at 0.
            let mut adjusted = Intervention::blend(&[(&Intervention::load(&file)?, strength)])?;
            match (&mut adjusted.condition, threshold) {
                (Some(condition), Some(threshold)) => condition.threshold = threshold,
                (None, Some(_)) => bail!("{} has no condition, so there is no threshold to change", file.display()),
                (_, None) => {}
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
        (None, Some(make)) => {
            let glasses = make.run()?;
            glasses.save(&make.out)?;
            println!("{}\nwritten to {}, with a card beside it", glasses.describe(), make.out.display());
        }
        (None, None) => bail!("nothing to do; see --help"),
    }
    Ok(())
}
