//! The answers of OpenAI-compatible servers: replies, and errors in their many forms.

use std::time::Duration;

use serde_json::Value;

/// Words of errors that lie in one prompt: content filters, and prompts that are too long.
const OF_PROMPT: [&str; 13] = [
    "content_filter",
    "content filter",
    "content management policy",
    "content_policy",
    "content policy",
    "responsibleaipolicyviolation",
    "moderation",
    "flagged",
    "invalid_prompt",
    "context_length",
    "context length",
    "string_above_max_length",
    "too long",
];

/// What a fault is the fault of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Of the server or the key: every other prompt would fail too.
    Server,
    /// Of this prompt.
    Prompt,
    /// Of the temperature in the request.
    Temperature,
    /// Of the prompt or of the settings.
    Unknown,
}

/// A request without a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: String,
    pub(crate) scope: Scope,
    /// Whether the same request may have a reply later.
    pub(crate) again: bool,
    /// The wait that the server asks for.
    pub(crate) wait: Option<Duration>,
}

impl Fault {
    pub(crate) fn new(scope: Scope, again: bool, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), scope, again, wait: None }
    }
}

/// The reply in the body of a chat completion: its text, or its parts of text joined. Reasoning beside it is ignored.
pub(crate) fn content(body: &str) -> Result<String, Fault> {
    let broken = || Fault::new(Scope::Prompt, true, format!("no chat completion (`choices[0].message.content`): {}", shortened(body)));
    let completion: Value = serde_json::from_str(body).map_err(|_| broken())?;
    if completion.pointer("/choices/0").is_none() && error_of(&completion).is_some() {
        return Err(fault(200, body));
    }
    let message = completion.pointer("/choices/0/message").ok_or_else(broken)?;
    let text = match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => parts.iter().filter_map(part).collect(),
        Some(Value::Null) | None if message.is_object() => String::new(),
        _ => return Err(broken()),
    };
    if !text.trim().is_empty() {
        return Ok(text);
    }
    let said = |name: &str, value: Option<&Value>| value.and_then(Value::as_str).map(|value| format!("; {name}: {}", shortened(value)));
    let finish = said("finish_reason", completion.pointer("/choices/0/finish_reason"));
    let refusal = said("refusal", message.get("refusal"));
    let reason = format!("the reply has no content{}{}", finish.unwrap_or_default(), refusal.unwrap_or_default());
    Err(Fault::new(Scope::Prompt, false, reason))
}

/// The text of one part of a reply; none of reasoning, images and the like.
fn part(part: &Value) -> Option<&str> {
    let kind = part.get("type").and_then(Value::as_str);
    let text = part.get("text").filter(|_| kind.is_none_or(|kind| matches!(kind, "text" | "output_text")));
    part.as_str().or_else(|| text.and_then(Value::as_str))
}

/// The fault that an answer with this status and body tells of. The status of an error in a body with status 200 is the one it names.
pub(crate) fn fault(status: u16, body: &str) -> Fault {
    let json: Option<Value> = serde_json::from_str(body).ok();
    let error = json.as_ref().and_then(error_of);
    let field = |name: &str| error.and_then(|e| e.get(name)).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let message = error.and_then(Value::as_str).map(str::to_owned).or_else(|| field("message"));
    let message = message.unwrap_or_else(|| error.map_or_else(|| body.to_owned(), Value::to_string));
    let names = [field("code"), field("type"), field("status"), error.and_then(|e| e.pointer("/innererror/code")).map(Value::to_string)];
    let names = names.into_iter().flatten().collect::<Vec<_>>().join(" ").to_lowercase();
    let status = if (200..300).contains(&status) { named_status(&names, field("code")) } else { status };
    let all = format!("{names} {}", message.to_lowercase());
    let reason = format!("status {status}: {}", shortened(&message));
    let of_prompt = OF_PROMPT.iter().any(|word| all.contains(word));
    match status {
        400 | 403 | 413 | 422 if of_prompt => Fault::new(Scope::Prompt, false, reason),
        400 | 422 if field("param").as_deref() == Some("temperature") || all.contains("temperature") => {
            Fault::new(Scope::Temperature, false, reason)
        }
        400 | 413 | 422 => Fault::new(Scope::Unknown, false, reason),
        _ => Fault::new(Scope::Server, matches!(status, 408 | 429 | 500..=599), reason),
    }
}

/// The error in a body: an object or a text.
fn error_of(body: &Value) -> Option<&Value> {
    let body = body.as_array().and_then(|list| list.first()).unwrap_or(body);
    let whole = || Some(body).filter(|body| body.get("object").and_then(Value::as_str) == Some("error"));
    body.get("error").filter(|error| !error.is_null()).or_else(whole).or_else(|| body.get("detail"))
}

/// The status of an error that came with status 200: the number or the name in it, else 400.
fn named_status(names: &str, code: Option<String>) -> u16 {
    let has = |words: &[&str]| words.iter().any(|word| names.contains(word));
    match code.and_then(|code| code.parse().ok()) {
        Some(code) if (400..600).contains(&code) => code,
        _ if has(&["rate_limit", "quota", "resource_exhausted"]) => 429,
        _ if has(&["server_error", "internal", "overloaded", "unavailable", "timeout"]) => 503,
        _ if has(&["api_key", "authentication", "permission", "unauthenticated"]) => 401,
        _ => 400,
    }
}

/// The first 200 characters.
fn shortened(text: &str) -> String {
    text.trim().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_texts_or_parts() {
        let reply = |message: &str| content(&format!(r#"{{"choices": [{{"message": {message}}}]}}"#));
        assert_eq!(reply(r#"{"content": "safe"}"#).unwrap(), "safe");
        assert_eq!(reply(r#"{"content": [{"type": "text", "text": "un"}, {"type": "text", "text": "safe"}]}"#).unwrap(), "unsafe");
        let thinks =
            r#"{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "unsafe"}]}, {"type": "text", "text": "safe"}]}"#;
        assert_eq!(reply(thinks).unwrap(), "safe");
        for message in [r#"{"content": null, "reasoning_content": "unsafe"}"#, r#"{"content": ""}"#, r#"{"content": []}"#, "{}"] {
            let fault = reply(message).unwrap_err();
            assert_eq!((fault.scope, fault.again), (Scope::Prompt, false), "{message}");
        }
        assert!(reply(r#"{"content": null, "refusal": "I cannot"}"#).unwrap_err().reason.ends_with("refusal: I cannot"));
    }

    #[test]
    fn bodies_that_are_no_completion_are_faults_of_the_prompt() {
        for body in ["", "{", "[]", "{}", "null", "{\"choices\": []}", "{\"choices\": [{\"message\": 3}]}", "<html>"] {
            let fault = content(body).unwrap_err();
            assert_eq!((fault.scope, fault.again), (Scope::Prompt, true), "{body}");
        }
        assert!(content("{\"choices\": [{\"message\": {\"content\": 7}}]}").unwrap_err().reason.contains("no chat completion"));
    }

    #[test]
    fn errors_are_told_apart() {
        for (status, body, scope, again, shown) in [
            (
                400,
                r#"{"error": {"message": "It was filtered.", "code": "content_filter", "type": null}}"#,
                Scope::Prompt,
                false,
                "It was filtered.",
            ),
            (400, r#"{"error": {"message": "m", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}"#, Scope::Prompt, false, "m"),
            (400, r#"{"error": {"message": "This model's maximum context length is 8 tokens"}}"#, Scope::Prompt, false, "8 tokens"),
            (403, r#"{"error": {"message": "your input was flagged", "code": 403}}"#, Scope::Prompt, false, "flagged"),
            (403, r#"{"error": {"message": "no access"}}"#, Scope::Server, false, "no access"),
            (400, r#"{"error": {"message": "Unsupported value", "param": "temperature"}}"#, Scope::Temperature, false, "Unsupported"),
            (422, r#"{"detail": "no such field"}"#, Scope::Unknown, false, "no such field"),
            (400, "no such model", Scope::Unknown, false, "no such model"),
            (404, r#"{"object": "error", "message": "no such model", "code": 404}"#, Scope::Server, false, "no such model"),
            (429, r#"{"error": {"message": "slow down"}}"#, Scope::Server, true, "slow down"),
            (503, "", Scope::Server, true, "503"),
        ] {
            let fault = fault(status, body);
            assert_eq!((fault.scope, fault.again), (scope, again), "{body}");
            assert!(fault.reason.contains(shown), "{body}: {}", fault.reason);
        }
    }

    #[test]
    fn errors_with_status_200_are_what_they_say() {
        for (body, scope, again) in [
            (r#"{"error": {"message": "rate limit", "code": 429}}"#, Scope::Server, true),
            (r#"{"error": {"message": "m", "code": "rate_limit_exceeded"}}"#, Scope::Server, true),
            (r#"[{"error": {"message": "m", "status": "UNAVAILABLE"}}]"#, Scope::Server, true),
            (r#"{"error": {"message": "m", "type": "authentication_error"}}"#, Scope::Server, false),
            (r#"{"error": {"message": "m", "code": "content_filter"}}"#, Scope::Prompt, false),
            (r#"{"error": "something"}"#, Scope::Unknown, false),
        ] {
            let fault = content(body).unwrap_err();
            assert_eq!((fault.scope, fault.again), (scope, again), "{body}");
        }
    }
}
