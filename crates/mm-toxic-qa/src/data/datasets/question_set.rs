//! The readers of data sets whose files are plain lists of questions: a table of their formats.

use std::path::{Path, PathBuf};

use super::dataset::{Dataset, Entry, Item, Picture, entry, harmless, risky};
use super::fields::Fields;
use super::formats::{self, Kind};
use crate::{Result, Sample};

/// The published form of a data set that lists questions, one an entry: its columns (fields, in JSON), with the names of its publisher.
#[derive(Debug)]
pub struct QuestionFormat {
    name: &'static str,
    about: &'static str,
    /// The kind of file where its name does not say.
    kind: Kind,
    /// The columns of the id, of which a file has one; without one, entries are numbered from 0.
    id: &'static [&'static str],
    prompt: &'static str,
    /// Text to show before the prompt, where there is some.
    context: Option<&'static str>,
    category: Option<&'static str>,
    images: Images,
    harmless: Harmless,
}

/// The images of a set.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Images {
    None,
    /// The file that a column names.
    Named(&'static str),
    /// Entry `n`, from 0, has the image `n.jpg` (or `.jpeg`, `.png`); where there is none, the last part of the address in a column.
    Numbered(&'static str),
    /// An entry is as many questions as there are columns: their files lie in a folder with the name of the category, and the question is
    /// harmless with the first columns, risky with the second.
    Columns {
        harmless: &'static [&'static str],
        risky: &'static [&'static str],
    },
}

/// The questions of a set that are harmless.
#[derive(Clone, Copy, Debug)]
enum Harmless {
    None,
    /// Those whose column `label` is `safe`; without that column, those whose `type` does not start with `contrast`.
    Label,
    /// All of a file whose name starts with `benign`.
    BenignFile,
}

/// The formats of all sets that list questions.
pub static QUESTION_FORMATS: &[QuestionFormat] = &[
    QuestionFormat {
        prompt: "query",
        images: Images::Named("image_id"),
        ..QuestionFormat::lines("vlsafe", "VLSafe (arXiv 2312.07533): harmful questions about harmless COCO images")
    },
    QuestionFormat {
        images: Images::Numbered("image_url"),
        ..QuestionFormat::lines("mm-harmfulbench", "MM-HarmfulBench: harmful questions that need their image")
    },
    QuestionFormat {
        id: &["question_id"],
        category: Some("category"),
        images: Images::Named("image"),
        kind: Kind::Json,
        ..QuestionFormat::lines("siuo", "SIUO (arXiv 2406.15279), siuo_gen.json: harmless by themselves, harmful together")
    },
    QuestionFormat {
        id: &["BehaviorID"],
        prompt: "Behavior",
        context: Some("ContextString"),
        category: Some("SemanticCategory"),
        ..QuestionFormat::table("harmbench", "HarmBench (arXiv 2402.04249), text behaviours")
    },
    QuestionFormat {
        id: &["BehaviorID"],
        prompt: "Behavior",
        category: Some("SemanticCategory"),
        images: Images::Named("ImageFileName"),
        ..QuestionFormat::table("harmbench-multimodal", "HarmBench, multimodal behaviours")
    },
    QuestionFormat { prompt: "goal", ..QuestionFormat::table("advbench", "AdvBench (arXiv 2307.15043), harmful_behaviors.csv") },
    QuestionFormat {
        id: &["Index"],
        prompt: "Goal",
        category: Some("Category"),
        harmless: Harmless::BenignFile,
        ..QuestionFormat::table("jailbreakbench", "JailbreakBench (arXiv 2404.01318), harmful- or benign-behaviors.csv")
    },
    QuestionFormat {
        id: &["id"],
        category: Some("policy"),
        ..QuestionFormat::table("redteam-2k", "RedTeam-2K (arXiv 2404.03027), RedTeam_2K.csv")
    },
    QuestionFormat {
        id: &["id", "id_v2"],
        prompt: "prompt",
        category: Some("type"),
        harmless: Harmless::Label,
        ..QuestionFormat::table("xstest", "XSTest (arXiv 2308.01263): questions that only sound harmful, and contrasts that are")
    },
    QuestionFormat {
        prompt: "Prompt",
        category: Some("Category"),
        images: Images::Columns {
            harmless: &["safe_img_0", "safe_img_1", "safe_img_2"],
            risky: &["unsafe_img_0", "unsafe_img_1", "unsafe_img_2"],
        },
        kind: Kind::Sheet,
        ..QuestionFormat::table("vscbench", "VSCBench (arXiv 2505.20362), image-centric: a question with safe and unsafe images")
    },
];

impl QuestionFormat {
    /// A JSONL file whose questions are in `question`.
    const fn lines(name: &'static str, about: &'static str) -> Self {
        let (id, context, category, images) = (&[] as &[&str], None, None, Images::None);
        Self { name, about, kind: Kind::JsonLines, id, prompt: "question", context, category, images, harmless: Harmless::None }
    }

    /// A CSV file.
    const fn table(name: &'static str, about: &'static str) -> Self {
        Self { kind: Kind::Csv, ..Self::lines(name, about) }
    }

    /// The format of a set.
    pub fn named(name: &str) -> Option<&'static Self> {
        QUESTION_FORMATS.iter().find(|format| format.name == name)
    }

    /// The name of the set: the source of its samples, and the option of programs.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The set in a few words.
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// Whether the set has images.
    pub fn has_images(&self) -> bool {
        self.images != Images::None
    }

    /// The columns that a table must have.
    fn columns(&self) -> Vec<&'static str> {
        let mut columns = vec![self.prompt];
        // Of several columns for the id a file has one.
        columns.extend(if let [id] = self.id { Some(*id) } else { None });
        columns.extend(self.category);
        match self.images {
            Images::None | Images::Numbered(_) => {}
            Images::Named(column) => columns.push(column),
            Images::Columns { harmless, risky } => columns.extend([harmless, risky].concat()),
        }
        columns
    }
}

/// A set that lists questions, on disk.
#[derive(Clone, Debug)]
pub struct QuestionSet {
    format: &'static QuestionFormat,
    file: PathBuf,
    images: PathBuf,
}

impl QuestionSet {
    /// The set in a `file` (`.csv`, `.tsv`, `.json`, `.jsonl` or, with the feature `xlsx`, `.xlsx`), whose images lie in the folder
    /// `images`; a set without images does not use it.
    pub fn new(format: &'static QuestionFormat, file: impl Into<PathBuf>, images: impl Into<PathBuf>) -> Self {
        Self { format, file: file.into(), images: images.into() }
    }

    /// The questions of an entry: one, or one for every image column.
    fn questions(&self, fields: &Fields, stem: &str, number: usize) -> Result<Vec<Item>> {
        let Self { format, images: folder, .. } = self;
        let named: Vec<&&str> = format.id.iter().filter(|column| fields.get(column).is_some()).collect();
        let id = match (format.id, named.first()) {
            ([], _) => number.to_string(),
            (_, Some(column)) => fields.name(column)?,
            ([column, ..], None) => fields.name(column)?,
        };
        let mut prompt = fields.text(format.prompt)?;
        if let Some(context) = format.context.map(|column| fields.optional_text(column)).transpose()?.flatten() {
            // As HarmBench joins them.
            prompt = format!("{context}\n\n---\n\n{prompt}");
        }
        let category = format.category.map_or_else(|| Ok(format.name.to_owned()), |column| fields.text(column))?;
        let sample = risky(format.name, format!("{}/{stem}/{id}", format.name), category, prompt);
        let sample = if self.is_harmless(fields, stem)? { harmless(sample) } else { sample };
        let place = &fields.place;
        let one = |picture| Ok(vec![Item::new(sample.clone(), picture, place.clone())]);
        match format.images {
            Images::None => one(None),
            Images::Named(column) => one(Some(Picture::File(place.inside(column, folder, &fields.text(column)?)?))),
            Images::Numbered(column) => one(Some(Picture::File(numbered(folder, number, fields, column)?))),
            Images::Columns { harmless: safe, risky } => {
                let folder = place.inside(format.category.unwrap_or_default(), folder, &sample.category)?;
                let shown = |column: &'static str, is_safe: bool| {
                    let shown = Sample { id: format!("{}/{column}", sample.id), ..sample.clone() };
                    let picture = Picture::File(place.inside(column, &folder, &fields.text(column)?)?);
                    Ok(Item::new(if is_safe { harmless(shown) } else { shown }, Some(picture), place.clone()))
                };
                safe.iter().map(|column| shown(column, true)).chain(risky.iter().map(|column| shown(column, false))).collect()
            }
        }
    }

    fn is_harmless(&self, fields: &Fields, stem: &str) -> Result<bool> {
        match self.format.harmless {
            Harmless::None => Ok(false),
            Harmless::BenignFile => Ok(stem.to_lowercase().starts_with("benign")),
            Harmless::Label => match fields.optional_text("label")?.as_deref() {
                Some("safe") => Ok(true),
                Some("unsafe") => Ok(false),
                Some(other) => Err(fields.place.invalid("label", other, "safe or unsafe")),
                None => Ok(!fields.text("type")?.starts_with("contrast")),
            },
        }
    }
}

/// The image of entry `number`, by number or by the last part of its address.
fn numbered(folder: &Path, number: usize, fields: &Fields, column: &str) -> Result<PathBuf> {
    let by_number = ["jpg", "jpeg", "png"].map(|extension| folder.join(format!("{number}.{extension}")));
    if let Some(path) = by_number.iter().find(|path| path.exists()) {
        return Ok(path.clone());
    }
    let address = fields.optional_text(column)?.unwrap_or_default();
    let name = address.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let by_address = if name.is_empty() { None } else { Some(fields.place.inside(column, folder, name)?) };
    let [published, ..] = by_number;
    Ok(by_address.filter(|path| path.exists()).unwrap_or(published))
}

impl Dataset for QuestionSet {
    fn source(&self) -> Result<String> {
        Ok(self.format.name.to_owned())
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let (stem, columns) = (formats::stem(&self.file)?, self.format.columns());
        let mut number = 0;
        formats::for_each_entry(&self.file, self.format.kind, &columns, &mut |fields| {
            let questions = fields.and_then(|fields| self.questions(&fields, &stem, number));
            number += 1;
            match questions {
                Ok(items) => items.into_iter().try_for_each(|item| each(Entry::Item(item))),
                Err(error) => each(entry(Err(error))?),
            }
        })
    }
}
