//! `bifocal score` on samples in the benchmarks' official layouts; the figures themselves are tested in `crates/eval/tests/answers.rs`.

mod common;

use std::path::{Path, PathBuf};

use common::{fails, succeeds, text};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../eval/tests/fixtures/answers")
        .join(name)
}

fn scored(benchmark: &str, questions: &[&str], answers: &str) -> Value {
    let questions: Vec<PathBuf> = questions.iter().map(|q| fixture(q)).collect();
    let answers = fixture(answers);
    let mut args = vec!["score", benchmark, "--json", "--answers", text(&answers), "--questions"];
    args.extend(questions.iter().map(|q| text(q)));
    serde_json::from_str(&succeeds(&args)).expect("JSON")
}

#[test]
fn every_benchmark_is_scored() {
    let expected: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("expected.json")).expect("a fixture")).expect("JSON");
    let pope = [
        "pope/coco_pope_random.json",
        "pope/coco_pope_popular.json",
        "pope/coco_pope_adversarial.json",
        "pope/llava_pope_test.jsonl",
    ];
    for (benchmark, questions) in [
        ("pope", &pope[..]),
        ("gqa", &["gqa/testdev_balanced_questions.json"]),
        ("vqav2", &["vqav2/v2_mscoco_val2014_annotations.json"]),
        ("textvqa", &["textvqa/TextVQA_0.5.1_val.json"]),
        ("mmbench", &["mmbench/mmbench_dev_20230712.tsv"]),
        ("mmbench-cn", &["mmbench-cn/mmbench_dev_cn_20231003.tsv"]),
        ("scienceqa", &["scienceqa/problems.json", "scienceqa/pid_splits.json"]),
        ("captions", &["captions/captions_val.json"]),
    ] {
        let report = scored(benchmark, questions, &format!("{benchmark}/answers.jsonl"));
        assert_eq!(report["benchmark"], benchmark);
        let headline = &report["rows"][0];
        let wanted = &expected[benchmark]["rows"][headline["name"].as_str().expect("a name")];
        let column = report["columns"][0]["name"].as_str().expect("a name");
        let (ours, theirs) = (headline["values"][0].as_f64(), wanted[column].as_f64());
        assert!(
            (ours.expect("a number") - theirs.expect("a number")).abs() < 1e-12,
            "{benchmark}: {ours:?} {theirs:?}"
        );
    }
}

#[test]
fn a_folder_of_tasks_is_read_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    for task in ["existence.txt", "code_reasoning.txt"] {
        std::fs::copy(fixture("mme").join(task), dir.path().join(task)).expect("a copy");
    }
    let answers = fixture("mme/answers.jsonl");
    let table = succeeds(&[
        "score",
        "mme",
        "--questions",
        text(dir.path()),
        "--answers",
        text(&answers),
    ]);
    assert!(
        table.contains("perception (1 of 10 tasks)") && table.contains("cognition (1 of 4 tasks)"),
        "{table}"
    );
    // the answers to the other tasks, and answers beside the questions
    assert!(table.contains("UNKNOWN: "), "{table}");
    let pope = fixture("pope");
    let table = succeeds(&[
        "score",
        "pope",
        "--questions",
        text(&pope),
        "--answers",
        text(&pope.join("answers.jsonl")),
    ]);
    assert!(table.contains("mean of splits"), "{table}");
}

#[test]
fn wrong_files_are_told_from_wrong_use() {
    let (questions, answers) = (
        fixture("gqa/testdev_balanced_questions.json"),
        fixture("gqa/answers.jsonl"),
    );
    let message = fails(
        2,
        &[
            "score",
            "gpa",
            "--questions",
            text(&questions),
            "--answers",
            text(&answers),
        ],
    );
    assert!(message.contains("gqa"), "{message}");
    let message = fails(
        1,
        &[
            "score",
            "vqav2",
            "--questions",
            text(&questions),
            "--answers",
            text(&answers),
        ],
    );
    assert!(message.contains("v2_mscoco_val2014_annotations.json"), "{message}");
    let message = fails(
        1,
        &[
            "score",
            "gqa",
            "--questions",
            text(&questions),
            "--answers",
            "none.jsonl",
        ],
    );
    assert!(message.contains("none.jsonl"), "{message}");
    let dir = tempfile::tempdir().expect("a folder");
    let message = fails(
        1,
        &[
            "score",
            "gqa",
            "--questions",
            text(dir.path()),
            "--answers",
            text(&answers),
        ],
    );
    assert!(message.contains("no file in it"), "{message}");
    let binary = dir.path().join("answers.jsonl");
    std::fs::write(&binary, [b'{', 0xff]).expect("a file");
    let message = fails(
        1,
        &[
            "score",
            "gqa",
            "--questions",
            text(&questions),
            "--answers",
            text(&binary),
        ],
    );
    assert!(message.contains("byte 1 is not UTF-8"), "{message}");
}
