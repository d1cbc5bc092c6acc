//! The named special tokens of a tokenizer, as transformers collects them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::checkpoint::model_files::Checkpoint;
use crate::error::Result;

/// Reads the special tokens of the tokenizer in a directory of the checkpoint: `bos_token`, `eos_token` and the like, and those that the
/// model adds, such as `image_token`. A token is a text, or an object with the text as its content.
pub(crate) fn special_tokens(checkpoint: &Checkpoint, directory: &str) -> Result<BTreeMap<String, String>> {
    let mut tokens = BTreeMap::new();
    let Some(config) = checkpoint.json(&format!("{directory}tokenizer_config.json"))? else { return Ok(tokens) };
    // Before transformers 4.34, the tokens were in a file of their own.
    let legacy = match config.has("added_tokens_decoder") {
        true => None,
        false => checkpoint.json(&format!("{directory}special_tokens_map.json"))?,
    };
    for (name, value) in config.map().iter().chain(legacy.iter().flat_map(|legacy| legacy.map())) {
        match (name.as_str(), value) {
            ("extra_special_tokens", Value::Object(named)) => {
                tokens.extend(named.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))));
            }
            (name, value) if name.ends_with("_token") => tokens.extend(text(value).map(|token| (name.to_owned(), token))),
            _ => {}
        }
    }
    Ok(tokens)
}

fn text(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}
