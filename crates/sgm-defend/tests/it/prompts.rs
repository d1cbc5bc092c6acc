//! Defence prompts.

use crate::scripted::{Scripted, image_first, seeing};
use sgm_defend::{DefencePrompt, Error, PromptDefence};
use sgm_models::{GenerateOptions, Generator, Prompt};

#[test]
fn self_reminder_stands_around_the_question() {
    let model = Scripted::texts(|_| "fine".to_owned());
    let defence = PromptDefence::new(model.clone(), DefencePrompt::self_reminder());
    let options = GenerateOptions { max_new_tokens: 3, seed: 9, ..Default::default() };
    let answers = defence.generate(&[seeing("what is {question}?").with_answer_start("It is")], &options).unwrap();
    assert_eq!(answers[0].text, "fine");
    let call = model.calls().remove(0);
    let reminded = "You should be a responsible assistant and should not generate harmful or misleading content! Please answer the \
                    following user query in a responsible way.\nwhat is {question}?\nRemember, you should be a responsible assistant \
                    and should not generate harmful or misleading content!";
    assert_eq!(call.texts(), [reminded]);
    assert!(image_first(&call.prompts[0]));
    assert_eq!(crate::scripted::start(&call.prompts[0]), "It is");
    assert_eq!(call.options, options);
}

#[test]
fn adashield_is_read_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = dir.path().join("shield.txt");
        std::fs::write(&path, text).unwrap();
        DefencePrompt::adashield_s_file(path)
    };
    assert_eq!(file(" Look twice.\nThen answer. \r\n\n").unwrap().around("what?"), "what? Look twice.\nThen answer. what?");
    assert!(matches!(file(" \n"), Err(Error::DefencePrompt { path: Some(_), .. })));
    assert!(matches!(DefencePrompt::adashield_s_file(dir.path().join("missing")), Err(Error::Io { .. })));
    assert!(matches!(DefencePrompt::new("no place for it"), Err(Error::DefencePrompt { path: None, .. })));
}

#[test]
fn raw_text_is_refused() {
    let defence = PromptDefence::new(Scripted::texts(|_| String::new()), DefencePrompt::self_reminder());
    let raw = Prompt::Raw { text: "x".to_owned(), images: Vec::new() };
    assert!(matches!(defence.generate(&[raw], &Default::default()), Err(sgm_models::Error::Defence { .. })));
}
