//! Where the chat template of a checkpoint is: the file that transformers takes it from.

use serde_json::Value;

use crate::checkpoint::model_files::Checkpoint;
use crate::checkpoint::section::Section;
use crate::error::{Error, Result};

/// The text of a template, and where it is from.
#[derive(Debug)]
pub(crate) struct TemplateFile {
    pub(crate) name: String,
    pub(crate) source: String,
}

const KEY: &str = "chat_template";
const JINJA: &str = "chat_template.jinja";
const LEGACY: &str = "chat_template.json";
const PROCESSOR: &str = "processor_config.json";
const TOKENIZER: &str = "tokenizer_config.json";
const ADDITIONAL: &str = "additional_chat_templates";
const ADDITIONAL_DEFAULT: &str = "additional_chat_templates/default.jinja";

/// Finds the template of a checkpoint.
///
/// The one set by the caller comes first. Then, as in transformers' `AutoProcessor`, models that take images have it in
/// `processor_config.json`, `chat_template.json`, `chat_template.jinja` or the folder `additional_chat_templates`; text models, as in
/// `AutoTokenizer`, in that folder, `chat_template.jinja` or `tokenizer_config.json`. The files that the class of transformers does not read
/// come last. Of several named templates the one named `default` is taken.
pub(crate) fn find(checkpoint: &Checkpoint, takes_images: bool) -> Result<Option<TemplateFile>> {
    if let Some(given) = checkpoint.chat_template() {
        return Ok(Some(TemplateFile { name: "the chat template that was set".to_owned(), source: given.to_owned() }));
    }
    let named = checkpoint.files_in(ADDITIONAL)?;
    let named: Vec<String> = named.iter().filter_map(|file| file.strip_suffix(".jinja").map(str::to_owned)).collect();
    if takes_images && !named.is_empty() && checkpoint.read(LEGACY)?.is_some() {
        let file = checkpoint.path_of(LEGACY);
        let reason = format!("{} and the folder {ADDITIONAL} exclude each other; make the template a file {JINJA}", file.display());
        return Err(Error::ChatTemplate { reason });
    }
    let order = if takes_images {
        [PROCESSOR, LEGACY, JINJA, ADDITIONAL_DEFAULT, TOKENIZER]
    } else {
        [ADDITIONAL_DEFAULT, JINJA, TOKENIZER, PROCESSOR, LEGACY]
    };
    for file in order {
        if file == TOKENIZER && !named.is_empty() {
            return Err(no_default(&checkpoint.path_of(ADDITIONAL).display().to_string(), &named));
        }
        let found = if file.ends_with(".jinja") { jinja_file(checkpoint, file)? } else { json_file(checkpoint, file)? };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn jinja_file(checkpoint: &Checkpoint, file: &str) -> Result<Option<TemplateFile>> {
    let Some(bytes) = checkpoint.read(file)? else { return Ok(None) };
    let name = checkpoint.path_of(file).display().to_string();
    match String::from_utf8(bytes.into_owned()) {
        Ok(source) => Ok(Some(TemplateFile { name, source })),
        Err(e) => Err(Error::ChatTemplate { reason: format!("{name} is not UTF-8: {e}") }),
    }
}

fn json_file(checkpoint: &Checkpoint, file: &str) -> Result<Option<TemplateFile>> {
    let Some(config) = checkpoint.json(file)? else { return Ok(None) };
    let name = checkpoint.path_of(file).display().to_string();
    let Some(source) = template_in(&config, &name)? else { return Ok(None) };
    Ok(Some(TemplateFile { name, source }))
}

/// The template of a configuration: a text, or the one named `default` of a list or an object of named templates.
fn template_in(config: &Section, name: &str) -> Result<Option<String>> {
    let named: Vec<(&str, &Value)> = match config.get(KEY) {
        None => return Ok(None),
        Some(Value::String(source)) => return Ok(Some(source.clone())),
        Some(Value::Object(named)) => named.iter().map(|(name, source)| (name.as_str(), source)).collect(),
        Some(Value::Array(named)) => {
            named.iter().filter_map(|entry| Some((entry.get("name")?.as_str()?, entry.get("template")?))).collect()
        }
        Some(_) => return Err(config.error(KEY, "expected a template or named templates")),
    };
    match named.iter().rev().find(|(name, _)| *name == "default").map(|(_, source)| source.as_str()) {
        Some(Some(source)) => Ok(Some(source.to_owned())),
        Some(None) => Err(config.error(KEY, "expected a text under the name `default`")),
        None => Err(no_default(name, &named.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>())),
    }
}

fn no_default(file: &str, names: &[String]) -> Error {
    let reason = format!(
        "{file} has templates named {} but none named `default`; choose one and write it to {JINJA} beside it, or set it with \
         `Checkpoint::with_chat_template`",
        names.join(", ")
    );
    Error::ChatTemplate { reason }
}
