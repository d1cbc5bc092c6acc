//! The arguments that name the data sets of a benchmark.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use sgm::toxic_qa::datasets::{
    Dataset, FigStep, JailBreakV, MmSafetyBench, MmSafetyBenchAnswers, MmVet, Pair, RealToxicityPrompts, VlGuard, VlGuardSubset,
    VlmEvalKit, beavertails_v, spreadsheet,
};

use crate::question_set_arguments::QuestionSetArguments;

/// The data sets, each by its folder or file.
#[derive(Args, Debug)]
pub struct DatasetArguments {
    /// MM-SafetyBench: questions, from the folder that holds `data`.
    #[arg(long, value_name = "DIR")]
    mm_safetybench: Option<PathBuf>,
    /// MM-SafetyBench: labelled answers, from the folder that holds `questions_with_answers`.
    #[arg(long, value_name = "DIR")]
    mm_safetybench_answers: Option<PathBuf>,
    /// MM-SafetyBench: SD, SD_TYPO, TYPO or text, or several with commas between; mismatched/IMAGES/QUESTION for a pair that was not
    /// published. Answers were given to one pair.
    #[arg(long, value_delimiter = ',', default_value = "SD_TYPO")]
    pair: Vec<Pair>,
    /// MM-SafetyBench: only the questions of the tiny version.
    #[arg(long)]
    tiny: bool,
    /// MM-SafetyBench: only the answers of one run.
    #[arg(long)]
    run: Option<String>,
    /// BeaverTails-V: questions, from a folder of Parquet files (needs the feature `parquet`).
    #[arg(long, value_name = "DIR")]
    beavertails_v: Option<PathBuf>,
    /// BeaverTails-V: labelled answers.
    #[arg(long, value_name = "DIR")]
    beavertails_v_answers: Option<PathBuf>,
    /// JailBreakV-28K, from the folder that holds `JailBreakV_28K.csv`.
    #[arg(long, value_name = "DIR")]
    jailbreakv: Option<PathBuf>,
    /// JailBreakV-28K: only the mini version, of `mini_JailBreakV_28K.csv` where that is there.
    #[arg(long)]
    mini: bool,
    /// FigStep's `safebench.csv`; its images are drawn unless --figstep-images names their folder.
    #[arg(long, value_name = "FILE")]
    figstep: Option<PathBuf>,
    #[arg(long, value_name = "DIR", requires = "figstep", hide = true)]
    figstep_images: Option<PathBuf>,
    /// VLGuard: a JSON file and the folder of its images.
    #[arg(long, num_args = 2, value_names = ["FILE", "IMAGES"])]
    vlguard: Vec<PathBuf>,
    /// VLGuard: unsafes, safe_unsafes, safe_safes.
    #[arg(long, value_delimiter = ',', default_value = "unsafes,safe_unsafes,safe_safes")]
    vlguard_parts: Vec<VlGuardSubset>,
    #[command(flatten)]
    question_sets: QuestionSetArguments,
    /// RealToxicityPrompts: a JSONL file.
    #[arg(long, value_name = "FILE")]
    real_toxicity_prompts: Option<PathBuf>,
    /// MM-Vet, from the folder that holds `mm-vet.json`.
    #[arg(long, value_name = "DIR")]
    mm_vet: Option<PathBuf>,
    /// MM-Vet v2, from the folder that holds `mm-vet-v2.json`.
    #[arg(long, value_name = "DIR")]
    mm_vet_v2: Option<PathBuf>,
    /// A TSV file of VLMEvalKit; may be repeated.
    #[arg(long, value_name = "FILE")]
    vlmevalkit: Vec<PathBuf>,
    /// A spreadsheet of labelled answers, or of questions, without images unless --xlsx-images names their folder (needs the feature `xlsx`).
    #[arg(long, value_name = "FILE")]
    xlsx: Option<PathBuf>,
    #[arg(long, value_name = "DIR", requires = "xlsx", hide = true)]
    xlsx_images: Option<PathBuf>,
    /// A spreadsheet of questions: the test split is what it lists, by category and wording, of the other data sets (needs the feature
    /// `xlsx`). With --beavertails-v and the author's `test.xlsx` these are the author's 494.
    #[arg(long, value_name = "FILE")]
    selection: Option<PathBuf>,
}

impl DatasetArguments {
    /// The list that selects the test questions, if one was named.
    ///
    /// # Errors
    ///
    /// When the feature `xlsx` is missing.
    pub fn selection(&self) -> Result<Option<Box<dyn Dataset>>> {
        Ok(self.selection.clone().map(|file| spreadsheet(file, None)).transpose()?)
    }

    /// Opens the data sets that were named.
    ///
    /// # Errors
    ///
    /// When none was named, or a feature is missing that one needs.
    pub fn open(self) -> Result<Vec<Box<dyn Dataset>>> {
        let mut sets: Vec<Box<dyn Dataset>> = Vec::new();
        if let Some(folder) = &self.mm_safetybench {
            for pair in &self.pair {
                let questions = MmSafetyBench::new(folder, *pair);
                sets.push(Box::new(if self.tiny { questions.tiny() } else { questions }));
            }
        }
        if let Some(folder) = self.mm_safetybench_answers {
            let [pair] = self.pair[..] else { bail!("--mm-safetybench-answers: the answers were given to one --pair; name that one") };
            let answers = MmSafetyBenchAnswers::new(folder, pair);
            sets.push(Box::new(match self.run {
                Some(run) => answers.of_run(run),
                None => answers,
            }));
        }
        for (folder, answers) in [(self.beavertails_v, false), (self.beavertails_v_answers, true)] {
            sets.extend(folder.map(|folder| beavertails_v(folder, answers)).transpose()?);
        }
        if let Some(folder) = self.jailbreakv {
            let set = JailBreakV::new(folder);
            sets.push(Box::new(if self.mini { set.mini() } else { set }));
        }
        if let Some(table) = self.figstep {
            sets.push(Box::new(match self.figstep_images {
                Some(images) => FigStep::published(table, images),
                None => FigStep::drawn(table),
            }));
        }
        sets.extend(self.question_sets.0.into_iter().map(|set| Box::new(set) as _));
        if let [file, images] = &self.vlguard[..] {
            sets.extend(self.vlguard_parts.into_iter().map(|part| Box::new(VlGuard::new(file, images, part)) as _));
        }
        sets.extend(self.real_toxicity_prompts.map(|file| Box::new(RealToxicityPrompts::new(file)) as _));
        sets.extend(self.mm_vet.map(|folder| Box::new(MmVet::new(folder)) as _));
        sets.extend(self.mm_vet_v2.map(|folder| Box::new(MmVet::v2(folder)) as _));
        sets.extend(self.vlmevalkit.into_iter().map(|file| Box::new(VlmEvalKit::new(file)) as _));
        sets.extend(self.xlsx.map(|file| spreadsheet(file, self.xlsx_images)).transpose()?);
        if sets.is_empty() {
            bail!("no data set is named; see --help");
        }
        Ok(sets)
    }
}
