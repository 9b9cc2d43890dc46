//! `embed` into a folder: parts that others read, runs that are killed, what fails, and what is refused.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{bifocal, fails, killed_after, run, samples, succeeds, text, tiny};
use serde_json::Value;

/// Rows of all parts of a folder, in the order of their names.
fn rows(dir: &Path) -> Vec<u8> {
    let parts = files(dir).into_iter().filter(|(name, _)| name.ends_with(".npy"));
    parts.flat_map(|(_, bytes)| values(&bytes).to_vec()).collect()
}

/// The numbers of a `.npy` file.
fn values(npy: &[u8]) -> &[u8] {
    let header = u16::from_le_bytes([npy[8], npy[9]]);
    &npy[10 + usize::from(header)..]
}

/// What a reader sees: all parts, by name.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir)
        .expect("a folder")
        .map(|e| e.expect("an entry").path());
    entries
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().expect("a name").to_str().expect("UTF-8");
            (name.to_owned(), std::fs::read(&path).expect("a file"))
        })
        .filter(|(name, _)| name.starts_with("part-"))
        .collect()
}

fn ledger(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("ledger.jsonl")).expect("a ledger");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// The photos, several times, under names that sort in their order.
fn many(dir: &Path, times: usize) -> PathBuf {
    let photos = dir.join("many");
    std::fs::create_dir(&photos).expect("a folder");
    for entry in std::fs::read_dir(samples("photos/images")).expect("samples") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("UTF-8");
        for time in 0..times {
            std::fs::copy(&path, photos.join(format!("{time}-{name}"))).expect("a copy");
        }
    }
    photos
}

fn tried(model: &Path, what: &str, input: &Path, out: &Path, more: &[&str]) -> std::process::Output {
    let args = ["embed", "--model", text(model), what, text(input), "--out", text(out)];
    run(&[&args[..], more].concat())
}

fn embedded(model: &Path, what: &str, input: &Path, out: &Path, more: &[&str]) -> String {
    let output = tried(model, what, input, out, more);
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{told}");
    told
}

#[test]
fn parts_hold_what_one_file_holds() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let (photos, out, one) = (samples("photos"), dir.path().join("out"), dir.path().join("one.npy"));
    let told = embedded(&model, "--images", &photos, &out, &["--part-items", "32"]);
    assert!(told.contains("50 rows of 12 in 2 parts"), "{told}");
    embedded(&model, "--images", &photos, &one, &[]);
    let whole = std::fs::read(&one).expect("rows");
    assert_eq!(rows(&out), values(&whole));
    let names: Vec<String> = files(&out).into_keys().collect();
    let expected = [
        "part-00000.npy",
        "part-00000.parquet",
        "part-00001.npy",
        "part-00001.parquet",
    ];
    assert_eq!(names, expected);
    assert_eq!(ledger(&out), Vec::<Value>::new());
    // Nothing is done twice, and nothing else gets in.
    let before = files(&out);
    let time = |name: &str| out.join(name).metadata().expect("a file").modified().expect("a time");
    let written = time("part-00000.npy");
    embedded(&model, "--images", &photos, &out, &[]);
    assert_eq!((files(&out), time("part-00000.npy")), (before.clone(), written));
    for (what, input, more, wanted) in [
        ("--images", samples("emoji"), &[][..], "another input"),
        ("--images", photos.clone(), &["--no-normalize"], "--no-normalize"),
        ("--images", photos.clone(), &["--part-items", "64"], "parts of 32 items"),
        ("--captions", photos.clone(), &[], "embeddings of images"),
    ] {
        let output = tried(&model, what, &input, &out, more);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(1) && told.contains(wanted),
            "{wanted}: {told}"
        );
    }
    let other = tempfile::tempdir().expect("a folder");
    std::fs::write(other.path().join("texts"), "a\n").expect("write");
    let stranger = tiny::write_clip(other.path());
    let weights = stranger.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&0.125f32.to_le_bytes());
    std::fs::write(&weights, bytes).expect("write");
    let told = tried(&stranger, "--images", &photos, &out, &[]).stderr;
    assert!(String::from_utf8_lossy(&told).contains("another model"));
    assert_eq!(files(&out), before);
    // Wrong use.
    let args = ["embed", "--model", text(&model)];
    let wrong = |more: &[&str]| fails(2, &[&args[..], more].concat());
    wrong(&["--text", "a", "--out", text(&out)]);
    wrong(&["--images", text(&photos), "--out", text(&out), "--max-failed", "3"]);
    wrong(&["--captions", text(&photos), "--out", text(&one)]);
    wrong(&["--images", text(&photos), "--out", "rows.txt"]);
}

#[test]
fn texts_and_captions_are_embedded_as_in_one_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let lines: String = (0..1300)
        .map(|i| format!("line {i}{}", ["\n", "\n\n"][i % 2]))
        .collect();
    let (texts, one) = (dir.path().join("texts.txt"), dir.path().join("one.npy"));
    std::fs::write(&texts, lines).expect("write");
    let out = dir.path().join("out");
    let told = embedded(&model, "--texts", &texts, &out, &["--part-items", "512"]);
    assert!(told.contains("1950 rows of 12 in 4 parts"), "{told}");
    embedded(&model, "--texts", &texts, &one, &[]);
    assert_eq!(rows(&out), values(&std::fs::read(&one).expect("rows")));
    let captions = dir.path().join("captions");
    let told = embedded(&model, "--captions", &samples("photos"), &captions, &[]);
    let table = std::fs::read_to_string(samples("photos/captions.jsonl")).expect("captions");
    let count: usize = table
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            let groups = row["captions"].as_object().expect("groups").values();
            groups
                .map(|texts| texts.as_array().expect("texts").len())
                .sum::<usize>()
        })
        .sum();
    assert!(told.contains(&format!("{count} rows of 12 in 1 parts")), "{told}");
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let photos = many(dir.path(), 8);
    std::fs::write(photos.join("3-bad.jpg"), "no picture").expect("write");
    let (whole, out) = (dir.path().join("whole"), dir.path().join("out"));
    embedded(&model, "--images", &photos, &whole, &["--part-items", "128"]);
    let expected = files(&whole);
    assert_eq!(expected.len(), 8);
    let args = [
        "embed",
        "--model",
        text(&model),
        "--images",
        text(&photos),
        "--out",
        text(&out),
        "--part-items",
        "128",
    ];
    let mut kills = 0;
    for kill in 1..=30u64 {
        if !killed_after(&args, Duration::from_millis(40 + 15 * (kill % 7))) {
            break;
        }
        kills += 1;
        // a busy machine may not have got so far
        if !out.is_dir() {
            continue;
        }
        // What is finished is as it will stay.
        for (name, bytes) in files(&out) {
            assert!(expected[&name] == bytes, "{name} after kill {kill}");
        }
    }
    assert!(kills > 0);
    succeeds(&args);
    assert!(files(&out) == expected);
    let mut told = ledger(&out);
    assert_eq!(told.len(), 1, "{told:?}");
    let one = told.remove(0);
    assert!(
        one["key"].as_str().is_some_and(|key| key.ends_with("3-bad.jpg")),
        "{one}"
    );
    assert_eq!(one["cause"], "text");
}

#[test]
fn a_batch_that_was_embedded_is_not_embedded_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let photos = many(dir.path(), 2);
    let out = dir.path().join("out");
    embedded(&model, "--images", &photos, &out, &[]);
    let expected = files(&out);
    // As if the run had been killed in its third batch: what is in the journal is taken as it is.
    let third = dir.path().join("third");
    let mut child = bifocal(&[
        "embed",
        "--model",
        text(&model),
        "--images",
        text(&photos),
        "--out",
        text(&third),
    ])
    .stderr(std::process::Stdio::null())
    .spawn()
    .expect("the binary starts");
    let journal = third.join("progress/part-00000.journal");
    while child.try_wait().expect("a child of ours").is_none() {
        if std::fs::metadata(&journal).is_ok_and(|meta| meta.len() > 0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
    let first: Vec<PathBuf> = {
        let mut all: Vec<PathBuf> = std::fs::read_dir(&photos)
            .expect("photos")
            .map(|e| e.expect("an entry").path())
            .collect();
        all.sort();
        all[..32].to_vec()
    };
    if journal.exists() && std::fs::metadata(&journal).expect("a journal").len() > 0 {
        // The pictures of the first batch are no longer needed.
        for path in &first {
            std::fs::write(path, "gone").expect("write");
        }
    }
    embedded(&model, "--images", &photos, &third, &[]);
    assert!(files(&third) == expected);
}

#[test]
fn what_fails_is_told_and_only_that_is_tried_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let photos = many(dir.path(), 1);
    let good = std::fs::read(samples("photos/images/000000012280.jpg")).expect("a photo");
    for (name, bytes) in [
        ("a.jpg", &b""[..]),
        ("b.jpg", b"<html>"),
        ("c.jpg", &good[..good.len() / 2]),
    ] {
        std::fs::write(photos.join(name), bytes).expect("write");
    }
    let out = dir.path().join("out");
    let told = embedded(&model, "--images", &photos, &out, &[]);
    assert!(told.contains("50 rows of 12 in 1 parts; 3 left out"), "{told}");
    let causes = |out: &Path| -> Vec<String> {
        let ledger = ledger(out);
        ledger
            .iter()
            .map(|one| one["cause"].as_str().expect("a cause").to_owned())
            .collect()
    };
    assert_eq!(causes(&out), ["empty", "text", "truncated"]);
    assert!(
        ledger(&out)
            .iter()
            .all(|one| one["when"].as_i64() > Some(1_600_000_000))
    );
    let before = files(&out);
    // Nothing is better: nothing changes, and it is no error.
    embedded(&model, "--images", &photos, &out, &[]);
    assert_eq!((files(&out), causes(&out).len()), (before.clone(), 3));
    std::fs::write(photos.join("c.jpg"), &good).expect("write");
    let told = embedded(&model, "--images", &photos, &out, &[]);
    assert!(told.contains("51 rows of 12 in 2 parts; 2 left out"), "{told}");
    let after = files(&out);
    assert!(before.iter().all(|(name, bytes)| after[name] == *bytes));
    assert_eq!((after.len(), values(&after["part-00001.npy"]).len()), (4, 4 * 12));
    assert_eq!(causes(&out), ["empty", "text"]);
    embedded(&model, "--images", &photos, &out, &[]);
    assert_eq!(files(&out), after);
    // Too many.
    for i in 0..20 {
        std::fs::write(photos.join(format!("bad{i}.jpg")), "no").expect("write");
    }
    let strict = dir.path().join("strict");
    let output = tried(&model, "--images", &photos, &strict, &[]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && told.contains("--max-failed"),
        "{told}"
    );
    assert_eq!(ledger(&strict).len(), 22);
    embedded(
        &model,
        "--images",
        &photos,
        &dir.path().join("lenient"),
        &["--max-failed", "0.5"],
    );
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let out = dir.path().join("out");
    std::fs::create_dir_all(out.join("progress")).expect("a folder");
    let _lock = bifocal_data::atomic::FileLock::acquire(&out.join("progress/lock"), "a test").expect("a lock");
    let output = tried(&model, "--images", &samples("photos"), &out, &[]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("in use by"), "{told}");
}
