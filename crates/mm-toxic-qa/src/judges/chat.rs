//! The judge that asks a chat model behind an OpenAI-compatible server.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sgm_core::sha256::hex_digest;

use crate::judges::chat_answer::{Fault, Scope, content, fault};
use crate::{Error, Exchange, Judge, JudgeTemplates, Result, Verdict};

/// The repetitions of a request whose answer is broken, at most.
const BROKEN_RETRIES: usize = 2;

/// The requests that a server may reject, one after the other and without a single reply, before the whole call fails.
const REJECTIONS: usize = 16;

/// The end of the ids of judges whose replies were made at the server's own temperature.
const OWN_TEMPERATURE: &str = "/server-temperature";

/// The connection of a [`ChatJudge`] to its model.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// The base address of the server; `/chat/completions` is appended to it.
    pub base_url: String,
    /// The environment variable that holds the key.
    pub key_variable: String,
    /// The temperature; with `None` requests have none, for servers that refuse it.
    ///
    /// A server that refuses it by name is asked without it from then on. The ids of verdicts say so.
    pub temperature: Option<f64>,
    /// The largest number of concurrent requests.
    pub concurrency: usize,
    /// The time limit of one request.
    pub timeout: Duration,
    /// The number of times that a request is repeated after status 408, 429 or 5xx, a timeout or a lost connection; after a broken answer
    /// at most twice.
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
            temperature: Some(0.0),
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
/// The model reads the answer alone, not the question, at temperature 0: the protocol of MM-SafetyBench (arXiv 2311.17600) with its
/// [templates](JudgeTemplates). [`SafetyParser`](crate::SafetyParser) reads its reply. Equal prompts are asked once. Temperature 0 does
/// not make servers deterministic; the cache makes verdicts repeatable.
///
/// An answer that gets no reply by its own fault, such as one that a content filter keeps back, has a verdict without a label, whose `raw`
/// says why. A server that fails ends the call; the replies so far are kept, in the cache folder or in the judge itself, so that the next
/// call goes on from there.
pub struct ChatJudge {
    id: String,
    model: String,
    templates: JudgeTemplates,
    options: ChatOptions,
    key: String,
    agent: ureq::Agent,
    /// Whether the server has refused the temperature.
    without_temperature: AtomicBool,
    /// The replies by prompt, if there is no cache folder.
    kept: Mutex<HashMap<String, Reply>>,
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
    #[serde(flatten)]
    reply: Reply,
}

/// A reply of the model.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reply {
    #[serde(rename = "reply")]
    text: String,
    /// Whether it was made at the server's own temperature.
    #[serde(default)]
    server_temperature: bool,
}

/// The outcome of a request.
enum Outcome {
    Reply(Reply),
    /// There is no reply to this prompt, and none will come.
    None(String),
    /// The server rejected the request; the reason may lie in the prompt or in the settings.
    Rejected(String),
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
        let mut id = format!("chat/{model}/{:.12}/verdict", templates.sha256());
        match options.temperature {
            None => id.push_str(OWN_TEMPERATURE),
            Some(0.0) => {}
            Some(other) => id.push_str(&format!("/temperature-{other}")),
        }
        let kept = Mutex::default();
        Ok(Self { id, model, templates, options, key, agent: config.into(), without_temperature: AtomicBool::new(false), kept })
    }

    fn url(&self) -> String {
        format!("{}/chat/completions", self.options.base_url.trim_end_matches('/'))
    }

    /// The reply to a prompt, from the cache if it is there.
    fn reply(&self, prompt: &str) -> Result<Outcome> {
        let prompt_sha256 = hex_digest(prompt.as_bytes());
        let temperature = self.options.temperature.filter(|t| *t != 0.0).map(|t| format!("\0{t}")).unwrap_or_default();
        let key = hex_digest(format!("{}\0{prompt}{temperature}", self.model).as_bytes());
        let file = self.options.cache.as_ref().map(|folder| folder.join(format!("{key}.json")));
        let known = match &file {
            Some(file) => {
                let cached = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
                cached.filter(|known| known.model == self.model && known.prompt_sha256 == prompt_sha256).map(|known| known.reply)
            }
            None => lock(&self.kept).get(prompt).cloned(),
        };
        // A reply of another setting is asked for again.
        if let Some(known) = known.filter(|known| !known.server_temperature || self.options.temperature.is_none_or(|t| t == 0.0)) {
            return Ok(Outcome::Reply(known));
        }
        let outcome = self.ask(prompt)?;
        if let (Outcome::Reply(reply), Some(file)) = (&outcome, &file) {
            let cached = Cached { model: self.model.clone(), prompt_sha256, reply: reply.clone() };
            let bytes = serde_json::to_vec(&cached).map_err(|source| Error::Report { path: file.clone(), source })?;
            sgm_core::write_atomically(file, &bytes)?;
        } else if let Outcome::Reply(reply) = &outcome {
            lock(&self.kept).insert(prompt.to_owned(), reply.clone());
        }
        Ok(outcome)
    }

    /// Asks the server, with repetitions.
    fn ask(&self, prompt: &str) -> Result<Outcome> {
        let mut wait = self.options.wait;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let temperature = self.options.temperature.filter(|_| !self.without_temperature.load(Ordering::Relaxed));
            let Fault { reason, scope, again, wait: asked_for } = match self.request(prompt, temperature) {
                Ok(text) => return Ok(Outcome::Reply(Reply { text, server_temperature: temperature.is_none() })),
                Err(fault) => fault,
            };
            // The reply of a server may repeat the key.
            let reason = reason.replace(&self.key, "[key]");
            if scope == Scope::Temperature && temperature.is_some() {
                if !self.without_temperature.swap(true, Ordering::Relaxed) {
                    tracing::warn!(url = self.url(), reason, "the server refuses the temperature; it is asked without");
                }
                attempts -= 1;
                continue;
            }
            let retries = if scope == Scope::Server { self.options.retries } else { self.options.retries.min(BROKEN_RETRIES) };
            if again && attempts <= retries {
                std::thread::sleep(asked_for.unwrap_or(wait).min(self.options.longest_wait));
                wait = wait.saturating_mul(2).min(self.options.longest_wait);
                continue;
            }
            return match scope {
                Scope::Server => Err(Error::Chat { url: self.url(), attempts, reason }),
                Scope::Prompt => Ok(Outcome::None(reason)),
                Scope::Unknown | Scope::Temperature => Ok(Outcome::Rejected(reason)),
            };
        }
    }

    /// Makes one request; the reply is not empty.
    fn request(&self, prompt: &str, temperature: Option<f64>) -> std::result::Result<String, Fault> {
        let mut body = json!({"model": self.model, "messages": [{"role": "user", "content": prompt}]});
        if let (Some(temperature), Some(body)) = (temperature, body.as_object_mut()) {
            // 0 is written as an integer, as in the published script.
            let value = if temperature == 0.0 { json!(0) } else { json!(temperature) };
            body.insert("temperature".to_owned(), value);
        }
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
            Fault::new(Scope::Server, lost, format!("no answer: {e}"))
        })?;
        let status = response.status().as_u16();
        let asked_for = response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
        let text = response.body_mut().read_to_string();
        let broken = |e: &ureq::Error| Fault::new(Scope::Server, true, format!("the answer broke off: {e}"));
        let result = match status {
            200..=299 => content(&text.map_err(|e| broken(&e))?),
            401 => Err(Fault::new(Scope::Server, false, format!("status 401: the key in `{}` is not accepted", self.options.key_variable))),
            _ => Err(fault(status, &text.unwrap_or_default())),
        };
        let wait = asked_for.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
        result.map_err(|fault| Fault { wait, ..fault })
    }

    /// The replies to prompts, with at most `concurrency` requests at once; the first error ends them.
    fn replies(&self, prompts: &[&str]) -> Result<Vec<Outcome>> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let (accepted, rejected) = (AtomicBool::new(false), AtomicUsize::new(0));
        let done: Mutex<Vec<(usize, Result<Outcome>)>> = Mutex::new(Vec::new());
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(prompt) = prompts.get(at) else { break };
                let reply = self.reply(prompt);
                match &reply {
                    Err(_) => stop.store(true, Ordering::Relaxed),
                    Ok(Outcome::Rejected(_)) => {
                        let many = rejected.fetch_add(1, Ordering::Relaxed) + 1 >= REJECTIONS;
                        stop.fetch_or(many && !accepted.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                    Ok(_) => accepted.store(true, Ordering::Relaxed),
                }
                lock(&done).push((at, reply));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.options.concurrency.clamp(1, prompts.len().max(1)) {
                scope.spawn(work);
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(at, _)| *at);
        let outcomes: Vec<Outcome> = done.into_iter().map(|(_, reply)| reply).collect::<Result<_>>()?;
        match outcomes.first() {
            // What the server says to every prompt is no fault of one.
            Some(Outcome::Rejected(reason)) if !accepted.into_inner() => {
                Err(Error::Chat { url: self.url(), attempts: 1, reason: reason.clone() })
            }
            _ => Ok(outcomes),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let replies: HashMap<&str, Outcome> = distinct.iter().copied().zip(self.replies(&distinct)?).collect();
        let verdict = |prompt: &String| {
            let prompt_sha256 = Some(hex_digest(prompt.as_bytes()));
            let (id, label, raw) = match replies.get(prompt.as_str()) {
                Some(Outcome::Reply(reply)) => {
                    let changed = reply.server_temperature && self.options.temperature.is_some();
                    let id = if changed { format!("{}{OWN_TEMPERATURE}", self.id) } else { self.id.clone() };
                    (id, self.templates.parser().parse(&reply.text), reply.text.clone())
                }
                Some(Outcome::None(reason) | Outcome::Rejected(reason)) => (self.id.clone(), None, format!("no reply: {reason}")),
                None => (self.id.clone(), None, "no reply".to_owned()),
            };
            if label.is_none() {
                tracing::warn!(judge = id, raw, "an answer has no verdict");
            }
            Verdict { id, prompt_sha256, label, raw, score: None }
        };
        Ok(prompts.iter().map(verdict).collect())
    }
}
