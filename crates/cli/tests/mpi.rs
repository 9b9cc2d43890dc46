//! Processes that mpirun starts: the same run as one, and an end for all when one ends.
#![cfg(feature = "mpi")]

mod common;
#[path = "../../align/tests/common/ran.rs"]
mod ran;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{samples, text, tiny};
use ran::Ran;

/// `None`, said aloud, where there is no mpirun.
fn mpirun(n: usize, args: &[&str]) -> Option<Command> {
    if Command::new("mpirun").arg("--version").output().is_err() {
        eprintln!("skipped: there is no mpirun (scripts/check-mpi.sh installs it)");
        return None;
    }
    let mut command = Command::new("mpirun");
    command
        .args(["--oversubscribe", "--allow-run-as-root", "-n", &n.to_string()])
        .arg(env!("CARGO_BIN_EXE_bifocal"))
        .args(args)
        // several processes on a few cores
        .env("RAYON_NUM_THREADS", "1");
    Some(command)
}

/// Runs and checks that it succeeds; returns what all ranks printed.
fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A recipe whose towers learn, with a cache of its own.
fn recipe(dir: &Path, name: &str, sets: &[&str]) -> PathBuf {
    let model = tiny::write_clip(dir);
    let sets: Vec<&str> = ["optimizer.eps=1e-3"].iter().chain(sets).copied().collect();
    let recipe = tiny::recipe("clip", &model, &dir.join(format!("cache-{name}")), &sets);
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, recipe.to_toml()).unwrap();
    path
}

#[test]
fn one_two_and_four_ranks_give_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), "recipe", &["data.batch=7"]);
    let train = |n: usize| {
        let out = dir.path().join(format!("run-{n}"));
        let printed = succeeds(mpirun(n, &["train", text(&recipe), "--out", text(&out)])?);
        assert_eq!(printed.matches("a bundle after 7 steps").count(), 1, "{printed}");
        assert!(out.join("holdout-report.json").is_file());
        Some(Ran::read(&out))
    };
    let out = dir.path().join("run");
    common::succeeds(&["train", text(&recipe), "--out", text(&out)]);
    let alone = Ran::read(&out);
    for n in [1, 2, 4] {
        let Some(several) = train(n) else { return };
        let distance = alone.distance(&several);
        println!("{n} ranks: {distance:?}");
        assert!(distance.is_rounding(), "{n} ranks: {distance:?}");
    }
}

/// Waits until a file has some text in it.
fn wait_for(child: &mut Child, file: &Path, wanted: &str) {
    let began = Instant::now();
    while !std::fs::read_to_string(file).is_ok_and(|found| found.contains(wanted)) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before {wanted}");
        assert!(
            began.elapsed() < Duration::from_secs(300),
            "no {wanted} in {}",
            file.display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process of a rank other than the first, by what its environment says.
fn rank(n: usize, out: &Path) -> u32 {
    let out = text(out);
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let read = |what: &str| std::fs::read(entry.path().join(what)).unwrap_or_default();
        let has = |bytes: &[u8], wanted: &str| bytes.split(|&b| b == 0).any(|part| part == wanted.as_bytes());
        let is_rank = has(&read("environ"), &format!("OMPI_COMM_WORLD_RANK={n}"));
        if is_rank && has(&read("cmdline"), out) {
            return pid;
        }
    }
    panic!("there is no rank {n} of {out}");
}

/// Sends a signal to one process of ours.
fn signal(name: &str, pid: u32) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status();
    assert!(sent.unwrap().success());
}

const LONG: [&str; 2] = ["schedule.steps=100000", "run.checkpoint_every=100000"];

#[test]
fn a_signal_at_one_rank_stops_all_at_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), "recipe", &LONG);
    let out = dir.path().join("run");
    let Some(mut command) = mpirun(2, &["train", text(&recipe), "--out", text(&out)]) else {
        return;
    };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&mut child, &out.join("metrics.jsonl"), "\"step\":3,");
    signal("TERM", rank(1, &out));
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && printed.contains("stopped after step"),
        "{printed}"
    );
    let stopped = Ran::read(&out).metrics.len();
    assert!((3..100_000).contains(&stopped));
    // and goes on with three: at some step, it is stopped in the same way
    let Some(mut command) = mpirun(3, &["train", text(&recipe), "--out", text(&out), "--resume"]) else {
        return;
    };
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for(
        &mut child,
        &out.join("metrics.jsonl"),
        &format!("\"step\":{},", stopped + 2),
    );
    signal("TERM", rank(2, &out));
    assert!(child.wait().unwrap().success());
    assert!(Ran::read(&out).metrics.len() > stopped);
}

#[test]
fn the_death_of_one_rank_is_the_end_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), "recipe", &LONG);
    let out = dir.path().join("run");
    let Some(mut command) = mpirun(3, &["train", text(&recipe), "--out", text(&out)]) else {
        return;
    };
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, &out.join("metrics.jsonl"), "\"step\":3,");
    signal("KILL", rank(1, &out));
    // without an end, the test would hang here
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty());
}

#[test]
fn an_error_ends_all_ranks_with_its_message_and_code() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), "recipe", &[]);
    let out = dir.path().join("run");
    for (sets, code, message) in [
        (
            "image_head.batch_norm=true",
            1,
            "batch_norm needs the whole batch at once, which 2 processes do not have",
        ),
        ("data.batch=4096", 1, "data.batch"),
    ] {
        let Some(mut command) = mpirun(2, &["train", text(&recipe), "--out", text(&out), "--set", sets]) else {
            return;
        };
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(message) && !errors.contains("panicked"), "{errors}");
    }
}

#[test]
fn cache_embed_and_eval_are_split_by_rank() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny::write_clip(dir.path());
    let photos = samples("photos");
    let rows = |name: &str| {
        let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
        let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines().map(line).collect::<Vec<_>>()
    };
    let out = |name: &str| dir.path().join(name).display().to_string();
    let embed =
        |to: &str| ["embed", "--model", text(&model), "--images", text(&photos), "--out", to].map(str::to_owned);
    let strs = |args: &[String]| args.iter().map(String::clone).collect::<Vec<_>>();
    let one = strs(&embed(&out("one.jsonl")));
    common::succeeds(&one.iter().map(String::as_str).collect::<Vec<_>>());
    let three = strs(&embed(&out("three.jsonl")));
    let Some(command) = mpirun(3, &three.iter().map(String::as_str).collect::<Vec<_>>()) else {
        return;
    };
    succeeds(command);
    let (one, three) = (rows("one.jsonl"), rows("three.jsonl"));
    assert!(one.len() >= 50 && one.len() == three.len());
    for (a, b) in one.iter().zip(&three) {
        let (a, b) = (a.as_object().unwrap(), b.as_object().unwrap());
        for (key, value) in a {
            let (Some(x), Some(y)) = (value.as_array(), b[key].as_array()) else {
                assert_eq!(*value, b[key]);
                continue;
            };
            for (x, y) in x.iter().zip(y) {
                let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
                assert!((x - y).abs() <= 1e-6, "{x} {y}");
            }
        }
    }
    let eval = [
        "eval",
        "retrieval",
        "--model",
        text(&model),
        "--data",
        text(&photos),
        "--json",
    ];
    let Some(command) = mpirun(3, &eval) else { return };
    assert_eq!(succeeds(command), common::succeeds(&eval));
    let recipe = recipe(
        dir.path(),
        "recipe",
        &["freeze=[{pattern=\"vision.*\"},{pattern=\"text.*\"}]"],
    );
    let Some(command) = mpirun(2, &["cache", text(&recipe)]) else {
        return;
    };
    assert_eq!(succeeds(command).matches("features of").count(), 1);
}

#[test]
fn ranks_embed_the_parts_that_one_process_embeds() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny::write_clip(dir.path());
    let parts = |out: &Path| {
        let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(out)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| text(path).contains("part-"))
            .map(|path| {
                (
                    path.file_name().unwrap().to_str().unwrap().to_owned(),
                    std::fs::read(&path).unwrap(),
                )
            })
            .collect();
        files.sort();
        files
    };
    let photos = samples("photos");
    let embed = [
        "embed",
        "--model",
        text(&model),
        "--images",
        text(&photos),
        "--part-items",
        "32",
        "--out",
    ];
    let alone = dir.path().join("alone");
    let output = common::bifocal(&[&embed[..], &[text(&alone)]].concat())
        .env("RAYON_NUM_THREADS", "1")
        .output();
    assert!(output.unwrap().status.success());
    assert_eq!(parts(&alone).len(), 4);
    for n in [2, 3] {
        let out = dir.path().join(format!("ranks-{n}"));
        let Some(command) = mpirun(n, &[&embed[..], &[text(&out)]].concat()) else {
            return;
        };
        succeeds(command);
        assert!(parts(&out) == parts(&alone), "{n} ranks");
    }
}
