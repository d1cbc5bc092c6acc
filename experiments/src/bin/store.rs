//! Inspects and joins activation stores: `info DIR`, `verify DIR` (reads every byte), `merge FROM... --into DIR`, `import`.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use sgm::capture::{Import, PartialStore, StoreDtype, merge, verify};
use sgm::core::TokenSelection;

/// Inspects and joins activation stores: `info DIR`, `verify DIR` (reads every byte), `merge FROM... --into DIR`, `import`.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What a store holds, and how far it is.
    Info { store: PathBuf },
    /// Checks every shard: header, number of samples, hashes, finite responses.
    Verify { store: PathBuf },
    /// Joins the stores that workers without a common directory made.
    Merge {
        #[arg(required = true)]
        from: Vec<PathBuf>,
        #[arg(long)]
        into: PathBuf,
    },
    /// Makes a store of an AurA capture: one .pt file per sample and module.
    Import {
        /// The directory of the data set: below it are subset/module/pooling/id.pt.
        from: PathBuf,
        #[arg(long)]
        into: PathBuf,
        /// The subset of toxic samples.
        #[arg(long, default_value = "toxic")]
        toxic: String,
        /// The subset of non-toxic samples.
        #[arg(long, default_value = "non-toxic")]
        non_toxic: String,
        /// The model's name.
        #[arg(long)]
        model: String,
        /// The tokens that the capture pooled over.
        #[arg(long, alias = "mask", default_value = "all")]
        tokens: TokenSelection,
        #[arg(long, default_value_t = StoreDtype::F32)]
        dtype: StoreDtype,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Info { store } => info(&PartialStore::open(store)?),
        Command::Verify { store } => {
            let found = verify(&store)?;
            found.damaged.iter().for_each(|error| println!("{error}"));
            found.strays.iter().for_each(|path| println!("{}: no part of the store", path.display()));
            println!("{} shards are sound, {} damaged, missing {:?}", found.sound, found.damaged.len(), found.missing);
            println!("{} responses are no finite numbers", found.non_finite);
            if !found.is_sound() {
                bail!("{}: the store is not sound", store.display());
            }
            Ok(())
        }
        Command::Merge { from, into } => {
            let finished = merge(&from, &into)?;
            println!("{} is {}", into.display(), if finished { "finished" } else { "not finished: shards are missing" });
            Ok(())
        }
        Command::Import { from, into, toxic, non_toxic, model, tokens, dtype } => {
            let imported = Import { toxic, non_toxic, model, tokens, dtype }.run(&from, &into)?;
            imported.skipped.iter().for_each(|module| println!("{module}: left out, it is no MLP projection of the language model"));
            println!("{} samples imported into {}", imported.samples, into.display());
            Ok(())
        }
    }
}

fn info(store: &PartialStore) -> Result<()> {
    let manifest = store.manifest();
    let missing = store.missing()?;
    let sites = manifest.sites()?;
    println!("model       {} (config {})", manifest.model, manifest.config_sha256);
    println!("weights     {}", manifest.weights.as_deref().unwrap_or("unknown"));
    println!("poolings    {}", manifest.poolings.join(", "));
    println!("neurons     {} at {} sites", sites.values().sum::<usize>(), sites.len());
    println!("samples     {} (sha256 {})", manifest.samples, manifest.samples_sha256.as_deref().unwrap_or("unknown"));
    println!("dtype       {}, {} bytes a sample", manifest.dtype, manifest.sample_bytes());
    println!("settings    {:?}", manifest.settings);
    println!("created by  {}", manifest.created_by);
    println!("shards      {} of {}, up to {} samples each", manifest.shards() - missing.len(), manifest.shards(), manifest.shard_samples);
    if !missing.is_empty() {
        println!("missing     {missing:?}");
    }
    Ok(())
}
