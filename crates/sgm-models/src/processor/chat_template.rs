//! Chat templates: Jinja texts of checkpoints that render a conversation as a prompt.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::json;

use crate::checkpoint::model_files::Checkpoint;
use crate::error::{Error, Result};
use crate::processor::prompt::{Content, Message};

/// A compiled chat template.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: serde_json::Map<String, serde_json::Value>,
}

const NAME: &str = "chat_template";

/// The conversation format of LLaVA-1.5 (Vicuna's without a system text), for checkpoints without a template.
pub(crate) const LLAVA_1_5: &str = "{% for message in messages %}\
{% if message.role != 'system' %}{{ message.role | upper }}: {% endif %}\
{% for part in message.content if part.type == 'image' %}<image>\n{% endfor %}\
{% for part in message.content if part.type == 'text' %}{{ part.text }} {% endfor %}\
{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}";

impl ChatTemplate {
    /// Compiles the template of a checkpoint: the one set by the caller, `chat_template.jinja`, `chat_template.json`,
    /// or the field of `processor_config.json` or `tokenizer_config.json`, in this order; otherwise `fallback`.
    pub(crate) fn load(checkpoint: &Checkpoint, fallback: Option<&str>) -> Result<Option<Self>> {
        let source = match (find(checkpoint)?, fallback) {
            (Some(source), _) => source,
            (None, None) => return Ok(None),
            (None, Some(fallback)) => {
                tracing::warn!("the checkpoint has no chat template; using the model family's usual one");
                fallback.to_owned()
            }
        };
        let mut special_tokens = serde_json::Map::new();
        for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            special_tokens.insert(name.to_owned(), json!(checkpoint.special_token(name)?.unwrap_or_default()));
        }
        Self::compile(&source, special_tokens).map(Some)
    }

    fn compile(source: &str, special_tokens: serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        let mut environment = Environment::new();
        let error = |e: minijinja::Error| Error::ChatTemplate { reason: format!("{e:#}") };
        // The settings of transformers.
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(error)?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| -> std::result::Result<String, minijinja::Error> {
            let error = |e: jiff::Error| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}"));
            jiff::fmt::strtime::format(&format, &now().map_err(error)?).map_err(error)
        });
        environment.add_template_owned(NAME, without_generation_marks(source)).map_err(error)?;
        Ok(Self { environment, special_tokens })
    }

    /// Renders the text of a conversation, with the opening of the model's turn if `add_generation_prompt`.
    ///
    /// With `parts`, as for multimodal models, the content of a message is a list; otherwise, as for text models, it is
    /// a string.
    pub(crate) fn render(&self, messages: &[Message], add_generation_prompt: bool, parts: bool) -> Result<String> {
        let part = |content: &Content| match content {
            Content::Text(text) => json!({"type": "text", "text": text}),
            Content::Image(_) => json!({"type": "image"}),
        };
        let text = |content: &Content| match content {
            Content::Text(text) => text.clone(),
            Content::Image(_) => String::new(),
        };
        let content =
            |m: &Message| if parts { m.content.iter().map(part).collect() } else { json!(m.content.iter().map(text).collect::<String>()) };
        let messages: Vec<_> = messages.iter().map(|m| json!({"role": m.role.name(), "content": content(m)})).collect();
        let mut context = self.special_tokens.clone();
        context.insert("messages".to_owned(), json!(messages));
        context.insert("add_generation_prompt".to_owned(), json!(add_generation_prompt));
        let template = self.environment.get_template(NAME);
        let rendered = template.and_then(|t| t.render(Value::from(Serde(&context))));
        rendered.map_err(|e| Error::ChatTemplate { reason: format!("{e:#}") })
    }
}

/// The time for templates that write a date: that of `SOURCE_DATE_EPOCH`, in seconds since 1970, if the variable is
/// set, so that a run can be repeated; otherwise the local time.
fn now() -> std::result::Result<jiff::Zoned, jiff::Error> {
    match std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok()) {
        Some(seconds) => Ok(jiff::Timestamp::from_second(seconds)?.to_zoned(jiff::tz::TimeZone::UTC)),
        None => Ok(jiff::Zoned::now()),
    }
}

fn find(checkpoint: &Checkpoint) -> Result<Option<String>> {
    if let Some(given) = checkpoint.chat_template() {
        return Ok(Some(given.to_owned()));
    }
    if let Some(bytes) = checkpoint.read("chat_template.jinja")? {
        let text = String::from_utf8(bytes.into_owned())
            .map_err(|e| Error::ChatTemplate { reason: format!("chat_template.jinja is not UTF-8: {e}") })?;
        return Ok(Some(text));
    }
    for file in ["chat_template.json", "processor_config.json", "tokenizer_config.json"] {
        let Some(config) = checkpoint.json(file)? else { continue };
        match config.get(NAME) {
            Some(serde_json::Value::String(source)) => return Ok(Some(source.clone())),
            // Several named templates.
            Some(serde_json::Value::Array(named)) => {
                let default = named.iter().find(|t| t.get("name").and_then(|n| n.as_str()) == Some("default"));
                let source = default.and_then(|t| t.get("template")?.as_str());
                return source.map(|s| Some(s.to_owned())).ok_or_else(|| config.error(NAME, "expected a template named `default`"));
            }
            Some(_) => return Err(config.error(NAME, "expected a string or a list of named templates")),
            None => {}
        }
    }
    Ok(None)
}

/// Removes `{% generation %}` and `{% endgeneration %}`, training marks that are not part of Jinja.
fn without_generation_marks(source: &str) -> String {
    let mut kept = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag_and_rest)) = rest.split_once("{%") {
        let Some((tag, after)) = tag_and_rest.split_once("%}") else { break };
        kept.push_str(before);
        if !matches!(tag.trim_matches(['-', '+']).trim(), "generation" | "endgeneration") {
            kept.push_str("{%");
            kept.push_str(tag);
            kept.push_str("%}");
        }
        rest = after;
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::prompt::Role;

    fn message(role: Role, text: &str) -> Message {
        Message { role, content: vec![Content::Text(text.to_owned())] }
    }

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        let tokens = [("bos_token".to_owned(), json!("<s>"))].into_iter().collect();
        ChatTemplate::compile(source, tokens)?.render(messages, true, true)
    }

    #[test]
    fn the_fallback_is_llava_1_5() {
        let image = std::sync::Arc::new(image::RgbImage::new(1, 1));
        let turn = Message { role: Role::User, content: vec![Content::Image(image), Content::Text("what is it?".to_owned())] };
        assert_eq!(render(LLAVA_1_5, &[turn]).unwrap(), "USER: <image>\nwhat is it? ASSISTANT:");
    }

    #[test]
    fn generation_marks_python_methods_and_special_tokens_are_supported() {
        let source = "{{ bos_token }}{% for m in messages %}{%- generation -%}\
             {{ m['content'][0].text.upper().strip() }}{% endgeneration %}{% endfor %}";
        assert_eq!(render(source, &[message(Role::User, " hi ")]).unwrap(), "<s>HI");
    }

    #[test]
    fn templates_may_write_the_date() {
        let year: u32 = render("{{ strftime_now('%Y') }}", &[]).unwrap().parse().unwrap();
        assert!((2024..2200).contains(&year), "{year}");
        let date = render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap();
        assert!(matches!(date.split(' ').collect::<Vec<_>>()[..], [day, month, _] if day.len() == 2 && month.len() == 3), "{date}");
        assert!(matches!(render("{{ strftime_now('%') }}", &[]), Err(Error::ChatTemplate { .. })));
    }

    #[test]
    fn a_template_may_refuse() {
        let refused = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
        assert!(refused.to_string().contains("roles must alternate"), "{refused}");
        assert!(matches!(render("{% broken", &[]), Err(Error::ChatTemplate { .. })));
    }
}
