//! Chat templates of published shapes, rendered as transformers does; where a template is found; what it is given.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sgm_models::{AutoMllm, Checkpoint, Content, Error, Message, Mllm, Prompt, Role};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn cases() -> Value {
    serde_json::from_slice(&fs::read(golden().join("chat_templates/cases.json")).unwrap()).unwrap()
}

fn messages(conversation: &Value) -> Vec<Message> {
    let role = |name: &Value| [Role::System, Role::User, Role::Assistant].into_iter().find(|role| name == role.name()).unwrap();
    let part = |part: &Value| match part["text"].as_str() {
        Some(text) => Content::Text(text.to_owned()),
        None => Content::Image(std::sync::Arc::default()),
    };
    let content = |message: &Value| message["content"].as_array().unwrap().iter().map(part).collect();
    conversation.as_array().unwrap().iter().map(|m| Message { role: role(&m["role"]), content: content(m) }).collect()
}

/// A copy of a fixture without its chat template.
struct Model {
    directory: tempfile::TempDir,
}

impl Model {
    /// A text model, or with `placeholder` one that takes images and represents them by that token.
    fn new(placeholder: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for file in fs::read_dir(golden().join(if placeholder.is_some() { "llava_mha" } else { "text_llama" })).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            if name.contains("template") || name.contains("golden") || name.ends_with(".png") || name == "special_tokens_map.json" {
                continue;
            }
            let mut bytes = fs::read(file.path()).unwrap();
            if let ("tokenizer.json", Some(placeholder)) = (name.as_str(), placeholder) {
                bytes = String::from_utf8(bytes).unwrap().replace("\"<image>\"", &json!(placeholder).to_string()).into_bytes();
            }
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let model = Self { directory };
        model.set("tokenizer_config.json", "chat_template", Value::Null);
        model
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        fs::create_dir_all(self.path(file).parent().unwrap()).unwrap();
        fs::write(self.path(file), text).unwrap();
    }

    /// Sets a key of a JSON file.
    fn set(&self, file: &str, key: &str, value: Value) {
        let mut object: Map<String, Value> = fs::read(self.path(file)).map_or_else(|_| Map::new(), |b| serde_json::from_slice(&b).unwrap());
        object.insert(key.to_owned(), value);
        self.write(file, &Value::Object(object).to_string());
    }

    fn load(&self) -> sgm_models::Result<AutoMllm> {
        AutoMllm::load(&Checkpoint::open(self.directory.path())?)
    }
}

/// Replaces the date of the golden files by today's.
fn today(text: &str) -> String {
    let now = jiff::Zoned::now();
    let dates =
        [("03 Feb 2019", "%d %b %Y"), ("February 03, 2019", "%B %d, %Y"), ("03 February 2019", "%d %B %Y"), ("2019-02-03", "%Y-%m-%d")];
    dates.iter().fold(text.to_owned(), |text, (then, format)| text.replace(then, &now.strftime(format).to_string()))
}

#[test]
fn templates_of_published_shapes_render_as_in_transformers() {
    let cases = cases();
    let templates = cases["templates"].as_object().unwrap();
    assert!(templates.len() >= 40);
    let mut compared = 0;
    for (name, case) in templates {
        let model = Model::new(case["placeholder"].as_str());
        model.write("tokenizer_config.json", &case["tokens"].to_string());
        fs::copy(golden().join(format!("chat_templates/{name}.jinja")), model.path("chat_template.jinja")).unwrap();
        let model = model.load().unwrap();
        for (conversation, opened) in case["rendered"].as_object().unwrap() {
            let opened = opened.as_str();
            let closed = match (&case["closed"][conversation], opened) {
                (Value::Number(cut), Some(opened)) => {
                    let kept = opened.chars().count() - usize::try_from(cut.as_u64().unwrap()).unwrap();
                    Some(opened.chars().take(kept).collect::<String>())
                }
                (closed, _) => closed.as_str().map(str::to_owned),
            };
            let messages = messages(&cases["conversations"][conversation]);
            for (expected, opening) in [(opened.map(str::to_owned), true), (closed, false)] {
                let rendered = model.processor().apply_chat_template(&messages, opening);
                match expected {
                    Some(expected) => assert_eq!(rendered.unwrap(), today(&expected), "{name}, {conversation}, {opening}"),
                    None => assert!(matches!(rendered, Err(Error::ChatTemplate { .. })), "{name}, {conversation}: {rendered:?}"),
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn prompts_are_whole_or_refused() {
    let cases = cases();
    let mut lost = Vec::new();
    for (name, case) in cases["templates"].as_object().unwrap() {
        let model = Model::new(case["placeholder"].as_str());
        model.write("tokenizer_config.json", &case["tokens"].to_string());
        fs::copy(golden().join(format!("chat_templates/{name}.jinja")), model.path("chat_template.jinja")).unwrap();
        let model = model.load().unwrap();
        for (conversation, rendered) in case["rendered"].as_object().unwrap() {
            let messages = messages(&cases["conversations"][conversation]);
            if rendered.is_null() || messages.last().unwrap().role == Role::Assistant {
                continue;
            }
            match model.processor().render(&Prompt::Chat(messages)) {
                Ok(prompt) => assert_eq!(prompt, today(rendered.as_str().unwrap()), "{name}, {conversation}"),
                Err(Error::MessageLost { role, .. }) => lost.push((name.clone(), conversation.clone(), role)),
                Err(e) => panic!("{name}, {conversation}: {e}"),
            }
        }
    }
    // One of them has no place for a system text, the other judges the last turn only.
    assert!(lost.iter().all(|(name, ..)| ["phi3_without_system", "shieldgemma"].contains(&name.as_str())), "{lost:?}");
    for (name, conversation, role) in [("phi3_without_system", "system", "system"), ("shieldgemma", "multi", "user")] {
        assert!(lost.contains(&(name.to_owned(), conversation.to_owned(), role)), "{name}, {conversation}");
    }
}

#[test]
fn constructs_of_jinja_and_python_render_as_in_transformers() {
    let cases = cases();
    let messages = messages(&cases["features_messages"]);
    for feature in cases["features"].as_array().unwrap() {
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, token)| (name.to_owned(), token.to_owned()));
        let source = feature[0].as_str().unwrap();
        let template = sgm_models::ChatTemplate::new("chat_template.jinja", source, tokens.into_iter().collect(), None);
        let rendered = template.and_then(|template| template.render(&messages, true));
        match feature[1].as_str() {
            Some(expected) => assert_eq!(rendered.unwrap(), expected, "{source}"),
            None => assert!(rendered.unwrap_err().to_string().contains("chat_template.jinja"), "{source}"),
        }
    }
}

#[test]
fn a_template_is_taken_from_the_file_that_transformers_takes_it_from() {
    let cases = cases();
    let models = [Model::new(Some("<image>")), Model::new(None)];
    let prompt = Prompt::user("x", None);
    for case in cases["sources"].as_array().unwrap() {
        let present: Vec<&str> = case[0].as_array().unwrap().iter().map(|kind| kind.as_str().unwrap()).collect();
        for (model, expected) in models.iter().zip([case[1].as_str(), case[2].as_str()]) {
            for file in ["chat_template.json", "chat_template.jinja"] {
                let _ = fs::remove_file(model.path(file));
            }
            let _ = fs::remove_dir_all(model.path("additional_chat_templates"));
            for file in ["processor_config.json", "tokenizer_config.json"] {
                model.set(file, "chat_template", Value::Null);
            }
            for kind in &present {
                let template = format!("{kind}{{{{ messages[0].content }}}}");
                match *kind {
                    "tokenizer_config.json, named" => {
                        let named = json!([{"name": "rag", "template": "rag"}, {"name": "default", "template": template}]);
                        model.set("tokenizer_config.json", "chat_template", named);
                    }
                    "additional_chat_templates" => model.write("additional_chat_templates/default.jinja", &template),
                    kind if kind.ends_with(".jinja") => model.write(kind, &template),
                    kind => model.set(kind, "chat_template", template.into()),
                }
            }
            let rendered = model.load().and_then(|model| model.processor().render(&prompt));
            match expected {
                Some(expected) => assert_eq!(rendered.unwrap(), format!("{expected}x"), "{present:?}"),
                // Where transformers has none, the file of the other class is better than the family's usual template.
                None if present.iter().any(|kind| kind.starts_with("additional")) => {
                    assert!(matches!(rendered, Err(Error::ChatTemplate { .. })), "{present:?}: {rendered:?}");
                }
                None if present.is_empty() => match rendered {
                    Ok(usual) => assert_eq!(usual, "USER: x ASSISTANT:"),
                    Err(error) => assert!(error.to_string().contains("add a chat_template.jinja"), "{error}"),
                },
                None => assert!(present.contains(&rendered.unwrap().strip_suffix('x').unwrap()), "{present:?}"),
            }
        }
    }
}

#[test]
fn a_template_is_given_the_special_tokens_of_transformers() {
    let cases = cases();
    for case in cases["special_tokens"].as_array().unwrap() {
        let model = Model::new(None);
        model.write("tokenizer_config.json", &case[0].to_string());
        if !case[1].is_null() {
            model.write("special_tokens_map.json", &case[1].to_string());
        }
        model.write("chat_template.jinja", cases["tokens_template"].as_str().unwrap());
        let rendered = model.load().unwrap().processor().render(&Prompt::user("x", None)).unwrap();
        assert_eq!(rendered, case[2].as_str().unwrap(), "{case}");
    }
}

#[test]
fn the_beginning_of_the_sequence_is_not_doubled() {
    let model = Model::new(None);
    model.write("chat_template.jinja", "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}");
    let model = model.load().unwrap();
    let ids = model.processor().token_ids(&model.processor().render(&Prompt::user("What is this?", None)).unwrap()).unwrap();
    assert_eq!(ids, model.processor().token_ids("What is this?").unwrap());
}

#[test]
fn a_template_for_texts_is_given_placeholders_of_images_as_text() {
    let model = Model::new(Some("<image>"));
    let chatml = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}{% endfor %}";
    model.set("tokenizer_config.json", "chat_template", chatml.into());
    let model = model.load().unwrap();
    let prompt = Prompt::user("What is this?", Some(std::sync::Arc::new(image::RgbImage::new(8, 8))));
    assert_eq!(model.processor().render(&prompt).unwrap(), "<|im_start|>user\n<image>\nWhat is this?<|im_end|>\n");
    let inputs = model.processor().prompts([&prompt], sgm_models::Padding::Left).unwrap();
    let images = inputs.kinds.iter().flatten().filter(|kind| **kind == sgm_models::TokenKind::Image).count();
    assert_eq!(images, 4);
}
