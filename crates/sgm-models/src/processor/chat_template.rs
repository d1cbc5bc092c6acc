//! Chat templates: Jinja texts of checkpoints that render a conversation as a prompt.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use minijinja::{Environment, Value};

use crate::checkpoint::model_files::Checkpoint;
use crate::checkpoint::special_tokens::special_tokens;
use crate::error::{Error, Result};
use crate::processor::jinja::environment::environment;
use crate::processor::prompt::{Content, Message, Role};
use crate::processor::template_files::{self, TemplateFile};

/// A compiled chat template, which renders conversations as transformers does.
///
/// The template decides in which form it is given the content of messages: as a text, or as a list of parts. On compiling, both forms are
/// tried with a marker for the text of each role, and the form in which the template prints the marker is used; where both work, parts for
/// models that take images and texts for others. Messages with images are lists of parts if the template then prints the image placeholder,
/// otherwise texts: the placeholders, each on a line of its own, then the text, as vLLM gives them to such templates.
///
/// Templates run within limits of work, depth and size.
#[derive(Debug)]
pub struct ChatTemplate {
    file: String,
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
    placeholder: Option<String>,
    forms: Forms,
}

/// The form of the content of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A text.
    Text,
    /// A list of parts, each a text or an image.
    Parts,
}

/// The forms of messages: with images, and without by role.
#[derive(Debug, Clone, Copy)]
struct Forms {
    system: Form,
    user: Form,
    assistant: Form,
    with_images: Form,
}

/// The conversation format of LLaVA-1.5 (Vicuna's without a system text), for checkpoints without a template.
pub(crate) const LLAVA_1_5: &str = "{% for message in messages %}\
{% if message.role != 'system' %}{{ message.role | upper }}: {% endif %}\
{% for part in message.content if part.type == 'image' %}<image>\n{% endfor %}\
{% for part in message.content if part.type == 'text' %}{{ part.text }} {% endfor %}\
{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}";

impl ChatTemplate {
    /// Compiles the template of a checkpoint, otherwise `fallback`. `placeholder` stands for an image in the prompts of models that take
    /// images.
    pub(crate) fn load(checkpoint: &Checkpoint, placeholder: Option<&str>, fallback: Option<&str>) -> Result<Option<Self>> {
        let TemplateFile { name, source } = match (template_files::find(checkpoint, placeholder.is_some())?, fallback) {
            (Some(found), _) => found,
            (None, None) => return Ok(None),
            (None, Some(fallback)) => {
                tracing::warn!("the checkpoint has no chat template; using the model family's usual one");
                TemplateFile { name: "the family's chat template".to_owned(), source: fallback.to_owned() }
            }
        };
        Self::new(&name, &source, special_tokens(checkpoint, "")?, placeholder).map(Some)
    }

    /// Compiles a template.
    ///
    /// Messages of errors name it by `file`. `special_tokens` are variables of the template: `bos_token`, `eos_token` and others.
    /// `placeholder` stands for an image in the prompts of models that take images.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`] if the template is not Jinja, or uses a construct that is not supported.
    pub fn new(file: &str, source: &str, special_tokens: BTreeMap<String, String>, placeholder: Option<&str>) -> Result<Self> {
        let forms = Forms { system: Form::Text, user: Form::Text, assistant: Form::Text, with_images: Form::Text };
        let environment = guarded(file, || environment(file, source))?;
        let mut template = Self { file: file.to_owned(), environment, special_tokens, placeholder: placeholder.map(str::to_owned), forms };
        template.forms = template.find_forms();
        tracing::debug!(file, forms = ?template.forms, "content of messages");
        Ok(template)
    }

    /// Renders a conversation, with the opening of the model's turn if `add_generation_prompt`.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`] if the template refuses the conversation, uses a construct that is not supported, or exceeds its limits.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_as(messages, add_generation_prompt, self.forms)
    }

    /// Renders a conversation, and checks that what its users and the system say is in the prompt. Texts that the template changes, such as
    /// by escapes, are a warning.
    ///
    /// # Errors
    ///
    /// [`Error::MessageLost`] if such a message is not in the prompt; otherwise as [`render`](Self::render).
    pub fn render_whole(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let prompt = self.render(messages, add_generation_prompt)?;
        // The same conversation with a marker for each text: a short text may be in the prompt by chance, a marker is not.
        let marked = self.render(&with_markers(messages), add_generation_prompt);
        for (index, message) in messages.iter().enumerate().filter(|(_, message)| message.role != Role::Assistant) {
            for (part, text) in texts(message).filter(|(_, text)| !text.trim().is_empty()) {
                let lost = match &marked {
                    Ok(marked) => !marked.contains(&marker(index, part)) || survival(text, &prompt) == Survival::Lost,
                    Err(_) => survival(text, &prompt) == Survival::Lost,
                };
                if lost {
                    return Err(Error::MessageLost { file: self.file.clone(), role: message.role.name(), message: index });
                }
                if survival(text, &prompt) == Survival::Changed {
                    tracing::warn!(file = self.file, message = index, "the chat template changes the text of a message");
                }
            }
        }
        Ok(prompt)
    }

    fn render_as(&self, messages: &[Message], add_generation_prompt: bool, forms: Forms) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(|message| self.value(message, forms)).collect();
        let tokens = self.special_tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        // As in transformers, tools and documents are there, and none.
        let given = [
            ("messages", Value::from(messages)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        let context = Value::from_pairs(tokens.chain(given));
        guarded(&self.file, || self.environment.get_template(&self.file)?.render(context))
    }

    fn value(&self, message: &Message, forms: Forms) -> Value {
        let images = message.content.iter().filter(|content| matches!(content, Content::Image(_))).count();
        let form = match message.role {
            _ if images > 0 => forms.with_images,
            Role::System => forms.system,
            Role::User => forms.user,
            Role::Assistant => forms.assistant,
        };
        let content = match form {
            Form::Text => Value::from(format!("{}{}", self.placeholder_lines(images), message.text())),
            Form::Parts => {
                let part = |content: &Content| match content {
                    Content::Text(text) => Value::from_pairs([("type", "text"), ("text", text.as_str())]),
                    Content::Image(_) => Value::from_pairs([("type", "image")]),
                };
                message.content.iter().map(part).collect()
            }
        };
        Value::from_pairs([("role", Value::from(message.role.name())), ("content", content)])
    }

    fn placeholder_lines(&self, images: usize) -> String {
        self.placeholder.as_ref().map_or_else(String::new, |placeholder| format!("{placeholder}\n").repeat(images))
    }

    /// Finds the forms in which the template prints what messages say.
    fn find_forms(&self) -> Forms {
        use Role::{Assistant, System, User};
        // Some templates refuse a system text or want one, and some print the last turn only.
        const ASKED: [&[Role]; 4] = [&[System, User, Assistant, User], &[User, Assistant, User], &[System, User], &[User]];
        const INSTRUCTED: [&[Role]; 2] = [&[System, User, Assistant, User], &[System, User]];
        const ANSWERED: [&[Role]; 3] = [&[System, User, Assistant, User], &[User, Assistant, User], &[User, Assistant]];
        // Where both forms work: what users of transformers give to a processor, and to a tokenizer.
        let order = if self.placeholder.is_some() { [Form::Parts, Form::Text] } else { [Form::Text, Form::Parts] };
        let choose = |conversations: &[&[Role]], role, of: &dyn Fn(Form) -> Forms| {
            let shown = |roles: &&[Role]| order.into_iter().find(|form| self.shows(roles, role, false, of(*form)));
            conversations.iter().find_map(shown)
        };
        let Some(user) = choose(&ASKED, User, &all) else { return self.forms };
        let system = choose(&INSTRUCTED, System, &|form| Forms { system: form, ..all(user) }).unwrap_or(user);
        let forms = Forms { system, ..all(user) };
        let assistant = choose(&ANSWERED, Assistant, &|form| Forms { assistant: form, ..forms }).unwrap_or(user);
        let forms = Forms { assistant, ..forms };
        let pictured = |form: &Form| ASKED.iter().any(|roles| self.shows(roles, User, true, Forms { with_images: *form, ..forms }));
        let with_images = [Form::Parts, Form::Text].into_iter().find(pictured).unwrap_or(Form::Parts);
        Forms { with_images, ..forms }
    }

    /// Whether the prompt of a conversation has what one role says, and not as part of a printed list. With `picture`, the first such
    /// message shows an image, whose placeholder the prompt must have.
    fn shows(&self, roles: &[Role], role: Role, picture: bool, forms: Forms) -> bool {
        let text = |at: usize, speaker: Role| if speaker == role { marker(at, 0) } else { "1".to_owned() };
        let turn = |(at, speaker): (usize, &Role)| Message { role: *speaker, content: vec![Content::Text(text(at, *speaker))] };
        let mut messages: Vec<Message> = roles.iter().enumerate().map(turn).collect();
        if let (true, Some(first)) = (picture, messages.iter_mut().find(|message| message.role == role)) {
            first.content.insert(0, Content::Image(Arc::default()));
        }
        let Ok(prompt) = self.render_as(&messages, true, forms) else { return false };
        let printed = |marker: &str| prompt.contains(&format!("'text': '{marker}")) || prompt.contains(&format!("\"text\": \"{marker}"));
        let mut markers = (0..).zip(roles).filter(|(_, speaker)| **speaker == role).map(|(at, _)| marker(at, 0));
        let placed = |placeholder: &String| prompt.matches(placeholder).count() == 1;
        markers.all(|marker| prompt.contains(&marker) && !printed(&marker)) && (!picture || self.placeholder.as_ref().is_none_or(placed))
    }
}

fn all(form: Form) -> Forms {
    Forms { system: form, user: form, assistant: form, with_images: form }
}

/// A text of digits, which no change of case and no escape alters, and which no template contains.
fn marker(message: usize, part: usize) -> String {
    format!("70934{message:05}15862{part:05}94")
}

/// The texts of a message with their positions.
fn texts(message: &Message) -> impl Iterator<Item = (usize, &str)> {
    message.content.iter().enumerate().filter_map(|(part, content)| match content {
        Content::Text(text) => Some((part, text.as_str())),
        Content::Image(_) => None,
    })
}

/// The conversation with markers in place of what its users and the system say.
fn with_markers(messages: &[Message]) -> Vec<Message> {
    let mut marked = messages.to_vec();
    for (index, message) in marked.iter_mut().enumerate().filter(|(_, message)| message.role != Role::Assistant) {
        for (part, content) in message.content.iter_mut().enumerate() {
            if let Content::Text(text) = content
                && !text.trim().is_empty()
            {
                *text = marker(index, part);
            }
        }
    }
    marked
}

/// What is left of a text in a prompt.
#[derive(Debug, PartialEq, Eq)]
enum Survival {
    /// The text, but for white space around it and the case of its letters.
    Whole,
    /// Some of its words, or perhaps letters that were escaped.
    Changed,
    /// None of its words.
    Lost,
}

fn survival(text: &str, prompt: &str) -> Survival {
    if prompt.contains(text.trim()) {
        return Survival::Whole;
    }
    let [text, prompt] = [text, prompt].map(str::to_lowercase);
    let mut words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    if prompt.contains(text.trim()) {
        Survival::Whole
    } else if words.any(|word| !word.is_ascii() || prompt.contains(word)) || !text.contains(char::is_alphanumeric) {
        Survival::Changed
    } else {
        Survival::Lost
    }
}

/// Runs the template engine; a panic in it, which a template of strange numbers can cause, is an error.
fn guarded<T>(file: &str, run: impl FnOnce() -> std::result::Result<T, minijinja::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| Error::ChatTemplate { reason: format!("{e:#}") }),
        Err(_) => Err(Error::ChatTemplate { reason: format!("{file}: the template engine cannot evaluate it") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, text: &str) -> Message {
        Message { role, content: vec![Content::Text(text.to_owned())] }
    }

    fn pictured(text: &str) -> Message {
        Message { role: Role::User, content: vec![Content::Image(Arc::default()), Content::Text(text.to_owned())] }
    }

    fn template(source: &str) -> ChatTemplate {
        let tokens = [("bos_token".to_owned(), "<s>".to_owned())].into_iter().collect();
        ChatTemplate::new("chat_template.jinja", source, tokens, Some("<image>")).unwrap()
    }

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        template(source).render_whole(messages, true)
    }

    #[test]
    fn the_fallback_is_llava_1_5() {
        assert_eq!(render(LLAVA_1_5, &[pictured("what is it?")]).unwrap(), "USER: <image>\nwhat is it? ASSISTANT:");
    }

    #[test]
    fn generation_marks_python_methods_and_special_tokens_are_supported() {
        let source = "{{ bos_token }}{{ pad_token }}{% for m in messages %}{%- generation -%}\
             {{ m['content'][0].text.upper().strip() }}{% endgeneration %}{% endfor %}";
        assert_eq!(render(source, &[message(Role::User, " hi ")]).unwrap(), "<s>HI");
    }

    #[test]
    fn templates_may_write_the_date() {
        let year: u32 = template("{{ strftime_now('%Y') }}").render(&[], true).unwrap().parse().unwrap();
        assert!((2024..2200).contains(&year), "{year}");
        let date = template("{{ strftime_now('%d %b %Y') }}").render(&[], true).unwrap();
        assert!(matches!(date.split(' ').collect::<Vec<_>>()[..], [day, month, _] if day.len() == 2 && month.len() == 3), "{date}");
        assert!(matches!(template("{{ strftime_now('%') }}").render(&[], true), Err(Error::ChatTemplate { .. })));
    }

    #[test]
    fn errors_name_the_construct_and_the_file() {
        for (source, construct) in [
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
            ("\n{{ messages | strange }}", "filter strange is unknown (in chat_template.jinja:2)"),
            ("{{ 'a'.strange() }}", "no method named strange (in chat_template.jinja:1)"),
            ("{% strange %}", "unknown statement strange (in chat_template.jinja:1)"),
            ("{% set ns = namespace(a=1) %}{% set ns.a = [ns][::-1] %}{{ ns.a ~ '' }}", "a namespace cannot be kept within another value"),
            ("{% for x in range(1000) %}{% for x in range(10000) %}{% endfor %}{% endfor %}", "fuel (in chat_template.jinja:1)"),
            ("{{ 'abc'[-9223372036854775808:9223372036854775807:-9223372036854775808] }}", ""),
        ] {
            let compiled = ChatTemplate::new("chat_template.jinja", source, BTreeMap::new(), None);
            let error = compiled.and_then(|template| template.render(&[message(Role::User, "x")], true));
            match error {
                Err(error) => assert!(error.to_string().contains(construct), "{error}"),
                Ok(text) => assert!(construct.is_empty(), "{text}"),
            }
        }
    }

    #[test]
    fn the_template_decides_on_the_form_of_content() {
        let text = "{% for m in messages %}[{{ m.role + ' ' + m.content }}]{% endfor %}";
        let printed = "{% for m in messages %}[{{ m.role }} {{ m.content }}]{% endfor %}";
        let parts = "{% for m in messages %}[{{ m.role }} {% for p in m['content'] %}\
             {% if p['type'] == 'text' %}{{ p['text'] }}{% else %}<image>{% endif %}{% endfor %}]{% endfor %}";
        let both = "{% for m in messages %}[{{ m.role }} {% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}\
             {% if p.type == 'text' %}{{ p.text }}{% else %}<image>{% endif %}{% endfor %}{% endif %}]{% endfor %}";
        // The system text is only ever text, and a list would be printed as such.
        let mixed = format!("{{{{ messages[0]['content'] | trim }}}}{{% set messages = messages[1:] %}}{parts}");
        let conversation = [message(Role::System, "s"), pictured("a?"), message(Role::Assistant, "b"), message(Role::User, "c?")];
        for source in [text, printed] {
            assert_eq!(render(source, &conversation).unwrap(), "[system s][user <image>\na?][assistant b][user c?]", "{source}");
        }
        for source in [parts, both] {
            assert_eq!(render(source, &conversation).unwrap(), "[system s][user <image>a?][assistant b][user c?]", "{source}");
        }
        assert_eq!(render(&mixed, &conversation).unwrap(), "s[user <image>a?][assistant b][user c?]");
    }

    #[test]
    fn a_list_without_a_place_for_images_is_not_used_for_them() {
        let source = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
             {% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}";
        assert_eq!(render(source, &[pictured("a?")]).unwrap(), "<image>\na?");
    }

    #[test]
    fn a_message_that_the_template_leaves_out_is_an_error() {
        let conversation =
            [message(Role::System, "user"), message(Role::User, "a?"), message(Role::Assistant, "b"), message(Role::User, "r")];
        let lost = |source: &str| match render(source, &conversation) {
            Err(Error::MessageLost { file, role, message }) => {
                assert_eq!(file, "chat_template.jinja");
                Some((role, message))
            }
            other => {
                other.unwrap();
                None
            }
        };
        assert_eq!(lost("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"), None);
        assert_eq!(lost("{% for m in messages %}{{ m.role }}: {{ m.text }}{% endfor %}"), Some(("system", 0)));
        assert_eq!(lost("{% for m in messages if m.role != 'system' %}{{ m.role }}{{ m.content }}{% endfor %}"), Some(("system", 0)));
        assert_eq!(lost("{{ messages[0].content }}{{ messages[-1].content }}"), Some(("user", 1)));
        assert_eq!(lost("{% for m in messages[:-1] %}{{ m.role }}{{ m.content }}{% endfor %}"), Some(("user", 3)));
        // Changed texts are no lost texts.
        for change in ["| trim", "| upper", "| e", "| tojson", ".strip()", ".replace('?', '')", ".title()"] {
            assert_eq!(lost(&format!("{{% for m in messages %}}{{{{ m.content{change} }}}}{{% endfor %}}")), None, "{change}");
        }
        let secret = "{% for m in messages %}{{ m.content if 'c' not in m.content else '' }}{% endfor %}";
        assert!(matches!(render(secret, &[message(Role::User, "secret code")]), Err(Error::MessageLost { message: 0, .. })));
        assert_eq!(render("{% for m in messages %}{{ m.content }}{% endfor %}", &[message(Role::User, " \n")]).unwrap(), " \n");
    }
}
