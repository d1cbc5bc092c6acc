//! Errors of this crate.

use std::path::PathBuf;

/// An error of code outside this crate: of a world, a scene or a source.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Errors of manifests, sources, judges, metrics and reports.
///
/// Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("{path}: cannot read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },

    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] sgm_core::Error),

    /// A judge or a reader is behind a feature that this crate was built without.
    #[error("{what} needs the feature `{feature}`; build with `--features {feature}`")]
    FeatureMissing {
        /// The judge or reader.
        what: &'static str,
        /// The feature.
        feature: &'static str,
    },

    /// No judge has this name.
    #[error("`{name}` names no judge; expected {expected}")]
    JudgeName {
        /// The name.
        name: String,
        /// The names that exist.
        expected: &'static str,
    },

    /// A source of another crate reports an error.
    #[error(transparent)]
    Source(BoxError),

    /// A manifest has a scene of a synthetic world, and no world was given.
    #[error(
        "{path}:{line}: field `image` is a scene of a synthetic world, which only that world can draw; give the world, as in \
         `ManifestSource::open_with` or `manifest::read_with`"
    )]
    NoWorld {
        /// The manifest.
        path: PathBuf,
        /// The line.
        line: usize,
    },

    /// A manifest has a reference of a synthetic world's kind, and that world was not given.
    #[error(
        "{path}:{line}: reference kind `{kind}` needs the scorer of the world `{world}`; give that world, as in \
         `ManifestSource::open_with` or `manifest::read_with`"
    )]
    UnknownKind {
        /// The manifest.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The reference kind.
        kind: String,
        /// The world whose scorer is missing.
        world: String,
    },

    /// A sample has a reference of a synthetic world's kind, and the benchmark has another scorer.
    #[error("sample `{id}`: reference kind `{kind}` needs the scorer of the world `{world}`; give it to `Benchmark::with_scorer`")]
    NoScorer {
        /// The sample.
        id: String,
        /// The reference kind.
        kind: String,
        /// The world whose scorer is missing.
        world: String,
    },

    /// A scene cannot be drawn.
    #[error("scene of sample `{id}`: {source}")]
    Scene {
        /// The sample.
        id: String,
        /// The error of the world.
        source: BoxError,
    },

    /// A line is longer than any sample can be.
    #[error("{path}:{line}: the line is longer than {limit} bytes; is this a JSONL file?")]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The largest number of bytes in a line.
        limit: usize,
    },

    /// A line is not UTF-8 text.
    #[error("{path}:{line}: not UTF-8 text; save the file as UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },

    /// A line is not one JSON object.
    #[error("{path}:{line}: not a JSON object on one line: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The message of the JSON parser.
        reason: String,
    },

    /// A file was written by a newer version of this software.
    #[error(
        "{path}:{line}: schema {found} is newer than schema {supported}, the newest this version reads; \
         update the software or export the file again with schema {supported}"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The schema of the file.
        found: u64,
        /// The newest schema that can be read.
        supported: u64,
    },

    /// A required field is absent (or null).
    #[error("{path}:{line}: field `{field}` is missing; expected {expected}")]
    MissingField {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field.
        field: &'static str,
        /// The expected value.
        expected: &'static str,
    },

    /// A field has a value of the wrong form.
    #[error("{path}:{line}: field `{field}` is {found}; expected {expected}")]
    InvalidField {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field.
        field: &'static str,
        /// The value found, shortened.
        found: String,
        /// The expected value.
        expected: String,
    },

    /// A field has an unknown name: most likely a typing error.
    #[error("{path}:{line}: unknown field `{field}`; a sample has {known}")]
    UnknownField {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field.
        field: String,
        /// The fields of a sample.
        known: String,
    },

    /// Two lines have the same id.
    #[error("{path}:{line}: id `{id}` is already that of line {first}; every sample needs its own id")]
    DuplicateId {
        /// The file.
        path: PathBuf,
        /// The second line.
        line: usize,
        /// The id.
        id: String,
        /// The first line.
        first: usize,
    },

    /// An image path leads out of the manifest's folder.
    #[error(
        "{path}:{line}: image `{image}` is not inside the manifest's folder; move the images beside the \
         manifest and write their paths relative to it, with `/` and without `..`"
    )]
    ImageOutside {
        /// The manifest.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The image path as written.
        image: String,
    },

    /// An image file cannot be decoded.
    #[error("image of `{id}`: {source}")]
    Image {
        /// The sample, or the file.
        id: String,
        /// The error of the image reader.
        source: Box<sgm_core::Error>,
    },

    /// The model cannot be shown a sample, or fails at it.
    #[cfg(feature = "candle")]
    #[error("sample `{id}`: {source}")]
    Shown {
        /// The sample.
        id: String,
        /// The error of the model.
        source: Box<sgm_models::Error>,
    },

    /// The model reports an error.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Model(Box<sgm_models::Error>),

    /// A source does not have calibration samples of both classes.
    #[error(
        "{name}: {toxic} toxic and {non_toxic} non-toxic calibration samples; at least one of each is \
         needed: add samples with split `calibration` and label 1 and 0"
    )]
    OneClass {
        /// The source.
        name: String,
        /// Samples with label 1.
        toxic: usize,
        /// Samples with label 0.
        non_toxic: usize,
    },

    /// A manifest has risky prompts, but none in the split asked for.
    #[error("{path}: no sample of split `{split}`, but {others} of split `{other}`; ask for split `{other}`")]
    EmptySplit {
        /// The manifest.
        path: PathBuf,
        /// The split asked for.
        split: &'static str,
        /// The other split.
        other: &'static str,
        /// The number of samples in the other split.
        others: usize,
    },

    /// A word list has no term.
    #[error("{path}: the word list has no term; write one word or phrase a line (`#` starts a comment)")]
    EmptyWordList {
        /// The word list.
        path: PathBuf,
    },

    /// A run has no seed to aggregate.
    #[error("run `{run}` has no seed; evaluate at least one")]
    NoSeeds {
        /// The run.
        run: String,
    },

    /// Two seeds of a run did not answer the same prompts.
    #[error(
        "run `{run}`: seed {seed} answered other {condition} prompts than seed {first}; every seed must \
         answer the same prompts once"
    )]
    SeedsDisagree {
        /// The run.
        run: String,
        /// The first seed.
        first: u64,
        /// The seed that differs.
        seed: u64,
        /// `standard` or `adversarial`.
        condition: &'static str,
    },

    /// A negative log-likelihood is not finite, or too large for its perplexity to be finite.
    #[error(
        "text {text}: negative log-likelihood {value}; the model's logits overflow: run it in f32 or \
         suppress fewer neurons"
    )]
    NotFinite {
        /// The index of the text, from 0.
        text: usize,
        /// The value.
        value: f64,
    },

    /// A judge did not return one verdict for each answer.
    #[error("judge `{judge}` returned {found} verdicts for {expected} answers; a judge must return one for each, in their order")]
    VerdictCount {
        /// The judge.
        judge: String,
        /// The number of answers.
        expected: usize,
        /// The number of verdicts.
        found: usize,
    },

    /// A file has no answers to judge.
    #[error("{path}: no answers to judge; expected a JSON object with `prompt` and `response` on each line")]
    NoAnswers {
        /// The file.
        path: PathBuf,
    },

    /// An agreement was asked for with fewer than two judges.
    #[error("the agreement of judges needs two judges or more, not {found}")]
    OneJudge {
        /// The number of judges.
        found: usize,
    },

    /// A majority judge has no judges.
    #[error("a majority judge without judges; give it at least one, better three")]
    NoJudges,

    /// Two runs did not answer the same prompts, once each.
    #[error("prompt `{id}` has {first} answers in the first run and {second} in the second; compare runs with one answer to each prompt")]
    Unpaired {
        /// The prompt.
        id: String,
        /// The number of its answers in the first run.
        first: usize,
        /// The number of its answers in the second run.
        second: usize,
    },

    /// Prompts do not have the same number of generations.
    #[error("prompt `{id}` has {found} generations, others have {expected}; a maximum over more is higher: generate equally many for each")]
    Generations {
        /// The prompt.
        id: String,
        /// The number of its generations.
        found: usize,
        /// The number of generations of the prompts before.
        expected: usize,
    },

    /// A score is absent or out of range.
    #[error("sample `{id}` has score {score:?}; expected a number from 0 to 1, as the classifier judge gives one")]
    Score {
        /// The sample.
        id: String,
        /// The score, if there is one.
        score: Option<f64>,
    },

    /// A run is resumed with other settings than it was started with.
    #[error(
        "{path}: started with {found} for `{setting}`, now {expected}; resume with the settings of the start, or write to another file"
    )]
    SettingsDiffer {
        /// The file of the run.
        path: PathBuf,
        /// The setting that differs, as a path into the settings.
        setting: String,
        /// Its value in the file.
        found: String,
        /// Its value now.
        expected: String,
    },

    /// The file of a run has results, but its settings are missing.
    #[error("{path}: there are results, but `{settings}` is missing, so they cannot be resumed; put it back or write to another file")]
    NoSettings {
        /// The file of the run.
        path: PathBuf,
        /// The file that holds its settings.
        settings: PathBuf,
    },

    /// A file of judge templates is incomplete.
    #[error(
        "{path}: {reason}; expected a JSON object with `general` and optionally a two-digit scenario such as `08`, each with \
         {{prediction}} in it"
    )]
    Templates {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },

    /// The key of a chat server is missing.
    #[error("environment variable `{variable}` holds no key; put the server's key there, or any word if it needs none")]
    NoKey {
        /// The variable.
        variable: String,
    },

    /// A chat server gave no answer.
    #[error(
        "{url}: {reason} (attempt {attempts}); the replies so far are kept, in the judge or in its cache folder: judge again to continue"
    )]
    Chat {
        /// The server's address.
        url: String,
        /// The number of requests for this answer.
        attempts: usize,
        /// The reason of the last failure.
        reason: String,
    },

    /// The files of a classifier cannot be used.
    #[error("{path}: {reason}")]
    Classifier {
        /// The file or directory.
        path: PathBuf,
        /// The fault and its remedy.
        reason: String,
    },

    /// A file of a data set does not have its published form.
    #[error("{path}: {reason}")]
    DatasetFile {
        /// The file or folder.
        path: PathBuf,
        /// The fault and its remedy.
        reason: String,
    },

    /// An entry of a data set has a missing or invalid field.
    #[error("{path}: {entry}: field `{field}` {problem}")]
    DatasetEntry {
        /// The file.
        path: PathBuf,
        /// The position in the file: `line 3` (the header is line 1), `row 3`, `entry "12"`.
        entry: String,
        /// The field as the publisher calls it.
        field: String,
        /// The fault and the expected value.
        problem: String,
    },

    /// A plan cannot take as many samples as it should.
    #[error(
        "split `{split}`, {of}: {wanted} samples wanted, {found} left after duplicates and samples of other splits; add data or ask for \
         fewer"
    )]
    TooFew {
        /// The split.
        split: &'static str,
        /// The category or label.
        of: String,
        /// The number of samples in the plan.
        wanted: usize,
        /// The number of samples left.
        found: usize,
    },

    /// Two items of the data sets given have the same id.
    #[error("{first} and {second} both give a sample the id `{id}`; give every data set once")]
    ItemTwice {
        /// The id.
        id: String,
        /// The position of the first item.
        first: String,
        /// The position of the second item.
        second: String,
    },

    /// An attack cannot be made of a sample.
    #[error("attack `{attack}` on sample `{id}`: {reason}")]
    Attack {
        /// The attack.
        attack: String,
        /// The sample.
        id: String,
        /// The fault.
        reason: String,
    },

    /// An attack can be made of no sample.
    #[error("attack `{attack}`: {reason}")]
    NothingAttacked {
        /// The attack.
        attack: String,
        /// The fault.
        reason: String,
    },

    /// A file of jailbreak templates cannot be used.
    #[error("{path}: {reason}; expected a JSON object of names and templates, each with {{prompt}} in it")]
    AttackTemplates {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },

    /// An HTML report could not be made.
    #[error("the HTML report could not be made: {reason}")]
    HtmlReport {
        /// The message of the template engine.
        reason: String,
    },

    /// A report file is not a report.
    #[error("{path}: not a report: {source}")]
    Report {
        /// The file.
        path: PathBuf,
        /// The message of the JSON parser.
        source: serde_json::Error,
    },
}

#[cfg(feature = "candle")]
impl Error {
    /// The error of a model that was shown samples, with the id of the sample that it is about; `id` gives that of a prompt's number.
    pub(crate) fn shown<'a>(error: sgm_models::Error, id: impl FnOnce(usize) -> Option<&'a str>) -> Self {
        match (error.prompt().and_then(id), error) {
            (Some(id), sgm_models::Error::Prompt { source, .. }) => Self::Shown { id: id.to_owned(), source },
            (Some(id), other) => Self::Shown { id: id.to_owned(), source: Box::new(other) },
            (None, other) => Self::Model(Box::new(other)),
        }
    }
}

#[cfg(feature = "candle")]
impl From<sgm_models::Error> for Error {
    fn from(error: sgm_models::Error) -> Self {
        Self::Model(Box::new(error))
    }
}
