use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sgm_models::{EosPolicy, GenerateOptions, Generation, Generator, Prompt, Sampling};

use crate::seed::derived;
use crate::{Error, Result};

/// A pass of a defence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassName {
    /// The question is answered as it is.
    Direct,
    /// The model judges its answer.
    Judge,
    /// The model describes the image.
    Caption,
    /// The question is answered with the defence's means.
    Final,
}

impl std::fmt::Display for PassName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Judge => "judge",
            Self::Caption => "caption",
            Self::Final => "final",
        })
    }
}

/// The passes of a defence in which the model wears glasses.
///
/// ```
/// use sgm_defend::Scope;
///
/// // The model's own judgement and description of the image are left alone.
/// let scope: Scope = serde_json::from_str(r#"{"judge": false, "caption": false}"#)?;
/// assert_eq!(scope, Scope { judge: false, caption: false, ..Scope::ALL });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// [`PassName::Direct`].
    pub direct: bool,
    /// [`PassName::Judge`].
    pub judge: bool,
    /// [`PassName::Caption`].
    pub caption: bool,
    /// [`PassName::Final`].
    pub r#final: bool,
}

impl Scope {
    /// Glasses in every pass.
    pub const ALL: Self = Self { direct: true, judge: true, caption: true, r#final: true };
    /// No glasses at all.
    pub const NONE: Self = Self { direct: false, judge: false, caption: false, r#final: false };
}

impl Default for Scope {
    /// [`ALL`](Self::ALL): glasses are an attribute of the model.
    fn default() -> Self {
        Self::ALL
    }
}

/// Who answers in each pass of a defence.
#[derive(Clone)]
pub struct Passes<'m> {
    direct: Arc<dyn Generator + 'm>,
    judge: Arc<dyn Generator + 'm>,
    caption: Arc<dyn Generator + 'm>,
    r#final: Arc<dyn Generator + 'm>,
}

/// What was asked and answered in one pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass {
    /// The pass.
    pub name: PassName,
    /// What was asked; [`Processor::render`](sgm_models::Processor::render) gives the text that the model saw.
    pub prompt: Prompt,
    /// What was answered.
    pub output: Generation,
}

/// How a pass that the caller does not see is generated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassOptions {
    /// The length at which its output is cut off, in tokens.
    pub max_new_tokens: usize,
    /// How its tokens are chosen.
    pub sampling: Sampling,
}

impl Default for PassOptions {
    /// Greedy, 1,024 tokens, as published for ECSO.
    fn default() -> Self {
        Self { max_new_tokens: 1024, sampling: Sampling::Greedy }
    }
}

impl PassOptions {
    /// These settings in a call with the caller's; `pass` tells its random stream from those of other passes.
    pub(crate) fn within(self, caller: &GenerateOptions, pass: u64) -> GenerateOptions {
        let Self { max_new_tokens, sampling } = self;
        GenerateOptions { max_new_tokens, sampling, seed: derived(caller.seed, pass), eos: EosPolicy::Stop, stop: None, ..caller.clone() }
    }
}

impl<'m> Passes<'m> {
    /// One generator in all passes.
    pub fn same(generator: Arc<dyn Generator + 'm>) -> Self {
        Self::scoped(generator.clone(), generator, Scope::NONE)
    }

    /// The generator `worn` in the passes of the scope, `bare` in the others.
    pub fn scoped(bare: Arc<dyn Generator + 'm>, worn: Arc<dyn Generator + 'm>, scope: Scope) -> Self {
        let of = |wears: bool| if wears { worn.clone() } else { bare.clone() };
        Self { direct: of(scope.direct), judge: of(scope.judge), caption: of(scope.caption), r#final: of(scope.r#final) }
    }

    /// Runs one pass for the prompts at some indices of the caller's call, in one call of the pass' generator; none if there are
    /// none.
    pub(crate) fn run(&self, name: PassName, prompts: Vec<Prompt>, indices: &[usize], options: &GenerateOptions) -> Result<Vec<Pass>> {
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let generator = match name {
            PassName::Direct => &self.direct,
            PassName::Judge => &self.judge,
            PassName::Caption => &self.caption,
            PassName::Final => &self.r#final,
        };
        tracing::debug!(pass = %name, prompts = prompts.len());
        let outputs = generator.generate(&prompts, &options.for_prompts(indices))?;
        if outputs.len() != prompts.len() {
            return Err(Error::AnswerCount { pass: name, prompts: prompts.len(), answers: outputs.len() });
        }
        Ok(prompts.into_iter().zip(outputs).map(|(prompt, output)| Pass { name, prompt, output }).collect())
    }
}

impl std::fmt::Debug for Passes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passes")
    }
}
