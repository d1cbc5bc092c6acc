//! The arguments of every program, as the debug assertions of their parser check them: no name twice, no default that is not a value.

use std::path::Path;
use std::process::Command;

#[test]
fn every_program_explains_its_arguments() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    let mut explained = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let source = file.unwrap().path();
        if source.extension().is_none_or(|extension| extension != "rs") || !std::fs::read_to_string(&source).unwrap().contains("(Parser)") {
            continue;
        }
        let name = source.file_stem().unwrap();
        let output = Command::new(programs.join(name)).arg("--help").output().unwrap();
        assert!(output.status.success(), "{name:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage:"), "{name:?}");
        explained += 1;
    }
    assert!(explained >= 9, "only {explained} programs have been found");
}
