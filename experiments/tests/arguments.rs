//! The arguments of every program, as the debug assertions of their parser check them: no name twice, no default that is not a value.

use std::process::Command;

#[test]
fn every_program_explains_its_arguments() {
    let programs = [
        env!("CARGO_BIN_EXE_ablate"),
        env!("CARGO_BIN_EXE_cost"),
        env!("CARGO_BIN_EXE_directional_ablation"),
        env!("CARGO_BIN_EXE_draw"),
        env!("CARGO_BIN_EXE_forward_speed"),
        env!("CARGO_BIN_EXE_gpu_check"),
        env!("CARGO_BIN_EXE_holdouts"),
        env!("CARGO_BIN_EXE_playground"),
        env!("CARGO_BIN_EXE_random_checkpoint"),
        env!("CARGO_BIN_EXE_store"),
        env!("CARGO_BIN_EXE_tune"),
    ];
    for program in programs {
        let output = Command::new(program).arg("--help").output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("Usage:"), "{program}");
    }
}
