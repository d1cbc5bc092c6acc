//! Prints reports as Markdown tables.
#![allow(clippy::print_stdout, reason = "a binary")]

use anyhow::Result;
use clap::Parser;
use sgm::toxic_qa::Report;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// Report files, as `glasses` and `tune` write them.
    #[arg(required = true)]
    reports: Vec<std::path::PathBuf>,
}

fn main() -> Result<()> {
    for path in Arguments::parse().reports {
        println!("{}\n", Report::read(&path)?.markdown());
    }
    Ok(())
}
