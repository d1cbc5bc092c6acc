//! Models split over several GGUF files, as llama.cpp's `llama-gguf-split` and gguf-py write them.
//!
//! The parts lie in one directory and are named `<prefix>-00001-of-00003.gguf`, counted from 1. The first has the metadata, and need not
//! have tensors. Each part has its number, counted from 0, in `split.no`, the number of parts in `split.count`, and the number of tensors
//! of all parts in `split.tensors.count`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::header::Header;
use super::problem::GgufProblem;

/// The file name of a part of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartName {
    /// The name of the model, without the number of the part.
    pub prefix: String,
    /// The number of the part, from 1.
    pub number: u64,
    /// The number of parts.
    pub count: u64,
}

impl PartName {
    /// Takes apart a file name of the form `<prefix>-00001-of-00003.gguf`; none for other names.
    pub fn parse(file: &str) -> Option<Self> {
        let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| if text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit()) { text.parse::<u64>().ok() } else { None };
        let (number, count) = (digits(number)?, digits(count)?);
        (1..=count).contains(&number).then(|| Self { prefix: prefix.to_owned(), number, count })
    }

    /// Takes apart the file name of a path.
    pub fn of(path: &Path) -> Option<Self> {
        Self::parse(path.file_name()?.to_str()?)
    }

    /// The file name of a part, counted from 1, of the same model.
    pub fn part(&self, number: u64) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

/// A problem of one of the files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub problem: GgufProblem,
}

/// Finds the files of the model that `path` is, or is any part of, in order; for a model in one file that file alone.
///
/// # Errors
///
/// [`FileProblem`] with [`GgufProblem::PartName`] if the name does not tell the other parts, [`GgufProblem::PartNumber`] if it contradicts
/// the metadata, [`GgufProblem::MissingPart`] for a part that is not there, [`GgufProblem::KeyType`].
pub fn part_paths(path: &Path, header: &Header) -> Result<Vec<PathBuf>, FileProblem> {
    let refuse = |problem| FileProblem { path: path.to_owned(), problem };
    let Some((number, count)) = header.part().map_err(refuse)? else { return Ok(vec![path.to_owned()]) };
    let name = PartName::of(path).ok_or_else(|| refuse(GgufProblem::PartName { count }))?;
    if (name.number, name.count) != (number, count) {
        return Err(refuse(GgufProblem::PartNumber { number: name.number, of: name.count, found: number, found_of: count }));
    }
    let mut paths = Vec::new();
    for part in 1..=count {
        let place = if part == number { path.to_owned() } else { path.with_file_name(name.part(part)) };
        if !place.is_file() {
            return Err(FileProblem { path: place, problem: GgufProblem::MissingPart { number: part, count } });
        }
        paths.push(place);
    }
    Ok(paths)
}

/// Checks that the headers of several files are those of all parts of one model, in order.
///
/// # Errors
///
/// [`FileProblem`] with [`GgufProblem::PartNumber`], [`GgufProblem::DuplicateTensor`] if a tensor is in two parts,
/// [`GgufProblem::PartTensors`] if tensors are missing, [`GgufProblem::KeyType`].
pub fn check_parts(parts: &[(&Path, &Header)]) -> Result<(), FileProblem> {
    let count = parts.len() as u64;
    if count < 2 {
        return Ok(());
    }
    let mut names = BTreeSet::new();
    for ((path, header), expected) in parts.iter().zip(1..) {
        let refuse = |problem| FileProblem { path: (*path).to_owned(), problem };
        let (found, found_of) = header.part().map_err(refuse)?.unwrap_or((1, 1));
        if (found, found_of) != (expected, count) {
            return Err(refuse(GgufProblem::PartNumber { number: expected, of: count, found, found_of }));
        }
        if let Some(twice) = header.tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
            return Err(refuse(GgufProblem::DuplicateTensor { tensor: twice.name.clone() }));
        }
    }
    for (path, header) in parts {
        let refuse = |problem| FileProblem { path: (*path).to_owned(), problem };
        let found = names.len() as u64;
        match header.tensors_of_all_parts().map_err(refuse)? {
            Some(expected) if expected != found => return Err(refuse(GgufProblem::PartTensors { expected, found })),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_taken_apart() {
        let name = PartName::parse("a-b-00002-of-00012.gguf").unwrap();
        assert_eq!(name, PartName { prefix: "a-b".to_owned(), number: 2, count: 12 });
        assert_eq!(name.part(12), "a-b-00012-of-00012.gguf");
        for other in ["a.gguf", "a-00000-of-00002.gguf", "a-00003-of-00002.gguf", "a-1-of-2.gguf", "a-00001-of-00002.bin", "-of-.gguf"] {
            assert_eq!(PartName::parse(other), None, "{other}");
        }
    }
}
