//! Model ids: the local Hugging Face cache and, with feature `hub`, downloads into it.

use std::ffi::OsString;
use std::path::PathBuf;

use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Result};

const CONFIG: &str = "config.json";

/// Finds the directory of a model id such as `llava-hf/llava-1.5-7b-hf`, or of one revision,
/// `llava-hf/llava-1.5-7b-hf@a1b2c3`.
///
/// The cache directory is that of the Python libraries: `$HF_HUB_CACHE`, `$HF_HOME/hub`, `$XDG_CACHE_HOME/huggingface/hub`
/// or `~/.cache/huggingface/hub`, where `~` stands for the home directory in the variables too.
pub(crate) fn directory(id: &str) -> Result<PathBuf> {
    let repo = repo(id).ok_or_else(|| Error::NotFound { name: id.to_owned(), cache: None })?;
    let cache = cache().ok_or_else(|| Error::NotFound { name: id.to_owned(), cache: None })?;
    match cached(&cache, &repo) {
        Some(directory) => Ok(directory),
        None => fetch(id, cache, repo),
    }
}

/// Parses an id: an organisation, a name and an optional revision.
fn repo(id: &str) -> Option<Repo> {
    let (id, revision) = id.split_once('@').unwrap_or((id, "main"));
    let plain = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && part.chars().all(allowed) && !part.starts_with('.')
    };
    let (organisation, name) = id.split_once('/')?;
    let valid = plain(organisation) && plain(name) && plain(revision);
    valid.then(|| Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned()))
}

fn cache() -> Option<Cache> {
    cache_directory(|name| std::env::var_os(name), std::env::home_dir()).map(Cache::new)
}

/// The directory of the cache, from the environment and the home directory.
fn cache_directory(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let named = |name: &str| {
        let path = PathBuf::from(variable(name).filter(|value| !value.is_empty())?);
        match (path.strip_prefix("~"), &home) {
            (Ok(below), Some(home)) => Some(home.join(below)),
            _ => Some(path),
        }
    };
    let below = |directory: PathBuf| directory.join("huggingface");
    let main = || named("HF_HOME").or_else(|| named("XDG_CACHE_HOME").map(below)).or_else(|| Some(below(home.clone()?.join(".cache"))));
    named("HF_HUB_CACHE").or_else(|| Some(main()?.join("hub")))
}

/// The snapshot of a revision, which is a branch or a commit.
fn cached(cache: &Cache, repo: &Repo) -> Option<PathBuf> {
    let named = cache.repo(repo.clone()).get(CONFIG);
    let commit = cache.repo(repo.clone()).pointer_path(repo.revision()).join(CONFIG);
    match named.or_else(|| commit.is_file().then_some(commit)) {
        Some(config) => config.parent().map(PathBuf::from),
        None => cached_gguf(cache, repo),
    }
}

/// The snapshot of a revision of a repository of GGUF files, which has no configuration.
fn cached_gguf(cache: &Cache, repo: &Repo) -> Option<PathBuf> {
    let root = cache.path().join(repo.folder_name());
    let reference = std::fs::read_to_string(root.join("refs").join(repo.revision())).ok();
    let commit = reference.as_deref().map_or(repo.revision(), str::trim);
    let snapshot = root.join("snapshots").join(commit);
    let models = sgm_core::gguf::language_models_in(&snapshot).unwrap_or_default();
    (!models.is_empty()).then_some(snapshot)
}

#[cfg(not(feature = "hub"))]
fn fetch(id: &str, cache: Cache, _: Repo) -> Result<PathBuf> {
    Err(Error::NotFound { name: id.to_owned(), cache: Some(cache.path().clone()) })
}

/// Downloads the configuration, tokenizer, template and weight files: safetensors, or torch files where there are none.
#[cfg(feature = "hub")]
fn fetch(id: &str, cache: Cache, repo: Repo) -> Result<PathBuf> {
    let error = |reason: String| Error::Hub { id: id.to_owned(), reason };
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| v == "1" || v.eq_ignore_ascii_case("true")) {
        return Err(Error::NotFound { name: id.to_owned(), cache: Some(cache.path().clone()) });
    }
    let token = std::env::var("HF_TOKEN").ok().or_else(|| cache.token());
    let mut api = hf_hub::api::sync::ApiBuilder::from_cache(cache.clone()).with_token(token).with_progress(false);
    if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
        api = api.with_endpoint(endpoint);
    }
    let remote = api.build().map_err(|e| error(e.to_string()))?.repo(repo.clone());
    let files = remote.info().map_err(|e| error(e.to_string()))?.siblings;
    let safetensors = files.iter().any(|file| file.rfilename.ends_with(".safetensors"));
    let wanted = |name: &str| {
        let torch = !safetensors && name.starts_with("pytorch_model") && name.ends_with(".bin");
        let suffix = [".json", ".jinja", ".safetensors", "tokenizer.model"].iter().any(|suffix| name.ends_with(suffix)) || torch;
        suffix && (!name.contains('/') || name.starts_with("qformer_tokenizer/"))
    };
    // The configuration is downloaded last, so that a directory with a configuration is complete.
    let mut names: Vec<_> = files.into_iter().map(|f| f.rfilename).filter(|name| wanted(name)).collect();
    names.sort_by_key(|name| name == CONFIG);
    for name in names {
        tracing::info!(id, file = name, "downloading");
        remote.get(&name).map_err(|e| error(format!("{name}: {e}")))?;
    }
    cached(&cache, &repo).ok_or_else(|| error("the repository has no config.json".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(root: &std::path::Path, commit: &str, reference: Option<&str>) -> PathBuf {
        let repo = root.join("models--org--tiny-llava");
        let snapshot = repo.join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::write(snapshot.join(CONFIG), "{}").unwrap();
        if let Some(reference) = reference {
            std::fs::write(repo.join("refs").join(reference), commit).unwrap();
        }
        snapshot
    }

    #[test]
    fn ids_resolve_to_the_snapshot_of_their_revision() {
        let root = tempfile::tempdir().unwrap();
        let (main, other) = (snapshot(root.path(), "aaaa", Some("main")), snapshot(root.path(), "bbbb", None));
        let cache = Cache::new(root.path().to_owned());
        let find = |id: &str| cached(&cache, &repo(id).unwrap());
        assert_eq!(find("org/tiny-llava"), Some(main));
        assert_eq!(find("org/tiny-llava@bbbb"), Some(other.clone()));
        assert_eq!(find("org/tiny-llava@v2"), None);
        assert_eq!(find("org/another"), None);
        // A repository of GGUF files has no configuration.
        std::fs::remove_file(other.join(CONFIG)).unwrap();
        assert_eq!(find("org/tiny-llava@bbbb"), None);
        std::fs::write(other.join("tiny.gguf"), "").unwrap();
        assert_eq!(find("org/tiny-llava@bbbb"), Some(other));
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let find = |variables: &[(&str, &str)]| {
            let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
            cache_directory(variable, Some("/home/me".into())).unwrap()
        };
        // As `huggingface_hub.constants.HF_HUB_CACHE` has it.
        for (variables, directory) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("HF_HOME", "~/models")], "/home/me/models/hub"),
            (&[("HF_HOME", "~")], "/home/me/hub"),
            (&[("HF_HOME", "/a/~/b")], "/a/~/b/hub"),
            (&[("HF_HOME", "~other/b")], "~other/b/hub"),
            (&[("HF_HUB_CACHE", "~/hub"), ("HF_HOME", "/a")], "/home/me/hub"),
            (&[("XDG_CACHE_HOME", "~/.c")], "/home/me/.c/huggingface/hub"),
            (&[("HF_HOME", "/a"), ("XDG_CACHE_HOME", "/c")], "/a/hub"),
        ] {
            assert_eq!(find(variables), PathBuf::from(directory), "{variables:?}");
        }
        assert_eq!(cache_directory(|_| None, None), None);
    }

    #[test]
    fn invalid_ids_are_rejected() {
        for name in ["", "model", "a/b/c", "../x", "a/..", "a/b@../c", "/a", "a/", "C:\\a"] {
            assert!(repo(name).is_none(), "{name}");
        }
    }
}
