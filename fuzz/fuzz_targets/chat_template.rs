//! Chat templates: compiled or refused, and rendered within their limits or refused. The first line is what the user says.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sgm_models::{ChatTemplate, Content, Message, Role};

// Panics of the template engine are errors of the template; any other still aborts.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let (said, source) = text.split_once('\n').unwrap_or(("", &text));
    let tokens = [("bos_token".to_owned(), "<s>".to_owned())].into_iter().collect();
    if let Ok(template) = ChatTemplate::new("fuzz", source, tokens, Some("<image>")) {
        let text = |text: &str| Content::Text(text.to_owned());
        let message = |role, content| Message { role, content };
        let conversation = [
            message(Role::System, vec![text("Be brief.")]),
            message(Role::User, vec![Content::Image(Arc::default()), text(said)]),
            message(Role::Assistant, vec![text(said)]),
            message(Role::User, vec![text("And?")]),
        ];
        for messages in [&conversation[..], &conversation[1..2]] {
            let _ = template.render_whole(messages, true);
        }
    }
});
