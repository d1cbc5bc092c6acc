use std::path::PathBuf;

/// What can go wrong with manifests, sources, judges, metrics and reports.
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
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] sgm_core::Error),

    /// The synthetic set could not be loaded, drawn or rendered.
    #[error(transparent)]
    Organism(#[from] sgm_organism::Error),

    /// A line is longer than any sample can be.
    #[error("{path}:{line}: the line is longer than {limit} bytes; is this a JSONL file?")]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The most bytes a line may have.
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
        /// What the JSON parser says.
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
        /// What belongs there.
        expected: &'static str,
    },

    /// A field holds something it cannot hold.
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
        /// What belongs there.
        expected: String,
    },

    /// A field has a name that no field has: most likely a typing error.
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
    #[error("image of sample `{id}`: {source}")]
    Image {
        /// The sample.
        id: String,
        /// What is wrong with the file.
        source: Box<sgm_models::Error>,
    },

    /// The model reports an error.
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

    /// A manifest has risky prompts, but none in the part asked for.
    #[error("{path}: no sample of split `{part}`, but {others} of split `{other}`; ask for part `{other}`")]
    EmptyPart {
        /// The manifest.
        path: PathBuf,
        /// The part asked for.
        part: &'static str,
        /// The other part.
        other: &'static str,
        /// The number of samples in the other part.
        others: usize,
    },

    /// A word list has no term.
    #[error("{path}: the word list has no term; write one word or phrase a line (`#` starts a comment)")]
    EmptyWordList {
        /// The word list.
        path: PathBuf,
    },

    /// There is nothing to aggregate.
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

    /// A negative log-likelihood is no finite number, or too large for its perplexity to be one.
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

    /// A vote has no voters.
    #[error("a majority of no judges; give it at least one, better three")]
    NoJudges,

    /// Two runs did not answer the same prompts once each.
    #[error("prompt `{id}` has {first} answers in the first run and {second} in the second; compare runs with one answer to each prompt")]
    Unpaired {
        /// The prompt.
        id: String,
        /// Its answers in the first run.
        first: usize,
        /// Its answers in the second run.
        second: usize,
    },

    /// Prompts do not have the same number of generations.
    #[error("prompt `{id}` has {found} generations, others have {expected}; a maximum over more is higher: generate equally many for each")]
    Generations {
        /// The prompt.
        id: String,
        /// Its generations.
        found: usize,
        /// Those of the prompts before.
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

    /// There are results, but nothing says with which settings they were made.
    #[error("{path}: there are results, but `{settings}` is missing, so they cannot be resumed; put it back or write to another file")]
    NoSettings {
        /// The file of the run.
        path: PathBuf,
        /// The file that holds its settings.
        settings: PathBuf,
    },

    /// A file of judge prompts lacks something.
    #[error(
        "{path}: {reason}; expected a JSON object with `general` and optionally a two-digit scenario such as `08`, each with {{prediction}} in it"
    )]
    Templates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// There is no key for a chat server.
    #[error("environment variable `{variable}` holds no key; put the server's key there, or any word if it needs none")]
    NoKey {
        /// The variable.
        variable: String,
    },

    /// A chat server gave no answer.
    #[error("{url}: {reason} (attempt {attempts}); verdicts so far are in the cache, run again to continue")]
    Chat {
        /// The server's address.
        url: String,
        /// Requests made for this answer.
        attempts: usize,
        /// What happened last.
        reason: String,
    },

    /// A classifier's files cannot be used.
    #[error("{path}: {reason}")]
    Classifier {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// A file of a data set is not what its publisher's is.
    #[error("{path}: {reason}")]
    DatasetFile {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// An entry of a data set lacks something, or holds something it cannot hold.
    #[error("{path}: {entry}: field `{field}` {problem}")]
    DatasetEntry {
        /// The file.
        path: PathBuf,
        /// Where in the file: `line 3` (the header is line 1), `row 3`, `entry "12"`.
        entry: String,
        /// The field as the publisher calls it.
        field: String,
        /// What is wrong, and what belongs there.
        problem: String,
    },

    /// A recipe cannot take as many samples as it should.
    #[error(
        "split `{split}`, {of}: {wanted} samples wanted, {found} left after duplicates and what other splits share; add data or ask for fewer"
    )]
    TooFew {
        /// The split.
        split: &'static str,
        /// Of which category or label.
        of: String,
        /// How many the recipe takes.
        wanted: usize,
        /// How many there are.
        found: usize,
    },

    /// Two items of the data sets given have the same id.
    #[error("{first} and {second} both give a sample the id `{id}`; give every data set once")]
    ItemTwice {
        /// The id.
        id: String,
        /// The first item's place.
        first: String,
        /// The second item's place.
        second: String,
    },

    /// An attack cannot be made of a sample.
    #[error("attack `{attack}` on sample `{id}`: {reason}")]
    Attack {
        /// The attack.
        attack: String,
        /// The sample.
        id: String,
        /// What is wrong.
        reason: String,
    },

    /// A file of jailbreak templates cannot be used.
    #[error("{path}: {reason}; expected a JSON object of names and templates, each with {{prompt}} in it")]
    AttackTemplates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A page could not be made.
    #[error("the page could not be made: {reason}")]
    Page {
        /// What the template engine says.
        reason: String,
    },

    /// A report file is not a report.
    #[error("{path}: not a report: {source}")]
    Report {
        /// The file.
        path: PathBuf,
        /// What the JSON parser says.
        source: serde_json::Error,
    },
}

impl From<sgm_models::Error> for Error {
    fn from(error: sgm_models::Error) -> Self {
        Self::Model(Box::new(error))
    }
}
