//! The arguments that say which samples a benchmark takes.

use clap::{Args, ValueEnum};
use sgm::core::OnBadSample;
use sgm::toxic_qa::BuildPlan;
use sgm::toxic_qa::builder::Builder;

/// The plan of a benchmark.
#[derive(Args)]
pub struct PlanArguments {
    /// The plan: which samples to take.
    #[arg(long, alias = "recipe", value_enum, default_value_t = PlanName::MmToxicQaV1)]
    plan: PlanName,
    /// Test samples in each category, instead of the plan's number.
    #[arg(long)]
    test: Option<usize>,
    /// Dev samples in each category, instead of the plan's number.
    #[arg(long)]
    dev: Option<usize>,
    /// Calibration samples of each label, instead of the plan's number.
    #[arg(long)]
    calibration: Option<usize>,
    /// Utility samples, instead of the plan's number.
    #[arg(long)]
    utility: Option<usize>,
    /// Decides which samples are taken.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep questions that occur several times: published rates of MM-SafetyBench count them.
    #[arg(long)]
    keep_duplicates: bool,
    /// Draw test and dev samples from all parts of a data set that is published in splits.
    #[arg(long)]
    ignore_splits: bool,
    /// Entries that are not as published, or whose image cannot be read: `skip` leaves them out and names them, `refuse` ends the build at
    /// the first.
    #[arg(long, value_name = "POLICY", default_value_t = OnBadSample::Skip)]
    on_bad_sample: OnBadSample,
    /// Make hard links to image files instead of copies.
    #[arg(long)]
    link: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PlanName {
    /// A reconstruction of the paper's MM-TOXIC-QA.
    MmToxicQaV1,
    /// All samples of the sources.
    Everything,
}

impl PlanArguments {
    /// A builder by this plan, without data sets.
    pub fn builder(&self) -> Builder {
        let plan = match self.plan {
            PlanName::MmToxicQaV1 => BuildPlan::mm_toxic_qa_v1(),
            PlanName::Everything => BuildPlan::everything(),
        };
        let plan = BuildPlan {
            test_per_category: self.test.or(plan.test_per_category),
            dev_per_category: self.dev.unwrap_or(plan.dev_per_category),
            calibration_per_label: self.calibration.or(plan.calibration_per_label),
            utility: self.utility.or(plan.utility),
            ..plan
        };
        let mut builder = Builder::new(plan, self.seed).on_bad_sample(self.on_bad_sample);
        if self.keep_duplicates {
            builder = builder.keeping_duplicates();
        }
        if self.ignore_splits {
            builder = builder.ignoring_parts();
        }
        if self.link {
            builder = builder.linking();
        }
        builder
    }
}
