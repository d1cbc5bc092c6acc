//! The results of a run that can be resumed.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::runs::records::{append, failed};
use crate::{Error, Record, Result, files};

/// The schema of the settings file this version writes, and the newest it reads.
const SCHEMA: u64 = 1;

/// The results of a run that can be stopped at any moment and resumed.
///
/// `NAME.jsonl` has a [`Record`] a line, appended as soon as it is known. Beside it `NAME.settings.json` holds the settings of the run; a
/// run with other settings, or of another version of this software, is not resumed into the same file. Sample and seed identify a record,
/// so one file holds one run of one model with one intervention.
///
/// A process that is killed loses at most the line being written; a machine that fails loses at most the lines that the [`Durability`]
/// allows.
#[derive(Debug)]
pub struct RunFile {
    path: PathBuf,
    file: File,
    durability: Durability,
    done: HashMap<(String, u64), Record>,
}

/// The time at which written records are safe from a failing machine. They are always safe from a failing process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After every [`RunFile::flush`], which is called after each batch of answers.
    #[default]
    Batch,
    /// After every record.
    Record,
    /// When the operating system writes them.
    System,
}

#[derive(Serialize, Deserialize)]
struct Settings {
    schema: u64,
    software: String,
    settings: Value,
}

impl RunFile {
    /// Starts a run, or resumes it where the file exists.
    ///
    /// `settings` holds everything that the answers depend on: model, intervention, generation, data. A last line without its line break is
    /// the rest of a killed process and is cut off.
    ///
    /// # Errors
    ///
    /// [`Error::SettingsDiffer`] when the run was started with other settings; [`Error::NoSettings`] when there are results without
    /// settings; [`Error::Syntax`] for a line that is not a record; [`Error::DuplicateId`] for two records of one sample and seed;
    /// [`Error::NewerSchema`] and [`Error::Report`] for an unreadable settings file; [`Error::Io`], [`Error::Write`].
    pub fn open(path: impl Into<PathBuf>, settings: &Value, durability: Durability) -> Result<Self> {
        let path = path.into();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| failed(&path, "create its directory", e))?;
        }
        check_settings(&path, settings)?;
        let options = || OpenOptions::new().read(true).append(true).create(true).clone();
        let file = options().open(&path).map_err(|e| failed(&path, "open", e))?;
        let whole = whole_lines(&path)?;
        let length = file.metadata().map_err(|e| failed(&path, "look at", e))?.len();
        if whole < length {
            file.set_len(whole).map_err(|e| failed(&path, "cut off the torn last line of", e))?;
            file.sync_all().map_err(|e| failed(&path, "flush", e))?;
        }
        let mut done = HashMap::new();
        let mut first = HashMap::new();
        files::for_each_line(files::open(&path)?, &path, |line, text| {
            let record: Record = files::json(&path, line, text)?;
            let key = (record.id.clone(), record.seed);
            if let Some(first) = first.insert(key.clone(), line) {
                return Err(Error::DuplicateId { path: path.clone(), line, id: record.id, first });
            }
            done.insert(key, record);
            Ok(())
        })?;
        Ok(Self { path, file, durability, done })
    }

    /// The record of a sample and seed, if the file has one.
    pub fn record(&self, id: &str, seed: u64) -> Option<&Record> {
        self.done.get(&(id.to_owned(), seed))
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.done.len()
    }

    /// Whether nothing has been recorded yet.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// Appends a record. A second record of a sample and seed is left out.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when the file cannot be written.
    pub fn write(&mut self, record: Record) -> Result<()> {
        let key = (record.id.clone(), record.seed);
        if self.done.contains_key(&key) {
            return Ok(());
        }
        append(&mut self.file, &self.path, &record)?;
        self.done.insert(key, record);
        if self.durability == Durability::Record { self.sync() } else { Ok(()) }
    }

    /// Makes written records safe, as the [`Durability`] asks.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when that fails.
    pub fn flush(&mut self) -> Result<()> {
        if self.durability == Durability::Batch { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        self.file.flush().and_then(|()| self.file.sync_data()).map_err(|e| failed(&self.path, "flush", e))
    }
}

/// Reads the records of a file; blank lines are skipped.
///
/// # Errors
///
/// [`Error::Io`], [`Error::NotUtf8`], [`Error::LineTooLong`] when it is not text; [`Error::Syntax`] for a line that is not a record, such
/// as the incomplete last line of a killed run, which [opening](RunFile::open) the run cuts off.
pub fn read_records(path: &Path) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    files::for_each_line(files::open(path)?, path, |line, text| {
        records.push(files::json(path, line, text)?);
        Ok(())
    })?;
    Ok(records)
}

/// The length of a file up to and including its last line break.
fn whole_lines(path: &Path) -> Result<u64> {
    use std::io::{Read, Seek, SeekFrom};
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut end = file.metadata().map_err(io)?.len();
    let mut block = vec![0; 1 << 16];
    while end > 0 {
        let start = end.saturating_sub(1 << 16);
        let size = usize::try_from(end - start).unwrap_or(block.len());
        let Some(block) = block.get_mut(..size) else { break };
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(block)).map_err(io)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + u64::try_from(at).unwrap_or_default() + 1);
        }
        end = start;
    }
    Ok(0)
}

fn check_settings(path: &Path, settings: &Value) -> Result<()> {
    let beside = path.with_extension("settings.json");
    let software = concat!("mm-toxic-qa ", env!("CARGO_PKG_VERSION")).to_owned();
    let bytes = match std::fs::read(&beside) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if std::fs::metadata(path).is_ok_and(|results| results.len() > 0) {
                return Err(Error::NoSettings { path: path.to_owned(), settings: beside });
            }
            let file = Settings { schema: SCHEMA, software, settings: settings.clone() };
            let mut bytes = serde_json::to_vec_pretty(&file).map_err(|source| Error::Report { path: beside.clone(), source })?;
            bytes.push(b'\n');
            sgm_core::write_atomically(&beside, &bytes)?;
            return Ok(());
        }
        Err(source) => return Err(Error::Io { path: beside, source }),
    };
    let started: Settings = serde_json::from_slice(&bytes).map_err(|source| Error::Report { path: beside.clone(), source })?;
    if started.schema > SCHEMA {
        return Err(Error::NewerSchema { path: beside, line: 1, found: started.schema, supported: SCHEMA });
    }
    let differ = |(setting, found, expected)| Err(Error::SettingsDiffer { path: path.to_owned(), setting, found, expected });
    if started.software != software {
        return differ(("software".to_owned(), started.software, software));
    }
    difference("", &started.settings, settings).map_or(Ok(()), differ)
}

/// The first difference of two values: its path and both values there.
fn difference(at: &str, a: &Value, b: &Value) -> Option<(String, String, String)> {
    if let (Value::Object(a), Value::Object(b)) = (a, b) {
        let null = Value::Null;
        let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
        names.sort_unstable();
        return names.into_iter().find_map(|name| {
            let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            difference(&at, a.get(name).unwrap_or(&null), b.get(name).unwrap_or(&null))
        });
    }
    let at = if at.is_empty() { "settings" } else { at };
    (a != b).then(|| (at.to_owned(), a.to_string(), b.to_string()))
}
