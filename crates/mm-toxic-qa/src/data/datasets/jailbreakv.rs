//! The reader of JailBreakV-28K.

use std::path::{Path, PathBuf};

use super::dataset::{Dataset, Entry, Item, Picture, attacked, entry, risky};
use super::fields::Fields;
use super::formats;
use crate::{Result, Sample};

const SOURCE: &str = "jailbreakv-28k";
const ALL: &str = "JailBreakV_28K.csv";
const MINI: &str = "mini_JailBreakV_28K.csv";

/// JailBreakV-28K (arXiv 2404.03027): jailbreak prompts with images, by policy; the attack is the `format`.
///
/// The query inside the jailbreak, `redteam_query`, is the [request](Sample::request) that judges see.
#[derive(Clone, Debug)]
pub struct JailBreakV {
    folder: PathBuf,
    mini: bool,
}

impl JailBreakV {
    /// The set in `folder`, or in its folder `JailBreakV_28K`: `JailBreakV_28K.csv`, and the images at their `image_path`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), mini: false }
    }

    /// Only the mini version: `mini_JailBreakV_28K.csv`; without that file, the rows that `selected_mini` marks.
    #[must_use]
    pub fn mini(self) -> Self {
        Self { mini: true, ..self }
    }

    fn entry(&self, fields: &Fields, row: usize, folder: &Path, filter: bool) -> Result<Entry> {
        if filter && !fields.truth("selected_mini")? {
            return Ok(Entry::left_out(fields, "not in the mini version"));
        }
        let id = if fields.get("id").is_some() { fields.name("id")? } else { row.to_string() };
        let sample = risky(SOURCE, format!("{SOURCE}/{id}"), fields.text("policy")?, fields.text("jailbreak_query")?);
        let sample = Sample { request: fields.optional_text("redteam_query")?, ..attacked(&fields.text("format")?, sample) };
        let picture = match fields.optional_text("image_path")? {
            None => None,
            Some(name) => Some(Picture::File(fields.place.inside("image_path", folder, &name)?)),
        };
        Ok(Entry::Item(Item::new(sample, picture, fields.place.clone())))
    }
}

impl Dataset for JailBreakV {
    fn source(&self) -> Result<String> {
        Ok(SOURCE.to_owned())
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let folders = [self.folder.clone(), self.folder.join("JailBreakV_28K")];
        let files = if self.mini { &[MINI, ALL][..] } else { &[ALL] };
        let found = files.iter().find_map(|file| Some((folders.iter().find(|folder| folder.join(file).exists())?, *file)));
        let (folder, file) = found.unwrap_or((&self.folder, ALL));
        let filter = self.mini && file == ALL;
        let mut columns = vec!["jailbreak_query", "format", "policy", "image_path"];
        columns.extend(filter.then_some("selected_mini"));
        let mut rows = 0..;
        formats::for_each_row(&folder.join(file), b',', &columns, &mut |fields| {
            let row = rows.next().unwrap_or_default();
            each(entry(fields.and_then(|fields| self.entry(&fields, row, folder, filter)))?)
        })
    }
}
