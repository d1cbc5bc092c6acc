//! Runs of the benchmark: the answers of a model, the records of every answer, and the report of all runs.

mod answers;
#[cfg(feature = "candle")]
mod evaluate;
mod export;
mod outcome;
mod records;
mod report;
mod run;
mod run_file;
mod second_pass;
pub(crate) mod table;

pub use answers::{Answer, read_answers};
#[cfg(feature = "candle")]
pub use evaluate::{Benchmark, EvaluateOptions, EvaluationOutput};
pub use export::{export_inspect, export_lm_eval, export_mm_safetybench};
pub use outcome::{DetectionOutcome, DetectionRates, PromptOutcome, SeedOutcome};
pub use records::{Record, RecordWriter, Timing, VerdictCounts};
pub use report::{Provenance, REPORT_SCHEMA, Report};
pub use run::{AnswerLanguage, Run, SeedRun};
pub use run_file::{Durability, RunFile, read_records};
pub use second_pass::judge_again;
