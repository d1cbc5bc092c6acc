//! The generators that answer in the passes of a defence, and the record of each pass.

use std::sync::Arc;

use sgm_models::{EosPolicy, GenerateOptions, Generation, Generator, Prompt, Sampling};

use crate::seed::derived;
use crate::{Error, PassName, Result, Scope};

/// The generators that answer in the passes of a defence.
#[derive(Clone)]
pub struct Passes<'m> {
    direct: Arc<dyn Generator + 'm>,
    judge: Arc<dyn Generator + 'm>,
    caption: Arc<dyn Generator + 'm>,
    r#final: Arc<dyn Generator + 'm>,
}

/// The prompt and the output of one pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass {
    /// The pass.
    pub name: PassName,
    /// The prompt; [`Processor::render`](sgm_models::Processor::render) gives the text that the model saw.
    pub prompt: Prompt,
    /// The output.
    pub output: Generation,
}

/// The settings of a pass that the caller does not see.
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
    /// The options of a pass within a call of the caller; `pass` separates its random stream from those of other passes.
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

    /// Runs one pass for the prompts at some indices of the caller's call, in one call of the generator of that pass; without a prompt, no
    /// call is made.
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
