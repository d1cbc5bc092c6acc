//! The question of a prompt, and prompts with another question.

use sgm_models::{Content, Message, Prompt, Role};

use crate::{Error, Result};

/// The text of the last turn of the user.
pub(crate) fn question(prompt: &Prompt, index: usize) -> Result<String> {
    let refuse = |reason| Error::NoQuestion { prompt: index, reason };
    let Prompt::Chat(messages) = prompt else { return Err(refuse("it is raw text")) };
    let asked = messages.iter().rev().find(|message| message.role == Role::User);
    Ok(asked.ok_or_else(|| refuse("the user says nothing in it"))?.text())
}

/// The texts of the last turns of the users.
pub(crate) fn questions(prompts: &[Prompt]) -> Result<Vec<String>> {
    prompts.iter().enumerate().map(|(index, prompt)| question(prompt, index)).collect()
}

/// The prompt with another text in the last turn of the user; images keep their places.
pub(crate) fn rephrased(prompt: &Prompt, text: &str) -> Prompt {
    let Prompt::Chat(messages) = prompt else { return prompt.clone() };
    let mut messages = messages.clone();
    if let Some(asked) = messages.iter_mut().rev().find(|message| message.role == Role::User) {
        let at = asked.content.iter().position(|content| matches!(content, Content::Text(_))).unwrap_or(asked.content.len());
        asked.content.retain(|content| matches!(content, Content::Image(_)));
        // Only images precede the first text.
        asked.content.insert(at, Content::Text(text.to_owned()));
    }
    Prompt::Chat(messages)
}

/// The prompt up to the last turn of the user, without the beginning of an answer.
pub(crate) fn unanswered(prompt: &Prompt) -> Prompt {
    let Prompt::Chat(messages) = prompt else { return prompt.clone() };
    let end = messages.iter().rposition(|message| message.role == Role::User).map_or(messages.len(), |at| at + 1);
    Prompt::Chat(messages.iter().take(end).cloned().collect())
}

/// The prompt without any image.
pub(crate) fn without_images(prompt: &Prompt) -> Prompt {
    let Prompt::Chat(messages) = prompt else { return prompt.clone() };
    let blind = |message: &Message| {
        let texts = message.content.iter().filter(|content| matches!(content, Content::Text(_)));
        Message { role: message.role, content: texts.cloned().collect() }
    };
    Prompt::Chat(messages.iter().map(blind).collect())
}

/// Whether a prompt shows an image.
pub(crate) fn shows_image(prompt: &Prompt) -> bool {
    !prompt.images().is_empty()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn message(role: Role, content: Vec<Content>) -> Message {
        Message { role, content }
    }

    #[test]
    fn the_last_question_is_rephrased_and_all_else_stays() {
        let image = Content::Image(Arc::new(image::RgbImage::new(2, 3)));
        let text = |text: &str| Content::Text(text.to_owned());
        let system = message(Role::System, vec![text("be kind")]);
        let first = message(Role::User, vec![image.clone(), text("first")]);
        let reply = message(Role::Assistant, vec![text("reply")]);
        let asked = |content| message(Role::User, content);
        let start = message(Role::Assistant, vec![text("Well")]);
        let conversation = |content| Prompt::Chat(vec![system.clone(), first.clone(), reply.clone(), asked(content), start.clone()]);
        let prompt = conversation(vec![image.clone(), text("which "), image.clone(), text("one?")]);

        assert_eq!(question(&prompt, 0).unwrap(), "which one?");
        assert_eq!(rephrased(&prompt, "that"), conversation(vec![image.clone(), text("that"), image.clone()]));
        let Prompt::Chat(cut) = unanswered(&prompt) else { panic!() };
        assert_eq!(cut.last().unwrap().role, Role::User);
        assert_eq!(cut.len(), 4);
        assert!(shows_image(&prompt) && !shows_image(&without_images(&prompt)));
        assert_eq!(question(&without_images(&prompt), 0).unwrap(), "which one?");
        assert_eq!(rephrased(&Prompt::Chat(vec![asked(vec![image.clone()])]), "x"), Prompt::Chat(vec![asked(vec![image, text("x")])]));
    }

    #[test]
    fn prompts_without_a_question_are_refused() {
        let raw = Prompt::Raw { text: "x".to_owned(), images: Vec::new() };
        assert!(matches!(question(&raw, 3), Err(Error::NoQuestion { prompt: 3, .. })));
        assert!(matches!(question(&Prompt::Chat(Vec::new()), 0), Err(Error::NoQuestion { prompt: 0, .. })));
    }
}
