//! Tables in the shapes that people have: csv, tsv, jsonl; captions beside pictures; rows without pictures.

use std::fs;
use std::path::Path;

use bifocal_data::source::Layout;
use bifocal_data::{Dataset, SourceError};
use proptest::prelude::*;

fn put(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn pictures(root: &Path) {
    (1..=4).for_each(|i| put(root, &format!("images/{i}.jpg"), "x"));
}

#[test]
fn captions_by_column() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let table = "Image Path,raw_caption,shortSV_captions,longSV_captions,url\n\
                 images/1.jpg,raw 1,short 1,\"long, with \"\"quotes\"\"\nand a line\",http://x\n\
                 images/2.jpg,raw 2,,long 2,\n\
                 ../images/3.jpg,raw,short,long,\n\
                 /etc/passwd,raw,short,long,\n\
                 images/9.jpg,raw,short,long,\n\
                 images/3.jpg,,,,\n\
                 ,raw,short,long,\n\
                 images/4\0.jpg,raw,short,long,\n\
                 images/4.jpg,one field only\n";
    put(dir.path(), "dreamlip.csv", table);
    let data = Dataset::open(&dir.path().join("dreamlip.csv")).unwrap();
    assert_eq!(data.layout, Layout::Captions);
    let keys: Vec<_> = data.samples.iter().map(|s| s.key.as_str()).collect();
    assert_eq!(keys, ["images/1.jpg", "images/2.jpg", "images/4.jpg"]);
    assert_eq!(
        data.samples[0].captions["longSV_captions"],
        ["long, with \"quotes\"\nand a line"]
    );
    assert_eq!(data.samples[1].captions.len(), 2);
    assert_eq!(data.samples[2].captions["raw_caption"], ["one field only"]);
    let lines: Vec<_> = data.skipped.iter().map(|s| s.line.unwrap()).collect();
    assert_eq!(lines, [5, 6, 7, 8, 9, 10]);
    assert!(data.skipped[0].reason.contains("leads out"), "{}", data.skipped[0]);
}

#[test]
fn open_clips_table_and_labels() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    put(
        dir.path(),
        "train.csv",
        "filepath\ttitle\nimages/2.jpg\ta dog, running\nimages/1.jpg\ta cat\n",
    );
    let data = Dataset::open(&dir.path().join("train.csv")).unwrap();
    assert_eq!(data.captions("caption"), [(0, "a dog, running"), (1, "a cat")]);
    put(dir.path(), "labels.csv", "image;name\nimages/1.jpg;cat\n");
    let data = Dataset::open(dir.path()).unwrap();
    assert_eq!(
        (data.layout, data.samples[0].label.as_deref()),
        (Layout::Labels, Some("cat"))
    );
    // a list of pictures only
    put(dir.path(), "list.csv", "file_name\nimages/1.jpg\nimages/3.jpg\n");
    let data = Dataset::open(&dir.path().join("list.csv")).unwrap();
    assert_eq!((data.layout, data.samples.len()), (Layout::Plain, 2));
}

#[test]
fn tables_that_say_nothing() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    for (name, content) in [
        ("a.csv", &b"images/1.jpg,a cat\nimages/2.jpg,a dog\n"[..]),
        ("b.tsv", b"\xff\xfei\0m\0a\0g\0e\0"),
        ("c.csv", b"\0\0\0\0"),
    ] {
        put(dir.path(), name, content);
        let error = Dataset::open(&dir.path().join(name)).unwrap_err();
        assert!(matches!(error, SourceError::NoColumns { .. }), "{error}");
        assert!(error.to_string().contains("filepath,caption"));
    }
    put(dir.path(), "d.csv", "");
    assert!(matches!(
        Dataset::open(&dir.path().join("d.csv")),
        Err(SourceError::NoRows { .. })
    ));
    // a line of 100 MB between two good ones
    let mut long = b"image,caption\nimages/1.jpg,one\nimages/2.jpg,".to_vec();
    long.resize(100_000_000, b'x');
    long.extend(b"\nimages/3.jpg,three\n");
    put(dir.path(), "e.csv", &long);
    let data = Dataset::open(&dir.path().join("e.csv")).unwrap();
    assert_eq!(
        (data.samples.len(), data.skipped.len(), data.skipped[0].line),
        (2, 1, Some(3))
    );
}

#[test]
fn jsonl_of_other_shapes() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let rows = r#"{"image": "images/1.jpg", "caption": "one"}
{"file_name": "images/2.jpg", "text": ["two", "zwei"], "label": 3}
{"image_path": "images/3.jpg", "short_caption": "s", "long_caption": "l"}
{"image": "images/4.jpg", "captions": {"en": ["four"], "de": "vier"}, "en": "also"}
{"image": "images/4.jpg", "caption": 7}
{"image": 4, "caption": "x"}
{"caption": "no picture"}
{"image": null, "caption": ""}
"#;
    put(dir.path(), "metadata.jsonl", rows);
    let data = Dataset::open(dir.path()).unwrap();
    assert_eq!(data.samples.len(), 5);
    assert_eq!(data.samples[1].captions["caption"], ["two", "zwei"]);
    assert_eq!(data.samples[1].label.as_deref(), Some("3"));
    assert_eq!(data.samples[2].captions["long_caption"], ["l"]);
    assert_eq!(data.samples[3].captions["en"], ["four", "also"]);
    assert_eq!(
        (data.samples[4].key.as_str(), data.samples[4].image.is_none()),
        ("metadata.jsonl/7", true)
    );
    let lines: Vec<_> = data.skipped.iter().map(|s| s.line.unwrap()).collect();
    assert_eq!(lines, [5, 6, 8]);
}

#[test]
fn texts_by_language_without_pictures() {
    let dir = tempfile::tempdir().unwrap();
    put(
        dir.path(),
        "t.jsonl",
        "{\"id\": \"17\", \"en\": \"a\", \"de\": \"b\", \"is\": true}\n",
    );
    let data = Dataset::open(&dir.path().join("t.jsonl")).unwrap();
    assert_eq!(data.languages().into_iter().collect::<Vec<_>>(), [("de", 1), ("en", 1)]);
    let Some(real) = std::env::var_os("BIFOCAL_DATA") else {
        eprintln!("skipped: set BIFOCAL_DATA to the folder with captions/");
        return;
    };
    let data = Dataset::open(&Path::new(&real).join("captions/multi30k.jsonl")).unwrap();
    assert!(data.samples.len() > 1000 && data.skipped.is_empty());
    assert_eq!(
        data.samples[0].captions.keys().collect::<Vec<_>>(),
        ["cs", "de", "en", "fr"]
    );
}

#[test]
fn captions_beside_pictures() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    put(dir.path(), "images/1.txt", "a cat\n");
    put(dir.path(), "images/2.txt", "\n");
    put(dir.path(), "images/3.txt", b"\xff");
    put(dir.path(), "images/readme.txt", "of nothing");
    let data = Dataset::open(dir.path()).unwrap();
    assert_eq!(
        (data.layout, data.samples.len(), data.skipped.len()),
        (Layout::Captions, 4, 1)
    );
    assert_eq!(data.captions("caption"), [(0, "a cat")]);
}

proptest! {
    #[test]
    fn any_csv_is_survived(
        header in prop_oneof![Just("image,caption".to_owned()), Just("filepath\ttitle".to_owned()), "[a-z,\t\"]{0,20}"],
        rows in prop::collection::vec(prop_oneof![
            "[^\n]{0,30}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..30),
            "(a|\\./a|\\.\\./a|/a)[,\t]\"?[x ]{0,3}\"?".prop_map(String::into_bytes),
        ], 0..10)
    ) {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "a", "x");
        put(dir.path(), "t.csv", [header.into_bytes(), rows.join(&b'\n')].join(&b'\n'));
        match Dataset::open(&dir.path().join("t.csv")) {
            Ok(d) => prop_assert!(d.samples.iter().all(|s| s.image.file().is_none_or(|p| p == dir.path().join("a")))),
            Err(SourceError::NoRows { .. } | SourceError::NoColumns { .. }) => {}
            Err(e) => return Err(TestCaseError::fail(e.to_string())),
        }
    }
}
