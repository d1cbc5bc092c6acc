//! The statements of a model directory's JSON files about its weights: widths and sizes.

use std::path::Path;

use crate::edit::Edit;
use crate::json_text::Object;
use crate::replacement::Replacement;
use crate::widening::Widening;
use crate::{Error, Result};

/// The name of the configuration file.
pub(crate) const CONFIG: &str = "config.json";

const WIDTH: &str = "intermediate_size";

/// The change of `config.json` by which the language model becomes wider.
///
/// The language model's part of the file is `text_config` if it exists, the whole file otherwise. A width that the file does not state is
/// added.
pub(crate) fn widen(path: &Path, bytes: &[u8], widening: &Widening<'_>) -> Result<Edit<'static>> {
    let wrong = |reason: String| Error::Config { path: path.to_owned(), key: WIDTH.to_owned(), reason };
    let root = std::str::from_utf8(bytes).ok().and_then(Object::of).ok_or_else(|| wrong("the file is no JSON object".to_owned()))?;
    let mut widths: Vec<u64> = widening.widths.values().copied().collect();
    widths.dedup();
    let &[width] = widths.as_slice() else {
        return Err(wrong(format!("one number cannot say that layers have the widths {widths:?}")));
    };
    let text = root.object("text_config");
    match text.as_ref().unwrap_or(&root).number(WIDTH) {
        Some(Ok(n)) if n == width => {}
        Some(Ok(n)) => return Err(wrong(format!("it is {n}, and the weights have {width}"))),
        Some(Err(text)) => return Err(wrong(format!("expected the number {width}, found {text}"))),
        // A width at the top level would be ignored there.
        None if text.is_none() && root.object("vision_config").is_some() => {
            return Err(wrong(format!("write {width} into the language model's part of the file")));
        }
        None => {}
    }
    let wider = width.checked_add(widening.added).ok_or_else(|| wrong(format!("{} neurons are too many", widening.added)))?;
    Ok(Edit::Replace(text.unwrap_or(root).set(WIDTH, wider)))
}

/// The changes of the index of a sharded checkpoint: its sizes in bytes and in values, if it has them.
pub(crate) fn enlarge_index(bytes: &[u8], (more_bytes, more_values): (u64, u64)) -> Vec<Edit<'static>> {
    let metadata = std::str::from_utf8(bytes).ok().and_then(Object::of).and_then(|index| index.object("metadata"));
    let enlarged = |(key, more): (&str, u64)| -> Option<Replacement> {
        let metadata = metadata.as_ref()?;
        // Some writers store a float here, which is left unchanged.
        let size = metadata.number(key)?.ok()?;
        Some(metadata.set(key, size.saturating_add(more)))
    };
    let mut edits: Vec<_> =
        [("total_size", more_bytes), ("total_parameters", more_values)].into_iter().filter_map(enlarged).map(Edit::Replace).collect();
    edits.sort_by_key(Edit::place);
    edits
}
