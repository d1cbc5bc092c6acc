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

/// What a model is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation, which the model's chat template turns into text.
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
