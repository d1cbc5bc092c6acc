//! Prompts: conversations with images, or raw text.

use std::sync::Arc;

use image::RgbImage;

/// The speaker of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The system, which gives instructions before the conversation.
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
    /// The speaker.
    pub role: Role,
    /// The texts and images of the message, in order.
    pub content: Vec<Content>,
}

impl Message {
    /// The concatenated texts of the message.
    pub fn text(&self) -> String {
        let pieces = self.content.iter().filter_map(|content| match content {
            Content::Text(text) => Some(text.as_str()),
            Content::Image(_) => None,
        });
        pieces.collect()
    }
}

/// An input to a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation, which the model's chat template renders as text. If it ends with a turn of the model, the answer
    /// continues that turn.
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
    /// Creates a conversation of one user turn: an optional image, then the text.
    pub fn user(text: impl Into<String>, image: Option<Arc<RgbImage>>) -> Self {
        let content = image.map(Content::Image).into_iter().chain([Content::Text(text.into())]).collect();
        Self::Chat(vec![Message { role: Role::User, content }])
    }

    /// Sets the start of the answer, from which generation continues.
    ///
    /// In a conversation, the start becomes an unfinished turn of the model at the end, separated by a space from the
    /// text before it, unless that text ends in white space. Its tokens are response tokens
    /// ([`TokenKind::Response`](crate::TokenKind::Response)), and the text of the answer includes it. If the prompt
    /// already has a start, the new text is appended to it. In raw text, the start is appended to the prompt and counts
    /// as part of it. An empty text has no effect.
    pub fn with_answer_start(mut self, text: &str) -> Self {
        if text.is_empty() {
            return self;
        }
        match &mut self {
            Self::Raw { text: prompt, .. } => *prompt = join_answer(prompt, text),
            Self::Chat(messages) => {
                let begun = messages.pop_if(|last| last.role == Role::Assistant).map(|last| last.text()).filter(|begun| !begun.is_empty());
                let text = begun.map_or_else(|| text.to_owned(), |begun| join_answer(&begun, text));
                messages.push(Message { role: Role::Assistant, content: vec![Content::Text(text)] });
            }
        }
        self
    }

    /// The number of images and of bytes of text. Prompts of similar size make a batch with little padding.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Self::Raw { text, images } => (images.len(), text.len()),
            Self::Chat(messages) => messages.iter().flat_map(|m| &m.content).fold((0, 0), |(images, characters), content| match content {
                Content::Image(_) => (images + 1, characters),
                Content::Text(text) => (images, characters + text.len()),
            }),
        }
    }

    /// The images, in order.
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

/// Joins a prompt and an answer with a space, unless the prompt ends or the answer begins with white space.
pub(crate) fn join_answer(prompt: &str, answer: &str) -> String {
    let apart = prompt.ends_with(char::is_whitespace) || answer.starts_with(char::is_whitespace);
    format!("{prompt}{}{answer}", if apart { "" } else { " " })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_is_added_only_where_there_is_none() {
        for (prompt, answer, joined) in
            [("a", "b", "a b"), ("a ", "b", "a b"), ("a", " b", "a b"), ("a", "\nb", "a\nb"), ("a\n", " b", "a\n b"), ("a", "", "a ")]
        {
            assert_eq!(join_answer(prompt, answer), joined);
        }
    }
}
