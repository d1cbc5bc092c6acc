//! The arguments for exports of answers.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use sgm::toxic_qa::{Record, export_inspect, export_lm_eval, export_mm_safetybench};

/// The files of other benchmarks and harnesses to write answers to.
#[derive(Args)]
pub struct ExportArguments {
    /// Also write the answers in the files of MM-SafetyBench.
    #[arg(long, value_name = "DIR")]
    export_mm_safetybench: Option<PathBuf>,
    /// Also write the answers as a samples file of lm-evaluation-harness, with `results_*.json` beside it.
    #[arg(long, value_name = "FILE.jsonl")]
    export_lm_eval: Option<PathBuf>,
    /// Also write the answers as a log of Inspect.
    #[arg(long, value_name = "FILE.json")]
    export_inspect: Option<PathBuf>,
}

impl ExportArguments {
    /// Writes the files that were asked for and prints their names. `run` is the name of the run in MM-SafetyBench's files.
    pub fn write(&self, records: &[Record], run: &str) -> Result<()> {
        if let Some(directory) = &self.export_mm_safetybench {
            export_mm_safetybench(records, run, directory)?;
            println!("exported to {}", directory.display());
        }
        if let Some(file) = &self.export_lm_eval {
            let results = export_lm_eval(records, file)?;
            println!("exported to {} and {}", file.display(), results.display());
        }
        if let Some(file) = &self.export_inspect {
            export_inspect(records, file)?;
            println!("exported to {}", file.display());
        }
        Ok(())
    }
}
