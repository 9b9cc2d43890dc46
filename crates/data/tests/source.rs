//! Datasets on a disk.

use std::fs;
use std::path::Path;

use bifocal_data::source::{Layout, texts};
use bifocal_data::{Dataset, SourceError};
use proptest::prelude::*;

const PNG_HEAD: &[u8] = b"\x89PNG\r\n\x1a\n";

fn put(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn keys(d: &Dataset) -> Vec<&str> {
    d.samples.iter().map(|s| s.key.as_str()).collect()
}

#[test]
fn captions_with_bad_rows() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in ["images/b.jpg", "images/a.jpg", "images/c.jpg"] {
        put(root, name, "x");
    }
    let rows = [
        "\u{feff}{\"image\": \"images/b.jpg\", \"captions\": {\"en\": [\"one\", \" two \"], \"de\": \"eins\"}, \"extra\": [1]}",
        "{\"image\": \"images/a.jpg\", \"captions\": {\"en\": [\"drei\"]}}\r",
        "",
        "{\"image\": \"images/a.jpg\"",
        "{\"image\": \"../secret.jpg\", \"captions\": {\"en\": [\"x\"]}}",
        "{\"image\": \"/etc/passwd\", \"captions\": {\"en\": [\"x\"]}}",
        "{\"image\": \"images/missing.jpg\", \"captions\": {\"en\": [\"x\"]}}",
        "{\"image\": \"images/c.jpg\", \"captions\": {}}",
        "{\"image\": 3, \"captions\": {}}",
        "[1, 2]",
        "{\"image\": \"images/a.jpg\", \"captions\": {\"en\": [\"again\"]}}",
    ];
    put(root, "captions.jsonl", rows.join("\n"));
    let d = Dataset::open(root).unwrap();
    assert_eq!(d.layout, Layout::Captions);
    assert_eq!(keys(&d), ["images/b.jpg", "images/a.jpg"]);
    assert_eq!(d.samples[0].captions["en"], ["one", " two "]);
    assert_eq!(d.samples[0].captions["de"], ["eins"]);
    assert_eq!(d.samples[1].captions["en"], ["drei", "again"]);
    assert_eq!(d.captions("en"), [(0, "one"), (0, " two "), (1, "drei"), (1, "again")]);
    assert_eq!(d.languages().into_iter().collect::<Vec<_>>(), [("de", 1), ("en", 4)]);
    let lines: Vec<_> = d.skipped.iter().map(|s| s.line.unwrap()).collect();
    assert_eq!(lines, [4, 5, 6, 7, 8, 9, 10]);
    assert!(d.skipped[1].reason.contains("leads out"), "{}", d.skipped[1]);
    assert!(
        d.skipped[3].to_string().contains("images/missing.jpg"),
        "{}",
        d.skipped[3]
    );
}

#[test]
fn a_table_without_a_usable_row_says_why() {
    let dir = tempfile::tempdir().unwrap();
    put(
        dir.path(),
        "captions.jsonl",
        "{}\nnonsense\n\n{\"image\": \"../x\", \"captions\": {\"en\": [\"a\"]}}\n1\n",
    );
    let e = Dataset::open(dir.path()).unwrap_err();
    let SourceError::NoRows { skipped, .. } = &e else {
        panic!("{e}")
    };
    assert_eq!(skipped.len(), 4);
    let text = e.to_string();
    assert!(
        text.contains("line 1") && text.contains("line 4") && text.contains("1 more"),
        "{text}"
    );
    put(dir.path(), "captions.jsonl", "");
    assert!(Dataset::open(dir.path()).unwrap_err().to_string().contains("empty"));
}

#[test]
fn labels_and_conflicts() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "1.png", "x");
    put(dir.path(), "2.png", "x");
    let rows = "{\"image\": \"1.png\", \"name\": \"tench\", \"class\": 0}\n{\"image\": \"./2.png\", \"name\": \"hen\"}\n\
                {\"image\": \"1.png\", \"name\": \"tench\"}\n{\"image\": \"1.png\", \"name\": \"shark\"}\n";
    put(dir.path(), "labels.jsonl", rows);
    let d = Dataset::open(dir.path()).unwrap();
    assert_eq!(d.layout, Layout::Labels);
    assert_eq!(keys(&d), ["1.png", "2.png"]);
    assert_eq!(d.samples[0].label.as_deref(), Some("tench"));
    assert_eq!(d.skipped.len(), 1);
    assert_eq!(d.skipped[0].line, Some(4));
    // the same through the table itself
    assert_eq!(Dataset::open(&dir.path().join("labels.jsonl")).unwrap(), d);
    // captions beside labels: both are read
    put(
        dir.path(),
        "captions.jsonl",
        "{\"image\": \"2.png\", \"captions\": {\"en\": [\"a hen\"]}}\n",
    );
    let d = Dataset::open(dir.path()).unwrap();
    assert_eq!(d.layout, Layout::Captions);
    assert_eq!(
        (d.samples[0].label.as_deref(), d.captions("en").len()),
        (Some("hen"), 1)
    );
}

#[test]
fn folders() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert!(matches!(Dataset::open(root), Err(SourceError::NoImages { .. })));
    put(root, "notes.txt", "no picture");
    let e = Dataset::open(root).unwrap_err();
    assert!(e.to_string().contains("has no pictures"), "{e}");
    assert!(matches!(
        Dataset::open(&root.join("absent")),
        Err(SourceError::Io { .. })
    ));

    put(root, "dog/2.JPG", "x");
    put(root, "dog/10.jpeg", "x");
    put(root, "cat/without-ending", PNG_HEAD);
    put(root, "cat/.hidden.jpg", "x");
    put(root, ".thumbnails/1.jpg", "x");
    let d = Dataset::open(root).unwrap();
    assert_eq!(d.layout, Layout::ClassFolders);
    assert_eq!(keys(&d), ["cat/without-ending", "dog/10.jpeg", "dog/2.JPG"]);
    let labels: Vec<_> = d.samples.iter().map(|s| s.label.as_deref().unwrap()).collect();
    assert_eq!(labels, ["cat", "dog", "dog"]);

    put(root, "top.webp", "x");
    let d = Dataset::open(root).unwrap();
    assert_eq!(d.layout, Layout::Plain);
    assert!(d.samples.iter().all(|s| s.label.is_none()));
    assert_eq!(keys(&d).len(), 4);

    let d = Dataset::open(&root.join("top.webp")).unwrap();
    assert_eq!((d.layout, keys(&d)), (Layout::Single, vec!["top.webp"]));
    assert_eq!(d.samples[0].image.file(), Some(root.join("top.webp").as_path()));
}

#[cfg(unix)]
#[test]
fn links_to_folders_do_not_loop() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a/1.jpg", "x");
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/loop")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("a/1.jpg"), dir.path().join("a/2.jpg")).unwrap();
    assert_eq!(keys(&Dataset::open(dir.path()).unwrap()), ["a/1.jpg", "a/2.jpg"]);
}

#[test]
fn lines_are_verbatim() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.txt");
    let cases: [(&str, &[&str]); 6] = [
        ("", &[]),
        ("\n", &[""]),
        ("a", &["a"]),
        (" a \n\n\tb\r\n", &[" a ", "", "\tb\r"]),
        ("a\n\n", &["a", ""]),
        ("猫\nكلب\n", &["猫", "كلب"]),
    ];
    for (content, lines) in cases {
        fs::write(&path, content).unwrap();
        assert_eq!(texts(&path).unwrap(), lines, "{content:?}");
    }
    fs::write(&path, b"ok\nalso ok\n\xff\xfe\n").unwrap();
    assert!(matches!(texts(&path), Err(SourceError::NotUtf8 { line: 3, .. })));
}

#[test]
fn real_folders() {
    let Some(data) = std::env::var_os("BIFOCAL_DATA") else {
        eprintln!("skipped: set BIFOCAL_DATA to the folder with flickr8k/ and imagenet-sample/");
        return;
    };
    let data = Path::new(&data);
    let d = Dataset::open(&data.join("flickr8k")).unwrap();
    assert_eq!((d.samples.len(), d.skipped.len(), d.languages()["en"]), (800, 0, 4000));
    let d = Dataset::open(&data.join("imagenet-sample")).unwrap();
    assert_eq!(
        (d.samples.len(), d.skipped.len(), d.samples[0].label.as_deref()),
        (500, 0, Some("tench"))
    );
}

proptest! {
    #[test]
    fn any_table_is_survived_and_every_row_accounted_for(rows in prop::collection::vec(prop_oneof![
        "[^\n]{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>().prop_filter("line", |b| *b != b'\n'), 0..40),
        "\\{\"image\": \"[a./]{0,6}\", \"captions\": \\{\"en\": \\[\"x\"\\]\\}\\}".prop_map(String::into_bytes),
    ], 0..12)) {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "a", "x");
        put(dir.path(), "captions.jsonl", rows.join(&b'\n'));
        let blank = |r: &[u8]| r.trim_ascii().is_empty();
        let bom = rows.first().is_some_and(|r| r.starts_with(b"\xef\xbb\xbf"));
        let wanted = rows.iter().filter(|r| !blank(r)).count();
        let (used, skipped) = match Dataset::open(dir.path()) {
            Ok(d) => {
                prop_assert!(d.samples.iter().all(|s| s.image.file().is_none_or(|p| p.starts_with(dir.path()))));
                (d.captions("en").len(), d.skipped.len())
            }
            Err(SourceError::NoRows { skipped, .. }) => (0, skipped.len()),
            Err(e) => return Err(TestCaseError::fail(e.to_string())),
        };
        prop_assert!(bom || used + skipped == wanted, "{used} used + {skipped} skipped of {wanted}");
    }
}
