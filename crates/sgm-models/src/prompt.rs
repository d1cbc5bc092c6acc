use std::sync::Arc;

use image::RgbImage;

/// Who speaks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions that precede the conversation.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The role's name in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text.
    Text(String),
    /// An image.
    Image(Arc<RgbImage>),
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said and shown, in order.
    pub content: Vec<Content>,
}

impl Message {
    /// Its text, without what stands between the pieces.
    pub fn text(&self) -> String {
        let pieces = self.content.iter().filter_map(|content| match content {
            Content::Text(text) => Some(text.as_str()),
            Content::Image(_) => None,
        });
        pieces.collect()
    }
}

/// What a model is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation, which the model's chat template turns into text. If it ends with a turn of the model, the answer goes
    /// on from that.
    Chat(Vec<Message>),
    /// Text as the model sees it, with the model's own image placeholder for each of `images`.
    Raw {
        /// The text.
        text: String,
        /// The images, in the order of their placeholders.
        images: Vec<Arc<RgbImage>>,
    },
}

impl Prompt {
    /// One user turn: the image, if there is one, then the text.
    pub fn user(text: impl Into<String>, image: Option<Arc<RgbImage>>) -> Self {
        let content = image.map(Content::Image).into_iter().chain([Content::Text(text.into())]).collect();
        Self::Chat(vec![Message { role: Role::User, content }])
    }

    /// The prompt with the beginning of its answer: generation goes on from there.
    ///
    /// It is the model's turn at the end of the conversation, left open, and set off from what precedes by a space where that
    /// does not end in one. The tokens are those of the response ([`TokenKind::Response`](crate::TokenKind::Response)), and the
    /// answer's text begins with them. An answer that has begun already goes on. Raw text is only made longer: there the
    /// beginning counts as part of the prompt. An empty text changes nothing.
    pub fn with_answer_start(mut self, text: &str) -> Self {
        if text.is_empty() {
            return self;
        }
        match &mut self {
            Self::Raw { text: prompt, .. } => *prompt = answered(prompt, text),
            Self::Chat(messages) => {
                let begun = messages.pop_if(|last| last.role == Role::Assistant).map(|last| last.text()).filter(|begun| !begun.is_empty());
                let text = begun.map_or_else(|| text.to_owned(), |begun| answered(&begun, text));
                messages.push(Message { role: Role::Assistant, content: vec![Content::Text(text)] });
            }
        }
        self
    }

    /// Images and characters: prompts of like size make a batch with little padding.
    pub(crate) fn size(&self) -> (usize, usize) {
        match self {
            Self::Raw { text, images } => (images.len(), text.len()),
            Self::Chat(messages) => messages.iter().flat_map(|m| &m.content).fold((0, 0), |(images, characters), content| match content {
                Content::Image(_) => (images + 1, characters),
                Content::Text(text) => (images, characters + text.len()),
            }),
        }
    }

    /// The images in order.
    pub fn images(&self) -> Vec<Arc<RgbImage>> {
        match self {
            Self::Raw { images, .. } => images.clone(),
            Self::Chat(messages) => messages
                .iter()
                .flat_map(|m| &m.content)
                .filter_map(|c| match c {
                    Content::Image(image) => Some(image.clone()),
                    Content::Text(_) => None,
                })
                .collect(),
        }
    }
}

/// A prompt's text with an answer, set off by a space where the prompt does not end in one.
pub(crate) fn answered(prompt: &str, answer: &str) -> String {
    format!("{prompt}{}{answer}", if prompt.ends_with(char::is_whitespace) { "" } else { " " })
}
