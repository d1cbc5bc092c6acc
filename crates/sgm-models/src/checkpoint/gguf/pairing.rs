//! The choice of the vision tower (`mmproj` file) beside a language model.
//!
//! A directory may hold the vision tower of another model. A tower is used if its projector suits the architecture of
//! the language model and has the width of its embeddings, and if the names say that the two belong together:
//!
//! * every word of the tower's file name, or of its `general.basename` where the file name has none
//!   (`mmproj-model-f16.gguf`), is a word of the language model's file name, `general.name` or `general.basename`.
//!   Words that tell nothing, such as `mmproj`, `7b` or `q4`, do not count;
//! * where the tower has no words, the vocabulary of the language model has the projector's image token, or its name
//!   says LLaVA.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sgm_core::gguf::{PartName, is_mmproj_name};

use crate::checkpoint::gguf::architecture::Architecture;
use crate::checkpoint::gguf::header::Gguf;
use crate::checkpoint::gguf::projector::Projector;
use crate::checkpoint::gguf::tokenizer;
use crate::error::{Error, Result};

/// Finds the files with `mmproj` in their names beside a file, in order of their names.
pub(crate) fn candidates_beside(path: &Path) -> Result<Vec<PathBuf>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let io = |source| Error::Io { path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let other = entry.map_err(io)?.path();
        if other.file_name() != path.file_name() && is_mmproj_name(&other) {
            found.push(other);
        }
    }
    found.sort();
    Ok(found)
}

/// Checks that a vision tower can be that of a language model.
///
/// # Errors
///
/// [`Error::Unsupported`] for another kind of projector; [`Error::Gguf`] if the two do not fit.
pub(crate) fn check_fit(text: &Gguf, mmproj: &Gguf) -> Result<Projector> {
    let (architecture, projector) = (Architecture::of(text)?, Projector::of(mmproj)?);
    let language = text.path().display();
    if !projector.suits(architecture) {
        let reason = format!(
            "its projector {} does not suit the architecture {} of the language model {language}; use the mmproj file converted with it",
            projector.name(),
            architecture.name
        );
        return Err(mmproj.error(reason));
    }
    let width = projector.width(mmproj)?;
    let embeddings = text.metadata().usize(&format!("{}.embedding_length", architecture.name))?;
    if let Some(embeddings) = embeddings.filter(|embeddings| *embeddings != width) {
        let reason = format!(
            "its features have width {width}, and the embeddings of the language model {language} have {embeddings}; \
             use the mmproj file converted with it"
        );
        return Err(mmproj.error(reason));
    }
    let token = projector.image_token();
    if projector.needs_image_token() && !tokenizer::has_token(text, token)? {
        let reason =
            format!("its projector {} needs the token {token}, which the language model {language} does not have", projector.name());
        return Err(mmproj.error(reason));
    }
    Ok(projector)
}

/// Checks that the names of a language model and of a vision tower that fits it say that the two belong together.
///
/// # Errors
///
/// [`Error::Gguf`] if they do not.
pub(crate) fn check_names(text: &Gguf, mmproj: &Gguf, projector: Projector) -> Result<()> {
    let mut of_text = file_words(text.path());
    for key in ["general.name", "general.basename"] {
        of_text.extend(words(text.metadata().string(key)?.unwrap_or_default()));
    }
    let mut of_tower = file_words(mmproj.path());
    if of_tower.is_empty() {
        of_tower = words(mmproj.metadata().string("general.basename")?.unwrap_or_default());
    }
    let language = text.path().display();
    if let Some(strange) = of_tower.iter().find(|word| !of_text.contains(*word)) {
        return Err(mmproj.error(format!("its name says `{strange}`, and that of the language model {language} does not")));
    }
    let named = |word: &String| word.contains("llava");
    if of_tower.is_empty() && !tokenizer::has_token(text, projector.image_token())? && !of_text.iter().any(named) {
        let token = projector.image_token();
        return Err(mmproj.error(format!("neither a name nor a token {token} says that it belongs to the language model {language}")));
    }
    Ok(())
}

/// The words of a file name, without the number of a part.
fn file_words(path: &Path) -> BTreeSet<String> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    words(&PartName::of(path).map_or_else(|| name.into_owned(), |part| part.prefix))
}

/// The words of a name that tell one model from another, in lower case. A point or `_` between digits belongs to the word.
fn words(name: &str) -> BTreeSet<String> {
    const COMMON: &[&str] = &[
        "mmproj",
        "model",
        "models",
        "ggml",
        "gguf",
        "text",
        "vision",
        "clip",
        "vit",
        "encoder",
        "projector",
        "image",
        "instruct",
        "chat",
        "it",
        "hf",
        "base",
        "imat",
        "imatrix",
        "ud",
        "s",
        "m",
        "l",
        "k",
        "xs",
        "xxs",
        "nl",
        "xl",
        "main",
        "latest",
    ];
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    // Types such as q4 and bf16, versions, plain numbers.
    let numbered = |word: &str| {
        ["", "q", "iq", "tq", "f", "fp", "bf", "int", "mxfp", "v"].iter().any(|letters| word.strip_prefix(letters).is_some_and(number))
    };
    // 7b, 2.2b, 500m.
    let size = |word: &str| word.strip_suffix(['b', 'm', 'k']).is_some_and(number);
    let characters: Vec<char> = name.to_lowercase().chars().collect();
    let digit = |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(char::is_ascii_digit);
    let spaced = characters.iter().enumerate().map(|(at, c)| match c {
        '.' | '_' if digit(at.checked_sub(1)) && digit(at.checked_add(1)) => '.',
        c if c.is_alphanumeric() => *c,
        _ => ' ',
    });
    let spaced: String = spaced.collect();
    let telling = |word: &&str| !COMMON.contains(word) && !numbered(word) && !size(word);
    spaced.split_whitespace().filter(telling).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_pairs_share_their_words_and_others_do_not() {
        let of = |name: &str| file_words(Path::new(name));
        for (text, tower) in [
            ("SmolVLM-500M-Instruct-Q8_0.gguf", "mmproj-SmolVLM-500M-Instruct-f16.gguf"),
            ("Qwen2.5-VL-3B-Instruct-Q4_K_M.gguf", "mmproj-Qwen2.5-VL-3B-Instruct-f16.gguf"),
            ("Qwen_Qwen2.5-VL-7B-Instruct-IQ4_XS.gguf", "mmproj-Qwen_Qwen2.5-VL-7B-Instruct-bf16.gguf"),
            ("llava-llama-3-8b-v1_1-int4.gguf", "llava-llama-3-8b-v1_1-mmproj-f16.gguf"),
            ("Qwen2-VL-72B-Instruct-Q4_K_M-00001-of-00002.gguf", "Qwen2-VL-72B-Instruct.mmproj-Q8_0.gguf"),
        ] {
            assert!(!of(tower).is_empty() && of(tower).is_subset(&of(text)), "{text} {tower}: {:?} {:?}", of(text), of(tower));
        }
        for tower in ["mmproj-model-f16.gguf", "mmproj-F32.gguf", "mmproj.gguf", "model-mmproj-Q8_0.gguf"] {
            assert!(of(tower).is_empty(), "{tower}: {:?}", of(tower));
        }
        for (text, tower) in [
            ("SmolLM2-135M-Instruct-Q8_0.gguf", "mmproj-SmolVLM-256M-Instruct-f16.gguf"),
            ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "mmproj-llava-f16.gguf"),
            ("Qwen2-VL-7B-Instruct-Q4_K_M.gguf", "mmproj-Qwen2.5-VL-7B-Instruct-f16.gguf"),
            ("text.gguf", "mmproj-x.gguf"),
        ] {
            assert!(!of(tower).is_subset(&of(text)), "{text} {tower}");
        }
    }
}
