//! The judges that programs take on the command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use sgm::models::{AutoMllm, Checkpoint};
use sgm::organism::OrganismLexicon;
use sgm::toxic_qa::{GuardJudge, Judge, LexiconJudge, MajorityJudge, RefusalJudge, ReplayJudge};

/// The arguments that name the judge of answers.
#[derive(Args, Debug, Clone)]
pub struct JudgeArguments {
    /// The judge: `lexicon:WORDS.txt`, `refusal[:vlguard_v1|v2|v3]`, `guard:MODEL`, `chat:MODEL`, `classifier:DIR`, `replay:FILE.jsonl`, or
    /// `organism`, the word list of the embedded model. Repeated: the majority of several.
    #[arg(long = "judge", value_name = "JUDGE")]
    judges: Vec<JudgeName>,
    /// The same as `--judge lexicon:WORDS.txt`: a word list, one term a line.
    #[arg(long, value_name = "WORDS.txt")]
    words: Option<PathBuf>,
    /// The template of the question to a guard model, with `{prompt}` and `{response}`.
    #[arg(long, value_name = "FILE")]
    guard_template: Option<PathBuf>,
    /// What `yes` means to the question of the guard's template: `safe` or `unsafe`.
    #[arg(long, value_name = "MEANING", value_parser = ["safe", "unsafe"])]
    guard_yes: Option<String>,
    /// The address of the chat judge's OpenAI-compatible server; its key is read from the environment variable OPENAI_API_KEY.
    #[cfg(feature = "chat")]
    #[arg(long, value_name = "URL", default_value = "https://api.openai.com/v1")]
    chat_url: String,
    /// The templates of the chat judge, as JSON; one general question by default.
    #[cfg(feature = "chat")]
    #[arg(long, value_name = "FILE")]
    chat_templates: Option<PathBuf>,
    /// The temperature of the chat judge, or `none` to leave it out of requests.
    #[cfg(feature = "chat")]
    #[arg(long, value_name = "T", default_value = "0")]
    chat_temperature: String,
    /// The folder of the chat judge's replies, so that none is paid for twice.
    #[cfg(feature = "chat")]
    #[arg(long, value_name = "DIR")]
    chat_cache: Option<PathBuf>,
    /// The toxic label of the classifier; `toxic` or `toxicity` by default.
    #[cfg(feature = "classifier")]
    #[arg(long, value_name = "LABEL")]
    classifier_label: Option<String>,
}

/// One judge by name, with its argument.
#[derive(Debug, Clone)]
enum JudgeName {
    Organism,
    Lexicon(PathBuf),
    Refusal(RefusalJudge),
    Guard(String),
    Chat(String),
    Classifier(PathBuf),
    Replay(PathBuf),
}

impl FromStr for JudgeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.split_once(':').map_or((text, None), |(name, argument)| (name, Some(argument))) {
            ("organism", None) => Self::Organism,
            ("refusal", list) => Self::Refusal(RefusalJudge::named(list.unwrap_or("v3")).ok_or("the lists are vlguard_v1, v2 and v3")?),
            ("lexicon", Some(file)) => Self::Lexicon(file.into()),
            ("guard", Some(model)) => Self::Guard(model.to_owned()),
            ("chat", Some(model)) => Self::Chat(model.to_owned()),
            ("classifier", Some(directory)) => Self::Classifier(directory.into()),
            ("replay", Some(file)) => Self::Replay(file.into()),
            _ => {
                return Err(
                    "expected lexicon:FILE, refusal[:LIST], guard:MODEL, chat:MODEL, classifier:DIR, replay:FILE or organism".to_owned()
                );
            }
        })
    }
}

impl JudgeArguments {
    /// Whether a judge was named.
    pub fn is_given(&self) -> bool {
        !self.judges.is_empty() || self.words.is_some()
    }

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
        let words = self.words.clone().map(JudgeName::Lexicon);
        words.iter().chain(&self.judges).map(|name| self.one(name)).collect()
    }

    /// Keeps the replies of a chat judge in this folder, unless another was named.
    #[cfg_attr(not(feature = "chat"), allow(unused_variables, clippy::unused_self, reason = "as with the feature"))]
    pub fn keep_replies(&mut self, folder: &Path) {
        #[cfg(feature = "chat")]
        self.chat_cache.get_or_insert_with(|| folder.to_owned());
    }

    fn one(&self, name: &JudgeName) -> Result<Box<dyn Judge>> {
        Ok(match name {
            JudgeName::Organism => Box::new(OrganismLexicon::new()),
            JudgeName::Lexicon(file) => Box::new(LexiconJudge::from_words(file)?),
            JudgeName::Refusal(judge) => Box::new(*judge),
            JudgeName::Guard(model) => Box::new(self.guard(model)?),
            JudgeName::Chat(model) => self.chat(model)?,
            JudgeName::Classifier(directory) => self.classifier(directory)?,
            JudgeName::Replay(file) => Box::new(ReplayJudge::from_file(file)?),
        })
    }

    /// A guard model of the supported families.
    fn guard(&self, model: &str) -> Result<GuardJudge> {
        let read = |file: &PathBuf| std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()));
        let template = self.guard_template.as_ref().map(read).transpose()?;
        let judge = GuardJudge::of_model(model, AutoMllm::load(&Checkpoint::open(model)?)?, template);
        Ok(match &self.guard_yes {
            Some(meaning) => judge.with_yes(meaning == "unsafe"),
            None => judge,
        })
    }

    #[cfg(feature = "chat")]
    fn chat(&self, model: &str) -> Result<Box<dyn Judge>> {
        use sgm::toxic_qa::{ChatJudge, ChatOptions, JudgeTemplates};
        let templates = self.chat_templates.as_deref().map_or_else(|| Ok(JudgeTemplates::general()), JudgeTemplates::from_file)?;
        let temperature = match self.chat_temperature.as_str() {
            "none" => None,
            number => Some(number.parse().with_context(|| format!("--chat-temperature {number}: expected a number or `none`"))?),
        };
        let options =
            ChatOptions { base_url: self.chat_url.clone(), temperature, cache: self.chat_cache.clone(), ..ChatOptions::default() };
        Ok(Box::new(ChatJudge::new(model, templates, options)?))
    }

    #[cfg(not(feature = "chat"))]
    #[allow(clippy::unused_self, reason = "as with the feature")]
    fn chat(&self, model: &str) -> Result<Box<dyn Judge>> {
        bail!("the judge chat:{model} needs --features chat")
    }

    #[cfg(feature = "classifier")]
    fn classifier(&self, directory: &Path) -> Result<Box<dyn Judge>> {
        Ok(Box::new(sgm::toxic_qa::ClassifierJudge::load(directory, self.classifier_label.as_deref())?))
    }

    #[cfg(not(feature = "classifier"))]
    #[allow(clippy::unused_self, reason = "as with the feature")]
    fn classifier(&self, directory: &Path) -> Result<Box<dyn Judge>> {
        bail!("the judge classifier:{} needs --features classifier", directory.display())
    }
}
