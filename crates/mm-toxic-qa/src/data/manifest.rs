//! The manifest: the benchmark's samples as JSONL, one [`Sample`] a line, versioned.
//!
//! ```json
//! {"schema": 1, "id": "hs-0001", "source": "my-set", "split": "test", "category": "hate",
//!  "condition": "adversarial", "attack": "typography", "image": "images/0001.png",
//!  "prompt": "What does the sign say?"}
//! ```
//!
//! (one line in the file.) `image` is a path relative to the manifest's folder or `{"scene": {...}}`, a scene of a synthetic
//! [`World`]. Calibration samples have `response` and `label` (1 toxic, 0 non-toxic); utility samples have `task`: `vqa` samples have
//! `reference`, `perplexity` samples `response`, `refusal` samples neither. `subcategory` and `request` are optional. A field that is null
//! counts as absent; blank lines are skipped.
//!
//! Scenes, and references of a kind `<world>/<kind>`, need their world: [`read_with`], [`parse_with`] and [`write_with`] take one.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sgm_core::sha256::hex_digest;

use crate::metrics::scoring::{ReferenceFault, world_of};
use crate::{BoxError, Condition, Error, ImageRef, Reference, ReferenceScorer, Result, Sample, Scene, Scorer, Split, Task, World, files};

/// The schema this version writes, and the newest it reads.
pub const SCHEMA: u64 = 1;

const TASKS: &str = "one of vqa, perplexity, refusal for a sample of split utility";

const FIELDS: &str = "schema, id, source, split, category, condition, attack, image, prompt, response, \
                      label, reference, task, subcategory and request";

/// Reads a manifest file without samples of a synthetic world; image paths are relative to its folder.
///
/// # Errors
///
/// [`Error::Io`] when the file cannot be read, and those of [`parse`].
pub fn read(path: &Path) -> Result<Vec<Sample>> {
    parse(files::open(path)?, path)
}

/// Reads a manifest file that may hold samples of a synthetic world.
///
/// # Errors
///
/// As [`read`] and [`parse_with`].
pub fn read_with(path: &Path, world: &dyn World) -> Result<Vec<Sample>> {
    parse_with(files::open(path)?, path, world)
}

/// Reads a manifest from any reader; `path` names it in errors, and its folder holds the images.
///
/// # Errors
///
/// The first problem, with its line: [`Error::LineTooLong`], [`Error::NotUtf8`], [`Error::Syntax`], [`Error::NewerSchema`],
/// [`Error::MissingField`], [`Error::InvalidField`], [`Error::UnknownField`], [`Error::DuplicateId`], [`Error::ImageOutside`];
/// [`Error::NoWorld`] for a scene, [`Error::UnknownKind`] for a reference of a kind `<world>/<kind>`.
pub fn parse(reader: impl BufRead, path: &Path) -> Result<Vec<Sample>> {
    Format::new(None).parse(reader, path)
}

/// Reads a manifest that may hold samples of a synthetic world from any reader.
///
/// # Errors
///
/// As [`parse`]; [`Error::UnknownKind`] only for the kinds that the world's scorer does not know, [`Error::InvalidField`] also for a scene
/// that is not one of the world.
pub fn parse_with(reader: impl BufRead, path: &Path, world: &dyn World) -> Result<Vec<Sample>> {
    Format::new(Some(world)).parse(reader, path)
}

/// Writes a manifest, whole or not at all, that [`read`] accepts.
///
/// # Errors
///
/// The errors of [`read`], with the line that the sample would have, when the samples break a rule of the format; [`Error::InvalidField`]
/// also when an image lies in another folder than the manifest; [`Error::Write`] when the file cannot be written.
pub fn write(path: &Path, samples: &[Sample]) -> Result<()> {
    Format::new(None).write(path, samples)
}

/// Writes a manifest, whole or not at all, that [`read_with`] accepts with the same world.
///
/// # Errors
///
/// As [`write()`], with the errors of [`read_with`].
pub fn write_with(path: &Path, samples: &[Sample], world: &dyn World) -> Result<()> {
    Format::new(Some(world)).write(path, samples)
}

/// The SHA-256 of a set of samples as 64 hexadecimal digits: equal when the sets are.
///
/// The hash is over the samples' manifest lines, with every image path replaced by the SHA-256 of the file's bytes, in byte order. So
/// neither the order of the samples, nor the spelling of the manifest, nor the place of the images matters, and every pixel does.
///
/// # Errors
///
/// [`Error::Io`] when an image file cannot be read, [`Error::Scene`] when a scene gives no JSON.
pub fn sha256(samples: &[Sample]) -> Result<String> {
    let mut lines = samples
        .iter()
        .map(|sample| {
            let image = match &sample.image {
                None => None,
                Some(ImageRef::Scene(scene)) => {
                    let scene = scene_json(scene.as_ref()).map_err(|source| Error::Scene { id: sample.id.clone(), source })?;
                    Some(Picture::Scene { scene })
                }
                Some(ImageRef::File { folder, path }) => {
                    let path = folder.join(path);
                    let bytes = std::fs::read(&path).map_err(|source| Error::Io { path, source })?;
                    Some(Picture::Content { sha256: hex_digest(&bytes) })
                }
            };
            Ok(line(sample, image))
        })
        .collect::<Result<Vec<_>>>()?;
    lines.sort_unstable();
    Ok(hex_digest(lines.concat()))
}

#[derive(Serialize)]
struct Line<'a> {
    schema: u64,
    id: &'a str,
    source: &'a str,
    split: Split,
    category: &'a str,
    condition: Condition,
    #[serde(skip_serializing_if = "Option::is_none")]
    attack: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Picture<'a>>,
    prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subcategory: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Picture<'a> {
    File(&'a str),
    Scene { scene: Box<RawValue> },
    Content { sha256: String },
}

fn line(sample: &Sample, image: Option<Picture<'_>>) -> Vec<u8> {
    let line = Line {
        schema: SCHEMA,
        id: &sample.id,
        source: &sample.source,
        split: sample.split,
        category: &sample.category,
        condition: sample.condition,
        attack: sample.attack.as_deref(),
        image,
        prompt: &sample.prompt,
        response: sample.response.as_deref(),
        label: sample.label.map(u8::from),
        reference: sample.reference.as_ref(),
        task: sample.task,
        subcategory: sample.subcategory.as_deref(),
        request: sample.request.as_deref(),
    };
    // Strings, integers and string-keyed structs always have a JSON form.
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The JSON of a scene, as it is in a manifest line.
fn scene_json(scene: &dyn Scene) -> std::result::Result<Box<RawValue>, BoxError> {
    let text = scene.to_json();
    if text.contains(['\n', '\r']) {
        return Err("its JSON has several lines; a manifest has one for each sample".into());
    }
    Ok(RawValue::from_string(text)?)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn same_folder(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The rules of a manifest, with those of its world.
struct Format<'w> {
    world: Option<&'w dyn World>,
    scorer: Arc<dyn Scorer>,
}

impl<'w> Format<'w> {
    fn new(world: Option<&'w dyn World>) -> Self {
        Self { world, scorer: world.map_or_else(|| Arc::new(ReferenceScorer) as _, |world| world.scorer()) }
    }

    fn parse(&self, reader: impl BufRead, path: &Path) -> Result<Vec<Sample>> {
        let folder = folder_of(path);
        let mut samples = Vec::new();
        let mut seen = HashMap::new();
        files::for_each_line(reader, path, |line, text| {
            let at = At { format: self, path, line };
            let sample = at.sample(files::json(path, line, text)?, &folder)?;
            at.check(&sample)?;
            at.unique(&mut seen, &sample)?;
            samples.push(sample);
            Ok(())
        })?;
        Ok(samples)
    }

    fn write(&self, path: &Path, samples: &[Sample]) -> Result<()> {
        let folder = folder_of(path);
        let mut seen = HashMap::new();
        let mut bytes = Vec::new();
        for (index, sample) in samples.iter().enumerate() {
            let at = At { format: self, path, line: index + 1 };
            at.check(sample)?;
            at.unique(&mut seen, sample)?;
            let image = match &sample.image {
                None => None,
                Some(ImageRef::Scene(scene)) => {
                    let scene = scene_json(scene.as_ref()).map_err(|e| at.invalid("image.scene", "not writable", e.to_string()))?;
                    // A world may refuse the scene; the manifest would then be unreadable.
                    at.scene(&serde_json::from_str(scene.get()).unwrap_or_default())?;
                    Some(Picture::Scene { scene })
                }
                Some(ImageRef::File { folder: from, path: file }) => {
                    if !same_folder(from, &folder) {
                        let found = from.join(file);
                        return Err(at.invalid("image", found.display(), "a file in the folder that the manifest is written to"));
                    }
                    Some(Picture::File(file))
                }
            };
            bytes.extend_from_slice(&line(sample, image));
        }
        sgm_core::write_atomically(path, &bytes)?;
        Ok(())
    }
}

/// The line of a manifest that errors name.
struct At<'a> {
    format: &'a Format<'a>,
    path: &'a Path,
    line: usize,
}

impl At<'_> {
    fn missing(&self, field: &'static str, expected: &'static str) -> Error {
        Error::MissingField { path: self.path.to_owned(), line: self.line, field, expected }
    }

    fn invalid(&self, field: &'static str, found: impl ToString, expected: impl Into<String>) -> Error {
        let found = found.to_string();
        let mut short: String = found.chars().take(60).collect();
        if short.len() < found.len() {
            short.push('…');
        }
        Error::InvalidField { path: self.path.to_owned(), line: self.line, field, found: short, expected: expected.into() }
    }

    fn unique(&self, seen: &mut HashMap<String, usize>, sample: &Sample) -> Result<()> {
        match seen.insert(sample.id.clone(), self.line) {
            None => Ok(()),
            Some(first) => Err(Error::DuplicateId { path: self.path.to_owned(), line: self.line, id: sample.id.clone(), first }),
        }
    }

    fn sample(&self, mut fields: Map<String, Value>, folder: &Path) -> Result<Sample> {
        let fields = &mut fields;
        match take(fields, "schema") {
            None => return Err(self.missing("schema", "1")),
            Some(value) => match value.as_u64() {
                Some(SCHEMA) => {}
                Some(found) if found > SCHEMA => {
                    return Err(Error::NewerSchema { path: self.path.to_owned(), line: self.line, found, supported: SCHEMA });
                }
                _ => return Err(self.invalid("schema", value, "1")),
            },
        }
        let split = self.required(fields, "split", "one of calibration, dev, test, utility")?;
        let condition = self.required(fields, "condition", "one of standard, adversarial")?;
        let sample = Sample {
            id: self.required(fields, "id", "a string")?,
            source: self.required(fields, "source", "a string: the name of the data set")?,
            split,
            category: self.required(fields, "category", "a string: the kind of harm")?,
            condition,
            attack: self.optional(fields, "attack", "a string: the name of the attack")?,
            image: self.image(fields, folder)?,
            prompt: self.required(fields, "prompt", "a string: the user's question")?,
            response: self.optional(fields, "response", "a string: the answer")?,
            label: match take(fields, "label") {
                None => None,
                Some(value) => match value.as_u64() {
                    Some(0) => Some(false),
                    Some(1) => Some(true),
                    _ => return Err(self.invalid("label", value, "1 (toxic) or 0 (non-toxic)")),
                },
            },
            reference: self.optional(fields, "reference", "{\"kind\": string, \"key\": [strings], \"answers\": [strings]}")?,
            task: self.optional(fields, "task", TASKS)?,
            subcategory: self.optional(fields, "subcategory", "a string: the kind of harm within the category")?,
            request: self.optional(fields, "request", "a string: what is asked for, in plain words")?,
        };
        match fields.keys().next() {
            None => Ok(sample),
            Some(field) => Err(Error::UnknownField {
                path: self.path.to_owned(),
                line: self.line,
                field: field.chars().take(60).collect(),
                known: FIELDS.to_owned(),
            }),
        }
    }

    fn optional<T: serde::de::DeserializeOwned>(
        &self,
        fields: &mut Map<String, Value>,
        field: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>> {
        take(fields, field)
            .map(|value| {
                let found = value.to_string();
                serde_json::from_value(value).map_err(|_| self.invalid(field, found, expected))
            })
            .transpose()
    }

    fn required<T: serde::de::DeserializeOwned>(
        &self,
        fields: &mut Map<String, Value>,
        field: &'static str,
        expected: &'static str,
    ) -> Result<T> {
        self.optional(fields, field, expected)?.ok_or_else(|| self.missing(field, expected))
    }

    fn image(&self, fields: &mut Map<String, Value>, folder: &Path) -> Result<Option<ImageRef>> {
        const EXPECTED: &str = "a file path or {\"scene\": {...}}";
        match take(fields, "image") {
            None => Ok(None),
            Some(Value::String(path)) => Ok(Some(ImageRef::File { folder: folder.to_owned(), path })),
            Some(Value::Object(mut object)) if object.len() == 1 => {
                let Some(scene) = object.remove("scene") else {
                    return Err(self.invalid("image", Value::Object(object), EXPECTED));
                };
                Ok(Some(ImageRef::Scene(self.scene(&scene)?)))
            }
            Some(value) => Err(self.invalid("image", value, EXPECTED)),
        }
    }

    fn scene(&self, scene: &Value) -> Result<Arc<dyn Scene>> {
        let world = self.format.world.ok_or_else(|| Error::NoWorld { path: self.path.to_owned(), line: self.line })?;
        let expected = |e| format!("a scene of the world `{}` ({e})", world.name());
        world.read_scene(scene).map_err(|e| self.invalid("image.scene", scene, expected(e)))
    }

    /// Checks the rules that types do not express.
    fn check(&self, sample: &Sample) -> Result<()> {
        let texts = [("id", &sample.id), ("source", &sample.source), ("category", &sample.category), ("prompt", &sample.prompt)];
        for (field, text) in texts {
            if text.trim().is_empty() {
                return Err(self.invalid(field, "empty", "some text"));
            }
        }
        if let Some(ImageRef::File { path, .. }) = &sample.image {
            let inside = Path::new(path).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
            if !inside || path.contains('\\') {
                return Err(Error::ImageOutside { path: self.path.to_owned(), line: self.line, image: path.clone() });
            }
            if !Path::new(path).components().any(|c| matches!(c, Component::Normal(_))) {
                return Err(self.invalid("image", format!("{path:?}"), "the path of a file"));
            }
        }
        if let Some(reference) = &sample.reference {
            self.check_reference(reference, sample.task)?;
        }
        if (sample.split == Split::Utility) != sample.task.is_some() {
            return Err(match sample.task {
                None => self.missing("task", TASKS),
                Some(_) => self.invalid("task", "present", "a task for samples of split utility only"),
            });
        }
        match (sample.split, sample.task) {
            (Split::Calibration, _) if sample.response.is_none() => {
                Err(self.missing("response", "the answer that the label of a calibration sample is about"))
            }
            (Split::Calibration, _) if sample.label.is_none() => {
                Err(self.missing("label", "1 (toxic) or 0 (non-toxic) for a calibration sample"))
            }
            (_, Some(Task::Perplexity)) if sample.response.is_none() => {
                Err(self.missing("response", "the answer whose perplexity is measured"))
            }
            (_, Some(Task::Vqa)) if sample.reference.is_none() => Err(self.missing("reference", "the right answer of a vqa sample")),
            _ => Ok(()),
        }
    }

    fn check_reference(&self, reference: &Reference, task: Option<Task>) -> Result<()> {
        let scorer = &self.format.scorer;
        match scorer.fault(reference, task) {
            Some(ReferenceFault { field, found: None, expected }) => Err(self.missing(field, expected)),
            Some(ReferenceFault { field, found: Some(found), expected }) => Err(self.invalid(field, found, expected)),
            None if scorer.knows(reference) => Ok(()),
            None => Err(Error::UnknownKind {
                path: self.path.to_owned(),
                line: self.line,
                kind: reference.kind.chars().take(60).collect(),
                world: world_of(reference).chars().take(60).collect(),
            }),
        }
    }
}

fn take(fields: &mut Map<String, Value>, field: &str) -> Option<Value> {
    fields.remove(field).filter(|value| !value.is_null())
}
