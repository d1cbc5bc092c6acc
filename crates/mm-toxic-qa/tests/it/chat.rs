//! The chat judge against a real server on this machine.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mm_toxic_qa::{ChatJudge, ChatOptions, Error, Exchange, Judge, JudgeTemplates};
use serde_json::{Value, json};

/// A variable that Cargo sets for tests; its value serves as a key.
const KEY_VARIABLE: &str = "CARGO_PKG_NAME";
const KEY: &str = "mm-toxic-qa";

/// The response of the server to a request.
struct Answer {
    status: u16,
    body: String,
    retry_after: Option<&'static str>,
    delay: Duration,
}

fn status(status: u16, body: &str) -> Answer {
    Answer { status, body: body.to_owned(), retry_after: None, delay: Duration::ZERO }
}

fn says(reply: &str) -> Answer {
    status(200, &json!({"choices": [{"message": {"role": "assistant", "content": reply}}]}).to_string())
}

struct Server {
    url: String,
    server: Arc<tiny_http::Server>,
    /// Body and authorisation of every request.
    requests: Arc<Mutex<Vec<(Value, String)>>>,
    most_at_once: Arc<AtomicUsize>,
}

impl Server {
    /// Answers the n-th request (from 0) with `answer(n, its prompt)`, every request on a thread of its own.
    fn start(answer: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").unwrap());
        let url = format!("http://{}/v1/", server.server_addr());
        let (requests, most_at_once) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (listening, seen, most) = (server.clone(), requests.clone(), most_at_once.clone());
        let (now, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
        std::thread::spawn(move || {
            while let Ok(mut request) = listening.recv() {
                let (seen, most, now, answer) = (seen.clone(), most.clone(), now.clone(), answer.clone());
                std::thread::spawn(move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    assert_eq!((request.url(), request.method().as_str()), ("/v1/chat/completions", "POST"));
                    let key = request.headers().iter().find(|h| h.field.equiv("authorization")).unwrap().value.to_string();
                    let body: Value = serde_json::from_reader(request.as_reader()).unwrap();
                    let prompt = body["messages"][0]["content"].as_str().unwrap().to_owned();
                    let n = {
                        let mut seen = seen.lock().unwrap();
                        seen.push((body, key));
                        seen.len() - 1
                    };
                    let Answer { status, body, retry_after, delay } = answer(n, &prompt);
                    std::thread::sleep(delay);
                    now.fetch_sub(1, Ordering::SeqCst);
                    let mut response = tiny_http::Response::from_string(body).with_status_code(status);
                    if let Some(seconds) = retry_after {
                        response.add_header(tiny_http::Header::from_bytes("Retry-After", seconds).unwrap());
                    }
                    let _ = request.respond(response);
                });
            }
        });
        Self { url, server, requests, most_at_once }
    }

    fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn options(&self) -> ChatOptions {
        ChatOptions {
            base_url: self.url.clone(),
            key_variable: KEY_VARIABLE.to_owned(),
            timeout: Duration::from_secs(20),
            retries: 2,
            wait: Duration::from_millis(5),
            ..ChatOptions::default()
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.server.unblock();
    }
}

fn judge(options: ChatOptions) -> ChatJudge {
    ChatJudge::new("a-model", JudgeTemplates::general(), options).unwrap()
}

fn error(server: &Server) -> (String, usize) {
    match judge(server.options()).judge_one(Exchange::new("p", "r")).unwrap_err() {
        Error::Chat { reason, attempts, .. } => (reason, attempts),
        other => panic!("{other}"),
    }
}

#[test]
fn answers_are_judged_in_their_order() {
    let server = Server::start(|_, prompt| says(if prompt.contains("PLACEHOLDER-BAD") { "Unsafe." } else { "safe" }));
    let judge = judge(server.options());
    let exchanges = [Exchange::new("q", "PLACEHOLDER-BAD 1"), Exchange::new("q", "fine"), Exchange::new("q", "PLACEHOLDER-BAD 2")];
    let verdicts = judge.judge(&exchanges).unwrap();
    assert_eq!(verdicts.iter().map(|v| v.label).collect::<Vec<_>>(), [Some(true), Some(false), Some(true)]);
    assert_eq!(verdicts[0].raw, "Unsafe.");
    assert_eq!(verdicts[0].prompt_sha256.as_ref().unwrap().len(), 64);
    assert_ne!(verdicts[0].prompt_sha256, verdicts[1].prompt_sha256);
    assert!(verdicts[0].id.starts_with("chat/a-model/") && verdicts[0].id.ends_with("/verdict"), "{}", verdicts[0].id);
    for (body, key) in server.requests.lock().unwrap().iter() {
        assert_eq!(key, &format!("Bearer {KEY}"));
        assert_eq!((&body["model"], &body["temperature"]), (&json!("a-model"), &json!(0)));
        assert_eq!(body["messages"].as_array().unwrap().len(), 1);
        assert!(!body.to_string().contains("\"q\""), "the question is not sent");
    }
    assert_eq!(judge.judge(&[]).unwrap(), []);
}

#[test]
fn equal_answers_are_asked_once() {
    let server = Server::start(|_, _| says("safe"));
    let verdicts = judge(server.options()).judge(&[Exchange::new("q", "same"); 5]).unwrap();
    assert_eq!((verdicts.len(), server.requests()), (5, 1));
}

#[test]
fn replies_without_a_verdict_are_unparsed() {
    let server = Server::start(|n, _| match n {
        0 => says("I would rather not say."),
        _ => status(200, &json!({"choices": [{"finish_reason": "content_filter", "message": {"content": null}}]}).to_string()),
    });
    let judge = judge(ChatOptions { concurrency: 1, ..server.options() });
    let verdicts = judge.judge(&[Exchange::new("q", "a"), Exchange::new("q", "b")]).unwrap();
    assert_eq!((verdicts[0].label, verdicts[0].raw.as_str()), (None, "I would rather not say."));
    assert_eq!((verdicts[1].label, verdicts[1].raw.as_str()), (None, "no reply: the reply has no content; finish_reason: content_filter"));
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let server = Server::start(|n, _| match n {
        0 => Answer { retry_after: Some("1"), ..status(429, "slow down") },
        1 => status(503, "restarting"),
        _ => says("unsafe"),
    });
    let start = Instant::now();
    let verdict = judge(server.options()).judge_one(Exchange::new("q", "r")).unwrap();
    assert_eq!((verdict.label, server.requests()), (Some(true), 3));
    assert!(start.elapsed() >= Duration::from_secs(1), "Retry-After was not kept: {:?}", start.elapsed());
}

#[test]
fn the_longest_wait_holds_against_the_server() {
    let server = Server::start(|n, _| if n == 0 { Answer { retry_after: Some("3600"), ..status(429, "") } } else { says("safe") });
    let options = ChatOptions { longest_wait: Duration::from_millis(20), ..server.options() };
    assert_eq!(judge(options).judge_one(Exchange::new("q", "r")).unwrap().label, Some(false));
}

#[test]
fn repetitions_are_limited() {
    let server = Server::start(|_, _| status(500, "broken PLACEHOLDER mm-toxic-qa"));
    let (reason, attempts) = error(&server);
    assert_eq!((attempts, server.requests()), (3, 3));
    assert_eq!(reason, "status 500: broken PLACEHOLDER [key]", "the key is not repeated");
}

#[test]
fn permanent_errors_are_not_repeated() {
    for code in [400, 401, 404, 302] {
        let server = Server::start(move |_, _| status(code, "no such model"));
        let (reason, attempts) = error(&server);
        assert_eq!((attempts, server.requests()), (1, 1), "{code}");
        assert!(reason.contains(&code.to_string()), "{reason}");
        assert_eq!(reason.contains("no such model"), code != 401, "{reason}");
    }
}

#[test]
fn a_server_that_does_not_answer_in_time_is_asked_again() {
    let server = Server::start(|n, _| Answer { delay: if n == 0 { Duration::from_secs(3) } else { Duration::ZERO }, ..says("safe") });
    let options = ChatOptions { timeout: Duration::from_millis(500), ..server.options() };
    let start = Instant::now();
    assert_eq!(judge(options).judge_one(Exchange::new("q", "r")).unwrap().label, Some(false));
    assert_eq!(server.requests(), 2);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_server_that_never_answers_or_is_not_there_is_an_error() {
    let server = Server::start(|_, _| Answer { delay: Duration::from_secs(2), ..says("safe") });
    let options = ChatOptions { timeout: Duration::from_millis(100), retries: 1, ..server.options() };
    let error = judge(options).judge_one(Exchange::new("q", "r")).unwrap_err();
    assert!(matches!(&error, Error::Chat { attempts: 2, reason, .. } if reason.contains("timeout")), "{error}");

    let nobody = ChatOptions { base_url: "http://127.0.0.1:1".to_owned(), ..server.options() };
    let error = judge(nobody).judge_one(Exchange::new("q", "r")).unwrap_err();
    assert!(matches!(&error, Error::Chat { attempts: 3, url, .. } if url == "http://127.0.0.1:1/chat/completions"), "{error}");
}

#[test]
fn a_broken_completion_is_asked_for_again_and_then_unparsed() {
    for body in ["{\"choices\": [", "[]", "{}", "{\"choices\": []}", "{\"choices\": [{\"message\": {\"content\": 7}}]}", "<html>"] {
        let server = Server::start(move |_, prompt| if prompt.contains("PLACEHOLDER-BAD") { status(200, body) } else { says("unsafe") });
        let exchanges = [Exchange::new("q", "fine"), Exchange::new("q", "PLACEHOLDER-BAD")];
        let verdicts = judge(server.options()).judge(&exchanges).unwrap();
        assert_eq!(verdicts.iter().map(|v| v.label).collect::<Vec<_>>(), [Some(true), None], "{body}");
        assert!(verdicts[1].raw.contains("no chat completion"), "{body}: {}", verdicts[1].raw);
        assert_eq!(server.requests(), 4, "{body}");
    }
    let server = Server::start(|n, _| if n == 0 { status(200, "{") } else { says("unsafe") });
    assert_eq!(judge(server.options()).judge_one(Exchange::new("q", "r")).unwrap().label, Some(true));
}

#[test]
fn a_filtered_answer_is_unparsed_and_the_others_are_judged() {
    let filtered = json!({"error": {"message": "The response was filtered.", "code": "content_filter", "param": "prompt", "status": 400}});
    let unknown = json!({"error": {"message": "Something is wrong with this prompt."}});
    for (body, said) in [(filtered, "status 400: The response was filtered."), (unknown, "status 400: Something is wrong")] {
        let body = body.to_string();
        let server = Server::start(move |_, prompt| if prompt.contains("PLACEHOLDER-BAD") { status(400, &body) } else { says("safe") });
        let exchanges = [Exchange::new("q", "one"), Exchange::new("q", "PLACEHOLDER-BAD"), Exchange::new("q", "two")];
        let verdicts = judge(server.options()).judge(&exchanges).unwrap();
        assert_eq!(verdicts.iter().map(|v| v.label).collect::<Vec<_>>(), [Some(false), None, Some(false)]);
        assert!(verdicts[1].raw.contains(said), "{}", verdicts[1].raw);
        assert_eq!(server.requests(), 3, "a filter is not asked again");
    }
}

#[test]
fn what_a_server_rejects_every_time_is_an_error() {
    let server = Server::start(|_, _| status(400, r#"{"error": {"message": "unknown field `messages`"}}"#));
    let texts: Vec<String> = (0..200).map(|i| format!("answer {i}")).collect();
    let exchanges: Vec<Exchange<'_>> = texts.iter().map(|t| Exchange::new("q", t)).collect();
    let error = judge(server.options()).judge(&exchanges).unwrap_err();
    assert!(error.to_string().contains("unknown field `messages`"), "{error}");
    assert!(server.requests() < 40, "{} requests", server.requests());
}

#[test]
fn an_error_with_status_200_is_shown() {
    let server = Server::start(|_, _| status(200, r#"{"error": {"message": "rate limit", "code": 429}}"#));
    let (reason, attempts) = error(&server);
    assert_eq!((reason.as_str(), attempts), ("status 429: rate limit", 3));
}

#[test]
fn a_server_may_refuse_the_temperature() {
    let refusal = json!({"error": {"message": "Unsupported value: 'temperature' does not support 0.", "param": "temperature"}}).to_string();
    let server = Server::start(move |n, _| if n == 0 { status(400, &refusal) } else { says("safe") });
    let by_itself = judge(ChatOptions { concurrency: 1, ..server.options() });
    let verdicts = by_itself.judge(&[Exchange::new("q", "a"), Exchange::new("q", "b")]).unwrap();
    assert!(verdicts.iter().all(|v| v.label == Some(false) && v.id.ends_with("/verdict/server-temperature")), "{verdicts:?}");
    let temperatures: Vec<Value> = server.requests.lock().unwrap().iter().map(|(body, _)| body["temperature"].clone()).collect();
    assert_eq!(temperatures, [json!(0), Value::Null, Value::Null], "asked once with it");

    for (temperature, sent) in [(None, Value::Null), (Some(0.5), json!(0.5))] {
        let server = Server::start(|_, _| says("safe"));
        let judge = judge(ChatOptions { temperature, ..server.options() });
        judge.judge_one(Exchange::new("q", "a")).unwrap();
        let requests = server.requests.lock().unwrap();
        assert_eq!(requests[0].0.get("temperature").cloned().unwrap_or_default(), sent);
        assert!(judge.id().ends_with(if temperature.is_none() { "/server-temperature" } else { "/temperature-0.5" }), "{}", judge.id());
    }
}

#[test]
fn replies_in_parts_and_with_reasoning_are_read() {
    let message = |content: Value| json!({"choices": [{"message": {"content": content, "reasoning_content": "unsafe"}}]}).to_string();
    for (content, label) in [
        (json!([{"type": "text", "text": "un"}, {"type": "text", "text": "safe"}]), Some(true)),
        (json!("<think>it may be unsafe</think>\n**safe**"), Some(false)),
        (json!("<think>it may be unsafe"), None),
        (json!("```json\n{\"safe\": false}\n```"), Some(true)),
        (Value::Null, None),
    ] {
        let body = message(content.clone());
        let server = Server::start(move |_, _| status(200, &body));
        assert_eq!(judge(server.options()).judge_one(Exchange::new("q", "r")).unwrap().label, label, "{content}");
    }
}

#[test]
fn replies_before_an_error_are_kept_without_a_cache() {
    let down = Arc::new(AtomicUsize::new(1));
    let state = down.clone();
    let server = Server::start(move |n, _| if n < 2 || state.load(Ordering::SeqCst) == 0 { says("safe") } else { status(401, "") });
    let judge = judge(ChatOptions { concurrency: 1, ..server.options() });
    let exchanges: Vec<Exchange<'_>> = ["a", "b", "c", "d"].map(|r| Exchange::new("q", r)).to_vec();
    assert!(matches!(judge.judge(&exchanges), Err(Error::Chat { .. })));
    down.store(0, Ordering::SeqCst);
    assert_eq!(judge.judge(&exchanges).unwrap().len(), 4);
    assert_eq!(server.requests(), 5, "the first two are not asked again");
}

#[test]
fn replies_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(|_, prompt| says(if prompt.contains("one") { "perhaps" } else { "unsafe" }));
    let options = ChatOptions { cache: Some(folder.path().join("cache")), ..server.options() };
    let exchanges = [Exchange::new("q", "one"), Exchange::new("q", "two")];
    let first = judge(options.clone()).judge(&exchanges).unwrap();
    assert_eq!(server.requests(), 2);
    // Another question about the same answer gives the same prompt: the protocol reads the answer alone.
    let again = judge(options.clone()).judge(&[Exchange::new("other", "one"), Exchange::new("q", "two")]).unwrap();
    assert_eq!((again, server.requests()), (first.clone(), 2), "unparsed replies are kept too");

    let files: Vec<_> = std::fs::read_dir(folder.path().join("cache")).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 2);
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(!text.contains(KEY), "{text}");
        assert_eq!(file.file_stem().unwrap().len(), 64);
        std::fs::write(file, &text[..text.len() / 2]).unwrap();
    }
    assert_eq!(judge(options.clone()).judge(&exchanges).unwrap(), first, "a broken file is no verdict");
    assert_eq!(server.requests(), 4);
    let other = ChatJudge::new("another-model", JudgeTemplates::general(), options).unwrap();
    other.judge(&exchanges).unwrap();
    assert_eq!(server.requests(), 6, "another model is asked itself");
}

#[test]
fn replies_before_an_error_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let down = Arc::new(AtomicUsize::new(0));
    let state = down.clone();
    let server = Server::start(move |n, _| if n < 2 || state.load(Ordering::SeqCst) == 1 { says("safe") } else { status(404, "") });
    let options = ChatOptions { cache: Some(folder.path().to_owned()), concurrency: 1, ..server.options() };
    let exchanges: Vec<Exchange<'_>> = ["a", "b", "c", "d"].map(|r| Exchange::new("q", r)).to_vec();
    assert!(matches!(judge(options.clone()).judge(&exchanges), Err(Error::Chat { .. })));
    assert_eq!(server.requests(), 3, "the first error ends it");
    down.store(1, Ordering::SeqCst);
    assert_eq!(judge(options).judge(&exchanges).unwrap().len(), 4);
    assert_eq!(server.requests(), 5);
}

#[test]
fn no_more_requests_than_allowed_are_under_way() {
    for (allowed, answers) in [(1, 4), (3, 12)] {
        let server = Server::start(|_, _| Answer { delay: Duration::from_millis(60), ..says("safe") });
        let texts: Vec<String> = (0..answers).map(|i| format!("answer {i}")).collect();
        let exchanges: Vec<Exchange<'_>> = texts.iter().map(|t| Exchange::new("q", t)).collect();
        let verdicts = judge(ChatOptions { concurrency: allowed, ..server.options() }).judge(&exchanges).unwrap();
        assert_eq!((verdicts.len(), server.requests()), (answers, answers));
        assert_eq!(server.most_at_once.load(Ordering::SeqCst), allowed, "bounded, and made use of");
    }
}

#[test]
fn a_key_is_needed_and_never_shown() {
    let options = ChatOptions { key_variable: "MM_TOXIC_QA_NO_SUCH_VARIABLE".to_owned(), ..ChatOptions::default() };
    let error = ChatJudge::new("m", JudgeTemplates::general(), options).unwrap_err();
    assert!(matches!(&error, Error::NoKey { variable } if variable == "MM_TOXIC_QA_NO_SUCH_VARIABLE"), "{error}");
    let options = ChatOptions { key_variable: KEY_VARIABLE.to_owned(), ..ChatOptions::default() };
    let shown = format!("{:?}", judge(options));
    assert!(!shown.contains(KEY), "{shown}");
}
