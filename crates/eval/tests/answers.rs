//! Answers of vision-language models against the numbers that the official scorers give (`scripts/fixtures/answers.py`), and readers against anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bifocal_eval::answers::{AnswersError, Benchmark, Report, Source, answers, normalise, ptb, score};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    rows: BTreeMap<String, BTreeMap<String, f64>>,
    counts: Option<BTreeMap<String, usize>>,
    #[serde(default)]
    normalised: Vec<(String, String)>,
    #[serde(default)]
    words: Vec<(String, Vec<String>)>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/answers")
}

fn expected(benchmark: &str) -> Expected {
    let text = fs::read_to_string(folder().join("expected.json")).unwrap();
    let mut all: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
    all.remove(benchmark).unwrap()
}

fn file(path: &str) -> (String, String) {
    let path = folder().join(path);
    (
        path.file_name().unwrap().to_str().unwrap().to_owned(),
        fs::read_to_string(path).unwrap(),
    )
}

fn scored(benchmark: &str, questions: &[&str], answers: &str) -> Result<Report, AnswersError> {
    let questions: Vec<(String, String)> = questions.iter().map(|q| file(&format!("{benchmark}/{q}"))).collect();
    let sources: Vec<Source> = questions.iter().map(|(name, text)| Source::new(name, text)).collect();
    let (name, text) = file(&format!("{benchmark}/{answers}"));
    score(
        Benchmark::named(benchmark).unwrap(),
        &sources,
        &Source::new(&name, &text),
    )
}

fn agree(report: &Report, expected: &Expected) {
    assert!(!expected.rows.is_empty());
    for (row, columns) in &expected.rows {
        for (column, &value) in columns {
            let ours = report
                .value(row, column)
                .unwrap_or_else(|| panic!("no {column} of {row:?} in {report:?}"));
            assert!(
                (ours - value).abs() <= 1e-12 * value.abs(),
                "{column} of {row:?}: {ours}, officially {value}"
            );
        }
    }
    let counts = serde_json::to_value(report.counts).unwrap();
    for (what, n) in expected.counts.iter().flatten() {
        assert_eq!(counts[what], *n, "{what}");
    }
}

const POPE: [&str; 3] = [
    "coco_pope_adversarial.json",
    "coco_pope_popular.json",
    "coco_pope_random.json",
];

#[test]
fn pope_is_the_official_one() {
    let report = scored(
        "pope",
        &[&POPE[..], &["llava_pope_test.jsonl"]].concat(),
        "answers.jsonl",
    )
    .unwrap();
    agree(&report, &expected("pope"));
    assert_eq!(
        (report.counts.questions, report.counts.missing, report.rows.len()),
        (90, 0, 4)
    );
}

#[test]
fn pope_does_not_guess_which_split_an_answer_is_for() {
    let error = scored("pope", &POPE, "answers.jsonl").unwrap_err().to_string();
    assert!(error.contains("one split at a time"), "{error}");
    assert!(
        scored(
            "pope",
            &["coco_pope_random.json", "llava_pope_test.jsonl"],
            "answers.jsonl"
        )
        .is_ok()
    );
    // a list that asks something else
    let (name, text) = file("pope/llava_pope_test.jsonl");
    let labels = file("pope/coco_pope_random.json");
    let other = text.replace("Is there a dog", "Is there a cow");
    let sources = [Source::new(&labels.0, &labels.1), Source::new(&name, &other)];
    let given = file("pope/answers.jsonl");
    let error = score(Benchmark::Pope, &sources, &Source::new(&given.0, &given.1))
        .unwrap_err()
        .to_string();
    assert!(error.contains("cow"), "{error}");
}

#[test]
fn a_missing_answer_is_wrong_and_nothing_else() {
    let (name, labels) = file("pope/coco_pope_random.json");
    let given = "{\"question_id\": 1, \"text\": \"yes\"}";
    let report = score(
        Benchmark::Pope,
        &[Source::new(&name, &labels)],
        &Source::new("a.jsonl", given),
    )
    .unwrap();
    assert_eq!(
        (report.counts.missing, report.value("random", "yes ratio")),
        (29, Some(1.0))
    );
    let truth = labels.lines().next().unwrap().contains("\"label\": \"yes\"");
    assert_eq!(
        report.value("random", "accuracy"),
        Some(f64::from(u8::from(truth)) / 30.0)
    );
    assert!(report.to_text().contains("MISSING: 29 questions"));
}

#[test]
fn gqa_counts_balanced_questions() {
    agree(
        &scored("gqa", &["testdev_balanced_questions.json"], "answers.jsonl").unwrap(),
        &expected("gqa"),
    );
}

#[test]
fn vqav2_is_the_official_one() {
    agree(
        &scored("vqav2", &["v2_mscoco_val2014_annotations.json"], "answers.jsonl").unwrap(),
        &expected("vqav2"),
    );
}

#[test]
fn textvqa_is_the_official_one() {
    let expected = expected("textvqa");
    agree(
        &scored("textvqa", &["TextVQA_0.5.1_val.json"], "answers.jsonl").unwrap(),
        &expected,
    );
    for (text, normal) in &expected.normalised {
        assert_eq!(normalise::eval_ai(text), *normal, "{text:?}");
    }
    assert!(expected.normalised.len() > 60);
}

#[test]
fn mme_is_the_official_one() {
    let tasks: Vec<String> = fs::read_dir(folder().join("mme"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".txt"))
        .collect();
    let tasks: Vec<&str> = tasks.iter().map(String::as_str).collect();
    let report = scored("mme", &tasks, "answers.jsonl").unwrap();
    agree(&report, &expected("mme"));
    assert_eq!(report.counts.missing, 0);
    // a part of the tasks says that it is one
    let part = scored("mme", &["existence.txt", "count.txt"], "answers.jsonl").unwrap();
    assert_eq!(part.rows[0].name, "perception (2 of 10 tasks)");
}

#[test]
fn mmbench_is_the_official_one_in_both_languages() {
    let english = scored("mmbench", &["mmbench_dev_20230712.tsv"], "answers.jsonl").unwrap();
    agree(&english, &expected("mmbench"));
    let all = english.value("all", "circular").unwrap();
    assert!(0.0 < all && all < english.value("all", "single").unwrap());
    agree(
        &scored("mmbench-cn", &["mmbench_dev_cn_20231003.tsv"], "answers.jsonl").unwrap(),
        &expected("mmbench-cn"),
    );
    // rounds over one row are the same as rows for each rotation
    let rounds = scored("mmbench", &["rounds.tsv"], "rounds.jsonl").unwrap();
    agree(&rounds, &expected("mmbench"));
}

#[test]
fn scienceqa_is_llavas() {
    agree(
        &scored("scienceqa", &["problems.json"], "answers.jsonl").unwrap(),
        &expected("scienceqa"),
    );
    agree(
        &scored("scienceqa", &["problems.json", "pid_splits.json"], "answers.jsonl").unwrap(),
        &expected("scienceqa"),
    );
}

#[test]
fn captions_are_scored_as_pycocoevalcap_does() {
    let expected = expected("captions");
    for (caption, words) in &expected.words {
        assert_eq!(ptb::words(caption), *words, "{caption:?}");
    }
    assert!(expected.words.len() > 20);
    agree(
        &scored("captions", &["captions_val.json"], "answers.jsonl").unwrap(),
        &expected,
    );
}

#[test]
fn the_last_of_two_answers_counts() {
    let questions = r#"{"1": {"choices": ["a", "b"], "answer": 1}, "2": {"choices": ["a", "b"], "answer": 0}}"#;
    let given = "{\"question_id\": 1, \"text\": \"A\"}\n\n{\"question_id\": \"1\", \"text\": \"B\"}\n{\"question_id\": 9, \"text\": \"B\"}\n";
    let report = score(
        Benchmark::ScienceQa,
        &[Source::new("problems.json", questions)],
        &Source::new("a", given),
    )
    .unwrap();
    let counts = report.counts;
    assert_eq!(
        (counts.questions, counts.missing, counts.double, counts.unknown),
        (2, 1, 1, 1)
    );
    assert_eq!(report.value("all", "accuracy"), Some(0.5));
    let text = report.to_text();
    assert!(
        text.contains("MISSING: 1 ") && text.contains("DOUBLE: 1 ") && text.contains("UNKNOWN: 1 "),
        "{text}"
    );
}

#[test]
fn errors_say_where_and_how_it_should_look() {
    let told = |benchmark: &str, name: &str, questions: &str, given: &str| {
        let benchmark = Benchmark::named(benchmark).unwrap();
        score(
            benchmark,
            &[Source::new(name, questions)],
            &Source::new("answers.jsonl", given),
        )
        .unwrap_err()
        .to_string()
    };
    let given = "{\"question_id\": 1, \"text\": \"A\"}";
    for (benchmark, name, questions, given, what) in [
        ("gqa", "q.json", "{}", given, "balanced"),
        ("gqa", "q.json", "[", given, "q.json, line 1"),
        (
            "gqa",
            "q.json",
            "{}",
            "{\"text\": \"A\"}",
            "answers.jsonl, line 1: an answer without question_id",
        ),
        (
            "gqa",
            "q.json",
            "{}",
            "\n{\"question_id\": 1}",
            "line 2: the answer to \"1\" has no text",
        ),
        ("gqa", "q.json", "{}", "", "holds no answers"),
        ("mmbench", "q.tsv", "index\tA\n", given, "no column answer"),
        (
            "mmbench",
            "q.tsv",
            "index\tA\tanswer\n1\tx\tB\n",
            given,
            "q.tsv, line 2: the answer is \"B\"",
        ),
        (
            "mmbench",
            "q.tsv",
            "index\tA\tanswer\n1\t\"x\tA\n",
            given,
            "never closed",
        ),
        (
            "mmbench",
            "q.tsv",
            "index\tA\tanswer\n1000001\tx\tA\n",
            given,
            "rotation of row 1",
        ),
        ("mme", "dogs.txt", "a\tb\tYes\n", given, "not a task"),
        ("mme", "count.txt", "a\tb\tYes\n", given, "one question, not two"),
        ("vqav2", "q.json", "{\"annotations\": []}", given, "no annotations"),
        (
            "captions",
            "q.json",
            "{\"image\": \"a\", \"captions\": {\"de\": [\"x\"]}}",
            given,
            "no English caption",
        ),
        (
            "scienceqa",
            "q.json",
            "{\"2\": {\"choices\": [\"a\"], \"answer\": 0}}",
            given,
            "none of the 1 answers",
        ),
        (
            "pope",
            "q.json",
            "{\"question_id\": 1, \"text\": \"?\", \"label\": \"maybe\"}",
            given,
            "label is \"maybe\"",
        ),
    ] {
        let error = told(benchmark, name, questions, given);
        assert!(error.contains(what), "{error}");
    }
    assert!(Benchmark::named("pop").unwrap_err().to_string().contains("pope, gqa"));
}

/// Pieces that files of the benchmarks are made of, so that chance gets further than the first character.
fn pieces() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        ",",
        "\t",
        "\n",
        "\r\n",
        "index",
        "A",
        "B",
        "answer",
        "\"question_id\"",
        "\"text\"",
        "\"label\": \"yes\"",
        "1",
        "1000001",
        "\"annotations\"",
        "\"answers\"",
        "\"data\"",
        "null",
        "{\"question_id\": 1, \"text\": \"A\"}\n",
        "index\tA\tB\tanswer\n",
        "\"\"",
        "é",
        "\u{feff}",
    ]);
    let piece = prop_oneof![4 => known.prop_map(str::to_owned), 1 => any::<String>()];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_in_a_file_panics(questions in pieces(), given in pieces(), name in "[a-z_.]{0,12}|count.txt|q.tsv") {
        for benchmark in Benchmark::ALL {
            let _ = score(benchmark, &[Source::new(&name, &questions)], &Source::new("a", &given));
            let _ = score(benchmark, &[Source::new(&name, &questions)], &Source::new("a", "{\"question_id\": 1, \"text\": \"A\", \"prompt\": \"b\", \"round_id\": 3}"));
        }
    }

    #[test]
    fn answers_are_read_as_they_were_written(texts in prop::collection::vec(any::<String>(), 1..6)) {
        let rows: Vec<serde_json::Value> = texts.iter().enumerate().map(|(i, t)| serde_json::json!({"question_id": i, "text": t})).collect();
        let lines: String = rows.iter().map(|r| format!("{r}\r\n")).collect();
        let list = serde_json::to_string_pretty(&rows).unwrap();
        let read = answers(&Source::new("lines", &lines)).unwrap();
        prop_assert_eq!(&read, &answers(&Source::new("list", &list)).unwrap());
        prop_assert_eq!(read.iter().map(|a| a.text.as_str()).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn cells_of_a_table_may_hold_anything(cells in prop::collection::vec("[ab\t\n\"]{1,6}", 2)) {
        let quoted = |cell: &str| format!("\"{}\"", cell.replace('"', "\"\""));
        let questions = format!("index\tquestion\tA\tB\tanswer\n7\t{}\t{}\tb\tA\n", quoted(&cells[0]), quoted(&cells[1]));
        let given = serde_json::json!({"question_id": 7, "text": "A"}).to_string();
        let report = score(Benchmark::MmBench, &[Source::new("q.tsv", &questions)], &Source::new("a", &given)).unwrap();
        prop_assert_eq!(report.value("all", "circular"), Some(1.0));
    }

    #[test]
    fn words_hold_no_blanks_and_no_capitals(caption in "[ -~é’“½\t]{0,40}|\\PC{0,20}") {
        for word in ptb::words(&caption) {
            prop_assert!(!word.is_empty() && !word.contains(char::is_whitespace), "{word:?}");
            prop_assert_eq!(word.to_lowercase(), word);
        }
    }

    #[test]
    fn normal_answers_stay_normal_to_the_eye(text in "[ -~]{0,30}") {
        let once = normalise::vqa(&text);
        prop_assert!(!once.contains("  ") && once.trim() == once);
    }
}
