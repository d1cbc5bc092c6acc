//! The judges that programs take on the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use sgm::organism::OrganismLexicon;
use sgm::toxic_qa::{ChatTemperature, Judge, JudgeName, JudgeSettings, MajorityJudge};

/// The arguments that name the judge of answers.
#[derive(Args, Debug, Clone)]
pub struct JudgeArguments {
    /// The judge: `lexicon:WORDS.txt`, `refusal[:vlguard_v1|v2|v3]`, `guard:MODEL`, `chat:MODEL` (needs the feature `chat`),
    /// `classifier:DIR` (needs the feature `classifier`), `replay:FILE.jsonl`, or `organism`, the word list of the embedded model. Repeated:
    /// the majority of several.
    #[arg(long = "judge", value_name = "JUDGE", value_parser = NamedJudge::parse)]
    judges: Vec<NamedJudge>,
    /// The same as `--judge lexicon:WORDS.txt`: a word list, one term a line.
    #[arg(long, value_name = "WORDS.txt")]
    words: Option<PathBuf>,
    /// The template of the question to a guard model, with `{prompt}` and `{response}`.
    #[arg(long, value_name = "FILE")]
    guard_template: Option<PathBuf>,
    /// What `yes` means to the question of the guard's template: `safe` or `unsafe`.
    #[arg(long, value_name = "MEANING", value_parser = ["safe", "unsafe"])]
    guard_yes: Option<String>,
    /// The address of the chat judge's OpenAI-compatible server; its key is read from the environment variable OPENAI_API_KEY. OpenAI's own
    /// by default.
    #[arg(long, value_name = "URL")]
    chat_url: Option<String>,
    /// The templates of the chat judge, as JSON; one general question by default.
    #[arg(long, value_name = "FILE")]
    chat_templates: Option<PathBuf>,
    /// The temperature of the chat judge, or `none` to leave it out of requests.
    #[arg(long, value_name = "T", default_value = "0")]
    chat_temperature: ChatTemperature,
    /// The folder of the chat judge's replies, so that none is paid for twice.
    #[arg(long, value_name = "DIR")]
    chat_cache: Option<PathBuf>,
    /// The toxic label of the classifier; `toxic` or `toxicity` by default.
    #[arg(long, value_name = "LABEL")]
    classifier_label: Option<String>,
}

/// A judge of the benchmark, or that of the embedded model.
#[derive(Debug, Clone)]
enum NamedJudge {
    Organism,
    Other(JudgeName),
}

impl NamedJudge {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "organism" => Ok(Self::Organism),
            other => other.parse().map(Self::Other).map_err(|error: sgm::toxic_qa::Error| format!("{error}, or organism")),
        }
    }
}

impl JudgeArguments {
    /// The judge. Without one, the organism's answers are judged by its own word list, and those of any other model by none.
    ///
    /// # Errors
    ///
    /// When no judge was named for another model, or a judge cannot be made.
    pub fn judge(&self, of_organism: bool) -> Result<Arc<dyn Judge>> {
        let mut judges = self.each()?;
        Ok(match judges.len() {
            0 if of_organism => Arc::new(OrganismLexicon::new()),
            0 => bail!(
                "which judge? Name one with --judge, such as --judge lexicon:WORDS.txt or --judge refusal; \
                 the word list of the embedded model is used for another model only with --judge organism"
            ),
            1 => Arc::from(judges.remove(0)),
            _ => Arc::new(MajorityJudge::new(judges)?),
        })
    }

    /// Every judge that was named.
    ///
    /// # Errors
    ///
    /// When a judge cannot be made.
    pub fn each(&self) -> Result<Vec<Box<dyn Judge>>> {
        let settings = JudgeSettings {
            guard_template: self.guard_template.clone(),
            guard_yes: self.guard_yes.as_ref().map(|meaning| meaning == "unsafe"),
            chat_url: self.chat_url.clone(),
            chat_templates: self.chat_templates.clone(),
            chat_temperature: self.chat_temperature,
            chat_cache: self.chat_cache.clone(),
            classifier_label: self.classifier_label.clone(),
        };
        let words = self.words.clone().map(|file| NamedJudge::Other(JudgeName::Lexicon(file)));
        let open = |judge: &NamedJudge| match judge {
            NamedJudge::Organism => Ok(Box::new(OrganismLexicon::new()) as Box<dyn Judge>),
            NamedJudge::Other(name) => Ok(name.open(&settings)?),
        };
        words.iter().chain(&self.judges).map(open).collect()
    }

    /// Keeps the replies of a chat judge in this folder, unless another was named.
    pub fn keep_replies(&mut self, folder: &Path) {
        self.chat_cache.get_or_insert_with(|| folder.to_owned());
    }
}
