//! Ctrl-C and SIGTERM end a run in good order.
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{samples, text};

fn started(args: &[&str]) -> Child {
    let mut command = common::bifocal(args);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary starts")
}

/// Sends a signal as soon as `ready`, and waits for the end.
fn signalled(mut child: Child, signal: &str, ready: impl Fn() -> bool) -> Output {
    while !ready() {
        assert!(
            child.try_wait().expect("a child of ours").is_none(),
            "it ended too early"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(sent.expect("kill starts").success());
    child.wait_with_output().expect("a child of ours")
}

fn steps(run: &Path) -> usize {
    std::fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// The run ended well, after the step that it names; gives the step.
fn ended_well(output: &Output) -> usize {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{err}");
    let last = out.lines().last().unwrap_or_default();
    let step = last
        .strip_prefix("stopped after step ")
        .and_then(|rest| rest.split_once(';'));
    let (step, rest) = step.unwrap_or_else(|| panic!("{out}"));
    assert!(rest.contains("--resume"), "{last}");
    step.parse().expect("a number")
}

#[test]
fn a_run_writes_a_checkpoint_and_goes_on_with_resume() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe = common::recipe(dir.path(), 1_000_000);
    let run = dir.path().join("run");
    let args = [
        "train",
        text(&recipe),
        "--out",
        text(&run),
        "--resume",
        "--set",
        "run.checkpoint_every=1000000",
    ];
    let mut before = 0;
    for signal in ["-TERM", "-INT"] {
        let output = signalled(started(&args), signal, || steps(&run) > before + 5);
        let step = ended_well(&output);
        assert!(
            step > before + 5 && steps(&run) == step,
            "{step}, {} lines",
            steps(&run)
        );
        assert!(run.join(format!("checkpoints/step-{step:012}/manifest.json")).is_file());
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            told.contains(&format!("going on after step {before}")),
            before > 0,
            "{told}"
        );
        before = step;
    }
}

#[test]
fn features_that_are_being_computed_can_be_stopped() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe = common::recipe(dir.path(), 1_000_000);
    let run = dir.path().join("run");
    let sources = format!("data.sources=[{{path={:?}}}]", text(&samples("emoji")));
    let args = ["train", text(&recipe), "--out", text(&run), "--set", &sources];
    // the list of held-out pictures is the last that is written before features are computed
    let output = signalled(started(&args), "-TERM", || run.join("holdout.json").is_file());
    let step = ended_well(&output);
    assert_eq!(steps(&run), step);
}
