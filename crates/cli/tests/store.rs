//! What the commands make of a store: filters, weighted queries, more like this, duplicates, labels, another model, watching.

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bifocal_search::{LocalStore, Store};
use common::{bifocal, fails, killed_after, run, samples, succeeds, text, tiny};
use serde_json::Value;

/// A model, some photos, and their store.
struct Indexed {
    dir: tempfile::TempDir,
    model: PathBuf,
}

impl Indexed {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let model = tiny::write_clip(dir.path());
        let indexed = Self { dir, model };
        let photos = indexed.at("photos");
        copy(&samples("photos"), Path::new(&photos));
        indexed.json(&["index", "--model", text(&indexed.model), "--json", &photos]);
        indexed
    }

    fn at(&self, name: &str) -> String {
        // Keys are paths without links.
        let dir = self.dir.path().canonicalize().expect("a folder");
        text(&dir.join(name)).to_owned()
    }

    /// Runs a command on the store and reads its JSON.
    fn json(&self, args: &[&str]) -> Value {
        let store = self.at("store");
        let printed = succeeds(&[&args[..1], &["--store", &store], &args[1..]].concat());
        serde_json::from_str(&printed).expect("JSON")
    }

    fn search(&self, args: &[&str]) -> Value {
        self.json(&[&["search", "--json"], args].concat())
    }

    fn key(&self, name: &str) -> String {
        self.at(&format!("photos/images/{name}"))
    }

    /// The same model with another weight.
    fn other_model(&self) -> PathBuf {
        let other = self.dir.path().join("other-model");
        copy(&self.model, &other);
        let weights = other.join("model.safetensors");
        let mut bytes = std::fs::read(&weights).expect("weights");
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&0.125f32.to_le_bytes());
        std::fs::write(&weights, bytes).expect("write");
        other
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a copy");
        }
    }
}

fn keys(found: &Value) -> Vec<&str> {
    let hits = found["hits"].as_array().expect("hits");
    hits.iter().filter_map(|hit| hit["key"].as_str()).collect()
}

const PHOTO: &str = "000000012280.jpg";

#[test]
fn searches_with_filters_weights_and_more_like_this() {
    let indexed = Indexed::new();
    let all = indexed.search(&["a dog", "-k", "99"]);
    assert_eq!((keys(&all).len(), &all["matched"]), (50, &50.into()));
    assert_eq!(all["scores"]["count"], 50);
    // Sizes and captions are columns.
    let hits = all["hits"].as_array().expect("hits");
    let wide = hits
        .iter()
        .filter(|hit| hit["metadata"]["width"].as_u64() > hit["metadata"]["height"].as_u64())
        .count();
    assert!(hits.iter().all(|hit| hit["metadata"]["width"].as_u64() > Some(100)) && wide > 10);
    let store = LocalStore::open_reader(Path::new(&indexed.at("store")), None).expect("a store");
    let thumbnail = store
        .thumbnail(&indexed.key(PHOTO))
        .expect("a read")
        .expect("a thumbnail");
    assert!(thumbnail.starts_with(&[0xff, 0xd8]) && thumbnail.len() > 1000);
    let filter = "captions.en like '%airport%' and ext = jpg and size > 1kB and path ~ 'images/*'";
    let found = indexed.search(&["a dog", "-k", "99", "--where", filter]);
    assert!(keys(&found).contains(&indexed.key(PHOTO).as_str()));
    assert_eq!(found["matched"], keys(&found).len());
    assert!(keys(&found).len() < 10, "{found}");
    // A picture by itself, and taken away from itself with something else left.
    let photo = indexed.key(PHOTO);
    let scores = |args: &[&str]| {
        let found = indexed.search(&[args, &["-k", "99"]].concat());
        let hits = found["hits"].as_array().expect("hits").clone();
        let of = |hit: &Value| hit["score"].as_f64().expect("a score");
        hits.iter().find(|hit| hit["key"] == photo.as_str()).map(of)
    };
    assert!(scores(&["--image", &photo]) > Some(0.999));
    assert!(scores(&[&format!("--image=-1:{photo}")]) < Some(-0.999));
    let (toward, away) = (
        scores(&["a dog", "--image", &photo]),
        scores(&["a dog", &format!("--image=-0.5:{photo}")]),
    );
    assert!(toward > away, "{toward:?} {away:?}");
    let (plain, minus) = (scores(&["a dog"]), scores(&["a dog - red cat"]));
    assert!(plain != minus);
    assert_eq!(plain, scores(&["\"a dog\""]));
    assert_eq!(scores(&["--like", &photo]), None);
    let like = indexed.search(&["--like", &photo, "-k", "99"]);
    assert_eq!((keys(&like).len(), &like["matched"]), (49, &49.into()));
    // What is typical is a line of its own, apart from the results.
    let output = run(&["search", "--store", &indexed.at("store"), "a dog"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("typical for this query"));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 10);
    // Mistakes.
    let store = indexed.at("store");
    let search = |code, args: &[&str]| fails(code, &[&["search", "--store", &store], args].concat());
    assert!(search(2, &["a dog", "--where", "size >> 3"]).contains("column 7"));
    assert!(search(2, &["a dog + "]).contains("no text behind its '+'"));
    assert!(search(1, &["--like", "nothing.jpg"]).contains("nothing.jpg"));
    search(2, &[]);
    search(2, &["a dog", "--duplicates"]);
}

#[test]
fn near_duplicates_are_grouped() {
    let indexed = Indexed::new();
    let (first, second) = (indexed.key(PHOTO), indexed.key("copy.jpg"));
    let mut bytes = std::fs::read(&first).expect("a photo");
    // The same pixels, other content.
    bytes.extend(*b"and a tail");
    std::fs::write(&second, bytes).expect("write");
    indexed.json(&[
        "index",
        "--model",
        text(&indexed.model),
        "--json",
        &indexed.at("photos/images"),
    ]);
    let found = indexed.json(&["search", "--duplicates", "--min-score", "0.99999", "--json"]);
    let group = &found["groups"][0]["members"];
    let members: Vec<&str> = group
        .as_array()
        .expect("members")
        .iter()
        .filter_map(|m| m["key"].as_str())
        .collect();
    assert!(
        members.contains(&first.as_str()) && members.contains(&second.as_str()),
        "{found}"
    );
    let none = indexed.json(&[
        "search",
        "--duplicates",
        "--min-score",
        "0.99999",
        "--json",
        "--where",
        "name = copy.jpg",
    ]);
    assert_eq!(none["groups"], serde_json::json!([]));
    let store = indexed.at("store");
    let printed = succeeds(&["search", "--store", &store, "--duplicates", "--min-score", "0.99999"]);
    assert!(printed.contains("group 1 of"), "{printed}");
    fails(1, &["search", "--store", &store, "--duplicates", "--min-score", "0"]);
}

#[test]
fn a_whole_store_is_labelled_and_the_labels_are_columns() {
    let indexed = Indexed::new();
    let store = indexed.at("store");
    let labels = ["classify", "--store", &store, "--labels", "dog,cat,bus"];
    let lines = succeeds(&[&labels[..], &["--json"]].concat());
    let best: Vec<(String, String)> = lines
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            let text = |v: &Value| v.as_str().expect("text").to_owned();
            (text(&row["path"]), text(&row["labels"][0]["label"]))
        })
        .collect();
    assert_eq!(best.len(), 50);
    // As the pictures themselves are labelled.
    let direct = [
        "classify",
        "--model",
        text(&indexed.model),
        "--labels",
        "dog,cat,bus",
        "--json",
    ];
    let line = succeeds(&[&direct[..], &[&indexed.key(PHOTO)]].concat());
    let row: Value = serde_json::from_str(&line).expect("JSON");
    let stored = best.iter().find(|(key, _)| key.ends_with(PHOTO)).expect("the photo");
    assert_eq!(row["labels"][0]["label"], stored.1.as_str());
    let written: Value =
        serde_json::from_str(&succeeds(&[&labels[..], &["--write", "kind", "--json"]].concat())).expect("JSON");
    for (i, label) in ["dog", "cat", "bus"].into_iter().enumerate() {
        let expected = best.iter().filter(|(_, best)| best == label).count();
        assert_eq!(written["labels"][i]["items"], expected);
        let found = indexed.search(&["a dog", "-k", "99", "--where", &format!("kind = {label}")]);
        assert_eq!(found["matched"], expected, "{label}");
    }
    fails(
        2,
        &[
            "classify",
            "--model",
            text(&indexed.model),
            "--labels",
            "a",
            "--write",
            "kind",
            "photo.jpg",
        ],
    );
    // Labels survive a picture that only moved.
    std::fs::rename(indexed.key(PHOTO), indexed.key("moved.jpg")).expect("rename");
    indexed.json(&[
        "index",
        "--model",
        text(&indexed.model),
        "--json",
        &indexed.at("photos/images"),
    ]);
    let found = indexed.search(&["a dog", "--where", "name = moved.jpg and exists kind"]);
    assert_eq!(found["matched"], 1);
}

#[test]
fn another_model_is_refused_with_the_command_that_rebuilds() {
    let indexed = Indexed::new();
    let (store, photos, other) = (indexed.at("store"), indexed.at("photos"), indexed.other_model());
    let message = fails(1, &["index", "--model", text(&other), "--store", &store, &photos]);
    let command = message
        .lines()
        .find_map(|line| line.split("bifocal index --rebuild").nth(1))
        .expect("a command");
    assert!(command.contains(text(&other)) && command.contains(&store), "{message}");
    fails(1, &["search", "--store", &store, "--model", text(&other), "a dog"]);
    let before = indexed.search(&["--like", &indexed.key(PHOTO), "-k", "3"]);
    succeeds(&["classify", "--store", &store, "--labels", "dog,cat", "--write", "kind"]);
    // A picture that is gone cannot be embedded again.
    std::fs::remove_file(indexed.key("000000020247.jpg")).expect("remove");
    let rebuild: Vec<&str> = ["index", "--rebuild"]
        .into_iter()
        .chain(command.split_whitespace())
        .collect();
    let items = |report: &serde_json::Value| report["items"].as_u64().expect("a number");
    for kill in 1..=4u64 {
        let over = !killed_after(&rebuild, Duration::from_millis(60 * kill));
        // Whole, with the one model or the other.
        let found = indexed.search(&["--like", &indexed.key(PHOTO), "-k", "3"]);
        assert_eq!(keys(&found).len(), 3, "after kill {kill}");
        if over {
            break;
        }
        if !Path::new(&store).join("rebuild").exists() {
            continue;
        }
        // the old store, or, where it was killed between the change and tidying up, the new one without the picture that is gone
        assert!(
            [items(&before), items(&before) - 1].contains(&items(&found)),
            "{found} after kill {kill}"
        );
    }
    // A rebuild that was over, or all but tidied up, before it could be killed has left the picture out already.
    let left_out = items(&indexed.search(&["--like", &indexed.key(PHOTO)])) < items(&before);
    let output = run(&rebuild);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && (left_out || told.contains("000000020247.jpg")),
        "{told}"
    );
    assert!(!Path::new(&store).join("rebuild").exists());
    // The store has its new model by name, keeps what it knew, and lets the old one no longer in.
    let found = indexed.search(&[
        "a dog",
        "-k",
        "99",
        "--where",
        "exists kind and exists captions and exists width",
    ]);
    assert_eq!(found["matched"], 49);
    let message = fails(
        1,
        &["index", "--model", text(&indexed.model), "--store", &store, &photos],
    );
    assert!(message.contains("--rebuild"), "{message}");
    let photo = indexed.key(PHOTO);
    let found = indexed.search(&["--image", &photo, "-k", "1"]);
    assert!(
        keys(&found) == [photo.as_str()] && found["hits"][0]["score"].as_f64() > Some(0.999),
        "{found}"
    );
}

#[test]
fn watching_follows_the_folder() {
    let indexed = Indexed::new();
    let (store, images) = (indexed.at("store"), indexed.at("photos/images"));
    let args = [
        "index",
        "--model",
        text(&indexed.model),
        "--store",
        &store,
        "--watch=1",
        &images,
    ];
    let mut child = bifocal(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let items = || indexed.search(&["a dog", "-k", "1"])["items"].as_u64();
    let becomes = |expected: u64| {
        let begin = Instant::now();
        while items() != Some(expected) {
            assert!(
                begin.elapsed() < Duration::from_secs(120),
                "{:?} items, not {expected}",
                items()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    std::fs::write(indexed.key("bad.jpg"), "no picture").expect("write");
    std::fs::copy(
        samples("emoji/images").join("1st-place-medal.png"),
        indexed.key("new.png"),
    )
    .expect("copy");
    becomes(51);
    let message = fails(
        1,
        &["index", "--model", text(&indexed.model), "--store", &store, &images],
    );
    assert!(message.contains(&format!("process {}", child.id())), "{message}");
    std::fs::remove_file(indexed.key("new.png")).expect("remove");
    std::fs::remove_file(indexed.key(PHOTO)).expect("remove");
    becomes(49);
    let sent = std::process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(sent.expect("kill starts").success());
    assert!(child.wait().expect("a child of ours").success());
}
