//! `index` of pictures without files of their own, of captions that change, and of pictures that cannot be read.

mod common;

use std::path::{Path, PathBuf};

use bifocal_search::{LocalStore, Store};
use common::{samples, succeeds, text, tiny};
use serde_json::Value;

/// A folder to index, and its store.
struct Place {
    dir: PathBuf,
    model: PathBuf,
    _owner: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let owner = tempfile::tempdir().expect("a folder");
        let dir = owner.path().canonicalize().expect("a folder");
        let model = tiny::write_clip(&dir);
        std::fs::create_dir(dir.join("in")).expect("a folder");
        Self {
            dir,
            model,
            _owner: owner,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join("in").join(name)
    }

    fn index(&self, more: &[&str]) -> Value {
        let (store, model) = (self.dir.join("store"), text(&self.model));
        let args = ["index", "--model", model, "--store", text(&store), "--json"];
        serde_json::from_str(&succeeds(&[&args[..], more].concat())).expect("JSON")
    }

    fn folder(&self) -> String {
        text(&self.dir.join("in")).to_owned()
    }

    fn store(&self) -> LocalStore {
        LocalStore::open_reader(&self.dir.join("store"), None).expect("a store")
    }
}

/// The first photos as (name, bytes).
fn photos(n: usize) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(samples("photos/images"))
        .expect("samples")
        .map(|e| e.expect("an entry").path())
        .collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
        (name, std::fs::read(path).expect("a photo"))
    };
    paths.iter().take(n).map(read).collect()
}

/// Members as (name, content) in a webdataset shard.
fn write_tar(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut tar = tar::Builder::new(std::fs::File::create(path).expect("a shard"));
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &bytes[..]).expect("a member");
    }
    tar.finish().expect("a shard");
}

fn members(photos: &[(String, Vec<u8>)], caption: &str) -> Vec<(String, Vec<u8>)> {
    let both = |(name, bytes): &(String, Vec<u8>)| {
        let text = format!("{caption} {name}").into_bytes();
        [(format!("{name}.jpg"), bytes.clone()), (format!("{name}.txt"), text)]
    };
    photos.iter().flat_map(both).collect()
}

fn numbers(summary: &Value) -> [u64; 7] {
    [
        "added",
        "changed",
        "moved",
        "deleted",
        "unchanged",
        "refreshed",
        "failed",
    ]
    .map(|name| summary[name].as_u64().expect("a number"))
}

#[test]
fn members_of_shards_are_items() {
    let place = Place::new();
    let all = photos(7);
    write_tar(&place.at("a-00.tar"), &members(&all[..3], "photo"));
    write_tar(&place.at("a-01.tar"), &members(&all[3..6], "photo"));
    let pattern = place.at("a-{00..02}.tar");
    assert_eq!(numbers(&place.index(&[text(&pattern)])), [6, 0, 0, 0, 0, 0, 0]);
    assert_eq!(numbers(&place.index(&[&place.folder()])), [0, 0, 0, 0, 6, 0, 0]);
    let key = format!("{}/{}", text(&place.at("a-00.tar")), all[0].0);
    let entry = place.store().get(&key).expect("a read").expect("the item");
    assert_eq!(entry.item.file.size, all[0].1.len() as u64);
    assert!(entry.item.thumbnail.is_some_and(|jpeg| jpeg.starts_with(&[0xff, 0xd8])));
    assert_eq!(
        entry.item.metadata["captions"]["caption"][0],
        format!("photo {}", all[0].0)
    );
    // A shard that is written again: known pictures are not embedded, and the others come and go.
    write_tar(&place.at("a-01.tar"), &members(&all[4..7], "view"));
    let summary = place.index(&[&place.folder()]);
    assert_eq!(numbers(&summary)[..4], [1, 0, 0, 1], "{summary}");
    assert_eq!(summary["refreshed"], 2);
    let key = format!("{}/{}", text(&place.at("a-01.tar")), all[5].0);
    let changed = place.store().get(&key).expect("a read").expect("the item");
    assert_eq!(
        changed.item.metadata["captions"]["caption"][0],
        format!("view {}", all[5].0)
    );
    // One that is damaged keeps its items; one that is removed does not.
    let whole = std::fs::read(place.at("a-01.tar")).expect("a shard");
    std::fs::write(place.at("a-01.tar"), &whole[..whole.len() / 3]).expect("write");
    assert_eq!(place.index(&[&place.folder()])["deleted"], 0);
    std::fs::write(place.at("a-01.tar"), "no archive").expect("write");
    assert_eq!(place.index(&[&place.folder()])["items"], 6);
    std::fs::write(place.at("a-01.tar"), &whole).expect("write");
    assert_eq!(place.index(&[&place.folder()])["items"], 6);
    // Another model finds them in their shards.
    let weights = place.model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&0.125f32.to_le_bytes());
    std::fs::write(&weights, bytes).expect("write");
    assert_eq!(place.index(&["--rebuild", &place.folder()])["unchanged"], 6);
    std::fs::remove_file(place.at("a-01.tar")).expect("remove");
    let summary = place.index(&[text(&pattern)]);
    assert_eq!(numbers(&summary)[..5], [0, 0, 0, 3, 3], "{summary}");
}

#[test]
fn rows_of_parquet_files_are_items() {
    let place = Place::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures/shards/hf.parquet");
    let shard = place.at("hf.parquet");
    std::fs::copy(fixture, &shard).expect("a fixture");
    let summary = place.index(&[text(&shard)]);
    let items = summary["items"].as_u64().expect("a number");
    assert!(items > 1, "{summary}");
    assert_eq!(place.index(&[text(&shard)])["unchanged"], items);
    let entry = place
        .store()
        .get(&format!("{}/1", text(&shard)))
        .expect("a read")
        .expect("an item");
    assert!(entry.item.metadata.contains_key("captions") && entry.item.thumbnail.is_some());
}

#[test]
fn captions_and_labels_follow_their_table() {
    let place = Place::new();
    let all = photos(3);
    for (name, bytes) in &all {
        std::fs::write(place.at(&format!("{name}.jpg")), bytes).expect("write");
    }
    let table = |captions: [&str; 3]| {
        let row = |((name, _), text): (&(String, Vec<u8>), &str)| {
            serde_json::json!({ "image": format!("{name}.jpg"), "captions": { "en": [text] } }).to_string()
        };
        let rows: Vec<String> = all.iter().zip(captions).map(row).collect();
        std::fs::write(place.at("captions.jsonl"), rows.join("\n")).expect("write");
    };
    let caption = |at: usize| {
        let key = place.at(&format!("{}.jpg", all[at].0));
        let item = place.store().get(text(&key)).expect("a read").expect("an item").item;
        item.metadata.get("captions").cloned()
    };
    table(["one", "two", "three"]);
    assert_eq!(numbers(&place.index(&[&place.folder()])), [3, 0, 0, 0, 0, 0, 0]);
    table(["one", "zwei", "three"]);
    assert_eq!(numbers(&place.index(&[&place.folder()])), [0, 0, 0, 0, 3, 1, 0]);
    assert_eq!(caption(1), Some(serde_json::json!({ "en": ["zwei"] })));
    // Known by one of the files alone, it keeps what the table said.
    let one = place.at(&format!("{}.jpg", all[0].0));
    assert_eq!(numbers(&place.index(&[text(&one)])), [0, 0, 0, 0, 1, 0, 0]);
    assert!(caption(0).is_some());
}

#[test]
fn failures_are_remembered_and_not_tried_again_until_something_changes() {
    let place = Place::new();
    let all = photos(2);
    for (name, bytes) in &all {
        std::fs::write(place.at(&format!("{name}.jpg")), bytes).expect("write");
    }
    std::fs::write(place.at("bad.jpg"), &all[0].1[..5000]).expect("write");
    let first = place.index(&[&place.folder()]);
    assert_eq!((numbers(&first)[6], &first["remembered"]), (1, &0.into()));
    assert_eq!(first["causes"]["truncated"], 1);
    let known = place.store().failures().expect("a ledger");
    assert_eq!((known.len(), known[0].cause.as_str()), (1, "truncated"));
    assert!(known[0].key.ends_with("bad.jpg") && known[0].reason.contains("cut off"));
    let again = place.index(&[&place.folder()]);
    assert_eq!((numbers(&again)[6], &again["remembered"]), (1, &1.into()));
    let asked = place.index(&["--retry-failed", &place.folder()]);
    assert_eq!((numbers(&asked)[6], &asked["remembered"]), (1, &0.into()));
    // Only its content counts: a file that is whole now is found.
    std::fs::write(place.at("bad.jpg"), &photos(3)[2].1).expect("write");
    assert_eq!(numbers(&place.index(&[&place.folder()])), [1, 0, 0, 0, 2, 0, 0]);
    assert_eq!(place.store().failures().expect("a ledger"), []);
    // One that is gone is forgotten.
    std::fs::write(place.at("worse.jpg"), "text").expect("write");
    assert_eq!(place.index(&[&place.folder()])["causes"]["text"], 1);
    std::fs::remove_file(place.at("worse.jpg")).expect("remove");
    assert_eq!(place.index(&[&place.folder()])["failed"], 0);
    assert_eq!(place.store().failures().expect("a ledger"), []);
}
