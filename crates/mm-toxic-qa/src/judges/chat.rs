//! The judge that asks a chat model behind an OpenAI-compatible server.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sgm_core::sha256::hex_digest;

use crate::{Error, Exchange, Judge, JudgeTemplates, Result, Verdict, parse_safety};

/// The connection of a [`ChatJudge`] to its model.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// The base address of the server; `/chat/completions` is appended to it.
    pub base_url: String,
    /// The environment variable that holds the key.
    pub key_variable: String,
    /// The largest number of concurrent requests.
    pub concurrency: usize,
    /// The time limit of one request.
    pub timeout: Duration,
    /// The number of times that a request is repeated after status 408, 429 or 5xx, a timeout, a lost connection or a broken answer.
    pub retries: usize,
    /// The wait before the first repetition; it doubles each time, up to [`longest_wait`](Self::longest_wait). A wait that the server asks
    /// for in `Retry-After` (in seconds; dates are ignored) comes first.
    pub wait: Duration,
    /// The longest wait, including the waits that the server asks for.
    pub longest_wait: Duration,
    /// A folder with a file for each reply, so that no reply is paid for twice.
    ///
    /// Files are named by the SHA-256 of model and prompt: use another folder for each server.
    pub cache: Option<PathBuf>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            base_url: "https://api.openai.com/v1".to_owned(),
            key_variable: "OPENAI_API_KEY".to_owned(),
            concurrency: 4,
            timeout: Duration::from_secs(60),
            retries: 6,
            wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
            cache: None,
        }
    }
}

/// A judge that asks a chat model behind an OpenAI-compatible server.
///
/// The model reads the answer alone, not the question, at temperature 0, and [`parse_safety`] reads its reply: the protocol of
/// MM-SafetyBench (arXiv 2311.17600) with its [templates](JudgeTemplates). Equal prompts are asked once. Temperature 0 does not make
/// servers deterministic; the cache makes verdicts repeatable.
pub struct ChatJudge {
    id: String,
    model: String,
    templates: JudgeTemplates,
    options: ChatOptions,
    key: String,
    agent: ureq::Agent,
}

impl std::fmt::Debug for ChatJudge {
    /// Leaves out the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatJudge").field("id", &self.id).field("options", &self.options).finish_non_exhaustive()
    }
}

/// A file of the cache.
#[derive(Serialize, Deserialize)]
struct Cached {
    model: String,
    prompt_sha256: String,
    reply: String,
}

/// The failure of a request.
struct Failure {
    reason: String,
    again: bool,
    wait: Option<Duration>,
}

impl Failure {
    fn new(reason: impl Into<String>, again: bool) -> Self {
        Self { reason: reason.into(), again, wait: None }
    }
}

impl ChatJudge {
    /// The judge that asks a model; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`Error::NoKey`] when the environment variable holds no valid key.
    pub fn new(model: impl Into<String>, templates: JudgeTemplates, options: ChatOptions) -> Result<Self> {
        let key = std::env::var(&options.key_variable).unwrap_or_default().trim().to_owned();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            return Err(Error::NoKey { variable: options.key_variable });
        }
        let model = model.into();
        // A redirect could carry the key elsewhere.
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(options.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build();
        let id = format!("chat/{model}/{:.12}/first-word", templates.sha256());
        Ok(Self { id, model, templates, options, key, agent: config.into() })
    }

    fn url(&self) -> String {
        format!("{}/chat/completions", self.options.base_url.trim_end_matches('/'))
    }

    /// The reply to a prompt, from the cache if it is there.
    fn reply(&self, prompt: &str) -> Result<String> {
        let prompt_sha256 = hex_digest(prompt.as_bytes());
        let key = hex_digest(format!("{}\0{prompt}", self.model).as_bytes());
        let file = self.options.cache.as_ref().map(|folder| folder.join(format!("{key}.json")));
        let known = file.as_ref().and_then(|file| std::fs::read(file).ok()).and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
        if let Some(known) = known.filter(|known| known.model == self.model && known.prompt_sha256 == prompt_sha256) {
            return Ok(known.reply);
        }
        let reply = self.ask(prompt)?;
        if let Some(file) = file {
            let cached = Cached { model: self.model.clone(), prompt_sha256, reply };
            let bytes = serde_json::to_vec(&cached).map_err(|source| Error::Report { path: file.clone(), source })?;
            sgm_core::write_atomically(&file, &bytes)?;
            return Ok(cached.reply);
        }
        Ok(reply)
    }

    /// Asks the server, with repetitions.
    fn ask(&self, prompt: &str) -> Result<String> {
        let mut wait = self.options.wait;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let failure = match self.request(prompt) {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            if !failure.again || attempts > self.options.retries {
                // The reply of a server may repeat the key.
                let reason = failure.reason.replace(&self.key, "[key]");
                return Err(Error::Chat { url: self.url(), attempts, reason });
            }
            std::thread::sleep(failure.wait.unwrap_or(wait).min(self.options.longest_wait));
            wait = wait.saturating_mul(2).min(self.options.longest_wait);
        }
    }

    /// Makes one request.
    fn request(&self, prompt: &str) -> std::result::Result<String, Failure> {
        let body = json!({"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0});
        let sent = self.agent.post(self.url()).header("authorization", format!("Bearer {}", self.key));
        let sent = sent.header("content-type", "application/json").send(body.to_string().as_bytes());
        let mut response = sent.map_err(|e| {
            let lost = matches!(
                e,
                ureq::Error::Timeout(_)
                    | ureq::Error::Io(_)
                    | ureq::Error::Protocol(_)
                    | ureq::Error::HostNotFound
                    | ureq::Error::ConnectionFailed
            );
            Failure::new(format!("no answer: {e}"), lost)
        })?;
        let status = response.status().as_u16();
        let asked_for = response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
        let text = response.body_mut().read_to_string();
        match status {
            200..=299 => {
                let text = text.map_err(|e| Failure::new(format!("the answer broke off: {e}"), true))?;
                content(&text).ok_or_else(|| Failure::new("the answer is no chat completion (`choices[0].message.content`)", true))
            }
            401 | 403 => Err(Failure::new(format!("status {status}: the key in `{}` is not accepted", self.options.key_variable), false)),
            _ => {
                let text: String = text.unwrap_or_default().chars().take(200).collect();
                let again = matches!(status, 408 | 429 | 500..=599);
                let wait = asked_for.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
                Err(Failure { wait, ..Failure::new(format!("status {status}: {text}"), again) })
            }
        }
    }

    /// The replies to prompts, with at most `concurrency` requests at once; the first error ends them.
    fn replies(&self, prompts: &[&str]) -> Result<Vec<String>> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let done: Mutex<Vec<(usize, Result<String>)>> = Mutex::new(Vec::new());
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(prompt) = prompts.get(at) else { break };
                let reply = self.reply(prompt);
                stop.fetch_or(reply.is_err(), Ordering::Relaxed);
                done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, reply));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.options.concurrency.clamp(1, prompts.len().max(1)) {
                scope.spawn(work);
            }
        });
        let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        done.sort_unstable_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, reply)| reply).collect()
    }
}

/// The reply in a chat completion; empty where it has no content, as from content filters.
fn content(text: &str) -> Option<String> {
    let completion: Value = serde_json::from_str(text).ok()?;
    match completion.pointer("/choices/0/message/content")? {
        Value::String(reply) => Some(reply.clone()),
        Value::Null => Some(String::new()),
        _ => None,
    }
}

impl Judge for ChatJudge {
    fn id(&self) -> &str {
        &self.id
    }

    fn judge(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        let prompts: Vec<String> = exchanges.iter().map(|exchange| self.templates.prompt(exchange)).collect();
        let mut distinct: Vec<&str> = prompts.iter().map(String::as_str).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let replies: HashMap<&str, String> = distinct.iter().copied().zip(self.replies(&distinct)?).collect();
        let verdict = |prompt: &String| {
            let raw = replies.get(prompt.as_str()).cloned().unwrap_or_default();
            let prompt_sha256 = Some(hex_digest(prompt.as_bytes()));
            Verdict { id: self.id.clone(), prompt_sha256, label: parse_safety(&raw), raw, score: None }
        };
        Ok(prompts.iter().map(verdict).collect())
    }
}
