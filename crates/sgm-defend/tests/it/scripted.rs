//! A generator that answers by a script and records its calls.

use std::sync::{Arc, Mutex};

use sgm_models::{Content, Error, FinishReason, GenerateOptions, Generation, Generator, Prompt, Result};

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) options: GenerateOptions,
}

impl Call {
    /// The texts of the prompts' last turns of the user.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.prompts.iter().map(text).collect()
    }

    pub(crate) fn images(&self) -> Vec<usize> {
        self.prompts.iter().map(|prompt| prompt.images().len()).collect()
    }
}

type Script = Box<dyn Fn(&Prompt, &GenerateOptions, usize) -> Result<Generation> + Send + Sync>;

pub(crate) struct Scripted {
    script: Script,
    pub(crate) calls: Mutex<Vec<Call>>,
}

impl Scripted {
    /// Answers each prompt by a script, which gets the prompt, the options and the number of the call.
    pub(crate) fn new(script: impl Fn(&Prompt, &GenerateOptions, usize) -> Result<Generation> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { script: Box::new(script), calls: Mutex::default() })
    }

    /// Answers each text with a text.
    pub(crate) fn texts(script: impl Fn(&str) -> String + Send + Sync + 'static) -> Arc<Self> {
        Self::new(move |prompt, _, _| Ok(said(&script(&text(prompt)))))
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

impl Generator for Scripted {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<Generation>> {
        let call = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(Call { prompts: prompts.to_vec(), options: options.clone() });
            calls.len() - 1
        };
        prompts.iter().map(|prompt| (self.script)(prompt, options, call)).collect()
    }
}

pub(crate) fn said(text: &str) -> Generation {
    Generation { text: text.to_owned(), tokens: vec![7], finish: FinishReason::EndOfSequence }
}

/// The text of the last turn of the user.
pub(crate) fn text(prompt: &Prompt) -> String {
    let Prompt::Chat(messages) = prompt else { panic!("{prompt:?}") };
    messages.iter().rev().find(|message| message.role == sgm_models::Role::User).unwrap().text()
}

/// The beginning of the answer.
pub(crate) fn start(prompt: &Prompt) -> String {
    let Prompt::Chat(messages) = prompt else { panic!("{prompt:?}") };
    messages.last().filter(|message| message.role == sgm_models::Role::Assistant).map(|message| message.text()).unwrap_or_default()
}

pub(crate) fn seeing(question: &str) -> Prompt {
    Prompt::user(question, Some(Arc::new(image::RgbImage::new(4, 4))))
}

pub(crate) fn blind(question: &str) -> Prompt {
    Prompt::user(question, None)
}

pub(crate) fn failure() -> Error {
    Error::Inputs { reason: "scripted failure".to_owned() }
}

pub(crate) fn image_first(prompt: &Prompt) -> bool {
    let Prompt::Chat(messages) = prompt else { return false };
    messages.iter().any(|message| matches!(message.content.first(), Some(Content::Image(_))))
}
