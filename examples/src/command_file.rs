//! The command of a run, kept beside what the run writes, so that only the same command goes on with it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use sgm::core::write_atomically;

/// Writes the arguments of a run to `command.json` in its directory. A run that is resumed compares them instead with those that are there,
/// so that what the directory has is of the same command. Returns whether there is a run to go on with.
///
/// # Errors
///
/// Those of the file, and when the run was begun with other arguments.
pub fn begin(directory: &Path, arguments: impl IntoIterator<Item = String>, resume: bool) -> Result<bool> {
    let arguments: Vec<String> = arguments.into_iter().filter(|argument| argument != "--resume").collect();
    let path = directory.join("command.json");
    if resume && path.exists() {
        let begun = std::fs::read(&path).map_err(anyhow::Error::from).and_then(|bytes| Ok(serde_json::from_slice::<Vec<String>>(&bytes)?));
        let begun = begun.with_context(|| path.display().to_string())?;
        let (directory, command) = (directory.display(), begun.join(" "));
        ensure!(begun == arguments, "the run in {directory} has other arguments, `{command}`; give the same, or another directory");
        return Ok(true);
    }
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    write_atomically(&path, &serde_json::to_vec(&arguments)?).map(|()| false).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_command_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let begin =
            |arguments: &[&str]| begin(&out, arguments.iter().map(|argument| (*argument).to_owned()), arguments.contains(&"--resume"));
        assert!(!begin(&["--seeds", "2", "--resume"]).unwrap(), "there is nothing to go on with");
        assert!(begin(&["--resume", "--seeds", "2"]).unwrap());
        let error = begin(&["--seeds", "3", "--resume"]).unwrap_err().to_string();
        assert!(error.contains("--seeds 2"), "{error}");
        assert!(!begin(&["--seeds", "3"]).unwrap());
        assert!(begin(&["--seeds", "3", "--resume"]).unwrap());
        std::fs::write(out.join("command.json"), "[").unwrap();
        assert!(format!("{:#}", begin(&["--resume"]).unwrap_err()).contains("command.json"));
    }
}
