//! The language models among the GGUF files of a directory.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::header::Header;
use super::split::PartName;
use super::value::Value;

/// Finds the language models among the GGUF files of a directory: one path for each, in order of their names, and for a model in parts that
/// of the first part there.
///
/// Vision towers (`mmproj`), adapters and importance matrices are left out. A file that cannot be read counts as a model unless its name
/// says `mmproj`, so that opening it tells what is wrong.
///
/// # Errors
///
/// The operating system's, if the directory cannot be read.
pub fn language_models_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let mut models: Vec<PathBuf> = Vec::new();
    for path in files {
        let another_part = |first: &PathBuf| match (PartName::of(first), PartName::of(&path)) {
            (Some(first), Some(this)) => (first.prefix, first.count) == (this.prefix, this.count),
            _ => false,
        };
        if !models.last().is_some_and(another_part) && is_language_model(&path) {
            models.push(path);
        }
    }
    Ok(models)
}

/// Whether a file name says that the file is a vision tower.
pub fn is_mmproj_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.contains("mmproj") && name.ends_with(".gguf")
}

fn is_language_model(path: &Path) -> bool {
    let header = File::open(path).ok().and_then(|file| {
        let length = file.metadata().ok()?.len();
        Header::read(BufReader::new(file), length).ok()
    });
    match header {
        None => !is_mmproj_name(path),
        Some(header) => {
            let kind = header.get("general.type").and_then(Value::as_text);
            header.architecture() != Some("clip") && kind.is_none_or(|kind| kind == "model")
        }
    }
}
