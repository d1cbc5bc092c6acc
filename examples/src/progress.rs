//! The progress of a program: a bar on a terminal, lines on a pipe.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The time between two lines on a pipe, and between two looks at the latest span for the bar.
const INTERVAL: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(200);

/// The latest step that a library reported.
static LATEST: Mutex<String> = Mutex::new(String::new());

/// Progress over a known number of steps. A step is described by its name and by the latest span that a library opened in it.
pub struct Progress {
    state: Arc<Mutex<State>>,
    stop: Option<(Sender<()>, JoinHandle<()>)>,
}

struct State {
    started: Instant,
    /// The steps that have begun.
    begun: u64,
    steps: u64,
    name: String,
}

impl Progress {
    /// Starts showing progress over so many steps.
    pub fn new(steps: u64) -> Self {
        let state = Arc::new(Mutex::new(State { started: Instant::now(), begun: 0, steps, name: "starting".to_owned() }));
        let (stop, stopped) = channel();
        let shown = state.clone();
        let thread = std::thread::spawn(move || {
            let terminal = std::io::stderr().is_terminal();
            let bar = if terminal { bar(steps) } else { ProgressBar::hidden() };
            let (interval, mut last) = (if terminal { TICK } else { INTERVAL }, String::new());
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
                let state = lock(&shown);
                let latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let text = if latest.is_empty() { state.name.clone() } else { format!("{}: {latest}", state.name) };
                bar.set_position(state.begun.saturating_sub(1));
                bar.set_message(text.clone());
                if !terminal {
                    let again = if text == last { ", still" } else { "" };
                    eprintln!("[{:>3} s, step {} of {}{again}] {text}", state.started.elapsed().as_secs(), state.begun.max(1), state.steps);
                    last = text;
                }
            }
            bar.finish_and_clear();
        });
        Self { state, stop: Some((stop, thread)) }
    }

    /// Does a step under its name.
    ///
    /// # Errors
    ///
    /// Those of the step.
    pub fn step<T, E>(&self, name: impl Into<String>, step: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.begin(name);
        step()
    }

    /// Begins a step under its name, and ends the one before.
    pub fn begin(&self, name: impl Into<String>) {
        let mut state = lock(&self.state);
        (state.name, state.begun) = (name.into(), state.begun + 1);
        LATEST.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        lock(&self.state).started.elapsed()
    }
}

impl Drop for Progress {
    /// Removes the bar.
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.stop.take() {
            drop(stop);
            // A thread that could not draw is no reason to fail.
            drop(thread.join());
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bar(steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// A layer that notes the latest span at level info or above, with its fields, for [`Progress`] to show.
pub(crate) struct SpanNames;

impl<S: Subscriber> Layer<S> for SpanNames {
    fn on_new_span(&self, span: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let metadata = span.metadata();
        if *metadata.level() <= Level::INFO && (metadata.target().starts_with("sgm") || metadata.target().starts_with("mm_toxic_qa")) {
            let mut text = metadata.name().to_owned();
            span.record(&mut Fields(&mut text));
            *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = text;
        }
    }
}

/// Appends the values of fields to a text.
struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = write!(self.0, ", {} {value:?}", field.name());
    }
}
