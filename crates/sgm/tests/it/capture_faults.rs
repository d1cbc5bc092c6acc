//! Workers that are killed, run out of disk or cannot write lose no finished shard, and the store ends up with the same bytes.
//!
//! The workers are processes of this test program: it calls itself with the test `worker`, which does nothing otherwise.
//! The long version kills 1,000 times:
//!
//!     cargo test --release -p sgm --test it -- --ignored --nocapture a_thousand

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sgm::capture::{Capture, Example, Examples, Partition, Pool, Pooling, verify};
use sgm::models::TokenSelection;
use sgm::organism::{Contrast, OrganismSource};
use sgm::toxic_qa::{EvaluationSplit, Source};

/// The samples of a store; 10 shards.
const SAMPLES: usize = 20;

/// The body of a worker: exits with 0 when the store is finished, 4 when its part is done, 3 with the error.
#[test]
fn worker() {
    let Ok(out) = std::env::var("SGM_WORKER_OUT") else { return };
    let samples = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign).unwrap().calibration(0).unwrap();
    let make = |number: usize| {
        let sample = samples.get(number).ok_or("there is no such sample")?;
        let (prompt, response) = (sample.as_prompt()?, sample.response.clone().unwrap_or_default());
        Ok(Example { id: sample.id.clone(), prompt, response, toxic: sample.label == Some(true), unfinished: false })
    };
    let poolings =
        vec![Pooling { pool: Pool::Max, tokens: TokenSelection::All }, Pooling { pool: Pool::Mean, tokens: TokenSelection::Response }];
    let capture =
        Capture { shard_samples: Some(2), resume: true, partition: Partition::from_environment().unwrap(), ..Capture::new(poolings) };
    let done = capture.run(&sgm::organism::load().unwrap(), &Examples::new(SAMPLES, "test".to_owned(), make), Path::new(&out));
    match done {
        Ok(done) => std::process::exit(if done.finished { 0 } else { 4 }),
        Err(error) => {
            eprintln!("{error:?}\n{error}");
            std::process::exit(3);
        }
    }
}

/// A worker's command line in a shell.
fn shell_line() -> String {
    format!("'{}' --exact capture_faults::worker --nocapture", std::env::current_exe().unwrap().display())
}

fn start(out: &Path, variables: &[(&str, String)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "capture_faults::worker", "--nocapture"])
        .env("SGM_WORKER_OUT", out)
        .envs(variables.iter().map(|(k, v)| (k, v)));
    command.env("RAYON_NUM_THREADS", "1").env("CANDLE_NUM_THREADS", "1").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// An uninterrupted run, with the time it took.
fn whole(out: &Path) -> (BTreeMap<String, Vec<u8>>, Duration) {
    let started = Instant::now();
    let output = start(out, &[]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (files(out), started.elapsed())
}

/// Kills workers at random times until it has happened `kills` times while they worked, resuming store after store.
fn kill_and_resume(kills: usize, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (expected, duration) = whole(&dir.path().join("whole"));
    println!("seed {seed}, an uninterrupted run takes {duration:?}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut killed, mut begun, mut stores, mut shards_lost, mut temporary) = (0, 0, 0, 0, 0);
    while killed < kills {
        let out = dir.path().join(format!("store-{stores}"));
        let mut before = 0;
        loop {
            let mut child = start(&out, &[]).spawn().unwrap();
            std::thread::sleep(duration.mul_f64(rng.random_range(0.05..0.9)));
            let finished = child.try_wait().unwrap();
            child.kill().ok();
            let status = finished.unwrap_or(child.wait().unwrap());
            if status.success() {
                break;
            }
            assert_eq!(status.code(), None, "the worker failed by itself");
            killed += 1;
            if !out.join("unfinished.json").exists() {
                continue;
            }
            begun += 1;
            let found = verify(&out).unwrap();
            assert!(found.damaged.is_empty(), "{:?}", found.damaged);
            if found.sound < before {
                shards_lost += before - found.sound;
            }
            before = found.sound;
            temporary += usize::from(found.strays.iter().any(|path| path.to_string_lossy().contains(".sgm-")));
        }
        assert_eq!(files(&out).keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert!(files(&out) == expected, "store {stores} differs");
        std::fs::remove_dir_all(&out).unwrap();
        stores += 1;
    }
    println!(
        "{killed} kills over {stores} stores: {begun} after the store was begun, {temporary} of them while a file was written; {shards_lost} finished shards lost"
    );
    assert_eq!(shards_lost, 0);
}

#[test]
fn a_hundred_kills_at_random_times_leave_no_trace() {
    kill_and_resume(100, 20_261_124);
}

#[test]
#[ignore = "takes minutes; the head of this file says how"]
fn a_thousand_kills_at_random_times_leave_no_trace() {
    kill_and_resume(1_000, 1);
}

#[test]
fn array_tasks_and_indexed_jobs_find_their_parts_and_finish_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let (expected, _) = whole(&dir.path().join("whole"));
    let slurm = |i: usize| {
        let variables =
            [("SLURM_ARRAY_TASK_ID", 1 + i), ("SLURM_ARRAY_TASK_COUNT", 3), ("SLURM_ARRAY_TASK_MIN", 1), ("SLURM_ARRAY_TASK_MAX", 3)];
        variables.map(|(name, value)| (name, value.to_string())).to_vec()
    };
    let kubernetes = |i: usize| [("JOB_COMPLETION_INDEX", i.to_string()), ("JOB_COMPLETIONS", "3".to_owned())].to_vec();
    for (name, variables) in [("slurm", &slurm as &dyn Fn(usize) -> Vec<_>), ("kubernetes", &kubernetes)] {
        let out = dir.path().join(name);
        // All at once, in one directory.
        let children: Vec<_> = (0..3).map(|i| start(&out, &variables(i)).spawn().unwrap()).collect();
        let codes: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap().status.code()).collect();
        assert!(codes.iter().all(|code| matches!(code, Some(0 | 4))) && codes.contains(&Some(0)), "{codes:?}");
        assert!(files(&out) == expected, "{name}");
    }
}

/// Runs a script in which `$WORKER` is a worker's command line and `$DIR` a directory to work in. With a mount namespace of its
/// own, so that what it mounts is gone with it.
fn script(namespace: bool, directory: &Path, lines: &str) -> Output {
    let mut command = if namespace { Command::new("unshare") } else { Command::new("sh") };
    if namespace {
        command.args(["-m", "sh"]);
    }
    command.args(["-c", &format!("set -u\n{}", lines.replace("$WORKER", &shell_line()))]).env("DIR", directory);
    command.env("RAYON_NUM_THREADS", "1").env("CANDLE_NUM_THREADS", "1").env("SGM_WORKER_OUT", directory.join("disk/store"));
    command.output().unwrap()
}

fn can_mount(directory: &Path) -> bool {
    let output = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "-o", "size=1m", "none"]).arg(directory).output();
    output.is_ok_and(|o| o.status.success())
}

#[test]
fn a_full_disk_is_reported_and_loses_no_finished_shard() {
    let dir = tempfile::tempdir().unwrap();
    let (expected, _) = whole(&dir.path().join("whole"));
    std::fs::create_dir(dir.path().join("disk")).unwrap();
    let size = expected.values().map(Vec::len).sum::<usize>();
    let namespace = can_mount(&dir.path().join("disk"));
    let output = if namespace {
        let lines = format!(
            "mount -t tmpfs -o size={} none $DIR/disk || exit 9
             $WORKER; code=$?; ls $DIR/disk/store > $DIR/full; mount -o remount,size=100m $DIR/disk
             $WORKER; cp -r $DIR/disk/store $DIR/copy; exit $code",
            size / 2
        );
        script(true, dir.path(), &lines)
    } else {
        eprintln!("no tmpfs can be mounted here: files over a limit fail instead");
        let lines = "(trap '' XFSZ; ulimit -f 8; $WORKER); code=$?; ls $DIR/disk/store > $DIR/full; $WORKER; cp -r $DIR/disk/store $DIR/copy; exit $code";
        script(false, dir.path(), lines)
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    let reason = if namespace { "StorageFull" } else { "FileTooLarge" };
    assert!(errors.contains("Core(Io") && errors.contains(reason) && errors.contains("shard-"), "{errors}");
    let full = std::fs::read_to_string(dir.path().join("full")).unwrap();
    assert!(!full.contains(".sgm-"), "a temporary file is left: {full}");
    assert!(!namespace || full.matches(".json").count() > 3, "no shard was finished before the disk was full: {full}");
    assert!(files(&dir.path().join("copy")) == expected);
}

#[test]
fn a_directory_that_cannot_be_written_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (expected, _) = whole(&dir.path().join("whole"));
    std::fs::create_dir(dir.path().join("disk")).unwrap();
    let half = "JOB_COMPLETIONS=2 JOB_COMPLETION_INDEX=";
    let (namespace, closed, open) = match can_mount(&dir.path().join("disk")) {
        true => (true, "mount -o remount,ro $DIR/disk", "mount -o remount,rw $DIR/disk"),
        false => (false, "chmod a-w $DIR/disk/store", "chmod u+w $DIR/disk/store"),
    };
    let mount = if namespace { "mount -t tmpfs none $DIR/disk || exit 9" } else { "true" };
    let lines = format!(
        "{mount}\n{half}0 $WORKER; {closed}; {half}1 $WORKER; code=$?; {open}; {half}1 $WORKER; cp -r $DIR/disk/store $DIR/copy; exit $code"
    );
    let output = script(namespace, dir.path(), &lines);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("Core(Io") && (errors.contains("ReadOnlyFilesystem") || errors.contains("PermissionDenied")), "{errors}");
    assert!(files(&dir.path().join("copy")) == expected);
}
